//! How registers' bits are read as numbers, and floating-point arithmetic as PTX rounds it.

use crate::parse::Operand;
use crate::regs::Lane;

/// A type of PTX values: how it lies in a register.
pub trait Typed: Copy + Send + Sync + 'static {
    /// Element of the register bank.
    type Bits: Lane;
    /// From a register.
    fn get(bits: Self::Bits) -> Self;
    /// Into a register.
    fn put(self) -> Self::Bits;
    /// A literal's bits, if the type can hold it.
    fn literal(operand: &Operand<'_>) -> Option<Self::Bits>;
}

macro_rules! typed_int {
    ($($t:ty: $unsigned:ty, $bits:ty;)*) => {$(
        impl Typed for $t {
            type Bits = $bits;
            #[inline(always)]
            fn get(bits: $bits) -> Self { bits as Self }
            #[inline(always)]
            fn put(self) -> $bits { <$bits>::from(self as $unsigned) }
            fn literal(operand: &Operand<'_>) -> Option<$bits> {
                match operand {
                    Operand::Int(v) => Some((*v as $t).put()),
                    Operand::F32(v) if size_of::<$t>() == 4 => Some(<$bits>::from_u64(u64::from(*v))),
                    Operand::F64(v) if size_of::<$t>() == 8 => Some(<$bits>::from_u64(v.to_bits())),
                    _ => None,
                }
            }
        }
    )*};
}

typed_int! {
    u8: u8, u32;
    i8: u8, u32;
    u16: u16, u32;
    i16: u16, u32;
    u32: u32, u32;
    i32: u32, u32;
    u64: u64, u64;
    i64: u64, u64;
}

impl Typed for f32 {
    type Bits = u32;
    #[inline(always)]
    fn get(bits: u32) -> Self {
        Self::from_bits(bits)
    }
    #[inline(always)]
    fn put(self) -> u32 {
        self.to_bits()
    }
    fn literal(operand: &Operand<'_>) -> Option<u32> {
        match operand {
            Operand::F32(v) => Some(*v),
            Operand::F64(v) => Some((*v as Self).to_bits()),
            Operand::Int(v) => u32::try_from(*v).ok(),
            _ => None,
        }
    }
}

impl Typed for f64 {
    type Bits = u64;
    #[inline(always)]
    fn get(bits: u64) -> Self {
        Self::from_bits(bits)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        self.to_bits()
    }
    fn literal(operand: &Operand<'_>) -> Option<u64> {
        match operand {
            Operand::F32(v) => Some(Self::from(f32::from_bits(*v)).to_bits()),
            Operand::F64(v) => Some(v.to_bits()),
            Operand::Int(v) => Some(*v),
            _ => None,
        }
    }
}

/// bf16: the upper half of an f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bf16(pub u16);
/// IEEE half precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct F16(pub u16);

/// A 16-bit float.
pub trait Half: Typed<Bits = u32> {
    /// Exactly.
    fn to_f32(self) -> f32;
    /// Rounded from an f64 that holds the exact value, or was rounded to odd.
    fn round(v: f64, mode: Round) -> Self;
    /// From bits.
    fn from_bits(bits: u16) -> Self;
    /// To bits.
    fn bits(self) -> u16;
}

macro_rules! typed_half {
    ($t:ty, $fraction:expr, $min_exponent:expr, $max:expr, $nan:expr) => {
        impl Typed for $t {
            type Bits = u32;
            #[inline(always)]
            fn get(bits: u32) -> Self {
                Self(bits as u16)
            }
            #[inline(always)]
            fn put(self) -> u32 {
                u32::from(self.0)
            }
            fn literal(operand: &Operand<'_>) -> Option<u32> {
                match operand {
                    Operand::Int(v) => Some(u32::from(*v as u16)),
                    _ => None,
                }
            }
        }
        impl Half for $t {
            fn to_f32(self) -> f32 {
                widen(u32::from(self.0), $fraction)
            }
            fn round(v: f64, mode: Round) -> Self {
                if v.is_nan() {
                    return Self($nan);
                }
                let sign = if v.is_sign_negative() { 0x8000 } else { 0 };
                Self(sign | narrow(v, mode, $fraction, $min_exponent, $max))
            }
            fn from_bits(bits: u16) -> Self {
                Self(bits)
            }
            fn bits(self) -> u16 {
                self.0
            }
        }
    };
}

typed_half!(Bf16, 7, -126, 0x7F80, 0x7FFF);
typed_half!(F16, 10, -14, 0x7C00, 0x7FFF);

/// A float of 16 bits with `fraction` bits of fraction, as f32.
fn widen(bits: u32, fraction: u32) -> f32 {
    let sign = (bits & 0x8000) << 16;
    if fraction == 7 {
        return f32::from_bits(bits << 16);
    }
    let (exponent, mantissa) = ((bits >> 10) & 0x1F, bits & 0x3FF);
    let magnitude = match exponent {
        0 => (mantissa as f32 * 2f32.powi(-24)).to_bits(),
        0x1F => 0x7F80_0000 | mantissa << 13,
        e => (e + 112) << 23 | mantissa << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// Magnitude bits of a 16-bit float: `infinity` are those of infinity.
fn narrow(v: f64, mode: Round, fraction: i32, min_exponent: i32, infinity: u16) -> u16 {
    let a = v.abs();
    if a.is_infinite() {
        return infinity;
    }
    if a == 0.0 {
        return 0;
    }
    let exponent = (((a.to_bits() >> 52) as i32) - 1023).max(min_exponent);
    // `a` in units of the last place; at most 2^(fraction + 1), and exact.
    let units = a * pow2(fraction - exponent);
    let whole = round_integral(if v < 0.0 { -units } else { units }, mode).abs() as u32;
    // The implicit bit of normal numbers adds one to the exponent; a carry out of the fraction does too.
    let bits = (((exponent - min_exponent) as u32) << fraction) + whole;
    if bits >= u32::from(infinity) {
        let towards_zero = match mode {
            Round::Zero => true,
            Round::Up => v < 0.0,
            Round::Down => v > 0.0,
            Round::Nearest => false,
        };
        return if towards_zero { infinity - 1 } else { infinity };
    }
    bits as u16
}

fn pow2(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// How a result is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// Towards zero.
    Zero,
    /// Towards plus infinity.
    Up,
    /// Towards minus infinity.
    Down,
}

/// To an integral value.
pub fn round_integral(v: f64, mode: Round) -> f64 {
    match mode {
        Round::Nearest => v.round_ties_even(),
        Round::Zero => v.trunc(),
        Round::Up => v.ceil(),
        Round::Down => v.floor(),
    }
}

/// f64 to f32. Correct also for a value that was rounded to odd.
pub fn to_f32(v: f64, mode: Round) -> f32 {
    let near = v as f32;
    if v.is_nan() || f64::from(near) == v {
        return near;
    }
    let wide = f64::from(near);
    match mode {
        Round::Nearest => near,
        Round::Zero if wide.abs() > v.abs() => next_towards(near, near > 0.0),
        Round::Up if wide < v => near.next_up(),
        Round::Down if wide > v => near.next_down(),
        _ => near,
    }
}

fn next_towards(v: f32, down: bool) -> f32 {
    if down { v.next_down() } else { v.next_up() }
}

/// `s + e`, where `e` is what rounding to `s` left, rounded to odd: then a second rounding to fewer bits is as one.
fn odd(s: f64, e: f64) -> f64 {
    if e == 0.0 || !s.is_finite() || e.is_nan() {
        return s;
    }
    let bits = s.to_bits();
    let towards_zero = if (e < 0.0) == (s < 0.0) { bits } else { bits - 1 };
    f64::from_bits(towards_zero | 1)
}

/// a + b with what rounding left.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// `a + b` so that a further rounding to f32 or less is correct in any mode.
pub fn add_odd(a: f64, b: f64) -> f64 {
    let (s, e) = two_sum(a, b);
    odd(s, e)
}

/// `a * b + c` of f32 values, likewise.
pub fn fma_odd(a: f32, b: f32, c: f32) -> f64 {
    add_odd(f64::from(a) * f64::from(b), f64::from(c))
}

/// `a * b + c` of f32 values, rounded once to nearest. Without the branches of [`fma_odd`], for vectors.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let (s, e) = two_sum(p, c);
    let bits = s.to_bits();
    // Even and inexact: to the odd neighbour on the side of what was left.
    let away = (e > 0.0) == (s > 0.0);
    let inexact = (e > 0.0) | (e < 0.0);
    let step = if away { 1u64 } else { u64::MAX };
    let adjusted = if inexact & (bits & 1 == 0) { bits.wrapping_add(step) } else { bits };
    f64::from_bits(adjusted) as f32
}

/// `a / b` of f32 values, likewise.
pub fn div_odd(a: f32, b: f32) -> f64 {
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    if !q.is_finite() || b.is_infinite() {
        return q;
    }
    let rest = (-q).mul_add(b, a);
    odd(q, if b < 0.0 { -rest } else { rest })
}

/// Square root of an f32 value, likewise.
pub fn sqrt_odd(a: f32) -> f64 {
    let a = f64::from(a);
    let q = a.sqrt();
    if !q.is_finite() { q } else { odd(q, (-q).mul_add(q, a)) }
}

/// A zero of the same sign for numbers below the normal ones.
#[inline(always)]
pub fn flush(v: f32) -> f32 {
    if v.abs() < f32::MIN_POSITIVE { f32::from_bits(v.to_bits() & 0x8000_0000) } else { v }
}

/// The one NaN that PTX's f32 arithmetic gives.
#[inline(always)]
pub fn canonical(v: f32) -> f32 {
    if v.is_nan() { f32::from_bits(0x7FFF_FFFF) } else { v }
}

/// The one NaN that PTX's f64 arithmetic gives.
#[inline(always)]
pub fn canonical64(v: f64) -> f64 {
    if v.is_nan() { f64::from_bits(0x7FF8_0000_0000_0000) } else { v }
}

/// To [0, 1]; NaN to zero.
pub fn saturate(v: f32) -> f32 {
    if v > 1.0 {
        1.0
    } else if v > 0.0 {
        v
    } else {
        0.0
    }
}

/// The smaller one; a number rather than a NaN; -0 below +0.
pub fn min_number(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// The larger one, likewise.
pub fn max_number(a: f64, b: f64) -> f64 {
    -min_number(-a, -b)
}

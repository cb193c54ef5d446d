//! `cvt`

use super::{Decode, Decoder, Inst};
use crate::code::Action;
use crate::num::{Bf16, F16, Half, Round, canonical, canonical64, flush, round_integral, to_f32};
use crate::parse::Operand;
use crate::regs::{Lane, Pure, Reg, RegRef, binary, unary};
use crate::types::Ty;

const MODIFIERS: &[&str] =
    &["rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi", "ftz", "sat", "satfinite", "relu"];

impl<'a> Decoder<'a, '_> {
    pub(super) fn convert(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        i.only(MODIFIERS, 3)?;
        let [to, from] = i.parts[1..].iter().filter_map(|p| Ty::parse(p)).collect::<Vec<_>>()[..] else {
            return Err("cvt has two types".to_owned());
        };
        if matches!(to, Ty::F16x2 | Ty::Bf16x2) {
            return self.convert_pair(i, to, from);
        }
        let source = self.wide_source(i.operand(1)?, from)?;
        let Operand::Name(name, 0) = i.operand(0)? else { return Err("the result needs a register".to_owned()) };
        let (reference, width) = if *name == "_" { return Ok(Action::Nothing) } else { self.width(name)? };
        if (width as usize) < to.bytes() * 8 {
            return Err(format!("register {name} has only {width} bits"));
        }
        self.wrote(reference);
        let place = Place { source, target: reference, width };
        let pure = match (from.float(), to.float()) {
            (false, false) => integer_to_integer(i.has("sat"), to, from, place),
            (false, true) => integer_to_float(i, to, from, place),
            (true, false) => float_to_integer(i, to, from, place),
            (true, true) => float_to_float(i, to, from, place),
        };
        Ok(Action::Pure(pure?))
    }

    /// A source that may be wider than its type.
    fn wide_source(&mut self, operand: &Operand<'a>, ty: Ty) -> Decode<RegRef> {
        if let Operand::Name(name, 0) = operand
            && let Some((reference, _)) = self.register(name)
        {
            let (_, width) = self.width(name)?;
            if (width as usize) < ty.bytes() * 8 || ty.float() && width as usize != ty.bytes() * 8 {
                return Err(format!("register {name} of {width} bits for {ty:?}"));
            }
            self.note_read(reference);
            return Ok(reference);
        }
        Ok(match ty {
            Ty::F32 => u32::reference(self.src::<f32>(operand)?.0),
            Ty::F64 => u64::reference(self.src::<f64>(operand)?.0),
            _ if ty.bytes() == 8 => u64::reference(self.src::<u64>(operand)?.0),
            _ => u32::reference(self.src::<u32>(operand)?.0),
        })
    }

    pub(super) fn note_read(&mut self, reference: RegRef) {
        self.reads.push(reference);
    }

    /// Two f32 to a pair of 16-bit floats: the first goes to the upper half.
    fn convert_pair(&mut self, i: &Inst<'a, '_>, to: Ty, from: Ty) -> Decode<Action> {
        let mode = if i.has("rz") { Round::Zero } else { Round::Nearest };
        if from != Ty::F32 || i.has("satfinite") {
            return Err("pairs are converted from f32 only".to_owned());
        }
        let (high, low) = (self.src::<f32>(i.operand(1)?)?, self.src::<f32>(i.operand(2)?)?);
        let d = self.dst::<u32>(i.operand(0)?)?;
        let relu = i.has("relu");
        let bits: fn(f32, Round) -> u16 = if to == Ty::Bf16x2 {
            |v, mode| Bf16::round(f64::from(v), mode).0
        } else {
            |v, mode| F16::round(f64::from(v), mode).0
        };
        let half = move |v: u32| {
            let v = f32::from_bits(v);
            u32::from(bits(if relu && v < 0.0 { 0.0 } else { v }, mode))
        };
        Ok(Action::Pure(binary(d, (high, low), move |high, low| half(high) << 16 | half(low))))
    }
}

/// Registers of a conversion.
#[derive(Debug, Clone, Copy)]
struct Place {
    source: RegRef,
    target: RegRef,
    /// Bits of the target.
    width: u32,
}

impl Place {
    /// The function between registers of any size.
    fn lift(self, f: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Decode<Pure> {
        Ok(match (self.source, self.target) {
            (RegRef::B64(a), RegRef::B64(d)) => unary::<u64, u64>(Reg::new(d), Reg::new(a), f),
            (RegRef::B64(a), RegRef::B32(d)) => unary::<u64, u32>(Reg::new(d), Reg::new(a), move |v| f(v) as u32),
            (RegRef::B32(a), RegRef::B64(d)) => unary::<u32, u64>(Reg::new(d), Reg::new(a), move |v| f(u64::from(v))),
            (RegRef::B32(a), RegRef::B32(d)) => {
                unary::<u32, u32>(Reg::new(d), Reg::new(a), move |v| f(u64::from(v)) as u32)
            }
            _ => return Err("cvt of a predicate".to_owned()),
        })
    }
}

fn bits_of(ty: Ty) -> u32 {
    ty.bytes() as u32 * 8
}

/// The value's lowest bits, extended to 64.
fn extend(v: u64, bits: u32, signed: bool) -> u64 {
    let shift = 64 - bits;
    if signed { ((v << shift) as i64 >> shift) as u64 } else { v << shift >> shift }
}

fn range(ty: Ty) -> (i128, i128) {
    let bits = bits_of(ty);
    if ty.signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn integer_to_integer(sat: bool, to: Ty, from: Ty, place: Place) -> Decode<Pure> {
    let width = place.width;
    let (fb, fs, tb, ts) = (bits_of(from), from.signed(), bits_of(to), to.signed());
    if sat {
        let (low, high) = range(to);
        return place.lift(move |v| {
            let v = extend(v, fb, fs);
            let value = if fs { i128::from(v as i64) } else { i128::from(v) };
            extend(value.clamp(low, high) as u64, width, false)
        });
    }
    // What most conversions of addresses and counters are, free of variable shifts.
    if fb == 32 && tb == 64 {
        return if fs { place.lift(|v| v as i32 as u64) } else { place.lift(|v| v & 0xFFFF_FFFF) };
    }
    if tb == 32 && width == 32 && fb >= 32 {
        return place.lift(|v| v & 0xFFFF_FFFF);
    }
    let (from_shift, to_shift, mask) = (64 - fb, 64 - tb, u64::MAX >> (64 - width));
    match (fs, ts) {
        (false, false) => place.lift(move |v| ((v << from_shift >> from_shift) << to_shift >> to_shift) & mask),
        (true, false) => {
            place.lift(move |v| ((((v << from_shift) as i64 >> from_shift) as u64) << to_shift >> to_shift) & mask)
        }
        (false, true) => {
            place.lift(move |v| ((v << from_shift >> from_shift << to_shift) as i64 >> to_shift) as u64 & mask)
        }
        (true, true) => {
            place.lift(move |v| ((((v << from_shift) as i64 >> from_shift) << to_shift) >> to_shift) as u64 & mask)
        }
    }
}

fn integer_to_float(i: &Inst<'_, '_>, to: Ty, from: Ty, place: Place) -> Decode<Pure> {
    let (fb, fs) = (bits_of(from), from.signed());
    let mode = rounding(i)?;
    let value = move |v: u64| {
        let v = extend(v, fb, fs);
        if fs { i128::from(v as i64) } else { i128::from(v) }
    };
    match to {
        Ty::F32 if mode == Round::Nearest && !fs => {
            place.lift(move |v| u64::from((extend(v, fb, false) as f32).to_bits()))
        }
        Ty::F32 if mode == Round::Nearest && fb <= 32 => {
            place.lift(move |v| u64::from((extend(v, fb, true) as i64 as f32).to_bits()))
        }
        Ty::F32 => place.lift(move |v| u64::from(to_f32(odd_f64(value(v)), mode).to_bits())),
        Ty::F64 if mode == Round::Nearest => place.lift(move |v| (value(v) as f64).to_bits()),
        Ty::F16 => place.lift(move |v| u64::from(F16::round(odd_f64(value(v)), mode).0)),
        Ty::Bf16 => place.lift(move |v| u64::from(Bf16::round(odd_f64(value(v)), mode).0)),
        _ => Err("this conversion is not known".to_owned()),
    }
}

/// An integer of at most 64 bits as f64, rounded to odd.
fn odd_f64(v: i128) -> f64 {
    let near = v as f64;
    let rest = v - near as i128;
    if rest == 0 {
        return near;
    }
    let bits = near.to_bits();
    let towards_zero = if (rest < 0) == (near < 0.0) { bits } else { bits - 1 };
    f64::from_bits(towards_zero | 1)
}

fn float_value(from: Ty, ftz: bool) -> Decode<fn(u64) -> f64> {
    Ok(match from {
        Ty::F32 if ftz => |v| f64::from(flush(f32::from_bits(v as u32))),
        Ty::F32 | Ty::Tf32 => |v| f64::from(f32::from_bits(v as u32)),
        Ty::F64 => f64::from_bits,
        Ty::F16 => |v| f64::from(F16(v as u16).to_f32()),
        Ty::Bf16 => |v| f64::from(Bf16(v as u16).to_f32()),
        _ => return Err("no floating-point type".to_owned()),
    })
}

fn float_to_integer(i: &Inst<'_, '_>, to: Ty, from: Ty, place: Place) -> Decode<Pure> {
    let width = place.width;
    let mode = integral(i).ok_or("a conversion to an integer needs .rni, .rzi, .rmi or .rpi")?;
    let value = float_value(from, i.has("ftz"))?;
    // Rust's conversions saturate, and give 0 for NaN, as these have to.
    match (from, to) {
        (Ty::F32, Ty::S32) if width == 32 => {
            return place.lift(move |v| u64::from(round_integral(value(v), mode) as i32 as u32));
        }
        (Ty::F32, Ty::U32) => return place.lift(move |v| u64::from(round_integral(value(v), mode) as u32)),
        _ => {}
    }
    let (low, high) = range(to);
    let nan = if from == Ty::F64 || bits_of(to) == 64 { 1u64 << (bits_of(to) - 1) } else { 0 };
    let to_bits = bits_of(to);
    place.lift(move |v| {
        let v = value(v);
        if v.is_nan() {
            return extend(extend(nan, to_bits, to.signed()), width, false);
        }
        let whole = (round_integral(v, mode) as i128).clamp(low, high);
        extend(whole as u64, width, false)
    })
}

fn float_to_float(i: &Inst<'_, '_>, to: Ty, from: Ty, place: Place) -> Decode<Pure> {
    let (ftz, sat, relu) = (i.has("ftz"), i.has("sat"), i.has("relu"));
    let value = float_value(from, ftz)?;
    if to == Ty::Tf32 {
        if from != Ty::F32 || !(i.has("rna") || i.has("rn")) {
            return Err("tf32 is converted from f32 with .rna or .rn".to_owned());
        }
        let away = i.has("rna");
        return place.lift(move |v| u64::from(tf32(v as u32, away)));
    }
    let whole = integral(i);
    let mode = rounding(i)?;
    let before = move |v: u64| {
        let mut v = value(v);
        if let Some(mode) = whole {
            v = round_integral(v, mode);
        }
        if sat {
            v = if v > 0.0 { v.min(1.0) } else { 0.0 };
        }
        if relu && v < 0.0 { 0.0 } else { v }
    };
    match to {
        Ty::Bf16 if from == Ty::F32 && mode == Round::Nearest && !relu && !sat => {
            place.lift(|v| u64::from(nearest_bf16(v as u32)))
        }
        Ty::Bf16 => place.lift(move |v| u64::from(Bf16::round(before(v), mode).0)),
        Ty::F16 => place.lift(move |v| u64::from(F16::round(before(v), mode).0)),
        Ty::F32 => place.lift(move |v| {
            let v = to_f32(before(v), mode);
            u64::from(canonical(if ftz { flush(v) } else { v }).to_bits())
        }),
        Ty::F64 => place.lift(move |v| canonical64(before(v)).to_bits()),
        _ => Err("this conversion is not known".to_owned()),
    }
}

/// f32 bits to bf16, to nearest even.
fn nearest_bf16(bits: u32) -> u16 {
    if bits & 0x7FFF_FFFF > 0x7F80_0000 {
        return 0x7FFF;
    }
    (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

/// f32 bits to those with 10 bits of fraction, to nearest; ties away from zero or to even.
fn tf32(bits: u32, away: bool) -> u32 {
    if bits & 0x7FFF_FFFF > 0x7F80_0000 {
        return 0x7FFF_FFFF;
    }
    let half = if away { 0x1000 } else { 0xFFF + (bits >> 13 & 1) };
    bits.wrapping_add(half) & !0x1FFF
}

fn rounding(i: &Inst<'_, '_>) -> Decode<Round> {
    Ok(match () {
        () if i.has("rz") => Round::Zero,
        () if i.has("rm") => Round::Down,
        () if i.has("rp") => Round::Up,
        () if i.has("satfinite") => return Err(".satfinite is not known here".to_owned()),
        () => Round::Nearest,
    })
}

fn integral(i: &Inst<'_, '_>) -> Option<Round> {
    [("rni", Round::Nearest), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)]
        .into_iter()
        .find(|(name, _)| i.has(name))
        .map(|(_, mode)| mode)
}

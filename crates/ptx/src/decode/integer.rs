//! Integer arithmetic and bits.

use super::{Decode, Decoder, Inst, pure};
use crate::code::Action;
use crate::num::Typed;
use crate::parse::Operand;
use crate::regs::{self, Lane, RegRef, binary, ternary, unary};
use crate::types::Ty;

/// Runs the expression with `$T` standing for the Rust type of a PTX integer type.
macro_rules! by_int {
    ($ty:expr, $T:ident => $body:expr) => {
        match $ty {
            Ty::B16 | Ty::U16 => {
                type $T = u16;
                $body
            }
            Ty::S16 => {
                type $T = i16;
                $body
            }
            Ty::B32 | Ty::U32 => {
                type $T = u32;
                $body
            }
            Ty::S32 => {
                type $T = i32;
                $body
            }
            Ty::B64 | Ty::U64 => {
                type $T = u64;
                $body
            }
            Ty::S64 => {
                type $T = i64;
                $body
            }
            other => Err(format!("no integer operation on {other:?}")),
        }
    };
}
pub(super) use by_int;

/// The same without regard to sign, for bits.
macro_rules! by_bits {
    ($ty:expr, $T:ident => $body:expr) => {
        match $ty.bytes() {
            2 => {
                type $T = u16;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            8 => {
                type $T = u64;
                $body
            }
            _ => Err(format!("no bit operation on {:?}", $ty)),
        }
    };
}
pub(super) use by_bits;

impl<'a> Decoder<'a, '_> {
    pub(super) fn op1<T: Typed>(
        &mut self,
        i: &Inst<'a, '_>,
        f: impl Fn(T) -> T + Send + Sync + 'static,
    ) -> Decode<Action> {
        let a = self.src::<T>(i.operand(1)?)?;
        let d = self.dst::<T>(i.operand(0)?)?;
        Ok(Action::Pure(unary(d, a, move |a| f(T::get(a)).put())))
    }

    pub(super) fn op2<T: Typed>(
        &mut self,
        i: &Inst<'a, '_>,
        f: impl Fn(T, T) -> T + Send + Sync + 'static,
    ) -> Decode<Action> {
        let (a, b) = (self.src::<T>(i.operand(1)?)?, self.src::<T>(i.operand(2)?)?);
        let d = self.dst::<T>(i.operand(0)?)?;
        Ok(Action::Pure(binary(d, (a, b), move |a, b| f(T::get(a), T::get(b)).put())))
    }

    pub(super) fn op3<T: Typed>(
        &mut self,
        i: &Inst<'a, '_>,
        f: impl Fn(T, T, T) -> T + Send + Sync + 'static,
    ) -> Decode<Action> {
        let (a, b, c) = (self.src::<T>(i.operand(1)?)?, self.src::<T>(i.operand(2)?)?, self.src::<T>(i.operand(3)?)?);
        let d = self.dst::<T>(i.operand(0)?)?;
        Ok(Action::Pure(ternary(d, (a, b, c), move |a, b, c| f(T::get(a), T::get(b), T::get(c)).put())))
    }

    /// A shift: the second operand has 32 bits whatever the first.
    fn shift<T: Typed>(&mut self, i: &Inst<'a, '_>, f: impl Fn(T, u32) -> T + Send + Sync + 'static) -> Decode<Action> {
        let (a, b) = (self.src::<T>(i.operand(1)?)?, self.src::<u32>(i.operand(2)?)?);
        let d = self.dst::<T>(i.operand(0)?)?;
        Ok(Action::Pure(binary(d, (a, b), move |a, b| f(T::get(a), b).put())))
    }

    /// One operand of any size to 32 bits.
    fn count<T: Typed>(&mut self, i: &Inst<'a, '_>, f: impl Fn(T) -> u32 + Send + Sync + 'static) -> Decode<Action> {
        let a = self.src::<T>(i.operand(1)?)?;
        let d = self.dst::<u32>(i.operand(0)?)?;
        Ok(Action::Pure(unary(d, a, move |a| f(T::get(a)))))
    }

    /// A product of twice the width, with an addend where there is one.
    fn wide<T: Typed, W: Typed>(
        &mut self,
        i: &Inst<'a, '_>,
        product: impl Fn(T, T) -> W + Send + Sync + 'static,
        add: impl Fn(W, W) -> W + Send + Sync + 'static,
    ) -> Decode<Action> {
        let (a, b) = (self.src::<T>(i.operand(1)?)?, self.src::<T>(i.operand(2)?)?);
        if i.base() == "mul" {
            let d = self.dst::<W>(i.operand(0)?)?;
            return Ok(Action::Pure(binary(d, (a, b), move |a, b| product(T::get(a), T::get(b)).put())));
        }
        let c = self.src::<W>(i.operand(3)?)?;
        let d = self.dst::<W>(i.operand(0)?)?;
        Ok(Action::Pure(ternary(d, (a, b, c), move |a, b, c| add(product(T::get(a), T::get(b)), W::get(c)).put())))
    }

    pub(super) fn integer(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        i.only(&["lo", "hi", "wide", "sat", "cc", "l", "r", "wrap", "clamp", "shiftamt", "relu", "mask"], 6)?;
        let ty = i.ty()?;
        if i.has("relu") {
            return Err(".relu is not known here".to_owned());
        }
        if ty == Ty::Pred {
            return self.pred_logic(i);
        }
        match i.base() {
            "add" | "addc" | "sub" | "subc" if i.has("cc") || i.base().ends_with('c') => self.carry(i, ty),
            "add" if i.has("sat") => self.op2::<i32>(i, i32::saturating_add),
            "sub" if i.has("sat") => self.op2::<i32>(i, i32::saturating_sub),
            "add" => by_int!(ty, T => self.op2::<T>(i, T::wrapping_add)),
            "sub" => by_int!(ty, T => self.op2::<T>(i, T::wrapping_sub)),
            "mul" | "mad" if i.has("wide") => match ty {
                Ty::U16 => self.wide::<u16, u32>(i, |a, b| u32::from(a) * u32::from(b), u32::wrapping_add),
                Ty::S16 => self.wide::<i16, i32>(i, |a, b| i32::from(a) * i32::from(b), i32::wrapping_add),
                Ty::U32 => self.wide::<u32, u64>(i, |a, b| u64::from(a) * u64::from(b), u64::wrapping_add),
                Ty::S32 => self.wide::<i32, i64>(i, |a, b| i64::from(a) * i64::from(b), i64::wrapping_add),
                _ => Err("no wide product of this type".to_owned()),
            },
            "mul" if i.has("hi") => by_int!(ty, T => self.op2::<T>(i, |a, b| {
                (i128::from(a).wrapping_mul(i128::from(b)) >> T::BITS) as T
            })),
            "mad" if i.has("hi") => by_int!(ty, T => self.op3::<T>(i, |a, b, c| {
                ((i128::from(a).wrapping_mul(i128::from(b)) >> T::BITS) as T).wrapping_add(c)
            })),
            "mul" if i.has("lo") => by_int!(ty, T => self.op2::<T>(i, T::wrapping_mul)),
            "mad" if i.has("lo") => by_int!(ty, T => self.op3::<T>(i, |a, b, c| a.wrapping_mul(b).wrapping_add(c))),
            "mul24" if i.has("lo") => match ty {
                Ty::U32 => self.op2::<u32>(i, |a, b| (a & 0xFF_FFFF).wrapping_mul(b & 0xFF_FFFF)),
                _ => self.op2::<i32>(i, |a, b| (a << 8 >> 8).wrapping_mul(b << 8 >> 8)),
            },
            "mad24" if i.has("lo") => match ty {
                Ty::U32 => self.op3::<u32>(i, |a, b, c| (a & 0xFF_FFFF).wrapping_mul(b & 0xFF_FFFF).wrapping_add(c)),
                _ => self.op3::<i32>(i, |a, b, c| (a << 8 >> 8).wrapping_mul(b << 8 >> 8).wrapping_add(c)),
            },
            // Division by zero gives no error on the device but a value that is not specified: here all ones.
            "div" => by_int!(ty, T => self.op2::<T>(i, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) })),
            "rem" => by_int!(ty, T => self.op2::<T>(i, |a, b| if b == 0 { a } else { a.wrapping_rem(b) })),
            "sad" => by_int!(ty, T => self.op3::<T>(i, |a, b, c| c.wrapping_add(a.max(b).wrapping_sub(a.min(b))))),
            "min" => by_int!(ty, T => self.op2::<T>(i, T::min)),
            "max" => by_int!(ty, T => self.op2::<T>(i, T::max)),
            "abs" => match ty {
                Ty::S16 => self.op1::<i16>(i, i16::wrapping_abs),
                Ty::S32 => self.op1::<i32>(i, i32::wrapping_abs),
                Ty::S64 => self.op1::<i64>(i, i64::wrapping_abs),
                _ => Err("abs needs a signed type".to_owned()),
            },
            "neg" => by_int!(ty, T => self.op1::<T>(i, T::wrapping_neg)),
            _ => self.bits(i, ty),
        }
    }

    fn bits(&mut self, i: &Inst<'a, '_>, ty: Ty) -> Decode<Action> {
        match i.base() {
            "and" => by_bits!(ty, T => self.op2::<T>(i, |a, b| a & b)),
            "or" => by_bits!(ty, T => self.op2::<T>(i, |a, b| a | b)),
            "xor" => by_bits!(ty, T => self.op2::<T>(i, |a, b| a ^ b)),
            "not" => by_bits!(ty, T => self.op1::<T>(i, |a| !a)),
            "cnot" => by_bits!(ty, T => self.op1::<T>(i, |a| T::from(a == 0))),
            "lop3" if i.operands.len() == 5 => self.lop3(i),
            "shl" => by_bits!(ty, T => self.shift::<T>(i, |a, b| a.checked_shl(b).unwrap_or(0))),
            "shr" => by_int!(ty, T => self.shift::<T>(i, |a, b| {
                // Of a negative number, a shift by more than its bits leaves the sign.
                if b < T::BITS { a >> b } else { a >> (T::BITS - 1) >> 1 }
            })),
            "shf" => self.funnel(i),
            "popc" => by_bits!(ty, T => self.count::<T>(i, T::count_ones)),
            "clz" => by_bits!(ty, T => self.count::<T>(i, T::leading_zeros)),
            "brev" => by_bits!(ty, T => self.op1::<T>(i, T::reverse_bits)),
            "bfind" => {
                let shift = i.has("shiftamt");
                by_int!(ty, T => self.count::<T>(i, move |a| {
                    // Of a negative number the highest bit that is not its sign.
                    let magnitude = if a.cmp(&0).is_lt() { !a } else { a };
                    match magnitude.leading_zeros() {
                        T::BITS => u32::MAX,
                        zeros if shift => zeros,
                        zeros => T::BITS - 1 - zeros,
                    }
                }))
            }
            "bfe" => match ty {
                Ty::U32 => self.extract::<u32>(i, |a, p, n| extract(u64::from(a), p, n, 32, false) as u32),
                Ty::S32 => self.extract::<u32>(i, |a, p, n| extract(u64::from(a), p, n, 32, true) as u32),
                Ty::U64 => self.extract::<u64>(i, |a, p, n| extract(a, p, n, 64, false)),
                Ty::S64 => self.extract::<u64>(i, |a, p, n| extract(a, p, n, 64, true)),
                _ => Err("no bfe of this type".to_owned()),
            },
            "bfi" => match ty {
                Ty::B32 => self.insert::<u32>(i),
                Ty::B64 => self.insert::<u64>(i),
                _ => Err("no bfi of this type".to_owned()),
            },
            "bmsk" => {
                let clamp = i.has("clamp");
                self.op2::<u32>(i, move |a, b| {
                    let (a, b) = if clamp { (a.min(32), b.min(32)) } else { (a & 31, b & 31) };
                    (((1u64 << b) - 1) << a) as u32
                })
            }
            "szext" => {
                let (clamp, signed) = (i.has("clamp"), ty == Ty::S32);
                self.op2::<u32>(i, move |a, b| {
                    let n = if clamp { b.min(32) } else { b & 31 };
                    extract(u64::from(a), 0, n, 32, signed) as u32
                })
            }
            "dp4a" | "dp2a" => self.dot(i),
            _ => Err("this form is not known".to_owned()),
        }
    }

    fn extract<T: Typed>(
        &mut self,
        i: &Inst<'a, '_>,
        f: impl Fn(T, u32, u32) -> T + Send + Sync + 'static,
    ) -> Decode<Action> {
        let a = self.src::<T>(i.operand(1)?)?;
        let (p, n) = (self.src::<u32>(i.operand(2)?)?, self.src::<u32>(i.operand(3)?)?);
        let d = self.dst::<T>(i.operand(0)?)?;
        Ok(Action::Pure(ternary(d, (a, p, n), move |a, p, n| f(T::get(a), p & 0xFF, n & 0xFF).put())))
    }

    fn insert<T: Typed>(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let (a, b) = (self.src::<T>(i.operand(1)?)?, self.src::<T>(i.operand(2)?)?);
        let (p, n) = (self.src::<u32>(i.operand(3)?)?, self.src::<u32>(i.operand(4)?)?);
        let d = self.dst::<T>(i.operand(0)?)?;
        let width = size_of::<T>() as u32 * 8;
        Ok(Action::Pure(regs::quaternary(d, (a, b, p, n), move |a, b, p, n| {
            let (p, n) = (p & 0xFF, n & 0xFF);
            let field = mask(n.min(width)).checked_shl(p).unwrap_or(0);
            let moved = a.to_u64().checked_shl(p).unwrap_or(0);
            Lane::from_u64(moved & field | b.to_u64() & !field)
        })))
    }

    fn lop3(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let Operand::Int(table) = i.operand(4)? else { return Err("lop3 needs a literal table".to_owned()) };
        let table = *table as u32 & 0xFF;
        match table {
            0x96 => self.op3::<u32>(i, |a, b, c| a ^ b ^ c),
            0xE8 => self.op3::<u32>(i, |a, b, c| a & b | a & c | b & c),
            0xCA => self.op3::<u32>(i, |a, b, c| a & b | !a & c),
            0xEA => self.op3::<u32>(i, |a, b, c| a & b | c),
            _ => self.op3::<u32>(i, move |a, b, c| {
                let mut out = 0;
                for row in 0..8 {
                    if table >> row & 1 == 1 {
                        let pick = |v: u32, bit: u32| if row >> bit & 1 == 1 { v } else { !v };
                        out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
                    }
                }
                out
            }),
        }
    }

    fn funnel(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let (left, clamp) = (i.has("l"), i.has("clamp"));
        self.op3::<u32>(i, move |low, high, n| {
            let n = if clamp { n.min(32) } else { n & 31 };
            let both = u64::from(high) << 32 | u64::from(low);
            if left { (both << n >> 32) as u32 } else { (both >> n) as u32 }
        })
    }

    fn carry(&mut self, i: &Inst<'a, '_>, ty: Ty) -> Decode<Action> {
        match ty.bytes() {
            4 => self.carry_of::<u32>(i, 32),
            8 => self.carry_of::<u64>(i, 64),
            _ => Err("no carry for this type".to_owned()),
        }
    }

    fn carry_of<T: Lane + Typed<Bits = T>>(&mut self, i: &Inst<'a, '_>, bits: u32) -> Decode<Action> {
        let (a, b) = (self.src::<T>(i.operand(1)?)?, self.src::<T>(i.operand(2)?)?);
        let d = self.dst::<T>(i.operand(0)?)?;
        let (subtract, takes, sets) = (i.base().starts_with("sub"), i.base().ends_with('c'), i.has("cc"));
        Ok(pure(move |regs, mask| {
            let (x, y, old) = (*a.get(regs), *b.get(regs), regs.carry);
            regs::lanes(mask, |lane| {
                let carry = u128::from(takes && old >> lane & 1 == 1);
                let (x, y) = (u128::from(x[lane].to_u64()), u128::from(y[lane].to_u64()));
                // The carry of a subtraction is a borrow.
                let sum = if subtract { x.wrapping_sub(y).wrapping_sub(carry) } else { x + y + carry };
                d.get_mut(regs)[lane] = T::from_u64(sum as u64);
                if sets {
                    regs.carry = regs.carry & !(1 << lane) | u32::from(sum >> bits & 1 == 1) << lane;
                }
            });
        }))
    }

    /// `dp4a.atype.btype d, a, b, c` and `dp2a.mode.atype.btype`.
    fn dot(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let types: Vec<Ty> = i.parts[1..].iter().filter_map(|p| Ty::parse(p)).collect();
        let [at, bt] = types[..] else { return Err("dp4a and dp2a have two types".to_owned()) };
        let (sa, sb) = (at.signed(), bt.signed());
        let byte = |v: u32, n: u32, signed: bool| {
            let b = (v >> (8 * n)) as u8;
            if signed { i32::from(b as i8) } else { i32::from(b) }
        };
        if i.base() == "dp4a" {
            if sa && sb {
                return self.op3::<u32>(i, |a, b, c| {
                    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
                    let product = |n: usize| i32::from(a[n] as i8) * i32::from(b[n] as i8);
                    c.wrapping_add((product(0) + product(1) + product(2) + product(3)) as u32)
                });
            }
            return self.op3::<u32>(i, move |a, b, c| {
                (0..4).fold(c, |c, n| c.wrapping_add((byte(a, n, sa) * byte(b, n, sb)) as u32))
            });
        }
        let start = if i.has("hi") { 2 } else { 0 };
        self.op3::<u32>(i, move |a, b, c| {
            (0..2).fold(c, |c, n| {
                let half = (a >> (16 * n)) as u16;
                let half = if sa { i32::from(half as i16) } else { i32::from(half) };
                c.wrapping_add(half.wrapping_mul(byte(b, start + n, sb)) as u32)
            })
        })
    }

    /// `and.pred` and relatives.
    fn pred_logic(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let a = self.pred(i.operand(1)?)?;
        let b = if i.base() == "not" { a } else { self.pred(i.operand(2)?)? };
        let Operand::Name(name, 0) = i.operand(0)? else { return Err("the result needs a predicate".to_owned()) };
        let d = self.pred_out(name)?;
        let f: fn(u32, u32) -> u32 = match i.base() {
            "and" => |a, b| a & b,
            "or" => |a, b| a | b,
            "xor" => |a, b| a ^ b,
            "not" => |a, _| !a,
            _ => return Err("not known for predicates".to_owned()),
        };
        Ok(pure(move |regs, mask| {
            let v = f(a.mask(regs), b.mask(regs));
            regs::set_pred(regs, d, mask, v);
        }))
    }

    /// Registers of the instruction that is being decoded, for its own bookkeeping.
    pub(super) fn wrote(&mut self, reference: RegRef) {
        self.writes.push(reference);
    }
}

fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Bits `p .. p + n` of `a`; those beyond the type are its sign bit where it has one.
fn extract(a: u64, p: u32, n: u32, width: u32, signed: bool) -> u64 {
    if n == 0 {
        return 0;
    }
    let last = (p + n - 1).min(width - 1);
    let sign = signed && a >> last & 1 == 1;
    let field = a.checked_shr(p).unwrap_or(0) & mask(n.min(width.saturating_sub(p)));
    if sign { field | !mask((last + 1).saturating_sub(p)) } else { field }
}

//! Comparisons.

use super::integer::by_int;
use super::{Decode, Decoder, Inst, pure};
use crate::code::Action;
use crate::num::{Bf16, F16, Half, Typed, flush};
use crate::parse::Operand;
use crate::regs::{self, Pred, PredSource, Reg, compare, set_pred};
use crate::types::Ty;

/// What a comparison's result is combined with.
type Combine = Option<(PredSource, fn(u32, u32) -> u32)>;

const COMPARISONS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
    "and", "or", "xor", "ftz",
];

/// A comparison function.
type Mask<T> = fn(&regs::Regs, Reg<<T as Typed>::Bits>, Reg<<T as Typed>::Bits>) -> u32;

impl<'a> Decoder<'a, '_> {
    /// `setp.cmp.type p|q, a, b` and `set.cmp.dtype.type d, a, b`, both also with a predicate to combine with.
    #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "comparisons that hold for NaN are such negations")]
    pub(super) fn set(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        i.only(COMPARISONS, 4)?;
        let comparison = i.parts.get(1).copied().unwrap_or_default();
        let combine: Combine = if i.operands.len() == 4 {
            let f: fn(u32, u32) -> u32 = if i.has("and") {
                |a, b| a & b
            } else if i.has("or") {
                |a, b| a | b
            } else {
                |a, b| a ^ b
            };
            Some((self.pred(i.operand(3)?)?, f))
        } else {
            None
        };
        macro_rules! by {
            ($T:ty, $($name:literal)|+ => $f:expr) => {
                if matches!(comparison, $($name)|+) {
                    return self.comparison::<$T>(i, combine, |r, a, b| {
                        compare(r, a, b, |a, b| $f(<$T>::get(a), <$T>::get(b)))
                    });
                }
            };
        }
        macro_rules! ordered {
            ($T:ty) => {{
                by!($T, "eq" => |a, b| a == b);
                by!($T, "ne" => |a, b| a != b);
                by!($T, "lt" | "lo" => |a, b| a < b);
                by!($T, "le" | "ls" => |a, b| a <= b);
                by!($T, "gt" | "hi" => |a, b| a > b);
                by!($T, "ge" | "hs" => |a, b| a >= b);
            }};
        }
        macro_rules! float {
            ($T:ty, $value:expr) => {{
                by!($T, "eq" => |a, b| $value(a) == $value(b));
                by!($T, "ne" => |a, b| $value(a) < $value(b) || $value(a) > $value(b));
                by!($T, "lt" => |a, b| $value(a) < $value(b));
                by!($T, "le" => |a, b| $value(a) <= $value(b));
                by!($T, "gt" => |a, b| $value(a) > $value(b));
                by!($T, "ge" => |a, b| $value(a) >= $value(b));
                by!($T, "equ" => |a, b| !($value(a) < $value(b) || $value(a) > $value(b)));
                by!($T, "neu" => |a, b| $value(a) != $value(b));
                by!($T, "ltu" => |a, b| !($value(a) >= $value(b)));
                by!($T, "leu" => |a, b| !($value(a) > $value(b)));
                by!($T, "gtu" => |a, b| !($value(a) <= $value(b)));
                by!($T, "geu" => |a, b| !($value(a) < $value(b)));
                by!($T, "num" => |a, b| !$value(a).is_nan() && !$value(b).is_nan());
                by!($T, "nan" => |a, b| $value(a).is_nan() || $value(b).is_nan());
            }};
        }
        match i.ty()? {
            Ty::F32 if i.has("ftz") => float!(f32, |v: f32| flush(v)),
            Ty::F32 => float!(f32, |v: f32| v),
            Ty::F64 => float!(f64, |v: f64| v),
            Ty::Bf16 => float!(Bf16, |v: Bf16| v.to_f32()),
            Ty::F16 => float!(F16, |v: F16| v.to_f32()),
            ty => {
                let checked: Decode<()> = by_int!(ty, T => {
                    ordered!(T);
                    Ok(())
                });
                checked?;
            }
        }
        Err("this comparison is not known".to_owned())
    }

    fn comparison<T: Typed>(&mut self, i: &Inst<'a, '_>, combine: Combine, mask_of: Mask<T>) -> Decode<Action> {
        let (a, b) = (self.src::<T>(i.operand(1)?)?, self.src::<T>(i.operand(2)?)?);
        let combined = move |regs: &regs::Regs, value: u32| match combine {
            Some((p, f)) => f(value, p.mask(regs)),
            None => value,
        };
        if i.base() == "set" {
            let to = i.parts[1..].iter().find_map(|p| Ty::parse(p)).unwrap_or(Ty::U32);
            let one = match to {
                Ty::F32 => 1f32.to_bits(),
                Ty::U32 | Ty::S32 => u32::MAX,
                _ => return Err("this form is not known".to_owned()),
            };
            let d = self.dst::<u32>(i.operand(0)?)?;
            return Ok(pure(move |regs, mask| {
                let holds = combined(regs, mask_of(regs, a, b));
                let out = d.get_mut(regs);
                regs::lanes(mask, |lane| out[lane] = if holds >> lane & 1 == 1 { one } else { 0 });
            }));
        }
        let (p, q): (Pred, Option<Pred>) = match i.operand(0)? {
            Operand::Name(name, 0) => (self.pred_out(name)?, None),
            Operand::Pair(p, q) => (self.pred_out(p)?, Some(self.pred_out(q)?)),
            _ => return Err("the result needs a predicate".to_owned()),
        };
        Ok(pure(move |regs, mask| {
            let holds = mask_of(regs, a, b);
            let (first, second) = (combined(regs, holds), combined(regs, !holds));
            set_pred(regs, p, mask, first);
            if let Some(q) = q {
                set_pred(regs, q, mask, second);
            }
        }))
    }

    /// A predicate that says something about one value.
    pub(super) fn test<T: Typed>(
        &mut self,
        i: &Inst<'a, '_>,
        f: impl Fn(T) -> bool + Send + Sync + 'static,
    ) -> Decode<Action> {
        let a = self.src::<T>(i.operand(1)?)?;
        let Operand::Name(name, 0) = i.operand(0)? else { return Err("the result needs a predicate".to_owned()) };
        let p = self.pred_out(name)?;
        Ok(pure(move |regs, mask| {
            let holds = compare(regs, a, a, |v, _| f(T::get(v)));
            set_pred(regs, p, mask, holds);
        }))
    }
}

//! Arithmetic of 16-bit floats, single and in pairs. Each operation is rounded once.

use super::{Decode, Decoder, Inst};
use crate::code::Action;
use crate::num::{Bf16, F16, Half, Round, add_odd, fma_odd, max_number, min_number};
use crate::types::Ty;

type Op = fn(f32, f32, f32) -> f64;

impl<'a> Decoder<'a, '_> {
    pub(super) fn half(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        i.only(&["rn", "ftz", "sat", "approx", "NaN", "relu"], 4)?;
        if i.has("ftz") || i.has("sat") {
            return Err(".ftz and .sat are not known for 16-bit floats".to_owned());
        }
        let f: Op = match i.base() {
            "add" => |a, b, _| add_odd(f64::from(a), f64::from(b)),
            "sub" => |a, b, _| add_odd(f64::from(a), -f64::from(b)),
            "mul" => |a, b, _| f64::from(a) * f64::from(b),
            "fma" => fma_odd,
            "neg" => |a, _, _| -f64::from(a),
            "abs" => |a, _, _| f64::from(a).abs(),
            "min" if i.has("NaN") => {
                |a, b, _| if a.is_nan() || b.is_nan() { f64::NAN } else { min_number(a.into(), b.into()) }
            }
            "max" if i.has("NaN") => {
                |a, b, _| if a.is_nan() || b.is_nan() { f64::NAN } else { max_number(a.into(), b.into()) }
            }
            "min" => |a, b, _| min_number(f64::from(a), f64::from(b)),
            "max" => |a, b, _| max_number(f64::from(a), f64::from(b)),
            "ex2" => |a, _, _| f64::from(a).exp2(),
            "tanh" => |a, _, _| f64::from(a).tanh(),
            _ => return Err("this form is not known".to_owned()),
        };
        match i.ty()? {
            Ty::Bf16 => self.single::<Bf16>(i, f),
            Ty::F16 => self.single::<F16>(i, f),
            Ty::Bf16x2 => self.pair::<Bf16>(i, f),
            _ => self.pair::<F16>(i, f),
        }
    }

    fn single<H: Half>(&mut self, i: &Inst<'a, '_>, f: Op) -> Decode<Action> {
        let relu = i.has("relu");
        match i.operands.len() {
            2 => self.op1::<H>(i, move |a| apply(f, relu, a, a, a)),
            3 => self.op2::<H>(i, move |a, b| apply(f, relu, a, b, b)),
            _ => self.op3::<H>(i, move |a, b, c| apply(f, relu, a, b, c)),
        }
    }

    fn pair<H: Half>(&mut self, i: &Inst<'a, '_>, f: Op) -> Decode<Action> {
        let relu = i.has("relu");
        let both = move |a: u32, b: u32, c: u32| {
            let part = |shift: u32| {
                let half = |v: u32| H::from_bits((v >> shift) as u16);
                u32::from(apply(f, relu, half(a), half(b), half(c)).bits()) << shift
            };
            part(0) | part(16)
        };
        match i.operands.len() {
            2 => self.op1::<u32>(i, move |a| both(a, a, a)),
            3 => self.op2::<u32>(i, move |a, b| both(a, b, b)),
            _ => self.op3::<u32>(i, both),
        }
    }
}

fn apply<H: Half>(f: Op, relu: bool, a: H, b: H, c: H) -> H {
    let v = f(a.to_f32(), b.to_f32(), c.to_f32());
    H::round(if relu && v < 0.0 { 0.0 } else { v }, Round::Nearest)
}

//! f32 and f64 arithmetic.
//!
//! Operations that PTX calls approximate give the correctly rounded result here, as good as the host's f64 functions are.

use super::{Decode, Decoder, Inst};
use crate::code::Action;
use crate::num::{
    Round, add_odd, canonical, canonical64, div_odd, flush, fma, fma_odd, max_number, min_number, saturate, sqrt_odd,
    to_f32,
};
use crate::types::Ty;

/// Modifiers of an f32 operation.
#[derive(Debug, Clone, Copy)]
struct Mode {
    round: Round,
    ftz: bool,
    sat: bool,
}

impl Mode {
    fn of(i: &Inst<'_, '_>) -> Self {
        let round = if i.has("rz") {
            Round::Zero
        } else if i.has("rp") {
            Round::Up
        } else if i.has("rm") {
            Round::Down
        } else {
            Round::Nearest
        };
        Self { round, ftz: i.has("ftz"), sat: i.has("sat") }
    }

    fn plain(self) -> bool {
        self.round == Round::Nearest && !self.ftz && !self.sat
    }

    fn input(self, v: f32) -> f32 {
        if self.ftz { flush(v) } else { v }
    }

    /// Rounds a result and applies the rest.
    fn output(self, v: f64) -> f32 {
        self.finish(to_f32(v, self.round))
    }

    fn finish(self, v: f32) -> f32 {
        let v = if self.ftz { flush(v) } else { v };
        if self.sat { saturate(v) } else { canonical(v) }
    }
}

impl<'a> Decoder<'a, '_> {
    pub(super) fn float(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        i.only(
            &[
                "rn",
                "rz",
                "rm",
                "rp",
                "ftz",
                "sat",
                "approx",
                "full",
                "NaN",
                "number",
                "normal",
                "subnormal",
                "finite",
                "infinite",
                "notanumber",
            ],
            4,
        )?;
        match (i.base(), i.ty()?) {
            ("testp", ty) => self.classify(i, ty),
            (_, Ty::F32) => self.float32(i),
            _ => self.float64(i),
        }
    }

    fn f32_1(&mut self, i: &Inst<'a, '_>, f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Decode<Action> {
        let mode = Mode::of(i);
        self.op1::<f32>(i, move |a| mode.output(f(f64::from(mode.input(a)))))
    }

    fn float32(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let mode = Mode::of(i);
        let plain = mode.plain();
        match i.base() {
            "add" if plain => self.op2::<f32>(i, |a, b| canonical(a + b)),
            "sub" if plain => self.op2::<f32>(i, |a, b| canonical(a - b)),
            "mul" if plain => self.op2::<f32>(i, |a, b| canonical(a * b)),
            "fma" | "mad" if plain => self.op3::<f32>(i, |a, b, c| canonical(fma(a, b, c))),
            "add" => {
                self.op2::<f32>(i, move |a, b| mode.output(add_odd(f64::from(mode.input(a)), f64::from(mode.input(b)))))
            }
            "sub" => self
                .op2::<f32>(i, move |a, b| mode.output(add_odd(f64::from(mode.input(a)), -f64::from(mode.input(b))))),
            "mul" => self.op2::<f32>(i, move |a, b| mode.output(f64::from(mode.input(a)) * f64::from(mode.input(b)))),
            "fma" | "mad" => {
                self.op3::<f32>(i, move |a, b, c| mode.output(fma_odd(mode.input(a), mode.input(b), mode.input(c))))
            }
            "div" => self.op2::<f32>(i, move |a, b| mode.output(div_odd(mode.input(a), mode.input(b)))),
            "rcp" => self.op1::<f32>(i, move |a| mode.output(div_odd(1.0, mode.input(a)))),
            "sqrt" => self.op1::<f32>(i, move |a| mode.output(sqrt_odd(mode.input(a)))),
            "rsqrt" => self.f32_1(i, |a| 1.0 / a.sqrt()),
            "sin" => self.f32_1(i, f64::sin),
            "cos" => self.f32_1(i, f64::cos),
            "lg2" => self.f32_1(i, f64::log2),
            "ex2" => self.f32_1(i, f64::exp2),
            "tanh" => self.f32_1(i, f64::tanh),
            "abs" => self.op1::<f32>(i, move |a| mode.input(a).abs()),
            "neg" => self.op1::<f32>(i, move |a| -mode.input(a)),
            "copysign" => self.op2::<f32>(i, |a, b| b.copysign(a)),
            "min" | "max" => {
                let (nan, smaller) = (i.has("NaN"), i.base() == "min");
                self.op2::<f32>(i, move |a, b| {
                    let (a, b) = (mode.input(a), mode.input(b));
                    if a.is_nan() && b.is_nan() || nan && (a.is_nan() || b.is_nan()) {
                        return canonical(f32::NAN);
                    }
                    pick32(a, b, smaller)
                })
            }
            _ => Err("this form is not known".to_owned()),
        }
    }

    fn float64(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        if Mode::of(i).round != Round::Nearest {
            return Err("f64 is rounded to nearest only".to_owned());
        }
        match i.base() {
            "add" => self.op2::<f64>(i, |a, b| canonical64(a + b)),
            "sub" => self.op2::<f64>(i, |a, b| canonical64(a - b)),
            "mul" => self.op2::<f64>(i, |a, b| canonical64(a * b)),
            "fma" | "mad" => self.op3::<f64>(i, |a, b, c| canonical64(a.mul_add(b, c))),
            "div" => self.op2::<f64>(i, |a, b| canonical64(a / b)),
            "rcp" => self.op1::<f64>(i, |a| canonical64(1.0 / a)),
            "sqrt" => self.op1::<f64>(i, |a| canonical64(a.sqrt())),
            "rsqrt" => self.op1::<f64>(i, |a| canonical64(1.0 / a.sqrt())),
            "abs" => self.op1::<f64>(i, f64::abs),
            "neg" => self.op1::<f64>(i, |a| -a),
            "copysign" => self.op2::<f64>(i, |a, b| b.copysign(a)),
            "min" => self.op2::<f64>(i, |a, b| canonical64(min_number(a, b))),
            "max" => self.op2::<f64>(i, |a, b| canonical64(max_number(a, b))),
            _ => Err("this form is not known".to_owned()),
        }
    }

    fn classify(&mut self, i: &Inst<'a, '_>, ty: Ty) -> Decode<Action> {
        let f: fn(f64, bool) -> bool = match i.parts[1] {
            "finite" => |v, _| v.is_finite(),
            "infinite" => |v, _| v.is_infinite(),
            "number" => |v, _| !v.is_nan(),
            "notanumber" => |v, _| v.is_nan(),
            "normal" => |v, small| v.is_finite() && v != 0.0 && !small,
            "subnormal" => |v, small| v != 0.0 && small,
            _ => return Err("this form is not known".to_owned()),
        };
        if ty == Ty::F32 {
            let below = |v: f32| v.abs() < f32::MIN_POSITIVE;
            self.test::<f32>(i, move |v| f(f64::from(v), below(v)))
        } else {
            self.test::<f64>(i, move |v| f(v, v.abs() < f64::MIN_POSITIVE))
        }
    }
}

/// The smaller or the larger one of two numbers, at most one of them NaN; -0 is below +0.
#[inline(always)]
fn pick32(a: f32, b: f32, smaller: bool) -> f32 {
    if a.is_nan() {
        return b;
    }
    if b.is_nan() {
        return a;
    }
    let a_first = if a == b { a.is_sign_negative() } else { a < b };
    if a_first == smaller { a } else { b }
}

//! Pointwise and gated activations.

use super::{Reference, Scalar};
use crate::Activation;
use crate::args::{Activate, ActivateBackward, Gate, GateBackward};

/// Cubic coefficient of the tanh form of GELU (Hendrycks and Gimpel 2016).
const GELU_CUBIC: f64 = 0.044715;

/// `sqrt(2 / pi)`.
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

/// `1 / sqrt(2 pi)`, the height of the normal density.
const FRAC_1_SQRT_2PI: f64 = 0.398_942_280_401_432_7;

fn sigmoid<R: Scalar>(x: R) -> R {
    R::ONE / (R::ONE + (-x).exp())
}

/// The activation of one number.
pub(super) fn apply<R: Scalar>(activation: Activation, x: R) -> R {
    let c = R::from_f64;
    match activation {
        Activation::GeluTanh => {
            let u = c(SQRT_2_OVER_PI) * (x + c(GELU_CUBIC) * x * x * x);
            c(0.5) * x * (R::ONE + u.tanh())
        }
        Activation::GeluErf => c(0.5) * x * (R::ONE + (x * c(std::f64::consts::FRAC_1_SQRT_2)).erf()),
        Activation::Relu => {
            if x > R::ZERO {
                x
            } else {
                R::ZERO
            }
        }
        Activation::Silu => x * sigmoid(x),
    }
}

/// The derivative of the activation at one number; 0 for ReLU at 0.
pub(super) fn derivative<R: Scalar>(activation: Activation, x: R) -> R {
    let c = R::from_f64;
    match activation {
        Activation::GeluTanh => {
            let u = c(SQRT_2_OVER_PI) * (x + c(GELU_CUBIC) * x * x * x);
            let d_u = c(SQRT_2_OVER_PI) * (R::ONE + c(3.0 * GELU_CUBIC) * x * x);
            let t = u.tanh();
            c(0.5) * (R::ONE + t) + c(0.5) * x * (R::ONE - t * t) * d_u
        }
        Activation::GeluErf => {
            let cdf = c(0.5) * (R::ONE + (x * c(std::f64::consts::FRAC_1_SQRT_2)).erf());
            let density = c(FRAC_1_SQRT_2PI) * (-(c(0.5) * x * x)).exp();
            cdf + x * density
        }
        Activation::Relu => {
            if x > R::ZERO {
                R::ONE
            } else {
                R::ZERO
            }
        }
        Activation::Silu => {
            let s = sigmoid(x);
            s * (R::ONE + x * (R::ONE - s))
        }
    }
}

/// `out = activation(inp)`.
pub(super) fn activate<R: Scalar>(args: Activate<'_, Reference<R>>) {
    args.check();
    for (out, &x) in args.out.as_mut_slice().iter_mut().zip(args.inp.as_slice()) {
        *out = apply(args.activation, x);
    }
}

/// `d_inp = d_out * activation'(inp)`.
pub(super) fn activate_backward<R: Scalar>(args: ActivateBackward<'_, Reference<R>>) {
    args.check();
    let (d_out, inp, d_inp) = (args.d_out.as_slice(), args.inp.as_slice(), args.d_inp.as_mut_slice());
    for i in 0..inp.len() {
        d_inp[i] = d_out[i] * derivative(args.activation, inp[i]);
    }
}

/// `out = activation(gate) * up`.
pub(super) fn gate<R: Scalar>(args: Gate<'_, Reference<R>>) {
    args.check();
    let (gate, up, out) = (args.gate.as_slice(), args.up.as_slice(), args.out.as_mut_slice());
    for i in 0..args.len {
        out[i] = apply(args.activation, gate[i]) * up[i];
    }
}

/// `d_gate = d_out * up * activation'(gate)`, `d_up = d_out * activation(gate)`.
pub(super) fn gate_backward<R: Scalar>(args: GateBackward<'_, Reference<R>>) {
    args.check();
    let (d_out, gate, up) = (args.d_out.as_slice(), args.gate.as_slice(), args.up.as_slice());
    let (d_gate, d_up) = (args.d_gate.as_mut_slice(), args.d_up.as_mut_slice());
    for i in 0..gate.len() {
        d_gate[i] = d_out[i] * up[i] * derivative(args.activation, gate[i]);
        d_up[i] = d_out[i] * apply(args.activation, gate[i]);
    }
}

//! The linear layer and its two gradients.

use super::activation::{apply, derivative};
use super::scalar::{add_scaled, dot};
use super::{Reference, Scalar};
use crate::LinearShape;
use crate::args::{Epilogue, InputGrad, Linear, LinearBackwardInput, LinearBackwardWeight};

/// Calls `store(n, o, sum)` for each output element, with `sum = inp[n] . weight[o] + bias[o]`.
pub(super) fn products<R: Scalar>(
    inp: &[R],
    weight: &[R],
    bias: Option<&[R]>,
    shape: LinearShape,
    mut store: impl FnMut(usize, usize, R),
) {
    let LinearShape { rows, d_in, d_out } = shape;
    for n in 0..rows {
        for o in 0..d_out {
            let product = dot(&inp[n * d_in..][..d_in], &weight[o * d_in..][..d_in]);
            store(n, o, product + bias.map_or(R::ZERO, |bias| bias[o]));
        }
    }
}

/// `out = epilogue(inp . weight^T + bias)`.
pub(super) fn linear<R: Scalar>(args: Linear<'_, Reference<R>>) {
    args.check();
    let Linear { inp, weight, bias, out, epilogue, shape } = args;
    let (inp, weight, bias) = (inp.as_slice(), weight.as_slice(), bias.map(|b| b.as_slice()));
    let (out, width) = (out.as_mut_slice(), shape.d_out);
    match epilogue {
        Epilogue::Store => products(inp, weight, bias, shape, |n, o, sum| out[n * width + o] = sum),
        Epilogue::Residual(residual) => {
            let residual = residual.as_slice();
            products(inp, weight, bias, shape, |n, o, sum| out[n * width + o] = residual[n * width + o] + sum);
        }
        Epilogue::Activate { activation, pre } => {
            let pre = pre.as_mut_slice();
            products(inp, weight, bias, shape, |n, o, sum| {
                pre[n * width + o] = sum;
                out[n * width + o] = apply(activation, sum);
            });
        }
    }
}

/// `d_inp[n] = sum_o d_out[n, o] * weight[o]`, then what `write` says.
pub(super) fn linear_backward_input<R: Scalar>(args: LinearBackwardInput<'_, Reference<R>>) {
    args.check();
    let LinearBackwardInput { d_out, weight, d_inp, write, shape } = args;
    let (d_out, weight, d_inp) = (d_out.as_slice(), weight.as_slice(), d_inp.as_mut_slice());
    let width = shape.d_in;
    for n in 0..shape.rows {
        for i in 0..width {
            let mut sum = R::ZERO;
            for o in 0..shape.d_out {
                sum += d_out[n * shape.d_out + o] * weight[o * width + i];
            }
            let d_inp = &mut d_inp[n * width + i];
            match &write {
                InputGrad::Set => *d_inp = sum,
                InputGrad::Add => *d_inp += sum,
                InputGrad::ThroughActivation { activation, pre } => {
                    *d_inp = sum * derivative(*activation, pre.as_slice()[n * width + i]);
                }
            }
        }
    }
}

/// `d_weight[o] += sum_n d_out[n, o] * inp[n]`, `d_bias[o] += sum_n d_out[n, o]`.
pub(super) fn linear_backward_weight<R: Scalar>(args: LinearBackwardWeight<'_, Reference<R>>) {
    args.check();
    let LinearBackwardWeight { d_out, inp, d_weight, d_bias, shape } = args;
    let (d_out, inp, d_weight) = (d_out.as_slice(), inp.as_slice(), d_weight.as_mut_slice());
    let mut d_bias = d_bias.map(|b| b.as_mut_slice());
    let width = shape.d_in;
    for n in 0..shape.rows {
        for o in 0..shape.d_out {
            let g = d_out[n * shape.d_out + o];
            add_scaled(&mut d_weight[o * width..][..width], g, &inp[n * width..][..width]);
            if let Some(d_bias) = &mut d_bias {
                d_bias[o] += g;
            }
        }
    }
}

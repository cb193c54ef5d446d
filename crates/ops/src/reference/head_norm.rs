//! RMSNorm of query and key heads.

use super::norm::factor;
use super::{Reference, Scalar};
use crate::HeadNormShape;
use crate::args::{HeadNorm, HeadNormBackward};

/// `1 / sqrt(mean(x^2) + eps)`.
fn inverse_root<R: Scalar>(x: &[R], shape: HeadNormShape) -> R {
    let mut squares = R::ZERO;
    for &x in x {
        squares += x * x;
    }
    R::ONE / (squares / R::from_f64(x.len() as f64) + R::from_f32(shape.eps)).sqrt()
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` in query and key heads.
pub(super) fn head_norm<R: Scalar>(args: HeadNorm<'_, Reference<R>>) {
    args.check();
    let HeadNorm { inp, q_weight, k_weight, out, shape } = args;
    let (inp, out) = (inp.as_slice(), out.as_mut_slice());
    let d = shape.d_head;
    for n in 0..shape.rows {
        for h in 0..shape.n_heads + 2 * shape.n_kv_heads {
            let at = n * shape.row_width() + h * d;
            let x = &inp[at..][..d];
            if h >= shape.n_heads + shape.n_kv_heads {
                out[at..][..d].copy_from_slice(x);
                continue;
            }
            let weight = if h < shape.n_heads { q_weight } else { k_weight }.as_slice();
            let rstd = inverse_root(x, shape);
            for i in 0..d {
                out[at + i] = x[i] * rstd * factor(shape.kind, weight[i]);
            }
        }
    }
}

/// With `x_hat = x * rstd` and `g = d_out * weight`, for each head:
///
/// ```text
/// d_inp     = rstd * (g - x_hat * mean_i(g x_hat))
/// d_weight += sum_n,h d_out x_hat
/// ```
pub(super) fn head_norm_backward<R: Scalar>(args: HeadNormBackward<'_, Reference<R>>) {
    args.check();
    let HeadNormBackward { inp, q_weight, k_weight, d_rows, d_q_weight, d_k_weight, shape } = args;
    let (inp, d_rows) = (inp.as_slice(), d_rows.as_mut_slice());
    let (d_q_weight, d_k_weight) = (d_q_weight.as_mut_slice(), d_k_weight.as_mut_slice());
    let d = shape.d_head;
    for n in 0..shape.rows {
        for h in 0..shape.n_heads + shape.n_kv_heads {
            let at = n * shape.row_width() + h * d;
            let (x, grad) = (&inp[at..][..d], &mut d_rows[at..][..d]);
            let (weight, d_weight) = match h < shape.n_heads {
                true => (q_weight.as_slice(), &mut *d_q_weight),
                false => (k_weight.as_slice(), &mut *d_k_weight),
            };
            let rstd = inverse_root(x, shape);
            let mut mean = R::ZERO;
            for i in 0..d {
                mean += grad[i] * factor(shape.kind, weight[i]) * (x[i] * rstd);
            }
            mean = mean / R::from_f64(d as f64);
            for i in 0..d {
                let x_hat = x[i] * rstd;
                let g = grad[i] * factor(shape.kind, weight[i]);
                d_weight[i] += grad[i] * x_hat;
                grad[i] = rstd * (g - x_hat * mean);
            }
        }
    }
}

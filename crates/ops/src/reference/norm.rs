//! LayerNorm and RMSNorm.

use super::{Reference, Scalar};
use crate::NormKind;
use crate::args::{Norm, NormBackward};

/// `out = (x - mean) * rstd * weight + bias`; RMSNorm has mean 0 in that formula and in the statistics.
pub(super) fn norm<R: Scalar>(args: Norm<'_, Reference<R>>) {
    args.check();
    let Norm { inp, weight, bias, out, stats, shape } = args;
    let (inp, weight, bias) = (inp.as_slice(), weight.as_slice(), bias.map(|b| b.as_slice()));
    let (out, stats) = (out.as_mut_slice(), stats.as_mut_slice());
    let c = shape.cols;
    let width = R::from_f64(c as f64);
    for n in 0..shape.rows {
        let x = &inp[n * c..][..c];
        let mut mean = R::ZERO;
        if shape.kind == NormKind::Layer {
            for &x in x {
                mean += x;
            }
            mean = mean / width;
        }
        let mut variance = R::ZERO;
        for &x in x {
            variance += (x - mean) * (x - mean);
        }
        variance = variance / width;
        let rstd = R::ONE / (variance + R::from_f32(shape.eps)).sqrt();
        for i in 0..c {
            let normed = (x[i] - mean) * rstd;
            out[n * c + i] = normed * factor(shape.kind, weight[i]) + bias.map_or(R::ZERO, |bias| bias[i]);
        }
        stats[2 * n] = mean;
        stats[2 * n + 1] = rstd;
    }
}

/// What a normalised number is multiplied by.
pub(super) fn factor<R: Scalar>(kind: NormKind, weight: R) -> R {
    match kind {
        NormKind::Layer | NormKind::Rms => weight,
        NormKind::RmsPlusOne => R::ONE + weight,
    }
}

/// With `x_hat = (x - mean) * rstd` and `g = d_out * weight`:
///
/// ```text
/// d_inp    += rstd * (g - mean_i(g) - x_hat * mean_i(g x_hat))     RMSNorm: without mean_i(g)
/// d_weight += sum_n d_out x_hat
/// d_bias   += sum_n d_out
/// ```
pub(super) fn norm_backward<R: Scalar>(args: NormBackward<'_, Reference<R>>) {
    args.check();
    let NormBackward { d_out, inp, weight, stats, d_inp, d_weight, d_bias, shape } = args;
    let (d_out, inp, weight, stats) = (d_out.as_slice(), inp.as_slice(), weight.as_slice(), stats.as_slice());
    let (d_inp, d_weight) = (d_inp.as_mut_slice(), d_weight.as_mut_slice());
    let mut d_bias = d_bias.map(|b| b.as_mut_slice());
    let c = shape.cols;
    let width = R::from_f64(c as f64);
    for n in 0..shape.rows {
        let (mean, rstd) = (stats[2 * n], stats[2 * n + 1]);
        let (d_out, x) = (&d_out[n * c..][..c], &inp[n * c..][..c]);
        let (mut mean_g, mut mean_g_x_hat) = (R::ZERO, R::ZERO);
        for i in 0..c {
            let g = d_out[i] * factor(shape.kind, weight[i]);
            mean_g += g;
            mean_g_x_hat += g * ((x[i] - mean) * rstd);
        }
        mean_g = match shape.kind {
            NormKind::Layer => mean_g / width,
            NormKind::Rms | NormKind::RmsPlusOne => R::ZERO,
        };
        mean_g_x_hat = mean_g_x_hat / width;
        for i in 0..c {
            let x_hat = (x[i] - mean) * rstd;
            let g = d_out[i] * factor(shape.kind, weight[i]);
            d_inp[n * c + i] += rstd * (g - mean_g - x_hat * mean_g_x_hat);
            d_weight[i] += d_out[i] * x_hat;
            if let Some(d_bias) = &mut d_bias {
                d_bias[i] += d_out[i];
            }
        }
    }
}

//! AdamW and the gradient norm.

use super::{HostBuf, Reference, Scalar};
use crate::args::AdamW;

/// One step, as [`crate::AdamWStep`] writes it.
pub(super) fn adamw<R: Scalar>(args: AdamW<'_, Reference<R>>) {
    args.check();
    let AdamW { weight, master, grad, m, v, step } = args;
    let (weight, grad) = (weight.as_mut_slice(), grad.as_slice());
    let (m, v) = (m.as_mut_slice(), v.as_mut_slice());
    let mut master = master.map(|master| master.as_mut_slice());
    let c = R::from_f32;
    let (beta1, beta2) = (c(step.beta1), c(step.beta2));
    for i in 0..weight.len() {
        let g = grad[i] * c(step.grad_scale);
        m[i] = beta1 * m[i] + (R::ONE - beta1) * g;
        v[i] = beta2 * v[i] + (R::ONE - beta2) * g * g;
        let update = (m[i] / c(step.bias_correction1)) / ((v[i] / c(step.bias_correction2)).sqrt() + c(step.eps));
        let w = master.as_ref().map_or(weight[i], |master| master[i]);
        let w = w * (R::ONE - c(step.lr) * c(step.weight_decay)) - c(step.lr) * update;
        if let Some(master) = &mut master {
            master[i] = w;
        }
        weight[i] = w;
    }
}

/// `out[b] = sum_i bufs[b][i]^2`, in `f64`.
pub(super) fn sum_squares<'a, R: Scalar>(bufs: impl Iterator<Item = &'a HostBuf<R>>, out: &mut [f64]) {
    let mut written = 0;
    for (b, buf) in bufs.enumerate() {
        assert!(b < out.len(), "sum_squares: more buffers than the {} places of out", out.len());
        out[b] = buf.as_slice().iter().map(|x| x.to_f64() * x.to_f64()).sum();
        written = b + 1;
    }
    assert!(written == out.len(), "sum_squares: {written} buffers for {} places of out", out.len());
}

//! Output head and cross-entropy, one row at a time.

use super::scalar::{add_scaled, dot};
use super::{Reference, Scalar, check_index};
use crate::args::{HeadLoss, HeadLossBackward};
use crate::{HeadShape, IGNORE_TARGET};

/// Fills `logits[v] = weight[v] . x` and returns their log-sum-exp.
fn row_logits<R: Scalar>(x: &[R], weight: &[R], logits: &mut [R]) -> R {
    let mut max = R::from_f64(f64::NEG_INFINITY);
    for (logit, weight) in logits.iter_mut().zip(weight.chunks_exact(x.len())) {
        *logit = dot(weight, x);
        max = max.max(*logit);
    }
    let mut sum = R::ZERO;
    for &logit in &*logits {
        sum += (logit - max).exp();
    }
    max + sum.ln()
}

/// Where the rows of the head's buffers are.
fn row<T>(buffer: &[T], n: usize, shape: HeadShape) -> &[T] {
    &buffer[n * shape.d_model..][..shape.d_model]
}

/// `losses[n] = logsumexp(logits) - logits[target]`.
pub(super) fn head_loss<R: Scalar>(args: HeadLoss<'_, Reference<R>>) {
    args.check();
    let HeadLoss { inp, weight, targets, losses, logits, shape } = args;
    let (inp, weight, targets) = (inp.as_slice(), weight.as_slice(), targets.as_slice());
    let (losses, logits) = (losses.as_mut_slice(), &mut logits.as_mut_slice()[..shape.n_vocab]);
    for n in 0..shape.rows {
        if targets[n] == IGNORE_TARGET {
            losses[n] = R::ZERO;
            continue;
        }
        let target = check_index("head_loss", "targets", n, targets[n], shape.n_vocab);
        let lse = row_logits(row(inp, n, shape), weight, logits);
        losses[n] = lse - logits[target];
    }
}

/// With `d_logit[v] = grad_scale * (e^(logit[v] - lse) - [v = target])`, 0 for ignored rows:
/// `d_inp = sum_v d_logit[v] weight[v]`, `d_weight[v] += sum_n d_logit[n, v] inp[n]`.
pub(super) fn head_loss_backward<R: Scalar>(args: HeadLossBackward<'_, Reference<R>>) {
    args.check();
    let HeadLossBackward { inp, weight, targets, losses, logits, d_inp, d_weight, grad_scale, shape } = args;
    let (inp, weight, targets) = (inp.as_slice(), weight.as_slice(), targets.as_slice());
    let (losses, logits) = (losses.as_mut_slice(), &mut logits.as_mut_slice()[..shape.n_vocab]);
    let (d_inp, d_weight) = (d_inp.as_mut_slice(), d_weight.as_mut_slice());
    let (c, grad_scale) = (shape.d_model, R::from_f32(grad_scale));
    d_inp.fill(R::ZERO);
    for n in 0..shape.rows {
        if targets[n] == IGNORE_TARGET {
            losses[n] = R::ZERO;
            continue;
        }
        let target = check_index("head_loss_backward", "targets", n, targets[n], shape.n_vocab);
        let x = row(inp, n, shape);
        let lse = row_logits(x, weight, logits);
        losses[n] = lse - logits[target];
        for v in 0..shape.n_vocab {
            let hit = if v == target { R::ONE } else { R::ZERO };
            let d_logit = grad_scale * ((logits[v] - lse).exp() - hit);
            add_scaled(&mut d_inp[n * c..][..c], d_logit, row(weight, v, shape));
            add_scaled(&mut d_weight[v * c..][..c], d_logit, x);
        }
    }
}

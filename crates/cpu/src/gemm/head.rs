//! The output head and its cross-entropy, some rows of logits at a time.

use half::bf16;
use verve_ops::IGNORE_TARGET;
use verve_ops::args::{HeadLoss, HeadLossBackward};

use super::finish::{Backward, FinishBackward, FinishForward, Forward};
use super::product::{Columns, Product, Target, multiply};
use super::view::{Order, Unit, View};
use super::{accumulate, machine};
use crate::pool::{ChunksMut, SharedMut};
use crate::simd::{Kernel, Simd, math, rows};
use crate::{CpuBackend, CpuElem};

/// Logits of one task of the softmax, about.
const TASK: usize = 1 << 15;

/// `losses[n] = logsumexp(logits) - logits[target]`, 0 for ignored rows.
pub(crate) fn head_loss<E: CpuElem>(backend: &CpuBackend<E>, args: HeadLoss<'_, CpuBackend<E>>) {
    let HeadLoss { inp, weight, targets, losses, logits, shape } = args;
    let chunk = chunk_rows(logits.len(), shape.n_vocab);
    for first in (0..shape.rows).step_by(chunk) {
        let n = chunk.min(shape.rows - first);
        let inp = &inp[first * shape.d_model..][..n * shape.d_model];
        let logits = &mut logits[..n * shape.n_vocab];
        chunk_logits(backend, inp, weight, logits, n);
        let (targets, losses) = (&targets[first..][..n], &mut losses[first..][..n]);
        softmax(backend, logits, targets, losses, Logits::Keep);
    }
}

/// [`head_loss`] and its gradients. Where products run on pairs of `bf16`, so do the gradients of the logits.
pub(crate) fn head_loss_backward<E: CpuElem>(backend: &CpuBackend<E>, args: HeadLossBackward<'_, CpuBackend<E>>) {
    let HeadLossBackward { inp, weight, targets, losses, logits, d_inp, d_weight, grad_scale, shape } = args;
    let (c, v) = (shape.d_model, shape.n_vocab);
    let unit = Unit::of::<E>(backend.isa());
    let chunk = chunk_rows(logits.len(), v);
    for first in (0..shape.rows).step_by(chunk) {
        let n = chunk.min(shape.rows - first);
        let inp = &inp[first * c..][..n * c];
        let logits = &mut logits[..n * v];
        chunk_logits(backend, inp, weight, logits, n);
        let (targets, losses) = (&targets[first..][..n], &mut losses[first..][..n]);
        let store = match unit {
            Unit::F32 => Logits::Gradient(grad_scale),
            Unit::Pair => Logits::HalfGradient(grad_scale),
        };
        softmax(backend, logits, targets, losses, store);
        let gradient = |order| match unit {
            Unit::F32 => View::new::<f32>(logits, v, order),
            Unit::Pair => View::new::<bf16>(bytemuck::cast_slice(logits), 2 * v, order),
        };
        let to_inp = Product {
            rows: n,
            cols: c,
            k: v,
            unit,
            a: gradient(Order::KInner),
            b: Columns::View(View::new::<E>(weight, c, Order::KOuter)),
        };
        let d_inp = SharedMut::new(&mut d_inp[first * c..][..n * c]);
        multiply(machine(backend), &to_inp, &Target::Finish(FinishBackward { d_inp, width: c, end: Backward::Set }));
        let to_weight = Product {
            rows: v,
            cols: c,
            k: n,
            unit,
            a: gradient(Order::KOuter),
            b: Columns::View(View::new::<E>(inp, c, Order::KOuter)),
        };
        let out = SharedMut::new(&mut d_weight[..]);
        accumulate(machine(backend), &to_weight, &Target::Accumulate { out, width: c, row_sums: None });
    }
}

/// Rows of logits that fit in the workspace. Even if more than one, so that pairs of rows are never cut.
fn chunk_rows(workspace: usize, n_vocab: usize) -> usize {
    let rows = workspace / n_vocab.max(1);
    if rows > 1 { rows & !1 } else { 1 }
}

/// `logits = inp . weight^T` for `n` rows.
fn chunk_logits<E: CpuElem>(backend: &CpuBackend<E>, inp: &[E], weight: &[E], logits: &mut [f32], n: usize) {
    let (c, v) = (inp.len() / n, logits.len() / n);
    let product = Product {
        rows: n,
        cols: v,
        k: c,
        unit: Unit::of::<E>(backend.isa()),
        a: View::new::<E>(inp, c, Order::KInner),
        b: Columns::View(View::new::<E>(weight, c, Order::KInner)),
    };
    let finish = FinishForward::<f32> { out: SharedMut::new(logits), width: v, bias: None, end: Forward::Store };
    multiply(machine(backend), &product, &Target::Finish(finish));
}

/// What becomes of the logits once the loss is known.
#[derive(Clone, Copy)]
enum Logits {
    Keep,
    /// The gradient of this factor times the loss, in place.
    Gradient(f32),
    /// The same as `bf16`, in the first half of each row.
    HalfGradient(f32),
}

/// Losses of some rows.
fn softmax<E: CpuElem>(
    backend: &CpuBackend<E>,
    logits: &mut [f32],
    targets: &[u32],
    losses: &mut [f32],
    store: Logits,
) {
    let v = logits.len() / targets.len();
    let n = (TASK / v.max(1)).max(1);
    backend.pool().for_each((ChunksMut::new(logits, n * v), ChunksMut::new(losses, n)), |task, _, (logits, losses)| {
        let targets = &targets[task * n..];
        for ((row, loss), target) in logits.chunks_exact_mut(v).zip(losses).zip(targets) {
            if *target == IGNORE_TARGET {
                *loss = 0.0;
                if !matches!(store, Logits::Keep) {
                    row.fill(0.0);
                }
                continue;
            }
            let target = *target as usize;
            assert!(target < v, "head_loss: target {target} in a vocabulary of {v}");
            *loss = backend.isa().dispatch(RowLoss { row, target, store });
        }
    });
}

struct RowLoss<'a> {
    row: &'a mut [f32],
    target: usize,
    store: Logits,
}

impl Kernel for RowLoss<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let RowLoss { row, target, store } = self;
        let (max, sum) = rows::max_and_exp_sum(s, row);
        let lse = max + sum.ln();
        let logit = row[target];
        match store {
            Logits::Keep => {}
            Logits::Gradient(scale) => {
                let mut i = 0;
                while i < row.len() {
                    let p = math::exp(s, s.sub(s.load(&row[i..]), s.splat(lse)));
                    s.store(s.mul(p, s.splat(scale)), &mut row[i..]);
                    i += S::LANES;
                }
                row[target] = scale * (target_probability(s, logit, lse) - 1.0);
            }
            Logits::HalfGradient(scale) => {
                let len = row.len();
                let mut i = 0;
                while i < len {
                    let p = math::exp(s, s.sub(s.load(&row[i..]), s.splat(lse)));
                    // What is written lies before what is still to be read.
                    let half: &mut [bf16] = bytemuck::cast_slice_mut(row);
                    s.store_bf16(s.mul(p, s.splat(scale)), &mut half[i..len.min(i + S::LANES)]);
                    i += S::LANES;
                }
                let half: &mut [bf16] = bytemuck::cast_slice_mut(row);
                half[target] = bf16::from_f32(scale * (target_probability(s, logit, lse) - 1.0));
            }
        }
        lse - logit
    }
}

/// `e^(logit - lse)`, as the vectors compute it.
#[inline(always)]
fn target_probability<S: Simd>(s: S, logit: f32, lse: f32) -> f32 {
    let mut first = [0.0];
    s.store(math::exp(s, s.splat(logit - lse)), &mut first);
    first[0]
}

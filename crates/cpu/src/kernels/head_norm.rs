//! RMSNorm of query and key heads, and sums of buffers.

use verve_ops::HeadNormShape;
use verve_ops::args::{HeadNorm, HeadNormBackward, ScaledSum};

use super::norm::{AddPartials, factor, row_square_sum};
use crate::pool::ChunksMut;
use crate::simd::{Kernel, Simd};
use crate::{CpuBackend, CpuElem};

/// Elements of the rows of one task, about.
const TASK: usize = 16 * 1024;

/// Least number of rows of a chunk of the backward, and most chunks: they depend on the number of rows alone.
const CHUNK: usize = 64;

struct NormHeads<'a, E> {
    inp: &'a [E],
    q_weight: &'a [E],
    k_weight: &'a [E],
    out: &'a mut [E],
    shape: HeadNormShape,
}

#[inline(always)]
fn inverse_root<S: Simd, E: CpuElem>(s: S, x: &[E], shape: HeadNormShape) -> f32 {
    1.0 / (row_square_sum(s, x, 0.0) / shape.d_head as f32 + shape.eps).sqrt()
}

impl<E: CpuElem> Kernel for NormHeads<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { inp, q_weight, k_weight, out, shape } = self;
        let d = shape.d_head;
        assert!(q_weight.len() == d && k_weight.len() == d);
        let rows = inp.chunks_exact(shape.row_width()).zip(out.chunks_exact_mut(shape.row_width()));
        for (inp, out) in rows {
            for (h, (x, out)) in inp.chunks_exact(d).zip(out.chunks_exact_mut(d)).enumerate() {
                if h >= shape.n_heads + shape.n_kv_heads {
                    out.copy_from_slice(x);
                    continue;
                }
                let weight = if h < shape.n_heads { q_weight } else { k_weight };
                let rstd = s.splat(inverse_root(s, x, shape));
                let mut i = 0;
                while i < d {
                    let hat = s.mul(E::load(s, &x[i..]), rstd);
                    E::store(s, s.mul(hat, factor(s, shape.kind, &weight[i..])), &mut out[i..]);
                    i += S::LANES;
                }
            }
        }
    }
}

pub(crate) fn forward<E: CpuElem>(backend: &CpuBackend<E>, args: HeadNorm<'_, CpuBackend<E>>) {
    let HeadNorm { inp, q_weight, k_weight, out, shape } = args;
    let width = shape.row_width();
    if shape.rows == 0 || width == 0 {
        return;
    }
    let task_rows = (TASK / width).max(1);
    let out = &mut out[..shape.rows * width];
    backend.pool().for_each(ChunksMut::new(out, task_rows * width), |task, _, out| {
        let inp = &inp[task * task_rows * width..][..out.len()];
        backend.isa().dispatch(NormHeads { inp, q_weight, k_weight, out, shape });
    });
}

struct NormHeadsBackward<'a, E> {
    inp: &'a [E],
    q_weight: &'a [E],
    k_weight: &'a [E],
    d_rows: &'a mut [E],
    /// `[2, D]`: sums over these rows for the weights of queries and keys.
    partial: &'a mut [f32],
    shape: HeadNormShape,
}

impl<E: CpuElem> Kernel for NormHeadsBackward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { inp, q_weight, k_weight, d_rows, partial, shape } = self;
        let d = shape.d_head;
        assert!(q_weight.len() == d && k_weight.len() == d && partial.len() == 2 * d);
        partial.fill(0.0);
        let (d_q_weight, d_k_weight) = partial.split_at_mut(d);
        let rows = inp.chunks_exact(shape.row_width()).zip(d_rows.chunks_exact_mut(shape.row_width()));
        for (inp, d_row) in rows {
            let heads = inp.chunks_exact(d).zip(d_row.chunks_exact_mut(d));
            for (h, (x, grad)) in heads.take(shape.n_heads + shape.n_kv_heads).enumerate() {
                let (weight, d_weight) = match h < shape.n_heads {
                    true => (q_weight, &mut *d_q_weight),
                    false => (k_weight, &mut *d_k_weight),
                };
                let rstd = s.splat(inverse_root(s, x, shape));
                // Lanes without an element have a gradient of 0: they add nothing.
                let mut sum = s.splat(0.0);
                let mut i = 0;
                while i < d {
                    let d_out = E::load(s, &grad[i..]);
                    let hat = s.mul(E::load(s, &x[i..]), rstd);
                    sum = s.fma(s.mul(d_out, factor(s, shape.kind, &weight[i..])), hat, sum);
                    s.store(s.fma(d_out, hat, s.load(&d_weight[i..])), &mut d_weight[i..]);
                    i += S::LANES;
                }
                let mean = s.splat(s.sum(sum) / d as f32);
                let mut i = 0;
                while i < d {
                    let hat = s.mul(E::load(s, &x[i..]), rstd);
                    let g = s.mul(E::load(s, &grad[i..]), factor(s, shape.kind, &weight[i..]));
                    E::store(s, s.mul(rstd, s.fnma(hat, mean, g)), &mut grad[i..]);
                    i += S::LANES;
                }
            }
        }
    }
}

pub(crate) fn backward<E: CpuElem>(backend: &CpuBackend<E>, args: HeadNormBackward<'_, CpuBackend<E>>) {
    let HeadNormBackward { inp, q_weight, k_weight, d_rows, d_q_weight, d_k_weight, shape } = args;
    let (rows, width, d) = (shape.rows, shape.row_width(), shape.d_head);
    if rows == 0 || width == 0 {
        return;
    }
    let chunk = rows.div_ceil(CHUNK).max(CHUNK);
    backend.scratch().shared(rows.div_ceil(chunk) * 2 * d, |partials: &mut [f32]| {
        let parts = (ChunksMut::new(d_rows, chunk * width), ChunksMut::new(partials, 2 * d));
        backend.pool().for_each(parts, |task, _, (d_rows, partial)| {
            let inp = &inp[task * chunk * width..][..d_rows.len()];
            backend.isa().dispatch(NormHeadsBackward { inp, q_weight, k_weight, d_rows, partial, shape });
        });
        backend.isa().dispatch(AddPartials { sums: d_q_weight, partials, stride: 2 * d });
        backend.isa().dispatch(AddPartials { sums: d_k_weight, partials: &partials[d..], stride: 2 * d });
    });
}

struct ScaleAdd<'a, E> {
    x: &'a mut [E],
    factor: f32,
    y: Option<&'a [E]>,
}

impl<E: CpuElem> Kernel for ScaleAdd<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, factor, y } = self;
        let factor = s.splat(factor);
        let mut i = 0;
        while i < x.len() {
            let scaled = s.mul(E::load(s, &x[i..]), factor);
            let sum = match y {
                Some(y) => s.add(scaled, E::load(s, &y[i..])),
                None => scaled,
            };
            E::store(s, sum, &mut x[i..]);
            i += S::LANES;
        }
    }
}

pub(crate) fn scaled_sum<E: CpuElem>(backend: &CpuBackend<E>, args: ScaledSum<'_, CpuBackend<E>>) {
    let ScaledSum { x, factor, y, len } = args;
    if len == 0 {
        return;
    }
    backend.pool().for_each(ChunksMut::new(&mut x[..len], TASK), |task, _, x| {
        let y = y.map(|y| &y[task * TASK..][..x.len()]);
        backend.isa().dispatch(ScaleAdd { x, factor, y });
    });
}

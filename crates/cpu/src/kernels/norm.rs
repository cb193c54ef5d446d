//! LayerNorm and RMSNorm.

use verve_ops::args::{Norm, NormBackward};
use verve_ops::{NormKind, NormShape};

use crate::pool::ChunksMut;
use crate::simd::{Kernel, Simd};
use crate::{CpuBackend, CpuElem};

/// Elements of the rows of one task of the forward, about.
const TASK: usize = 16 * 1024;

/// The gradients of weight and bias are first summed over chunks of rows. The chunks depend on the number of rows alone,
/// at least this many rows each, and there are at most as many.
const CHUNK: usize = 64;

struct NormRows<'a, E> {
    inp: &'a [E],
    weight: &'a [E],
    bias: Option<&'a [E]>,
    out: &'a mut [E],
    stats: &'a mut [f32],
    shape: NormShape,
}

impl<E: CpuElem> Kernel for NormRows<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { inp, weight, bias, out, stats, shape } = self;
        let cols = shape.cols;
        assert!(weight.len() == cols && bias.is_none_or(|bias| bias.len() == cols));
        let inv_cols = 1.0 / cols as f32;
        for ((x, out), stats) in inp.chunks_exact(cols).zip(out.chunks_exact_mut(cols)).zip(stats.chunks_exact_mut(2)) {
            let mean = match shape.kind {
                NormKind::Layer => row_sum(s, x) * inv_cols,
                NormKind::Rms | NormKind::RmsPlusOne => 0.0,
            };
            let rstd = 1.0 / (row_square_sum(s, x, mean) * inv_cols + shape.eps).sqrt();
            stats[0] = mean;
            stats[1] = rstd;
            let (mean, rstd) = (s.splat(mean), s.splat(rstd));
            let mut i = 0;
            match bias {
                Some(bias) => {
                    while i < cols {
                        let hat = s.mul(s.sub(E::load(s, &x[i..]), mean), rstd);
                        let y = s.fma(hat, factor(s, shape.kind, &weight[i..]), E::load(s, &bias[i..]));
                        E::store(s, y, &mut out[i..]);
                        i += S::LANES;
                    }
                }
                None => {
                    while i < cols {
                        let hat = s.mul(s.sub(E::load(s, &x[i..]), mean), rstd);
                        E::store(s, s.mul(hat, factor(s, shape.kind, &weight[i..])), &mut out[i..]);
                        i += S::LANES;
                    }
                }
            }
        }
    }
}

/// What normalised numbers are multiplied by.
#[inline(always)]
pub(super) fn factor<S: Simd, E: CpuElem>(s: S, kind: NormKind, weight: &[E]) -> S::F {
    let weight = E::load(s, weight);
    match kind {
        NormKind::Layer | NormKind::Rms => weight,
        NormKind::RmsPlusOne => s.add(weight, s.splat(1.0)),
    }
}

#[inline(always)]
fn row_sum<S: Simd, E: CpuElem>(s: S, x: &[E]) -> f32 {
    let mut sums = [s.splat(0.0); 2];
    let mut i = 0;
    while i + S::LANES < x.len() {
        sums[0] = s.add(sums[0], E::load(s, &x[i..]));
        sums[1] = s.add(sums[1], E::load(s, &x[i + S::LANES..]));
        i += 2 * S::LANES;
    }
    if i < x.len() {
        sums[0] = s.add(sums[0], E::load(s, &x[i..]));
    }
    s.sum(s.add(sums[0], sums[1]))
}

/// `sum((x - mean)^2)`.
#[inline(always)]
pub(super) fn row_square_sum<S: Simd, E: CpuElem>(s: S, x: &[E], mean: f32) -> f32 {
    let shift = s.splat(mean);
    let mut sums = [s.splat(0.0); 2];
    let full = x.len() / (2 * S::LANES) * (2 * S::LANES);
    let mut i = 0;
    while i < full {
        let (a, b) = (s.sub(E::load(s, &x[i..]), shift), s.sub(E::load(s, &x[i + S::LANES..]), shift));
        sums[0] = s.fma(a, a, sums[0]);
        sums[1] = s.fma(b, b, sums[1]);
        i += 2 * S::LANES;
    }
    let mut total = s.sum(s.add(sums[0], sums[1]));
    // Lanes without an element would each add mean^2: one element at a time.
    for x in &x[full..] {
        let d = x.to_f32() - mean;
        total += d * d;
    }
    total
}

pub(crate) fn forward<E: CpuElem>(backend: &CpuBackend<E>, args: Norm<'_, CpuBackend<E>>) {
    let Norm { inp, weight, bias, out, stats, shape } = args;
    let (rows, cols) = (shape.rows, shape.cols);
    if rows == 0 || cols == 0 {
        return;
    }
    let bias = bias.map(|bias| &bias[..]);
    let task_rows = (TASK / cols).max(1);
    let parts = (
        ChunksMut::new(&mut out[..rows * cols], task_rows * cols),
        ChunksMut::new(&mut stats[..rows * 2], task_rows * 2),
    );
    backend.pool().for_each(parts, |task, _, (out, stats)| {
        let inp = &inp[task * task_rows * cols..][..out.len()];
        backend.isa().dispatch(NormRows { inp, weight, bias, out, stats, shape });
    });
}

struct NormBackwardRows<'a, E> {
    d_out: &'a [E],
    inp: &'a [E],
    weight: &'a [E],
    stats: &'a [f32],
    d_inp: &'a mut [E],
    /// `[2, C]`: sums over these rows for weight and bias.
    partial: &'a mut [f32],
    shape: NormShape,
}

impl<E: CpuElem> Kernel for NormBackwardRows<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { d_out, inp, weight, stats, d_inp, partial, shape } = self;
        let cols = shape.cols;
        let (d_weight, d_bias) = partial.split_at_mut(cols);
        d_weight.fill(0.0);
        d_bias.fill(0.0);
        assert!(weight.len() == cols && d_bias.len() == cols);
        let inv_cols = 1.0 / cols as f32;
        let rows = d_out.chunks_exact(cols).zip(inp.chunks_exact(cols)).zip(stats.chunks_exact(2));
        for (((d, x), stats), d_inp) in rows.zip(d_inp.chunks_exact_mut(cols)) {
            let (mean, rstd) = (s.splat(stats[0]), s.splat(stats[1]));
            // Lanes without an element have d = 0 and weight = 0: they add nothing.
            let mut sum_g = s.splat(0.0);
            let mut sum_g_hat = s.splat(0.0);
            let mut i = 0;
            while i < cols {
                let d = E::load(s, &d[i..]);
                let hat = s.mul(s.sub(E::load(s, &x[i..]), mean), rstd);
                let g = s.mul(d, factor(s, shape.kind, &weight[i..]));
                sum_g = s.add(sum_g, g);
                sum_g_hat = s.fma(g, hat, sum_g_hat);
                s.store(s.fma(d, hat, s.load(&d_weight[i..])), &mut d_weight[i..]);
                s.store(s.add(d, s.load(&d_bias[i..])), &mut d_bias[i..]);
                i += S::LANES;
            }
            let mean_g = match shape.kind {
                NormKind::Layer => s.splat(s.sum(sum_g) * inv_cols),
                NormKind::Rms | NormKind::RmsPlusOne => s.splat(0.0),
            };
            let mean_g_hat = s.splat(s.sum(sum_g_hat) * inv_cols);
            let mut i = 0;
            while i < cols {
                let hat = s.mul(s.sub(E::load(s, &x[i..]), mean), rstd);
                let g = s.mul(E::load(s, &d[i..]), factor(s, shape.kind, &weight[i..]));
                let centred = s.fnma(hat, mean_g_hat, s.sub(g, mean_g));
                E::store(s, s.fma(rstd, centred, E::load(s, &d_inp[i..])), &mut d_inp[i..]);
                i += S::LANES;
            }
        }
    }
}

/// `sums += sum over chunks of partial[chunk]`, chunks in increasing order.
pub(super) struct AddPartials<'a> {
    pub(super) sums: &'a mut [f32],
    pub(super) partials: &'a [f32],
    /// Elements from one chunk's sums to the next one's.
    pub(super) stride: usize,
}

impl Kernel for AddPartials<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { sums, partials, stride } = self;
        let mut i = 0;
        while i < sums.len() {
            let mut total = s.splat(0.0);
            for partial in partials.chunks(stride) {
                total = s.add(total, s.load(&partial[i..]));
            }
            let sum = s.add(s.load(&sums[i..]), total);
            s.store(sum, &mut sums[i..]);
            i += S::LANES;
        }
    }
}

pub(crate) fn backward<E: CpuElem>(backend: &CpuBackend<E>, args: NormBackward<'_, CpuBackend<E>>) {
    let NormBackward { d_out, inp, weight, stats, d_inp, d_weight, d_bias, shape } = args;
    let (rows, cols) = (shape.rows, shape.cols);
    if rows == 0 || cols == 0 {
        return;
    }
    let chunk = rows.div_ceil(CHUNK).max(CHUNK);
    backend.scratch().shared(rows.div_ceil(chunk) * 2 * cols, |partials: &mut [f32]| {
        let parts = (ChunksMut::new(d_inp, chunk * cols), ChunksMut::new(partials, 2 * cols));
        backend.pool().for_each(parts, |task, _, (d_inp, partial)| {
            let at = task * chunk;
            let (d_out, inp) = (&d_out[at * cols..][..d_inp.len()], &inp[at * cols..][..d_inp.len()]);
            let stats = &stats[at * 2..];
            backend.isa().dispatch(NormBackwardRows { d_out, inp, weight, stats, d_inp, partial, shape });
        });
        backend.isa().dispatch(AddPartials { sums: d_weight, partials, stride: 2 * cols });
        if let Some(d_bias) = d_bias {
            backend.isa().dispatch(AddPartials { sums: d_bias, partials: &partials[cols..], stride: 2 * cols });
        }
    });
}

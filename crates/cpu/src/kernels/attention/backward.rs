//! The gradient of attention: probabilities are calculated again from the saved log-sum-exp.

use verve_ops::AttnShape;
use verve_ops::args::AttentionBackward;

use super::load::{widen_rows, widen_scaled};
use super::{KEYS, PLACES, first_visible, padded, take};
use crate::pool::{GridMut, Tile};
use crate::simd::math::exp;
use crate::simd::product::{Product, Span, Start, Transpose};
use crate::simd::{Kernel, Simd};
use crate::{CpuBackend, CpuElem};

/// One key/value head of one sequence, with all its query heads: it owns the gradients of all of them, so that sums over
/// queries and over heads are taken in one order.
struct Unit<'a, 't, E> {
    /// Rows of the sequence, as those of the next three.
    qkv: &'a [E],
    out: &'a [E],
    lse: &'a [f32],
    d_out: &'a [E],
    shape: AttnShape,
    kv_head: usize,
    d_queries: Tile<'t, E>,
    d_keys: Tile<'t, E>,
    d_values: Tile<'t, E>,
    memory: &'a mut [f32],
}

/// Rows of the working memory, `padded(d_head)` wide, with one row for each position, and whole blocks. In `_t`, each
/// block is transposed.
struct Memory<'a> {
    keys: &'a mut [f32],
    keys_t: &'a mut [f32],
    values_t: &'a mut [f32],
    d_keys: &'a mut [f32],
    d_values: &'a mut [f32],
    /// Of one query head, times the scale of the scores.
    queries: &'a mut [f32],
    d_out: &'a mut [f32],
    /// Not yet times the scale.
    d_queries: &'a mut [f32],
    /// Log-sum-exp of each query.
    lse: &'a mut [f32],
    /// `d_out . out` of each query.
    delta: &'a mut [f32],
    /// `[KEYS, KEYS]`, queries by keys.
    weights: &'a mut [f32],
    d_scores: &'a mut [f32],
}

/// Matrices of working memory with one row for each position.
const MATRICES: usize = 8;

impl<'a> Memory<'a> {
    fn len(seq_len: usize, width: usize) -> usize {
        seq_len.next_multiple_of(KEYS) * (MATRICES * width + 2) + 2 * KEYS * KEYS
    }

    fn new(mut memory: &'a mut [f32], seq_len: usize, width: usize) -> Self {
        let rows = seq_len.next_multiple_of(KEYS);
        let mut part = |len| take(&mut memory, len);
        Memory {
            keys: part(rows * width),
            keys_t: part(rows * width),
            values_t: part(rows * width),
            d_keys: part(rows * width),
            d_values: part(rows * width),
            queries: part(rows * width),
            d_out: part(rows * width),
            d_queries: part(rows * width),
            lse: part(rows),
            delta: part(rows),
            weights: part(KEYS * KEYS),
            d_scores: part(KEYS * KEYS),
        }
    }
}

impl<E: CpuElem> Kernel for Unit<'_, '_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { qkv, out, lse, d_out, shape, kv_head, mut d_queries, mut d_keys, mut d_values, memory } = self;
        let AttnShape { seq_len, n_heads, n_kv_heads, d_head, .. } = shape;
        let (stride, width) = (shape.qkv_width(), padded(d_head));
        let mut m = Memory::new(memory, seq_len, width);
        let block_len = KEYS * width;
        let key_column = (n_heads + kv_head) * d_head;
        let value_column = key_column + n_kv_heads * d_head;
        for first in (0..seq_len).step_by(KEYS) {
            let block = &qkv[first * stride..];
            let size = (KEYS.min(seq_len - first), d_head);
            let at = first * width..first * width + block_len;
            // The values lie where their gradients will be until they are transposed.
            let rows = &mut m.d_values[at.clone()];
            widen_rows(s, &block[value_column..], stride, size, rows, width);
            s.call(Transpose { src: rows, dst: &mut m.values_t[at.clone()], rows: KEYS, cols: width });
            let rows = &mut m.keys[at.clone()];
            widen_rows(s, &block[key_column..], stride, size, rows, width);
            s.call(Transpose { src: rows, dst: &mut m.keys_t[at], rows: KEYS, cols: width });
        }
        m.d_keys.fill(0.0);
        m.d_values.fill(0.0);

        let group = n_heads / n_kv_heads;
        for member in 0..group {
            let head = kv_head * group + member;
            for i in 0..seq_len {
                let at = i * width..(i + 1) * width;
                widen_scaled(s, &qkv[i * stride + head * d_head..][..d_head], shape.scale, &mut m.queries[at.clone()]);
                let row = i * shape.out_width() + head * d_head;
                let d_out = &d_out[row..][..d_head];
                widen_scaled(s, d_out, 1.0, &mut m.d_out[at]);
                m.delta[i] = dot(s, d_out, &out[row..][..d_head]);
                m.lse[i] = lse[i * n_heads + head];
            }
            m.d_queries.fill(0.0);
            for first_key in (0..seq_len).step_by(KEYS) {
                // The last query that sees the last key of the block.
                let last_key = first_key + KEYS - 1;
                let end = shape.window.map_or(seq_len, |window| last_key.saturating_add(window).min(seq_len));
                for first_query in (first_key..end).step_by(KEYS) {
                    m.pair(s, shape, first_query, first_key);
                }
            }
            for i in 0..seq_len {
                let d_query = &mut d_queries.row(i)[member * d_head..][..d_head];
                store(s, &m.d_queries[i * width..][..d_head], shape.scale, d_query);
            }
        }
        for i in 0..seq_len {
            store(s, &m.d_keys[i * width..][..d_head], 1.0, d_keys.row(i));
            store(s, &m.d_values[i * width..][..d_head], 1.0, d_values.row(i));
        }
    }
}

impl Memory<'_> {
    /// What the queries of one block and the keys of the same or an earlier block give to each other.
    #[inline(always)]
    fn pair<S: Simd>(&mut self, s: S, shape: AttnShape, first_query: usize, first_key: usize) {
        let (d_head, width) = (shape.d_head, padded(shape.d_head));
        let rows = KEYS.min(shape.seq_len - first_query);
        let n_keys = KEYS.min(shape.seq_len - first_key);
        let diagonal = first_query == first_key;
        let (mut from, mut ends) = ([0u32; KEYS], [KEYS as u32; KEYS]);
        let mut whole = !diagonal;
        for r in 0..rows {
            if diagonal {
                ends[r] = r as u32 + 1;
            }
            let visible = first_visible(first_query + r, shape.window).saturating_sub(first_key);
            from[r] = visible.min(KEYS) as u32;
            whole &= visible == 0;
        }
        let block = |first: usize| first * width..(first + KEYS) * width;
        let (queries, d_out) = (&self.queries[block(first_query)], &self.d_out[block(first_query)]);

        let scores = |a: &[f32], b: &[f32], c: &mut [f32]| {
            s.call(Product {
                a,
                a_strides: (width, 1),
                b,
                b_stride: KEYS,
                c,
                c_stride: KEYS,
                rows,
                cols: KEYS,
                depth: d_head,
                start: Start::Zero,
                span: if diagonal { Span::Columns(&ends) } else { Span::All },
            });
        };
        scores(queries, &self.keys_t[block(first_key)], self.weights);
        scores(d_out, &self.values_t[block(first_key)], self.d_scores);
        let (lse, delta) = (&self.lse[first_query..][..rows], &self.delta[first_query..][..rows]);
        if whole {
            weigh(s, self.weights, self.d_scores, lse, delta, None);
        } else {
            weigh(s, self.weights, self.d_scores, lse, delta, Some((&from, &ends)));
        }

        // Over the queries, for the keys ...
        let over_queries = |a: &[f32], b: &[f32], c: &mut [f32]| {
            s.call(Product {
                a,
                a_strides: (1, KEYS),
                b,
                b_stride: width,
                c,
                c_stride: width,
                rows: n_keys,
                cols: width,
                depth: rows,
                start: Start::Add,
                span: if diagonal { Span::DepthFromRow } else { Span::All },
            });
        };
        over_queries(self.weights, d_out, &mut self.d_values[block(first_key)]);
        over_queries(self.d_scores, queries, &mut self.d_keys[block(first_key)]);
        // ... and over the keys, for the queries.
        s.call(Product {
            a: self.d_scores,
            a_strides: (KEYS, 1),
            b: &self.keys[block(first_key)],
            b_stride: width,
            c: &mut self.d_queries[block(first_query)],
            c_stride: width,
            rows,
            cols: width,
            depth: n_keys,
            start: Start::Add,
            span: if diagonal { Span::DepthBelow(&ends) } else { Span::All },
        });
    }
}

/// Scores to weights and `d_out . value` to gradients of scores, both 0 where a query does not see a key: of a block that
/// is not seen as a whole, the places that each query sees are given.
#[inline(always)]
fn weigh<S: Simd>(
    s: S,
    weights: &mut [f32],
    d_scores: &mut [f32],
    lse: &[f32],
    delta: &[f32],
    seen: Option<(&[u32; KEYS], &[u32; KEYS])>,
) {
    let (weights, d_scores) = (weights.as_chunks_mut::<KEYS>().0, d_scores.as_chunks_mut::<KEYS>().0);
    let rows = weights.iter_mut().zip(d_scores).zip(lse.iter().zip(delta));
    for (r, ((weights, d_scores), (lse, delta))) in rows.enumerate() {
        let (lse, delta, zero) = (s.splat(*lse), s.splat(*delta), s.splat(0.0));
        let end = seen.map_or(KEYS, |(_, ends)| ends[r] as usize);
        for i in (0..KEYS).step_by(S::LANES) {
            if i >= end {
                s.store(zero, &mut weights[i..]);
                s.store(zero, &mut d_scores[i..]);
                continue;
            }
            let mut weight = exp(s, s.sub(s.load(&weights[i..]), lse));
            let mut d_score = s.mul(weight, s.sub(s.load(&d_scores[i..]), delta));
            if let Some((from, ends)) = seen {
                let (place, from, end) = (s.load(&PLACES[i..]), s.splat(from[r] as f32), s.splat(ends[r] as f32));
                weight = s.select_lt(place, end, s.select_lt(place, from, zero, weight), zero);
                d_score = s.select_lt(place, end, s.select_lt(place, from, zero, d_score), zero);
            }
            s.store(weight, &mut weights[i..]);
            s.store(d_score, &mut d_scores[i..]);
        }
    }
}

#[inline(always)]
fn dot<S: Simd, E: CpuElem>(s: S, a: &[E], b: &[E]) -> f32 {
    let mut sum = s.splat(0.0);
    let mut i = 0;
    while i < a.len() {
        sum = s.fma(E::load(s, &a[i..]), E::load(s, &b[i..]), sum);
        i += S::LANES;
    }
    s.sum(sum)
}

#[inline(always)]
fn store<S: Simd, E: CpuElem>(s: S, src: &[f32], factor: f32, dst: &mut [E]) {
    let factor = s.splat(factor);
    let mut i = 0;
    while i < dst.len() {
        E::store(s, s.mul(s.load(&src[i..]), factor), &mut dst[i..]);
        i += S::LANES;
    }
}

pub(crate) fn backward<E: CpuElem>(backend: &CpuBackend<E>, args: AttentionBackward<'_, CpuBackend<E>>) {
    let AttentionBackward { qkv, out, lse, d_out, d_qkv, shape } = args;
    if d_qkv.is_empty() {
        return;
    }
    let AttnShape { seq_len, n_heads, n_kv_heads, d_head, .. } = shape;
    let (d_queries, d_rest) = GridMut::new(d_qkv, shape.qkv_width()).split_columns(shape.out_width());
    let (d_keys, d_values) = d_rest.split_columns(n_kv_heads * d_head);
    let parts = (
        d_queries.tiles(seq_len, seq_len, n_heads / n_kv_heads * d_head),
        d_keys.tiles(seq_len, seq_len, d_head),
        d_values.tiles(seq_len, seq_len, d_head),
    );
    let memory = Memory::len(seq_len, padded(d_head));
    backend.pool().for_each(parts, |task, worker, (d_queries, d_keys, d_values)| {
        let (sequence, kv_head) = (task / n_kv_heads, task % n_kv_heads);
        let rows = |buf, width: usize| -> &[E] { &<[E]>::as_ref(buf)[sequence * seq_len * width..][..seq_len * width] };
        let (qkv, out, d_out) =
            (rows(qkv, shape.qkv_width()), rows(out, shape.out_width()), rows(d_out, shape.out_width()));
        let lse = &lse[sequence * seq_len * n_heads..][..seq_len * n_heads];
        backend.scratch().with(worker, memory, |memory| {
            let unit = Unit { qkv, out, lse, d_out, shape, kv_head, d_queries, d_keys, d_values, memory };
            backend.isa().dispatch(unit);
        });
    });
}

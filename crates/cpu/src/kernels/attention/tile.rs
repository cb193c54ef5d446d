//! A tile of queries that meets one block of keys after the other: the online softmax (Milakov and Gimelshein 2018).

use std::ops::Range;

use super::load::widen_scaled;
use super::{KEYS, PLACES, fetch, take};
use crate::CpuElem;
use crate::simd::math::exp;
use crate::simd::product::{Product, Span, Start};
use crate::simd::{Simd, Stored, rows};

/// The most queries of a tile: whole register tiles, and all that belongs to a tile and a block fits in the first-level
/// cache for heads of 64.
const QUERIES: usize = 48;

/// A block of keys and their values.
pub(in crate::kernels) struct Block<'a, K, V> {
    /// Place in the sequence, in blocks.
    pub(in crate::kernels) number: usize,
    /// `[d_head, KEYS]`.
    pub(in crate::kernels) keys: &'a [K],
    /// `[KEYS, value_width]`, finite up to the last position that a query sees.
    pub(in crate::kernels) values: &'a [V],
    pub(in crate::kernels) value_width: usize,
    /// What keys and values are to be multiplied with, where they have scales.
    pub(in crate::kernels) scales: Option<Scales<'a>>,
    /// What will be needed next: asked for while the weights are calculated.
    pub(in crate::kernels) ahead: &'a [K],
}

/// Scales of a block's keys and values. Behind the last position that is seen there may be anything.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Scales<'a> {
    pub(in crate::kernels) keys: &'a [f32; KEYS],
    pub(in crate::kernels) values: &'a [f32; KEYS],
}

/// Some queries, the positions that each sees, and what they have gathered so far.
///
/// What a query gathers depends on its own scores alone, in the order of the blocks. A block that a query does not see
/// leaves it as it is, up to the sign of zeros, which [`QueryTile::finish`] clears.
pub(in crate::kernels) struct QueryTile<'a> {
    /// `[QUERIES, width]`, times the scale of the scores.
    queries: &'a mut [f32],
    /// `[QUERIES, KEYS]`: scores, then weights, of the block at hand.
    scores: &'a mut [f32],
    /// `[QUERIES, width]`: weighted sums of the values, relative to `max`.
    sums: &'a mut [f32],
    d_head: usize,
    width: usize,
    rows: usize,
    /// First visible position of each query.
    from: [u32; QUERIES],
    /// End of the visible positions of each query; does not decrease.
    ends: [u32; QUERIES],
    /// Largest score so far.
    max: [f32; QUERIES],
    /// Sum of the weights, relative to `max`.
    total: [f32; QUERIES],
    /// Whether `sums` holds anything.
    begun: bool,
}

impl<'a> QueryTile<'a> {
    /// Working memory for heads that are `width` elements wide with padding.
    pub(in crate::kernels) fn len(width: usize) -> usize {
        QUERIES * (2 * width + KEYS)
    }

    /// An empty tile in `len(width)` elements of memory.
    #[inline(always)]
    pub(in crate::kernels) fn new(mut memory: &'a mut [f32], d_head: usize, width: usize) -> Self {
        QueryTile {
            queries: take(&mut memory, QUERIES * width),
            scores: take(&mut memory, QUERIES * KEYS),
            sums: take(&mut memory, QUERIES * width),
            d_head,
            width,
            rows: 0,
            from: [0; QUERIES],
            ends: [0; QUERIES],
            max: [0.0; QUERIES],
            total: [0.0; QUERIES],
            begun: false,
        }
    }

    /// Queries in the tile.
    #[inline(always)]
    pub(in crate::kernels) fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    pub(in crate::kernels) fn is_full(&self) -> bool {
        self.rows == QUERIES
    }

    /// Forgets all queries.
    #[inline(always)]
    pub(in crate::kernels) fn clear(&mut self) {
        self.rows = 0;
        self.begun = false;
    }

    /// Adds a query that sees some positions, none of them ending before those of the queries already there.
    #[inline(always)]
    pub(in crate::kernels) fn push<S: Simd, E: CpuElem>(
        &mut self,
        s: S,
        query: &[E],
        scale: f32,
        visible: Range<usize>,
    ) {
        let row = self.rows;
        widen_scaled(s, query, scale, &mut self.queries[row * self.width..][..self.width]);
        self.from[row] = visible.start as u32;
        self.ends[row] = visible.end as u32;
        self.max[row] = f32::NEG_INFINITY;
        self.total[row] = 0.0;
        self.rows = row + 1;
    }

    /// Numbers of the blocks that any query of the tile sees.
    #[inline(always)]
    pub(in crate::kernels) fn blocks(&self) -> Range<usize> {
        match self.rows {
            0 => 0..0,
            _ => self.from[0] as usize / KEYS..self.end().div_ceil(KEYS),
        }
    }

    /// End of the positions that any query of the tile sees.
    #[inline(always)]
    pub(in crate::kernels) fn end(&self) -> usize {
        self.ends[self.rows.max(1) - 1] as usize
    }

    /// Takes in a block.
    #[inline(always)]
    pub(in crate::kernels) fn absorb<S: Simd, K: Stored, V: Stored>(&mut self, s: S, block: &Block<'_, K, V>) {
        let rows = self.rows;
        let first = (block.number * KEYS) as u32;
        let (mut from, mut ends) = ([0; QUERIES], [0; QUERIES]);
        let mut whole = true;
        for r in 0..rows {
            from[r] = self.from[r].saturating_sub(first).min(KEYS as u32);
            ends[r] = self.ends[r].saturating_sub(first).min(KEYS as u32);
            whole &= from[r] == 0 && ends[r] == KEYS as u32;
        }
        s.call(Product {
            a: self.queries,
            a_strides: (self.width, 1),
            b: block.keys,
            b_stride: KEYS,
            c: self.scores,
            c_stride: KEYS,
            rows,
            cols: KEYS,
            depth: self.d_head,
            start: Start::Zero,
            span: if whole { Span::All } else { Span::Columns(&ends) },
        });
        fetch(block.ahead);
        if let Some(scales) = block.scales {
            self.scale_scores(s, scales.keys, &from, &ends);
        }
        if whole {
            self.weigh(s, None);
        } else {
            self.weigh(s, Some((&from, &ends)));
        }
        if let Some(scales) = block.scales {
            self.scale_scores(s, scales.values, &from, &ends);
        }
        s.call(Product {
            a: self.scores,
            a_strides: (KEYS, 1),
            b: block.values,
            b_stride: block.value_width,
            c: self.sums,
            c_stride: self.width,
            rows,
            cols: self.width,
            depth: ends[rows.max(1) - 1] as usize,
            start: if self.begun { Start::Add } else { Start::Zero },
            span: if whole { Span::All } else { Span::DepthBelow(&ends) },
        });
        self.begun = true;
    }

    /// Multiplies the scores, or weights, that each query sees; those that it does not see become 0.
    #[inline(always)]
    fn scale_scores<S: Simd>(&mut self, s: S, scales: &[f32; KEYS], from: &[u32; QUERIES], ends: &[u32; QUERIES]) {
        let (scores, _) = self.scores.as_chunks_mut::<KEYS>();
        for (r, scores) in scores[..self.rows].iter_mut().enumerate() {
            let (from, end, zero) = (s.splat(from[r] as f32), s.splat(ends[r] as f32), s.splat(0.0));
            for i in (0..KEYS).step_by(S::LANES) {
                let place = s.load(&PLACES[i..]);
                let x = s.mul(s.load(&scores[i..]), s.load(&scales[i..]));
                let x = s.select_lt(place, end, x, zero);
                s.store(s.select_lt(place, from, zero, x), &mut scores[i..]);
            }
        }
    }

    /// Scores to weights relative to the new maximum; what was gathered before is made relative to it as well. Of a block
    /// that is not seen as a whole, the places that each query sees are given; other weights are 0.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S, seen: Option<(&[u32; QUERIES], &[u32; QUERIES])>) {
        let (scores, _) = self.scores.as_chunks_mut::<KEYS>();
        let scores = &mut scores[..self.rows];
        let mut factors = [0.0; QUERIES];
        for (r, scores) in scores.iter_mut().enumerate() {
            let mut top = s.splat(self.max[r]);
            if let Some((from, ends)) = seen {
                let (from, end) = (s.splat(from[r] as f32), s.splat(ends[r] as f32));
                let nothing = s.splat(f32::NEG_INFINITY);
                for i in (0..KEYS).step_by(S::LANES) {
                    if i >= ends[r] as usize {
                        break;
                    }
                    let place = s.load(&PLACES[i..]);
                    let x = s.select_lt(place, end, s.load(&scores[i..]), nothing);
                    let x = s.select_lt(place, from, nothing, x);
                    s.store(x, &mut scores[i..]);
                    top = s.max(top, x);
                }
            } else {
                for i in (0..KEYS).step_by(S::LANES) {
                    top = s.max(top, s.load(&scores[i..]));
                }
            }
            let top = s.max_lane(top);
            // Before the first visible key there is no maximum yet; all weights are 0 then.
            factors[r] = self.max[r] - if top == f32::NEG_INFINITY { 0.0 } else { top };
            self.max[r] = top;
        }
        for i in (0..QUERIES).step_by(S::LANES) {
            let factor = exp(s, s.load(&factors[i..]));
            s.store(factor, &mut factors[i..]);
        }
        for (r, scores) in scores.iter_mut().enumerate() {
            let shift = s.splat(if self.max[r] == f32::NEG_INFINITY { 0.0 } else { self.max[r] });
            let mut total = s.splat(0.0);
            let end = seen.map_or(KEYS, |(_, ends)| ends[r] as usize);
            for i in (0..KEYS).step_by(S::LANES) {
                if i >= end {
                    s.store(s.splat(0.0), &mut scores[i..]);
                    continue;
                }
                let weight = exp(s, s.sub(s.load(&scores[i..]), shift));
                s.store(weight, &mut scores[i..]);
                total = s.add(total, weight);
            }
            self.total[r] = self.total[r] * factors[r] + s.sum(total);
            if self.begun && factors[r] != 1.0 {
                rows::scale(s, &mut self.sums[r * self.width..][..self.width], factors[r]);
            }
        }
    }

    /// Writes the result of a query and returns the log of the sum of the exponentials of its scores.
    #[inline(always)]
    pub(in crate::kernels) fn finish<S: Simd, E: CpuElem>(&self, s: S, row: usize, out: &mut [E]) -> f32 {
        let sums = &self.sums[row * self.width..][..out.len()];
        let factor = s.splat(1.0 / self.total[row]);
        let mut i = 0;
        while i < out.len() {
            // Adding zero makes zeros positive.
            let y = s.add(s.mul(s.load(&sums[i..]), factor), s.splat(0.0));
            E::store(s, y, &mut out[i..]);
            i += S::LANES;
        }
        self.max[row] + self.total[row].ln()
    }
}

//! Whole rows: reductions and conversions, for use inside kernels.

use half::bf16;

use super::math::exp;
use super::{CpuElem, Simd};

/// Largest element, `-inf` for an empty row. Unspecified if there is a NaN.
#[inline(always)]
pub fn max<S: Simd>(s: S, row: &[f32]) -> f32 {
    let lowest = f32::NEG_INFINITY;
    let mut acc = s.splat(lowest);
    let full = row.len() / S::LANES * S::LANES;
    let mut i = 0;
    while i < full {
        acc = s.max(acc, s.load(&row[i..]));
        i += S::LANES;
    }
    let mut top = s.max_lane(acc);
    for x in &row[full..] {
        top = if *x > top { *x } else { top };
    }
    top
}

/// Sum of the elements: by lane, then over the lanes.
#[inline(always)]
pub fn sum<S: Simd>(s: S, row: &[f32]) -> f32 {
    let mut acc = s.splat(0.0);
    let mut i = 0;
    while i < row.len() {
        acc = s.add(acc, s.load(&row[i..]));
        i += S::LANES;
    }
    s.sum(acc)
}

/// `row = e^(row - shift)`; returns the sum of the new row. The lanes beyond the end of the row take no part.
#[inline(always)]
pub fn exp_sum<S: Simd>(s: S, row: &mut [f32], shift: f32) -> f32 {
    let shift = s.splat(shift);
    let mut acc = s.splat(0.0);
    let full = row.len() / S::LANES * S::LANES;
    let mut i = 0;
    while i < full {
        let y = exp(s, s.sub(s.load(&row[i..]), shift));
        s.store(y, &mut row[i..]);
        acc = s.add(acc, y);
        i += S::LANES;
    }
    if full < row.len() {
        let tail = &mut row[full..];
        s.store(exp(s, s.sub(s.load(tail), shift)), tail);
        // Loaded again: the lanes without an element are 0 now.
        acc = s.add(acc, s.load(tail));
    }
    s.sum(acc)
}

/// `max(row)` and `sum(e^(row - max))`: the log-sum-exp is `max + ln(sum)`.
#[inline(always)]
pub fn max_and_exp_sum<S: Simd>(s: S, row: &[f32]) -> (f32, f32) {
    let top = max(s, row);
    let shift = s.splat(top);
    let mut acc = s.splat(0.0);
    let full = row.len() / S::LANES * S::LANES;
    let mut i = 0;
    while i < full {
        acc = s.add(acc, exp(s, s.sub(s.load(&row[i..]), shift)));
        i += S::LANES;
    }
    let mut total = s.sum(acc);
    for x in &row[full..] {
        // One lane at a time, with the same algorithm.
        let one = exp(s, s.sub(s.load(std::slice::from_ref(x)), shift));
        let mut first = [0.0];
        s.store(one, &mut first);
        total += first[0];
    }
    (top, total)
}

/// `row *= factor`.
#[inline(always)]
pub fn scale<S: Simd>(s: S, row: &mut [f32], factor: f32) {
    let factor = s.splat(factor);
    let mut i = 0;
    while i < row.len() {
        let y = s.mul(s.load(&row[i..]), factor);
        s.store(y, &mut row[i..]);
        i += S::LANES;
    }
}

/// `dst = src`, widened or rounded. Panics unless the lengths are equal.
#[inline(always)]
pub fn convert<S: Simd, A: CpuElem, B: CpuElem>(s: S, src: &[A], dst: &mut [B]) {
    assert_eq!(src.len(), dst.len(), "convert");
    let mut i = 0;
    while i < src.len() {
        B::store(s, A::load(s, &src[i..]), &mut dst[i..]);
        i += S::LANES;
    }
}

/// `bf16` to `f32`.
#[inline(always)]
pub fn widen<S: Simd>(s: S, src: &[bf16], dst: &mut [f32]) {
    convert(s, src, dst);
}

/// `f32` to `bf16`, rounded to nearest, ties to even.
#[inline(always)]
pub fn narrow<S: Simd>(s: S, src: &[f32], dst: &mut [bf16]) {
    convert(s, src, dst);
}

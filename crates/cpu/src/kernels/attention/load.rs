//! Bringing vectors of heads into `f32` working memory.

use crate::CpuElem;
use crate::simd::{Simd, Stored};

/// `dst = factor * src`, filled up with zeros.
#[inline(always)]
pub(super) fn widen_scaled<S: Simd, E: CpuElem>(s: S, src: &[E], factor: f32, dst: &mut [f32]) {
    let factor = s.splat(factor);
    let mut i = 0;
    while i < dst.len() {
        // Beyond the end of `src` no lane has an element: they load as 0.
        let x = E::load(s, &src[i.min(src.len())..]);
        s.store(s.mul(x, factor), &mut dst[i..]);
        i += S::LANES;
    }
}

/// `dst[r] = src[r * stride..][..cols]` for `rows` rows, filled up with zeros to `width` columns and to the end of `dst`.
#[inline(always)]
pub(in crate::kernels) fn widen_rows<S: Simd, E: Stored>(
    s: S,
    src: &[E],
    stride: usize,
    (rows, cols): (usize, usize),
    dst: &mut [f32],
    width: usize,
) {
    let (used, rest) = dst.split_at_mut(rows * width);
    for (r, dst) in used.chunks_exact_mut(width).enumerate() {
        let src = &src[r * stride..][..cols];
        let mut i = 0;
        while i < width {
            s.store(E::load(s, &src[i.min(cols)..]), &mut dst[i..]);
            i += S::LANES;
        }
    }
    rest.fill(0.0);
}

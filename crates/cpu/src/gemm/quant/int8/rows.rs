//! Activations as 8-bit integers, in the layout that the kernels read.

use verve_ops::quant::ACTIVATION_BLOCK;

use super::super::panels::Form;
use super::Parts;
use crate::CpuElem;
use crate::simd::{Kernel, Simd};

/// Words of a block of activations: their integers, four in a word; their scale; a word for each group of the weight (see
/// [`Correction`]), of which there are up to two; and one that fills it up to a multiple of 16 bytes.
pub(in crate::gemm) const BLOCK_WORDS: usize = 12;
/// Where the scale is in a block, and the words of the groups.
pub(super) const SCALE_AT: usize = 8;
pub(super) const CORRECTION_AT: usize = 9;

/// What the kernels need for each group of the weight beside the integers themselves. It depends on the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gemm) struct Correction {
    group_len: usize,
    /// With offsets: `scale * sum of q` as `f32`, for the offset. Without: `-zero * sum of q` as `i32`, at which the sum over
    /// the group begins, so that codes can be taken as they are.
    offsets: bool,
    zero: i32,
}

impl Correction {
    pub(in crate::gemm) fn new(form: &Form) -> Correction {
        Correction { group_len: form.group_len, offsets: form.offsets, zero: form.zero as i32 }
    }

    fn word(self, scale: f32, q: &[i8]) -> u32 {
        let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
        if self.offsets { (scale * sum as f32).to_bits() } else { (-self.zero * sum) as u32 }
    }
}

/// Rounds rows one after the other to blocks.
pub(super) struct QuantizeRows<'a, E> {
    pub(super) rows: &'a [E],
    pub(super) d_in: usize,
    pub(super) correction: Correction,
    pub(super) in_parts: Parts,
    /// [`BLOCK_WORDS`] for each block; the parts of a row one behind the other.
    pub(super) out: &'a mut [u32],
}

impl<E: CpuElem> Kernel for QuantizeRows<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, d_in, correction, in_parts, out } = self;
        match in_parts {
            Parts::One => {
                let blocks = rows.chunks_exact(ACTIVATION_BLOCK);
                for (values, out) in blocks.zip(out.chunks_exact_mut(BLOCK_WORDS)) {
                    quantize(&wide(s, values), correction, out);
                }
            }
            Parts::Two => {
                let row_words = d_in / ACTIVATION_BLOCK * BLOCK_WORDS;
                for (row, out) in rows.chunks_exact(d_in).zip(out.chunks_exact_mut(2 * row_words)) {
                    let (high, low) = out.split_at_mut(row_words);
                    let outs = high.chunks_exact_mut(BLOCK_WORDS).zip(low.chunks_exact_mut(BLOCK_WORDS));
                    for (values, (high, low)) in row.chunks_exact(ACTIVATION_BLOCK).zip(outs) {
                        quantize_parts(&wide(s, values), correction, high, low);
                    }
                }
            }
        }
    }
}

/// A block's values.
#[inline(always)]
fn wide<E: CpuElem, S: Simd>(s: S, values: &[E]) -> [f32; ACTIVATION_BLOCK] {
    let mut x = [0f32; ACTIVATION_BLOCK];
    for (from, to) in values.chunks_exact(S::LANES).zip(x.chunks_exact_mut(S::LANES)) {
        s.store(E::load(s, from), to);
    }
    x
}

/// As [`verve_ops::quant::ActivationBlock::quantize`], in a form that compilers make vectors of.
#[inline(always)]
fn quantize(x: &[f32; ACTIVATION_BLOCK], correction: Correction, out: &mut [u32]) {
    let largest = largest(x);
    let inverse = 127.0 / f32::from_bits(largest);
    let mut q = [0i8; ACTIVATION_BLOCK];
    let scale = if largest >= f32::INFINITY.to_bits() {
        f32::NAN
    } else if inverse.is_finite() {
        for (q, x) in q.iter_mut().zip(x) {
            *q = (x * inverse + ROUND).to_bits() as i8;
        }
        f32::from_bits(largest) / 127.0
    } else {
        0.0
    };
    store(&q, scale, correction, out);
}

/// As [`verve_ops::quant::ActivationBlock::quantize_parts`].
#[inline(always)]
fn quantize_parts(x: &[f32; ACTIVATION_BLOCK], correction: Correction, high: &mut [u32], low: &mut [u32]) {
    let largest = largest(x);
    let inverse = 32_258.0 / f32::from_bits(largest);
    let mut q = [[0i8; ACTIVATION_BLOCK]; 2];
    let scales = if largest >= f32::INFINITY.to_bits() {
        [f32::NAN; 2]
    } else if inverse.is_finite() {
        let [high, low] = &mut q;
        for ((high, low), x) in high.iter_mut().zip(low).zip(x) {
            let t = x * inverse;
            let rounded = t * (1.0 / 254.0) + ROUND;
            *high = rounded.to_bits() as i8;
            *low = (t - 254.0 * (rounded - ROUND) + ROUND).to_bits() as i8;
        }
        [f32::from_bits(largest) / 127.0, f32::from_bits(largest) / 32_258.0]
    } else {
        [0.0; 2]
    };
    store(&q[0], scales[0], correction, high);
    store(&q[1], scales[1], correction, low);
}

/// `1.5 * 2^23`: a number between -2^22 and 2^22 that is added to it is rounded to an integer, to nearest with halves to even,
/// which then is in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Bits of the largest magnitude. As integers, magnitudes are in the same order, and what is not finite is above all that is.
#[inline(always)]
fn largest(x: &[f32; ACTIVATION_BLOCK]) -> u32 {
    x.iter().fold(0, |most, x| (x.to_bits() & 0x7fff_ffff).max(most))
}

/// Writes a block.
#[inline(always)]
fn store(q: &[i8; ACTIVATION_BLOCK], scale: f32, correction: Correction, out: &mut [u32]) {
    for (out, q) in out.iter_mut().zip(q.as_chunks().0) {
        *out = u32::from_le_bytes(q.map(|q| q as u8));
    }
    out[SCALE_AT] = scale.to_bits();
    if correction.group_len == ACTIVATION_BLOCK {
        out[CORRECTION_AT] = correction.word(scale, q);
    } else {
        let (low, high) = q.split_at(ACTIVATION_BLOCK / 2);
        out[CORRECTION_AT] = correction.word(scale, low);
        out[CORRECTION_AT + 1] = correction.word(scale, high);
    }
}

//! Products of quantised weights with activations that are rounded to 8-bit integers.
//!
//! A row of activations, in `f32`, is cut in blocks of [`ACTIVATION_BLOCK`] values. A block has a scale `d` and integers `q`
//! with `x ~ d q`:
//!
//! ```text
//! largest = max |x|                 d = largest / 127            q = x * (127 / largest), to nearest, halves to even
//! ```
//!
//! A block whose values are so small that `127 / largest` is not finite (all zero, or below 3.8e-37) counts as zeros: `d` and
//! all `q` are 0. A block with a value that is not finite has `d = NaN` and `q = 0`, so that every output of the row is NaN.
//!
//! The product with a row of a weight is one chain over the groups of the weight in increasing order, with
//! `fma(a, b, c) = a * b + c` rounded once, from `out = 0`:
//!
//! ```text
//! out = fma((scale * multiplier) * d, sum over the group of (code - zero) * q, out)
//! out = fma(offset * -offset_multiplier, d * (sum over the group of q), out)              in formats with offsets
//! ```
//!
//! Every operation is in `f32` and rounds to nearest, but for the sums in the group: these are integers, exact, and so small
//! that `f32` has them. Nothing is left open, so every machine gives the same bits, whatever the order in which it takes
//! rows, outputs and the values of a group. (Which NaN comes out is not defined.)
//!
//! The error of a product against that with the activations as they are is at most
//! `sum over blocks of largest / 254 * (sum of |weight| in the block)`, and what the chain rounds.
//!
//! **In two parts.** With twice the work the error is 254 times smaller: the value is rounded to a multiple of `largest / 32258`, an
//! integer of 16 bits, which is 254 times an integer of 8 bits and another one. Each part is a row of its own:
//!
//! ```text
//! t = x * (32258 / largest)
//! high: q = t * (1 / 254), to nearest, halves to even        d = largest / 127
//! low:  q = t - 254 * (high q), to nearest, halves to even   d = largest / 32258
//! ```
//!
//! The product is the sum of the two parts' products. A block whose values are so small that `32258 / largest` is not finite
//! (all zero, or below 9.5e-35) counts as zeros.

use super::{QuantKind, Unpacked};

/// Activations that share a scale.
pub const ACTIVATION_BLOCK: usize = 32;

/// What the activations of a product with quantised weights are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivationPrecision {
    /// Not at all: the products are those of the activations with the dequantised weights, in `f32`.
    Exact,
    /// To 8-bit integers, with a scale for 32: the products that [`dot_int8`](QuantKind::dot_int8) defines. Faster, above
    /// all for many rows; the error is about that of rounding the weights to `q8_0`.
    Int8,
    /// To 16-bit integers, with a scale for 32, as two rows of 8 bits: the products that
    /// [`dot_int16`](QuantKind::dot_int16) defines. Slower than 8 bits for many rows; the error is 254 times smaller.
    Int16,
}

/// Some activations as integers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivationBlock {
    /// Integers, from -127 to 127.
    pub codes: [i8; ACTIVATION_BLOCK],
    /// What they are multiples of.
    pub scale: f32,
}

impl ActivationBlock {
    /// Rounds values to a block.
    pub fn quantize(values: &[f32; ACTIVATION_BLOCK]) -> Self {
        if values.iter().any(|x| !x.is_finite()) {
            return Self { codes: [0; ACTIVATION_BLOCK], scale: f32::NAN };
        }
        let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
        let inverse = 127.0 / largest;
        if !inverse.is_finite() {
            return Self { codes: [0; ACTIVATION_BLOCK], scale: 0.0 };
        }
        Self { codes: values.map(|x| (x * inverse).round_ties_even() as i8), scale: largest / 127.0 }
    }

    /// The blocks of a row.
    ///
    /// # Panics
    /// If the row is not whole blocks.
    pub fn quantize_row(row: &[f32]) -> Vec<Self> {
        let (blocks, rest) = row.as_chunks();
        assert!(rest.is_empty(), "a row of {} activations is not whole blocks of {ACTIVATION_BLOCK}", row.len());
        blocks.iter().map(Self::quantize).collect()
    }

    /// Rounds values to blocks of two parts, the high one first.
    pub fn quantize_parts(values: &[f32; ACTIVATION_BLOCK]) -> [Self; 2] {
        let all = |scale| [Self { codes: [0; ACTIVATION_BLOCK], scale }; 2];
        if values.iter().any(|x| !x.is_finite()) {
            return all(f32::NAN);
        }
        let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
        let inverse = 32_258.0 / largest;
        if !inverse.is_finite() {
            return all(0.0);
        }
        let high = values.map(|x| (x * inverse * (1.0 / 254.0)).round_ties_even());
        let low = std::array::from_fn(|i| (values[i] * inverse - 254.0 * high[i]).round_ties_even() as i8);
        [Self { codes: high.map(|q| q as i8), scale: largest / 127.0 }, Self { codes: low, scale: largest / 32_258.0 }]
    }

    /// The blocks of a row in two parts: those of the high one, those of the low one.
    ///
    /// # Panics
    /// If the row is not whole blocks.
    pub fn quantize_row_parts(row: &[f32]) -> [Vec<Self>; 2] {
        let (blocks, rest) = row.as_chunks();
        assert!(rest.is_empty(), "a row of {} activations is not whole blocks of {ACTIVATION_BLOCK}", row.len());
        let (mut high, mut low) = (Vec::new(), Vec::new());
        for [h, l] in blocks.iter().map(Self::quantize_parts) {
            high.push(h);
            low.push(l);
        }
        [high, low]
    }
}

impl QuantKind {
    /// The product of a row of a weight with a row of activations, as [the module](self) defines it.
    ///
    /// # Panics
    /// If the two rows have not the same length.
    pub fn dot_int8(self, blocks: &[u8], activations: &[ActivationBlock]) -> f32 {
        self.same_blocks("dot_int8", blocks.len(), activations.len() * ACTIVATION_BLOCK);
        let (len, zero) = (self.group_len(), i32::from(self.zero()));
        let mut parts = Unpacked::default();
        let mut out = 0f32;
        for (index, block) in blocks.chunks_exact(self.block_bytes()).enumerate() {
            self.unpack(block, &mut parts);
            for (group, codes) in parts.codes[..self.block_len()].chunks_exact(len).enumerate() {
                let first = index * self.block_len() + group * len;
                let activations = &activations[first / ACTIVATION_BLOCK];
                let q = &activations.codes[first % ACTIVATION_BLOCK..][..len];
                let sum: i32 = codes.iter().zip(q).map(|(&code, &q)| (i32::from(code) - zero) * i32::from(q)).sum();
                let scale = parts.scale.to_f32() * f32::from(parts.multipliers[group]);
                out = (scale * activations.scale).mul_add(sum as f32, out);
                if self.has_offsets() {
                    let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
                    let offset = parts.offset.to_f32() * f32::from(-parts.offset_multipliers[group]);
                    out = offset.mul_add(activations.scale * sum as f32, out);
                }
            }
        }
        out
    }

    /// The product of a row of a weight with a row of activations in two parts, as [the module](self) defines it.
    ///
    /// # Panics
    /// If the rows have not the same length.
    pub fn dot_int16(self, blocks: &[u8], [high, low]: &[Vec<ActivationBlock>; 2]) -> f32 {
        self.dot_int8(blocks, high) + self.dot_int8(blocks, low)
    }
}

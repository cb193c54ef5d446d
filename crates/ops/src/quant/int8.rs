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
}

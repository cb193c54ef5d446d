//! Quantised weights in the block formats of GGML, as GGUF files hold them.
//!
//! A row of a weight is cut in blocks of 32 or 256 values. A block holds small unsigned integers (codes) and, for each
//! group of 16 or 32 of them, a scale and perhaps an offset; [`Unpacked`] has these parts, the same for all formats:
//!
//! ```text
//! value = scale * multiplier[group] * (code - zero)                                     without offsets
//! value = scale * multiplier[group] * code - offset * offset_multiplier[group]          with offsets
//! ```
//!
//! All in `f32`, from left to right. No product here is ever rounded (a scale has 11 bits, a multiplier 7, a code less
//! than the rest of 24), so that it makes no difference where a kernel fuses the addition.
//!
//! The formats are those of the structures `block_q4_0` to `block_q6_K` in GGML's source and of the Python package
//! `gguf`, with whose dequantisation the tests compare.
//!
//! Products take the activations as they are or as 8-bit integers, see [`ActivationPrecision`] and [`int8`].

pub mod int8;
mod quantize;
mod quantize_k;
mod unpack;

use half::f16;

pub use self::int8::{ACTIVATION_BLOCK, ActivationBlock, ActivationPrecision};

/// Most values in a block.
pub const MAX_BLOCK: usize = 256;

/// A block format. The names are GGML's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QuantKind {
    /// 8-bit codes, a scale for 32.
    Q8_0,
    /// 4-bit codes, a scale for 32.
    Q4_0,
    /// 4-bit codes, a scale and an offset for 32.
    Q4_1,
    /// 5-bit codes, a scale for 32.
    Q5_0,
    /// 5-bit codes, a scale and an offset for 32.
    Q5_1,
    /// 2-bit codes, a scale and an offset for 16, both of 4 bits with a factor for 256.
    Q2K,
    /// 3-bit codes, a scale for 16 of 6 bits with a factor for 256.
    Q3K,
    /// 4-bit codes, a scale and an offset for 32, both of 6 bits with a factor for 256.
    Q4K,
    /// 5-bit codes, otherwise as [`QuantKind::Q4K`].
    Q5K,
    /// 6-bit codes, a scale for 16 of 8 bits with a factor for 256.
    Q6K,
}

impl QuantKind {
    /// Every format.
    pub const ALL: [QuantKind; 10] = [
        QuantKind::Q8_0,
        QuantKind::Q4_0,
        QuantKind::Q4_1,
        QuantKind::Q5_0,
        QuantKind::Q5_1,
        QuantKind::Q2K,
        QuantKind::Q3K,
        QuantKind::Q4K,
        QuantKind::Q5K,
        QuantKind::Q6K,
    ];

    /// Values in a block: 32 or 256. A row is a whole number of blocks.
    #[inline]
    pub fn block_len(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => MAX_BLOCK,
        }
    }

    /// Bytes of a block.
    #[inline]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of `n` values.
    ///
    /// # Panics
    /// If that is not a whole number of blocks.
    pub fn bytes(self, n: usize) -> usize {
        assert!(
            n.is_multiple_of(self.block_len()),
            "{} blocks hold {} values, {n} is not a multiple",
            self.name(),
            self.block_len()
        );
        n / self.block_len() * self.block_bytes()
    }

    /// Lower-case name, for example `q4_1` or `q6_k`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Bits of a code.
    #[inline]
    pub fn code_bits(self) -> u32 {
        match self {
            Self::Q2K => 2,
            Self::Q3K => 3,
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => 4,
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => 5,
            Self::Q6K => 6,
            Self::Q8_0 => 8,
        }
    }

    /// Values that share a scale: 16 or 32.
    #[inline]
    pub fn group_len(self) -> usize {
        match self {
            Self::Q2K | Self::Q3K | Self::Q6K => 16,
            _ => 32,
        }
    }

    /// Whether groups have offsets; without them the codes are relative to [`QuantKind::zero`].
    #[inline]
    pub fn has_offsets(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q2K | Self::Q4K | Self::Q5K)
    }

    /// The code of the value 0, in formats without offsets; otherwise 0.
    #[inline]
    pub fn zero(self) -> u8 {
        match self {
            Self::Q8_0 => 128,
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q3K => 4,
            Self::Q6K => 32,
            Self::Q4_1 | Self::Q5_1 | Self::Q2K | Self::Q4K | Self::Q5K => 0,
        }
    }

    /// Takes one block apart.
    ///
    /// # Panics
    /// If `block` has not [`QuantKind::block_bytes`] bytes.
    #[inline]
    pub fn unpack(self, block: &[u8], to: &mut Unpacked) {
        unpack::unpack(self, block, to);
    }

    /// The values of some blocks, the same bits as GGML's own dequantisation in `f32`.
    ///
    /// # Panics
    /// If the two lengths do not belong to the same whole number of blocks.
    pub fn dequantize(self, blocks: &[u8], out: &mut [f32]) {
        self.same_blocks("dequantize", blocks.len(), out.len());
        let mut parts = Unpacked::default();
        for (block, out) in blocks.chunks_exact(self.block_bytes()).zip(out.chunks_exact_mut(self.block_len())) {
            self.unpack(block, &mut parts);
            parts.values(self, out);
        }
    }

    /// Whether [`QuantKind::quantize`] can write this format.
    pub fn can_quantize(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q4_0 | Self::Q4K | Self::Q6K)
    }

    /// Rounds values to blocks. `q8_0` and `q4_0` give the bytes of GGML's reference quantisation; `q4_k` and `q6_k`
    /// search the scales that give the least squared error. Values that are not finite give unspecified blocks.
    ///
    /// # Panics
    /// If the format is not one of [`QuantKind::can_quantize`], or as [`QuantKind::dequantize`].
    pub fn quantize(self, values: &[f32], out: &mut [u8]) {
        self.same_blocks("quantize", out.len(), values.len());
        for (values, block) in values.chunks_exact(self.block_len()).zip(out.chunks_exact_mut(self.block_bytes())) {
            match self {
                Self::Q8_0 => quantize::q8_0(values, block),
                Self::Q4_0 => quantize::q4_0(values, block),
                Self::Q4K => quantize_k::q4_k(values, block),
                Self::Q6K => quantize_k::q6_k(values, block),
                _ => panic!("quantize: {} can be read but not written", self.name()),
            }
        }
    }

    #[track_caller]
    fn same_blocks(self, op: &str, bytes: usize, values: usize) {
        assert!(
            values.is_multiple_of(self.block_len()) && bytes == self.bytes(values),
            "{op}: {bytes} bytes of {} for {values} values",
            self.name()
        );
    }
}

impl std::fmt::Display for QuantKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A block taken apart; see [the module](self) for what the parts mean. Formats with fewer values or groups use the
/// beginnings.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// One for each value.
    pub codes: [u8; MAX_BLOCK],
    /// Of the whole block.
    pub scale: f16,
    /// Of the whole block; 0 in formats without offsets.
    pub offset: f16,
    /// For each group; 1 in formats whose blocks are one group.
    pub multipliers: [i8; 16],
    /// For each group; -1 in formats whose blocks are one group.
    pub offset_multipliers: [i8; 16],
}

impl Default for Unpacked {
    fn default() -> Self {
        Self {
            codes: [0; MAX_BLOCK],
            scale: f16::ZERO,
            offset: f16::ZERO,
            multipliers: [1; 16],
            offset_multipliers: [-1; 16],
        }
    }
}

impl Unpacked {
    /// The values of a block of this format.
    fn values(&self, kind: QuantKind, out: &mut [f32]) {
        let (len, zero) = (kind.group_len(), f32::from(kind.zero()));
        for (group, (out, codes)) in out.chunks_exact_mut(len).zip(self.codes.chunks_exact(len)).enumerate() {
            let scale = self.scale.to_f32() * f32::from(self.multipliers[group]);
            let offset = self.offset.to_f32() * f32::from(self.offset_multipliers[group]);
            for (out, &code) in out.iter_mut().zip(codes) {
                let product = scale * (f32::from(code) - zero);
                *out = if kind.has_offsets() { product - offset } else { product };
            }
        }
    }
}

/// Some rows of a quantised weight, all in one format.
#[derive(Debug, Clone, Copy)]
pub struct QuantPart<'a> {
    /// The format.
    pub kind: QuantKind,
    /// `rows` rows of `d_in` values one after the other, each a whole number of blocks.
    pub blocks: &'a [u8],
    /// Rows.
    pub rows: usize,
}

/// The rows of all parts together.
///
/// # Panics
/// If a part has not the blocks of its rows of `d_in` values, or `d_in` is not a multiple of a part's block.
#[track_caller]
pub fn check_parts(parts: &[QuantPart<'_>], d_in: usize) -> usize {
    for (i, part) in parts.iter().enumerate() {
        let (kind, rows) = (part.kind, part.rows);
        assert!(
            d_in.is_multiple_of(kind.block_len()),
            "prepare_quantized: part {i} is {kind}, rows of {d_in} are not whole blocks of {}",
            kind.block_len()
        );
        let expected = rows.checked_mul(kind.bytes(d_in));
        assert!(
            expected == Some(part.blocks.len()),
            "prepare_quantized: part {i}, [{rows}, {d_in}] of {kind}, has {} bytes, not {expected:?}",
            part.blocks.len()
        );
    }
    parts.iter().map(|part| part.rows).sum()
}

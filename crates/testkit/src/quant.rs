//! Random quantised weights.

use half::f16;
use verve_ops::quant::{QuantKind, QuantPart};

use crate::Data;

/// Where the 16-bit numbers of a block are, bytes.
fn halves(kind: QuantKind) -> &'static [usize] {
    match kind {
        QuantKind::Q8_0 | QuantKind::Q4_0 | QuantKind::Q5_0 => &[0],
        QuantKind::Q4_1 | QuantKind::Q5_1 | QuantKind::Q4K | QuantKind::Q5K => &[0, 2],
        QuantKind::Q2K => &[80, 82],
        QuantKind::Q3K => &[108],
        QuantKind::Q6K => &[208],
    }
}

/// Blocks of any format with every bit random but those of the 16-bit numbers, which are such that values are of about size
/// 1 and of either sign.
pub fn random_blocks(data: &mut Data, kind: QuantKind, n_values: usize) -> Vec<u8> {
    let mut blocks: Vec<u8> = data.ids(kind.bytes(n_values), 256).into_iter().map(|byte| byte as u8).collect();
    // Codes and multipliers are uniform over their ranges.
    let codes = f64::from(1u32 << kind.code_bits());
    let multipliers = match kind {
        QuantKind::Q2K => 16.0,
        QuantKind::Q3K => 32.0,
        QuantKind::Q4K | QuantKind::Q5K => 64.0,
        QuantKind::Q6K => 128.0,
        _ => 1.0,
    };
    for (place, &at) in halves(kind).iter().enumerate() {
        let size = if place == 0 { 3.0 / (codes * multipliers) } else { 2.0 / multipliers };
        let numbers = data.normal(blocks.len() / kind.block_bytes());
        for (block, x) in blocks.chunks_exact_mut(kind.block_bytes()).zip(numbers) {
            block[at..at + 2].copy_from_slice(&f16::from_f64(size * x).to_le_bytes());
        }
    }
    blocks
}

/// Sets the 16-bit numbers of a block.
pub fn set_halves(kind: QuantKind, block: &mut [u8], value: f32) {
    for &at in halves(kind) {
        block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
    }
}

/// A quantised weight of several parts.
#[derive(Debug, Clone)]
pub struct QuantWeight {
    /// Format, blocks and rows of each part.
    pub parts: Vec<(QuantKind, Vec<u8>, usize)>,
    /// Width of a row.
    pub d_in: usize,
}

impl QuantWeight {
    /// A weight of random blocks.
    pub fn random(data: &mut Data, parts: &[(QuantKind, usize)], d_in: usize) -> Self {
        let part = |&(kind, rows): &(QuantKind, usize)| (kind, random_blocks(data, kind, rows * d_in), rows);
        Self { parts: parts.iter().map(part).collect(), d_in }
    }

    /// The parts, as a backend takes them.
    pub fn parts(&self) -> Vec<QuantPart<'_>> {
        self.parts.iter().map(|(kind, blocks, rows)| QuantPart { kind: *kind, blocks, rows: *rows }).collect()
    }

    /// Formats and rows.
    pub fn sizes(&self) -> Vec<(QuantKind, usize)> {
        self.parts.iter().map(|(kind, _, rows)| (*kind, *rows)).collect()
    }

    /// Rows of all parts.
    pub fn d_out(&self) -> usize {
        self.parts.iter().map(|(_, _, rows)| rows).sum()
    }

    /// The values, `[d_out, d_in]`.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0f32; self.d_out() * self.d_in];
        let mut rest = &mut values[..];
        for (kind, blocks, rows) in &self.parts {
            let (part, after) = rest.split_at_mut(rows * self.d_in);
            kind.dequantize(blocks, part);
            rest = after;
        }
        values
    }
}

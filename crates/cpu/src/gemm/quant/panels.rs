//! Quantised weights in panels of outputs side by side.
//!
//! A panel has the rows of as many outputs as a register tile has columns (`nr`), all blocks of them in order along
//! `d_in`. A block of a panel is, for all its outputs side by side:
//!
//! ```text
//! scale               f16
//! offset              f16, if the format has offsets
//! multipliers         i8, for each group, if a block has several
//! offset multipliers  i8, the same, with the sign turned
//! codes               for each 32 values: words of their low bits, then words of their high bits
//! ```
//!
//! A word has `32 / bits` codes of one output that follow each other along `d_in`: number `4 q + b` is at bit
//! `8 b + bits q`, so that a shift and a mask leave four codes that follow each other in the bytes of the word. Codes of 2, 4
//! and 8 bits have one plane of such words, those of 3, 5 and 6 bits a second one with the bits above.

use half::f16;
use verve_ops::BackendError;
use verve_ops::quant::{QuantKind, QuantPart, Unpacked};

use crate::CpuBuf;
use crate::pool::{ChunksMut, Pool};

/// Values that are coded together: a word of each plane is full.
pub(in crate::gemm) const STEP: usize = 32;

/// How a format is laid out in panels.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Form {
    pub(super) kind: QuantKind,
    /// Outputs of a panel.
    pub(in crate::gemm) nr: usize,
    pub(super) block_len: usize,
    pub(super) group_len: usize,
    /// Bits of a code in the first plane and in the second.
    pub(super) low_bits: u32,
    pub(super) high_bits: u32,
    pub(super) offsets: bool,
    /// Whether each group has a multiplier.
    pub(super) multipliers: bool,
    /// What is subtracted from codes, in formats without offsets.
    pub(super) zero: f32,
}

impl Form {
    #[inline(always)]
    pub(super) fn new(kind: QuantKind, nr: usize) -> Form {
        let (low_bits, high_bits) = match kind.code_bits() {
            3 => (2, 1),
            5 => (4, 1),
            6 => (4, 2),
            bits => (bits, 0),
        };
        Form {
            kind,
            nr,
            block_len: kind.block_len(),
            group_len: kind.group_len(),
            low_bits,
            high_bits,
            offsets: kind.has_offsets(),
            multipliers: kind.block_len() > kind.group_len(),
            zero: f32::from(kind.zero()),
        }
    }

    fn n_groups(&self) -> usize {
        self.block_len / self.group_len
    }

    /// Where the offsets are in a block, bytes.
    pub(super) fn offsets_at(&self) -> usize {
        2 * self.nr
    }

    /// Where the multipliers are.
    pub(super) fn multipliers_at(&self) -> usize {
        if self.offsets { 4 * self.nr } else { 2 * self.nr }
    }

    /// Where the multipliers of the offsets are.
    pub(super) fn offset_multipliers_at(&self) -> usize {
        self.multipliers_at() + if self.multipliers { self.n_groups() * self.nr } else { 0 }
    }

    /// Where the codes are.
    pub(super) fn codes_at(&self) -> usize {
        let several = self.multipliers && self.offsets;
        self.offset_multipliers_at() + if several { self.n_groups() * self.nr } else { 0 }
    }

    /// Bytes of the codes of [`STEP`] values: a plane has as many words as its codes have bits.
    pub(super) fn step_bytes(&self) -> usize {
        (self.low_bits + self.high_bits) as usize * self.nr * size_of::<u32>()
    }

    /// Bytes of a block of a panel.
    pub(super) fn block_bytes(&self) -> usize {
        self.codes_at() + self.block_len / STEP * self.step_bytes()
    }
}

/// Rows of a weight, all in one format.
pub(in crate::gemm) struct Panels {
    pub(super) bytes: CpuBuf<u8>,
    pub(in crate::gemm) form: Form,
    pub(in crate::gemm) rows: usize,
    pub(in crate::gemm) d_in: usize,
}

/// Bytes of some rows in panels.
pub(super) fn panels_bytes(form: &Form, rows: usize, d_in: usize) -> usize {
    rows.div_ceil(form.nr) * (d_in / form.block_len) * form.block_bytes()
}

impl Panels {
    /// Repacks a part whose sizes have been checked.
    pub(super) fn new(pool: &Pool, nr: usize, part: &QuantPart<'_>, d_in: usize) -> Result<Panels, BackendError> {
        let form = Form::new(part.kind, nr);
        let mut bytes = CpuBuf::zeroed(panels_bytes(&form, part.rows, d_in))?;
        let panel_bytes = d_in / form.block_len * form.block_bytes();
        let row_bytes = part.kind.bytes(d_in);
        if panel_bytes > 0 {
            pool.for_each(ChunksMut::new(&mut bytes, panel_bytes), |panel, _, dst| {
                let rows = panel * nr..part.rows.min((panel + 1) * nr);
                let src = &part.blocks[rows.start * row_bytes..rows.end * row_bytes];
                pack_panel(&form, src, row_bytes, dst);
            });
        }
        Ok(Panels { bytes, form, rows: part.rows, d_in })
    }

    pub(in crate::gemm) fn n_panels(&self) -> usize {
        self.rows.div_ceil(self.form.nr)
    }

    /// Bytes of a panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.d_in / self.form.block_len * self.form.block_bytes()
    }

    /// The values of one row, the bits of [`QuantKind::dequantize`].
    pub(in crate::gemm) fn row(&self, row: usize, mut store: impl FnMut(usize, f32)) {
        let form = &self.form;
        let (lane, nr) = (row % form.nr, form.nr);
        let panel = &self.bytes[row / nr * self.panel_bytes()..][..self.panel_bytes()];
        for (index, block) in panel.chunks_exact(form.block_bytes()).enumerate() {
            let half = |at: usize| f16::from_le_bytes([block[at + 2 * lane], block[at + 2 * lane + 1]]).to_f32();
            let byte = |at: usize, group: usize| i32::from(block[at + group * nr + lane] as i8);
            for group in 0..form.n_groups() {
                // As they stand in the formula of `verve_ops::quant`, for the sign of zeros.
                let (mut multiplier, mut offset_multiplier) = (1, -1);
                if form.multipliers {
                    multiplier = byte(form.multipliers_at(), group);
                    if form.offsets {
                        offset_multiplier = -byte(form.offset_multipliers_at(), group);
                    }
                }
                let scale = half(0) * multiplier as f32;
                let offset = if form.offsets { half(form.offsets_at()) * offset_multiplier as f32 } else { 0.0 };
                for k in group * form.group_len..(group + 1) * form.group_len {
                    let step = &block[form.codes_at() + k / STEP * form.step_bytes()..][..form.step_bytes()];
                    let code = code_at(form, step, lane, k % STEP);
                    let product = scale * (code as f32 - form.zero);
                    store(index * form.block_len + k, if form.offsets { product - offset } else { product });
                }
            }
        }
    }
}

/// Which word of a plane has code `k` of a step, and at which bit.
fn place(bits: u32, k: usize) -> (usize, u32) {
    let per_word = 32 / bits as usize;
    let (quad, byte) = (k % per_word / 4, k % 4);
    (k / per_word, 8 * byte as u32 + bits * quad as u32)
}

/// Code `k` of a step of one output.
fn code_at(form: &Form, step: &[u8], lane: usize, k: usize) -> u32 {
    let plane = |first: usize, bits: u32| {
        let (word, bit) = place(bits, k);
        let at = ((first + word) * form.nr + lane) * size_of::<u32>();
        u32::from_le_bytes([step[at], step[at + 1], step[at + 2], step[at + 3]]) >> bit & ((1 << bits) - 1)
    };
    let low = plane(0, form.low_bits);
    if form.high_bits == 0 { low } else { low | plane(form.low_bits as usize, form.high_bits) << form.low_bits }
}

/// Writes the blocks of up to `nr` rows into a panel that holds zeros: a row that is not there has scale 0.
fn pack_panel(form: &Form, src: &[u8], row_bytes: usize, dst: &mut [u8]) {
    let nr = form.nr;
    // Each format gets code of its own.
    macro_rules! pack {
        ($($kind:ident)*) => {
            match form.kind {
                $(QuantKind::$kind => pack_as(&Form::new(QuantKind::$kind, nr), src, row_bytes, dst),)*
            }
        };
    }
    pack!(Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2K Q3K Q4K Q5K Q6K);
}

/// [`pack_panel`] for a format that the compiler knows.
#[inline(always)]
fn pack_as(form: &Form, src: &[u8], row_bytes: usize, dst: &mut [u8]) {
    let (kind, nr) = (form.kind, form.nr);
    let mut parts = Unpacked::default();
    for (lane, row) in src.chunks_exact(row_bytes).enumerate() {
        let blocks = row.chunks_exact(kind.block_bytes()).zip(dst.chunks_exact_mut(form.block_bytes()));
        for (block, dst) in blocks {
            kind.unpack(block, &mut parts);
            let mut half = |at: usize, value: f16| dst[at + 2 * lane..][..2].copy_from_slice(&value.to_le_bytes());
            half(0, parts.scale);
            if form.offsets {
                half(form.offsets_at(), parts.offset);
            }
            if form.multipliers {
                for group in 0..form.n_groups() {
                    dst[form.multipliers_at() + group * nr + lane] = parts.multipliers[group] as u8;
                    if form.offsets {
                        let turned = parts.offset_multipliers[group].wrapping_neg();
                        dst[form.offset_multipliers_at() + group * nr + lane] = turned as u8;
                    }
                }
            }
            let steps = dst[form.codes_at()..].chunks_exact_mut(form.step_bytes());
            for (codes, step) in parts.codes.chunks_exact(STEP).zip(steps) {
                pack_plane(form.low_bits, 0, codes, nr, lane, step);
                if form.high_bits > 0 {
                    let high = &mut step[form.low_bits as usize * nr * size_of::<u32>()..];
                    pack_plane(form.high_bits, form.low_bits, codes, nr, lane, high);
                }
            }
        }
    }
}

/// Writes `bits` bits of each code of a step, from bit `shift` on, into the words of one output.
#[inline(always)]
fn pack_plane(bits: u32, shift: u32, codes: &[u8], nr: usize, lane: usize, dst: &mut [u8]) {
    // Four codes at a time: a byte of a word each, and none has bits that reach its neighbour's.
    let mask = ((1u32 << bits) - 1) * 0x0101_0101;
    for (word, codes) in codes.as_chunks::<4>().0.chunks_exact(8 / bits as usize).enumerate() {
        let mut packed = 0;
        for (quad, codes) in codes.iter().enumerate() {
            packed |= (u32::from_le_bytes(*codes) >> shift & mask) << (bits * quad as u32);
        }
        dst[(word * nr + lane) * size_of::<u32>()..][..4].copy_from_slice(&packed.to_le_bytes());
    }
}

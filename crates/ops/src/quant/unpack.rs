//! Blocks taken apart, format by format. Bytes of a block in order, with their numbers in brackets:
//!
//! ```text
//! q8_0  scale f16, codes [32] as i8
//! q4_0  scale f16, nibbles [16]
//! q4_1  scale f16, offset f16, nibbles [16]
//! q5_0  scale f16, fifth bits [4], nibbles [16]
//! q5_1  scale f16, offset f16, fifth bits [4], nibbles [16]
//! q2_k  multipliers [16], crumbs [64], scale f16, offset f16
//! q3_k  third bits [32], crumbs [64], multipliers [12], scale f16
//! q4_k  scale f16, offset f16, multipliers [12], nibbles [128]
//! q5_k  scale f16, offset f16, multipliers [12], fifth bits [32], nibbles [128]
//! q6_k  nibbles [128], crumbs [64], multipliers [16] as i8, scale f16
//! ```

use half::f16;

use super::{QuantKind, Unpacked};

/// Two bytes, the low one first.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

/// Byte `i` of a run of `WIDTH` has `8 / BITS` codes, its lowest bits first, that are `WIDTH` apart. Each run is followed by
/// the next.
#[inline(always)]
fn spread<const BITS: u32, const WIDTH: usize>(bytes: &[u8], codes: &mut [u8]) {
    let per_byte = 8 / BITS as usize;
    for (bytes, codes) in bytes.chunks_exact(WIDTH).zip(codes.chunks_exact_mut(WIDTH * per_byte)) {
        for (place, codes) in codes.chunks_exact_mut(WIDTH).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = byte >> (BITS * place as u32) & ((1 << BITS) - 1);
            }
        }
    }
}

/// [`spread`] for bits that come above the `SHIFT` bits which the codes have already.
#[inline(always)]
fn spread_above<const BITS: u32, const WIDTH: usize, const SHIFT: u32>(bytes: &[u8], codes: &mut [u8]) {
    let per_byte = 8 / BITS as usize;
    for (bytes, codes) in bytes.chunks_exact(WIDTH).zip(codes.chunks_exact_mut(WIDTH * per_byte)) {
        for (place, codes) in codes.chunks_exact_mut(WIDTH).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code |= (byte >> (BITS * place as u32) & ((1 << BITS) - 1)) << SHIFT;
            }
        }
    }
}

/// Bit `i` of four bytes is bit 4 of code `i`.
#[inline(always)]
fn fifth_bits(bytes: &[u8], codes: &mut [u8]) {
    for (byte, codes) in bytes.iter().zip(codes.chunks_exact_mut(8)) {
        for (i, code) in codes.iter_mut().enumerate() {
            *code |= (byte >> i & 1) << 4;
        }
    }
}

/// Eight multipliers and eight of the offset, six bits each, in twelve bytes: the first four of each kind in the low bits
/// of bytes 0-3 and 4-7; of the others the low four bits in the nibbles of bytes 8-11 and the rest in the free high bits.
fn six_bit_pairs(bytes: &[u8], to: &mut Unpacked) {
    for i in 0..4 {
        let (scale, offset, both) = (bytes[i], bytes[4 + i], bytes[8 + i]);
        to.multipliers[i] = (scale & 63) as i8;
        to.offset_multipliers[i] = (offset & 63) as i8;
        to.multipliers[4 + i] = (both & 15 | scale >> 6 << 4) as i8;
        to.offset_multipliers[4 + i] = (both >> 4 | offset >> 6 << 4) as i8;
    }
}

/// Sixteen multipliers of six bits in twelve bytes, 32 above their value: the low four bits in the nibbles of bytes 0-7,
/// the high two in bytes 8-11.
fn six_bit_multipliers(bytes: &[u8], to: &mut Unpacked) {
    for (group, multiplier) in to.multipliers.iter_mut().enumerate() {
        let low = bytes[group % 8] >> (4 * (group / 8)) & 15;
        let high = bytes[8 + group % 4] >> (2 * (group / 4)) & 3;
        *multiplier = (low | high << 4) as i8 - 32;
    }
}

#[inline]
pub(super) fn unpack(kind: QuantKind, block: &[u8], to: &mut Unpacked) {
    assert!(block.len() == kind.block_bytes(), "a block of {kind} has {} bytes", block.len());
    to.offset = f16::ZERO;
    let codes = &mut to.codes[..kind.block_len()];
    match kind {
        QuantKind::Q8_0 => {
            to.scale = half_at(block, 0);
            for (code, byte) in codes.iter_mut().zip(&block[2..]) {
                *code = byte ^ 0x80;
            }
        }
        QuantKind::Q4_0 => {
            to.scale = half_at(block, 0);
            spread::<4, 16>(&block[2..], codes);
        }
        QuantKind::Q4_1 => {
            (to.scale, to.offset) = (half_at(block, 0), half_at(block, 2));
            spread::<4, 16>(&block[4..], codes);
        }
        QuantKind::Q5_0 => {
            to.scale = half_at(block, 0);
            spread::<4, 16>(&block[6..], codes);
            fifth_bits(&block[2..6], codes);
        }
        QuantKind::Q5_1 => {
            (to.scale, to.offset) = (half_at(block, 0), half_at(block, 2));
            spread::<4, 16>(&block[8..], codes);
            fifth_bits(&block[4..8], codes);
        }
        QuantKind::Q2K => {
            (to.scale, to.offset) = (half_at(block, 80), half_at(block, 82));
            spread::<2, 32>(&block[16..80], codes);
            for (group, byte) in block[..16].iter().enumerate() {
                to.multipliers[group] = (byte & 15) as i8;
                to.offset_multipliers[group] = (byte >> 4) as i8;
            }
        }
        QuantKind::Q3K => {
            to.scale = half_at(block, 108);
            spread::<2, 32>(&block[32..96], codes);
            spread_above::<1, 32, 2>(&block[..32], codes);
            six_bit_multipliers(&block[96..108], to);
        }
        QuantKind::Q4K => {
            (to.scale, to.offset) = (half_at(block, 0), half_at(block, 2));
            spread::<4, 32>(&block[16..], codes);
            six_bit_pairs(&block[4..16], to);
        }
        QuantKind::Q5K => {
            (to.scale, to.offset) = (half_at(block, 0), half_at(block, 2));
            spread::<4, 32>(&block[48..], codes);
            spread_above::<1, 32, 4>(&block[16..48], codes);
            six_bit_pairs(&block[4..16], to);
        }
        QuantKind::Q6K => {
            to.scale = half_at(block, 208);
            spread::<4, 64>(&block[..128], codes);
            spread_above::<2, 32, 4>(&block[128..192], codes);
            for (multiplier, byte) in to.multipliers.iter_mut().zip(&block[192..208]) {
                *multiplier = *byte as i8;
            }
        }
    }
    if kind.block_len() == kind.group_len() {
        (to.multipliers[0], to.offset_multipliers[0]) = (1, -1);
    }
}

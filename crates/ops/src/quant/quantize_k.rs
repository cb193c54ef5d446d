//! Quantisation to `q4_k` and `q6_k`: for each group the scale (and offset) of least squared error, found by trying some
//! around the obvious one and solving for the best fit to the codes that each gives; then scales rounded to their few
//! bits, and codes chosen once more for the rounded scales.

use half::f16;

/// Steps that are tried to each side of the obvious scale, and how far they go, as a part of the number of codes.
const TRIES: i32 = 8;
const REACH: f32 = 0.12;

/// `scale` and `offset` with `value = scale * code - offset`, `offset >= 0`.
#[derive(Clone, Copy, Default)]
struct Affine {
    scale: f32,
    offset: f32,
}

/// The best scale and offset for codes `0..=top`. Offsets are not negative, as the format's are not: where all values are
/// positive the codes begin at 0.
fn best_affine(values: &[f32], top: f32) -> Affine {
    let low = values.iter().copied().fold(0f32, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = high - low;
    if !range.is_finite() {
        return Affine::default();
    }
    // Too small to be divided by: all values are about the same.
    if range < f32::MIN_POSITIVE {
        return Affine { scale: 0.0, offset: -low };
    }
    let error = |fit: Affine| -> f32 {
        let inverse = 1.0 / fit.scale;
        values.iter().map(|x| (fit.scale * code(x + fit.offset, inverse, top) - fit.offset - x).powi(2)).sum()
    };
    let mut best = Affine { scale: range / top, offset: -low };
    let mut best_error = error(best);
    for step in -TRIES..=TRIES {
        let inverse = (top + REACH * top * step as f32 / TRIES as f32) / range;
        // Least squares of `scale * code - offset` for the codes of this scale.
        let (mut sum, mut squares, mut sum_x, mut sum_cx) = (0f32, 0f32, 0f32, 0f32);
        for x in values {
            let c = code(x - low, inverse, top);
            sum += c;
            squares += c * c;
            sum_x += x;
            sum_cx += c * x;
        }
        let n = values.len() as f32;
        let determinant = n * squares - sum * sum;
        let mut fit = Affine {
            scale: (n * sum_cx - sum * sum_x) / determinant,
            offset: (sum * sum_cx - squares * sum_x) / determinant,
        };
        if fit.offset < 0.0 {
            fit = Affine { scale: sum_cx / squares, offset: 0.0 };
        }
        if fit.scale.is_finite() && fit.scale > f32::MIN_POSITIVE && fit.offset.is_finite() {
            let found = error(fit);
            if found < best_error {
                (best, best_error) = (fit, found);
            }
        }
    }
    best
}

/// The best scale, of either sign, for codes `-top - 1..=top`.
fn best_symmetric(values: &[f32], top: f32) -> f32 {
    let largest = values.iter().fold(0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    if !(f32::MIN_POSITIVE..f32::MAX).contains(&largest.abs()) {
        return 0.0;
    }
    let (mut best, mut best_gain) = (0.0, -1.0);
    for step in -TRIES..=TRIES {
        // The negative end has one code more: the largest value takes it.
        let inverse = -(top + 1.0 + REACH * step as f32) / largest;
        let (mut sum_cx, mut squares) = (0f32, 0f32);
        for x in values {
            let c = (x * inverse).round().clamp(-top - 1.0, top);
            sum_cx += c * x;
            squares += c * c;
        }
        // What the best scale for these codes takes away from the sum of squares.
        let gain = sum_cx * sum_cx / squares;
        if gain > best_gain {
            (best, best_gain) = (sum_cx / squares, gain);
        }
    }
    best
}

/// The nearest code in `0..=top`; 0 for what is not a number.
fn code(x: f32, inverse: f32, top: f32) -> f32 {
    (x * inverse).round().max(0.0).min(top)
}

/// `1 / x`, and 0 for what cannot be divided by.
fn inverse_of(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { 1.0 / x }
}

pub(super) fn q4_k(values: &[f32], block: &mut [u8]) {
    let mut fits = [Affine::default(); 8];
    for (fit, values) in fits.iter_mut().zip(values.chunks_exact(32)) {
        *fit = best_affine(values, 15.0);
    }
    let most = |part: fn(&Affine) -> f32| f16::from_f32(fits.iter().map(part).fold(0f32, f32::max) / 63.0);
    let (scale, offset) = (most(|fit| fit.scale), most(|fit| fit.offset));
    let six_bits = |x: f32, unit: f16| code(x, inverse_of(unit.to_f32()), 63.0) as u8;
    let multipliers = fits.map(|fit| (six_bits(fit.scale, scale), six_bits(fit.offset, offset)));
    block[..2].copy_from_slice(&scale.to_le_bytes());
    block[2..4].copy_from_slice(&offset.to_le_bytes());
    // As `six_bit_pairs` of the unpacking reads them.
    for i in 0..4 {
        let ((s, o), (s_high, o_high)) = (multipliers[i], multipliers[4 + i]);
        block[4 + i] = s | s_high >> 4 << 6;
        block[8 + i] = o | o_high >> 4 << 6;
        block[12 + i] = s_high & 15 | (o_high & 15) << 4;
    }
    for (pair, nibbles) in block[16..].chunks_exact_mut(32).enumerate() {
        let code = |group: usize, i: usize| {
            let (s, o) = multipliers[group];
            let offset = offset.to_f32() * f32::from(o);
            code(values[group * 32 + i] + offset, inverse_of(scale.to_f32() * f32::from(s)), 15.0) as u8
        };
        for (i, byte) in nibbles.iter_mut().enumerate() {
            *byte = code(2 * pair, i) | code(2 * pair + 1, i) << 4;
        }
    }
}

pub(super) fn q6_k(values: &[f32], block: &mut [u8]) {
    let mut scales = [0f32; 16];
    for (scale, values) in scales.iter_mut().zip(values.chunks_exact(16)) {
        *scale = best_symmetric(values, 31.0);
    }
    let largest = scales.iter().fold(0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    // The multiplier of largest magnitude takes the one code more of the negative end.
    let scale = f16::from_f32(largest / -128.0);
    let inverse = inverse_of(scale.to_f32());
    let multipliers = scales.map(|x| (x * inverse).round().clamp(-128.0, 127.0) as i8);
    let mut codes = [0u8; 256];
    for (group, (codes, values)) in codes.chunks_exact_mut(16).zip(values.chunks_exact(16)).enumerate() {
        let inverse = inverse_of(scale.to_f32() * f32::from(multipliers[group]));
        for (to, x) in codes.iter_mut().zip(values) {
            *to = ((x * inverse).round().clamp(-32.0, 31.0) as i8 + 32) as u8;
        }
    }
    let (nibbles, rest) = block.split_at_mut(128);
    let (crumbs, rest) = rest.split_at_mut(64);
    for (half, codes) in codes.chunks_exact(128).enumerate() {
        for i in 0..64 {
            nibbles[half * 64 + i] = codes[i] & 15 | codes[64 + i] << 4;
        }
        for i in 0..32 {
            let high = |place: usize| codes[place * 32 + i] >> 4 << (2 * place);
            crumbs[half * 32 + i] = high(0) | high(1) | high(2) | high(3);
        }
    }
    for (byte, multiplier) in rest.iter_mut().zip(multipliers) {
        *byte = multiplier as u8;
    }
    rest[16..].copy_from_slice(&scale.to_le_bytes());
}

//! Quantisation to the formats with one scale for 32 values, as GGML's reference does it.

use half::f16;

/// The largest magnitude becomes 127.
pub(super) fn q8_0(values: &[f32], block: &mut [u8]) {
    let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (code, x) in block[2..].iter_mut().zip(values) {
        // `round` takes halves away from zero, as the reference does.
        *code = (x * inverse).round() as i8 as u8;
    }
}

/// The value of largest magnitude, the first of several, becomes -8, whatever its sign.
pub(super) fn q4_0(values: &[f32], block: &mut [u8]) {
    let largest = values.iter().fold(0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    let scale = largest / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    for (i, byte) in block[2..].iter_mut().enumerate() {
        *byte = code(values[i]) | code(values[16 + i]) << 4;
    }
}

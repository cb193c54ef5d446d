//! The table of rotary positions.

use verve_ops::{Backend, Real, RopeShape};

use crate::config::{ModelConfig, Positions};
use crate::error::ModelError;

/// `[n_positions, d_head]`: cosines of a position's `d_head / 2` angles, then their sines. `None` without rotary positions.
///
/// Frequencies and angles are rounded to `f32`, as transformers does it, so that a loaded model sees the angles it was
/// trained with also at long distances.
pub(crate) fn rope_table<B: Backend>(
    backend: &B,
    config: &ModelConfig,
    n_positions: usize,
) -> Result<Option<B::Buf<B::Acc>>, ModelError> {
    let Positions::Rotary { theta } = config.positions else { return Ok(None) };
    let half = config.d_head / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|i| 1.0 / (theta.powf(2.0 * i as f64 / config.d_head as f64) as f32)).collect();
    let mut table = Vec::with_capacity(n_positions * config.d_head);
    for position in 0..n_positions {
        let angle = |frequency: &f32| f64::from(position as f32 * frequency);
        table.extend(frequencies.iter().map(|f| B::Acc::from_f64(angle(f).cos())));
        table.extend(frequencies.iter().map(|f| B::Acc::from_f64(angle(f).sin())));
    }
    let mut buffer = backend.alloc(table.len())?;
    backend.upload(&table, &mut buffer);
    Ok(Some(buffer))
}

/// Elements of the table of [`rope_table`].
pub(crate) fn rope_table_len(config: &ModelConfig, n_positions: usize) -> Option<usize> {
    matches!(config.positions, Positions::Rotary { .. }).then_some(n_positions * config.d_head)
}

/// The rotation of a row of `attn_qkv`'s output: its query and key heads, all of their dimensions.
pub(crate) fn rope_shape(config: &ModelConfig, rows: usize, n_positions: usize) -> RopeShape {
    RopeShape {
        rows,
        row_width: config.qkv_width(),
        n_heads: config.n_heads + config.n_kv_heads,
        d_head: config.d_head,
        d_rot: config.d_head,
        n_positions,
    }
}

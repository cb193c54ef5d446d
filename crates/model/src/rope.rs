//! The tables of rotary positions.

use verve_ops::{Backend, Real, RopeShape};

use crate::config::{ModelConfig, Positions, RotaryScaling};
use crate::error::ModelError;

/// `[n_positions, d_rot]` each: cosines of a position's `d_rot / 2` angles, then their sines.
pub(crate) struct RopeTables<B: Backend> {
    global: B::Buf<B::Acc>,
    /// For layers that see a band only, where they have a base of their own.
    local: Option<B::Buf<B::Acc>>,
}

impl<B: Backend> RopeTables<B> {
    /// The tables of a configuration; `None` without rotary positions.
    ///
    /// Frequencies and angles are rounded to `f32`, as transformers does it, so that a loaded model sees the angles it
    /// was trained with also at long distances.
    pub(crate) fn new(backend: &B, config: &ModelConfig, n_positions: usize) -> Result<Option<Self>, ModelError> {
        let Positions::Rotary { theta } = config.positions else { return Ok(None) };
        let d_rot = config.d_rot();
        let make = |frequencies: Vec<f32>| -> Result<B::Buf<B::Acc>, ModelError> {
            let mut table = Vec::with_capacity(n_positions * d_rot);
            for position in 0..n_positions {
                let angle = |frequency: &f32| f64::from(position as f32 * frequency);
                table.extend(frequencies.iter().map(|f| B::Acc::from_f64(angle(f).cos())));
                table.extend(frequencies.iter().map(|f| B::Acc::from_f64(angle(f).sin())));
            }
            let mut buffer = backend.alloc(table.len())?;
            backend.upload(&table, &mut buffer);
            Ok(buffer)
        };
        let global = frequencies(theta, d_rot).into_iter().map(|f| scaled(f, config.rotary_scaling)).collect();
        let local = config.rotary_local_theta.map(|theta| make(frequencies(theta, d_rot))).transpose()?;
        Ok(Some(Self { global: make(global)?, local }))
    }

    /// The table of a layer with this window.
    pub(crate) fn of(&self, window: Option<usize>) -> &B::Buf<B::Acc> {
        match (&self.local, window) {
            (Some(local), Some(_)) => local,
            _ => &self.global,
        }
    }
}

/// `theta^(-2i / d_rot)`. The exponent is rounded to `f32` too, as transformers and the programs that models were trained
/// with do it; it matters where `d_rot` is not a power of two.
pub(crate) fn frequencies(theta: f64, d_rot: usize) -> Vec<f32> {
    let exponent = |i: usize| f64::from((2 * i) as f32 / d_rot as f32);
    (0..d_rot / 2).map(|i| 1.0 / (theta.powf(exponent(i)) as f32)).collect()
}

fn scaled(frequency: f32, scaling: RotaryScaling) -> f32 {
    match scaling {
        RotaryScaling::None => frequency,
        RotaryScaling::Linear { factor } => frequency / factor as f32,
        RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
            let context = original_context as f32;
            let wavelength = std::f32::consts::TAU / frequency;
            if wavelength > context / low {
                frequency / factor
            } else if wavelength < context / high {
                frequency
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// Elements of all tables of [`RopeTables::new`]; 0 without rotary positions.
pub(crate) fn rope_tables_len(config: &ModelConfig, n_positions: usize) -> usize {
    let tables = if config.rotary_local_theta.is_some() { 2 } else { 1 };
    tables * n_positions * config.d_rot()
}

/// The rotation of a row of `attn_qkv`'s output: its query and key heads.
pub(crate) fn rope_shape(config: &ModelConfig, rows: usize, n_positions: usize) -> RopeShape {
    RopeShape {
        rows,
        row_width: config.qkv_width(),
        n_heads: config.n_heads + config.n_kv_heads,
        d_head: config.d_head,
        d_rot: config.d_rot(),
        n_positions,
    }
}

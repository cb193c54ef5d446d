//! What a training run needs on described hardware: memory by purpose, layout, operations and time.
//!
//! The memory is that of a run in bf16 with f32 gradients, f32 master weights and two f32 moments (AdamW). On more than one
//! device it is divided as is usual:
//!
//! - *Tensor* parallelism over `t` devices, at most 8 and a divisor of the heads, divides weights and activations by `t`
//!   (with sequence parallelism, Korthikanti et al. 2022).
//! - *Pipeline* parallelism over `p` stages, a divisor of the layers, divides the blocks by `p`. A stage holds the
//!   activations of up to `p` micro-batches at a time (1F1B), so activations are not divided; a stage is counted as if it
//!   held the embeddings too.
//! - *Data* parallelism over `d` copies divides master weights and moments by `d` (ZeRO stage 1, Rajbhandari et al. 2020);
//!   weights and gradients are in every copy.
//!
//! The rule: the fewest devices for one copy (`t p`, tensor before pipeline) on which a micro-batch of one row fits without
//! computing whole blocks again; if there is none, the fewest with that. Then the least recomputation, then the largest
//! micro-batch, a power of two.

mod devices;
mod layout;
mod text;

use serde::Serialize;
use verve_model::plan::train_flops_per_token;
use verve_model::{ModelConfig, Recompute, presets};

use crate::error::{Result, TrainError};
pub use devices::Devices;
use layout::Sizes;
pub(crate) use text::{duration, grouped};

#[cfg(test)]
mod tests;

/// Floating-point operations of a petaflop/s-day.
const PF_DAY: f64 = 8.64e19;
/// Tokens that GPT-3's sizes were trained on (Brown et al. 2020, table D.1).
const GPT3_TOKENS: u64 = 300_000_000_000;
/// Tokens a parameter where nothing is said (Hoffmann et al. 2022).
const TOKENS_PER_PARAM: u64 = 20;

/// What to plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Name of a model size.
    pub preset: String,
    /// Vocabulary instead of the preset's.
    pub n_vocab: Option<usize>,
    /// Tokens of an optimizer step; the paper's for GPT-3's sizes if `None`.
    pub batch_tokens: Option<u64>,
    /// Tokens to train on; 300B for GPT-3's sizes, else 20 a parameter, if `None`.
    pub tokens: Option<u64>,
    /// The hardware.
    pub devices: Devices,
    /// Peak of one device in bf16, FLOP/s.
    pub peak_flops: f64,
    /// Share of the peak that the run is assumed to reach, recomputation included; above 0, at most 1.
    pub utilisation: f64,
}

/// How devices share the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Devices that share each matrix.
    pub tensor: u64,
    /// Stages that share the layers.
    pub pipeline: u64,
    /// Copies of the model.
    pub data: u64,
}

impl Layout {
    /// Devices in use.
    pub fn devices(self) -> u64 {
        self.tensor * self.pipeline * self.data
    }
}

/// Memory of one device for one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeviceMemory {
    /// What for.
    pub purpose: &'static str,
    /// Bytes.
    pub bytes: u64,
}

/// A plan. `Display` gives it as text for a terminal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterPlan {
    /// Name of the model size.
    pub preset: String,
    /// Its shape.
    pub model: ModelConfig,
    /// Its parameters.
    pub n_params: u64,
    /// Tokens to train on.
    pub tokens: u64,
    /// Tokens of a step, in whole micro-batches on every copy.
    pub batch_tokens: u64,
    /// Steps.
    pub steps: u64,
    /// Operations for each token: `6 N` and attention.
    pub flops_per_token: f64,
    /// Operations of the whole run.
    pub total_flops: f64,
    /// Operations by the rule `6 N D`, which leaves attention out (Brown et al. 2020, appendix D).
    pub total_flops_6nd: f64,
    /// `total_flops` in petaflop/s-days.
    pub pf_days: f64,
    /// The hardware.
    pub devices: Devices,
    /// Peak of one device, FLOP/s.
    pub peak_flops: f64,
    /// Share of the peak.
    pub utilisation: f64,
    /// Whether it fits. If not, `layout` and `memory` are those that need least.
    pub fits: bool,
    /// How the devices share the work.
    pub layout: Layout,
    /// What the backward computes again.
    pub recompute: Recompute,
    /// Rows of a micro-batch: the largest power of two that fits.
    pub micro_batch: u64,
    /// Micro-batches that each copy takes for a step.
    pub micro_batches: u64,
    /// Memory of the fullest device, by purpose.
    pub memory: Vec<DeviceMemory>,
    /// Sum of `memory`.
    pub memory_total: u64,
    /// Time of the run; `None` if it does not fit.
    pub seconds: Option<f64>,
    /// Training tokens in a second; `None` if it does not fit.
    pub tokens_per_second: Option<f64>,
    /// Fewest such devices on which the model fits; `None` if no number of them is enough.
    pub fewest_devices: Option<u64>,
    /// If it does not fit: the largest size that does on these devices.
    pub largest_preset: Option<String>,
    /// What was assumed, a sentence each.
    pub assumptions: Vec<String>,
}

/// Plans a run. That it does not fit is not an error: see [`ClusterPlan::fits`].
///
/// # Errors
/// An unknown preset; a peak, utilisation, batch or number of tokens that cannot be.
pub fn plan(request: &Request) -> Result<ClusterPlan> {
    check(request)?;
    let model = ModelConfig::preset(&request.preset, request.n_vocab)?;
    model.validate()?;
    let n_params = model.n_params() as u64;
    let n_ctx = model.n_ctx as u64;
    let is_gpt3 = request.preset.starts_with("gpt3-");
    let tokens =
        request.tokens.unwrap_or(if is_gpt3 { GPT3_TOKENS } else { n_params.saturating_mul(TOKENS_PER_PARAM) });
    let wanted_batch = request.batch_tokens.unwrap_or_else(|| usual_batch(n_params));
    let rows = ((wanted_batch + n_ctx / 2) / n_ctx).max(1);

    let sizes = Sizes::of(&model);
    let found = layout::choose(&sizes, request.devices, rows);
    let (fit, fits) = match found {
        Some(fit) => (fit, true),
        None => (layout::least(&sizes, request.devices, rows), false),
    };
    let share = fit.micro_batch * fit.layout.data;
    let micro_batches = ((rows + share / 2) / share).max(1);
    let batch_tokens = micro_batches * share * n_ctx;
    let flops_per_token = train_flops_per_token(&model, model.n_ctx);
    let total_flops = flops_per_token * tokens as f64;
    let speed = fit.layout.devices() as f64 * request.peak_flops * request.utilisation;
    let seconds = total_flops * work_factor(fit.recompute) / speed;
    let memory = fit.memory.to_vec();
    Ok(ClusterPlan {
        preset: request.preset.clone(),
        n_params,
        tokens,
        batch_tokens,
        steps: tokens.div_ceil(batch_tokens),
        flops_per_token,
        total_flops,
        total_flops_6nd: 6.0 * n_params as f64 * tokens as f64,
        pf_days: total_flops / PF_DAY,
        devices: request.devices,
        peak_flops: request.peak_flops,
        utilisation: request.utilisation,
        fits,
        layout: fit.layout,
        recompute: fit.recompute,
        micro_batch: fit.micro_batch,
        micro_batches,
        memory_total: memory.iter().map(|item| item.bytes).sum(),
        memory,
        seconds: fits.then_some(seconds),
        tokens_per_second: fits.then_some(tokens as f64 / seconds),
        fewest_devices: layout::fewest_devices(&sizes, request.devices.bytes, rows),
        largest_preset: if fits { None } else { largest_preset(request)? },
        assumptions: assumptions(request, fit.layout, micro_batches, fit.recompute),
        model,
    })
}

fn check(request: &Request) -> Result<()> {
    let peak = request.peak_flops;
    if !(peak.is_finite() && peak > 0.0) {
        return Err(TrainError::Parse {
            found: peak.to_string(),
            expected: "a peak: it must be a positive number of FLOP/s",
        });
    }
    if !(request.utilisation > 0.0 && request.utilisation <= 1.0) {
        let found = request.utilisation.to_string();
        return Err(TrainError::Parse { found, expected: "a utilisation: it must be above 0 and at most 1" });
    }
    let range = 1..=1_000_000_000_000_000_000;
    for count in [request.batch_tokens, request.tokens].into_iter().flatten() {
        if !range.contains(&count) {
            return Err(TrainError::Parse { found: count.to_string(), expected: "a number of tokens from 1 to 1e18" });
        }
    }
    if request.devices.count == 0 {
        return Err(TrainError::Parse { found: "0".to_owned(), expected: "a number of devices, at least 1" });
    }
    Ok(())
}

/// Tokens of a step: Brown et al. 2020, table 2.1, in powers of two; less for models below 100M.
fn usual_batch(n_params: u64) -> u64 {
    const BY_SIZE: [(u64, u64); 5] = [
        (20_000_000, 16_384),
        (100_000_000, 131_072),
        (1_000_000_000, 524_288),
        (5_000_000_000, 1_048_576),
        (100_000_000_000, 2_097_152),
    ];
    BY_SIZE.iter().find(|(below, _)| n_params < *below).map_or(3_276_800, |(_, tokens)| *tokens)
}

/// Work with recomputation for each unit without: whole blocks again are a third forward pass beside the backward's two.
fn work_factor(recompute: Recompute) -> f64 {
    if recompute == Recompute::Blocks { 4.0 / 3.0 } else { 1.0 }
}

/// The size with most parameters that fits on the devices.
fn largest_preset(request: &Request) -> Result<Option<String>> {
    let mut largest: Option<(usize, &str)> = None;
    for name in presets::names() {
        let model = ModelConfig::preset(name, request.n_vocab)?;
        let n_params = model.n_params();
        if largest.is_none_or(|(most, _)| n_params > most)
            && layout::choose(&Sizes::of(&model), request.devices, u64::MAX).is_some()
        {
            largest = Some((n_params, name));
        }
    }
    Ok(largest.map(|(_, name)| name.to_owned()))
}

fn assumptions(request: &Request, layout: Layout, micro_batches: u64, recompute: Recompute) -> Vec<String> {
    let mut told = vec![
        "bf16 weights and activations; f32 gradients, master weights and two moments (AdamW)".to_owned(),
        format!(
            "{:.0} TFLOP/s peak a device, {:.0}% of it reached, communication and recomputation included",
            request.peak_flops / 1e12,
            request.utilisation * 100.0
        ),
        "attention counted as if every query saw all keys of its row, in banded layers of its band (Chowdhery et al. 2022)".to_owned(),
    ];
    if request.peak_flops < 1e12 {
        told[1] = format!(
            "{:.0} GFLOP/s peak a device, {:.0}% of it reached, recomputation included",
            request.peak_flops / 1e9,
            request.utilisation * 100.0
        );
    }
    if layout.devices() > 1 {
        told.push(
            "the fewest devices for one copy, tensor parallelism (at most 8) before pipeline stages; master weights and \
             moments divided over the copies (ZeRO-1); sequence parallelism; 1F1B pipeline"
                .to_owned(),
        );
    }
    if layout.pipeline > 1 {
        let idle = (layout.pipeline - 1) as f64 / (micro_batches + layout.pipeline - 1) as f64;
        told.push(format!(
            "of the time, {:.1}% is the pipeline filling and draining; the share of the peak includes it",
            idle * 100.0
        ));
    }
    if recompute == Recompute::Blocks {
        told.push("whole blocks are computed again in the backward pass: a third more work, in the time".to_owned());
    }
    if layout.devices() < request.devices.count {
        told.push(format!(
            "{} of the devices stay idle: they make no other whole copy with a row of the batch",
            request.devices.count - layout.devices()
        ));
    }
    told
}

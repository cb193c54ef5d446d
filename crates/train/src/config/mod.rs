//! Settings of a run: a TOML file, or the same made from flags. What is left out is chosen by [`RunConfig::resolve`] and
//! written into the run folder, so that the folder's `config.toml` says everything.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use verve_model::{ModelConfig, Recompute};

use crate::error::{Result, TrainError};
use crate::schedule::DecayCurve;

mod batch;
mod check;
mod memory;
mod model;
mod parse;
mod resolve;

pub(crate) use memory::bytes;
pub use resolve::{Known, OtherMemory, RunPlan, Schedule};

#[cfg(test)]
mod tests;

/// All settings of a run. A field of type `Option` is chosen when it is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunConfig {
    /// The model's shape.
    pub model: ModelSettings,
    /// What to train on. This crate reads shards only; the other fields are for its caller.
    pub data: DataSettings,
    /// Seed, number types, memory.
    pub run: RunSettings,
    /// How long to train; exactly one of its fields.
    pub budget: BudgetSettings,
    /// Batch sizes.
    pub batch: BatchSettings,
    /// AdamW.
    pub optimizer: OptimizerSettings,
    /// Learning rate over time.
    pub schedule: ScheduleSettings,
    /// Loss on held-out text.
    pub eval: EvalSettings,
    /// Texts generated during training.
    pub sample: SampleSettings,
    /// What is kept on disk.
    pub checkpoint: CheckpointSettings,
}

/// `[model]`: `preset = "tiny"`, or the keys of [`ModelConfig`], or a preset with some keys replaced. Empty: chosen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelSettings(toml::Table);

impl ModelSettings {
    pub(crate) fn table(&self) -> &toml::Table {
        &self.0
    }

    /// True when nothing is set, so that the model is to be chosen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Starts from a preset; keys set so far are dropped.
    pub fn set_preset(&mut self, name: &str) {
        self.0 = toml::Table::from_iter([("preset".to_owned(), toml::Value::from(name))]);
    }

    /// Width of the model, where it is said: by its key, or by a preset that exists.
    pub fn width(&self) -> Option<usize> {
        match self.0.get("d_model") {
            Some(value) => usize::try_from(value.as_integer()?).ok(),
            None => Some(ModelConfig::preset(self.0.get("preset")?.as_str()?, None).ok()?.d_model),
        }
    }

    /// Replaces the context length, whatever the rest is.
    pub fn set_context(&mut self, n_ctx: usize) {
        let value = i64::try_from(n_ctx).unwrap_or(i64::MAX);
        self.0.insert("n_ctx".to_owned(), toml::Value::Integer(value));
    }

    /// Replaces everything.
    ///
    /// # Errors
    /// A number that TOML cannot hold.
    pub fn set(&mut self, config: &ModelConfig) -> Result<()> {
        self.0 = toml::Table::try_from(config)
            .map_err(|e| TrainError::setting("model", "n_vocab", config.n_vocab, e.to_string()))?;
        Ok(())
    }
}

/// `[data]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataSettings {
    /// Files, folders and patterns of text, for the caller to turn into shards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<PathBuf>,
    /// A folder of token shards.
    pub shards: Option<PathBuf>,
    /// Tokenizer of the shards.
    pub tokenizer: Option<PathBuf>,
    /// Size of a vocabulary trained by the caller.
    pub vocab: Option<usize>,
    /// Share of the documents held out, for shards written by the caller.
    pub held_out: Option<f64>,
}

/// Type of weights and activations. Master weights, moments, statistics and loss are always `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits with the exponent range of `f32`.
    Bf16,
}

/// `[run]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunSettings {
    /// Of initialisation, data order and samples.
    pub seed: u64,
    /// Type of weights and activations.
    pub dtype: Dtype,
    /// What the backward computes again instead of keeping it; as little as memory allows if left out. Every level gives
    /// the same bits.
    pub recompute: Option<Recompute>,
    /// A model folder to start from instead of random weights.
    pub init: Option<PathBuf>,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self { seed: 0, dtype: Dtype::Bf16, recompute: None, init: None }
    }
}

/// `[budget]`: one of `steps`, `tokens`, `minutes`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BudgetSettings {
    /// Optimizer steps.
    pub steps: Option<u64>,
    /// Tokens; rounded up to whole steps.
    pub tokens: Option<u64>,
    /// Minutes; the number of steps follows from a measurement before the first step and is fixed then.
    pub minutes: Option<f64>,
    /// Written by a run: the minutes that `steps` was chosen for.
    pub chosen_for_minutes: Option<f64>,
}

/// `[batch]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchSettings {
    /// Rows of one forward and backward pass.
    pub micro_batch: Option<usize>,
    /// Tokens of one optimizer step: a multiple of `micro_batch * n_ctx`.
    pub batch_tokens: Option<u64>,
    /// Tokens of the first step, if the batch grows: a multiple of `micro_batch * n_ctx`.
    pub ramp_start_tokens: Option<u64>,
    /// Tokens over which the batch grows.
    pub ramp_tokens: Option<u64>,
}

/// `[optimizer]`: AdamW (Loshchilov and Hutter 2019) with GPT-3's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerSettings {
    /// Highest learning rate.
    pub lr: Option<f64>,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, on matrices and embedding tables only.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; larger gradients are scaled down to it.
    pub clip: f64,
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self { lr: None, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 }
    }
}

/// Name of a learning-rate schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Warm-up, half a cosine, constant floor.
    Cosine,
    /// Warm-up, constant, fall at the end.
    WarmupStableDecay,
    /// Warm-up, constant.
    Constant,
}

/// `[schedule]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleSettings {
    /// Which one.
    pub kind: ScheduleKind,
    /// Lowest rate after the peak, as a share of the peak.
    pub min_lr_ratio: f64,
    /// Linear warm-up over the tokens of this many steps.
    pub warmup_steps: Option<u64>,
    /// Linear warm-up over this many tokens.
    pub warmup_tokens: Option<u64>,
    /// Tokens at which a cosine reaches its floor; the end of the run if left out.
    pub decay_tokens: Option<u64>,
    /// Last share of the run's tokens over which a warm-up-stable-decay schedule falls; 0.2 if left out.
    pub decay_share: Option<f64>,
    /// Shape of that fall; `linear` if left out.
    pub decay_curve: Option<DecayCurve>,
}

impl Default for ScheduleSettings {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Cosine,
            min_lr_ratio: 0.1,
            warmup_steps: None,
            warmup_tokens: None,
            decay_tokens: None,
            decay_share: None,
            decay_curve: None,
        }
    }
}

/// `[eval]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvalSettings {
    /// Steps between evaluations; there is always one before the first and one after the last step. 0: only these.
    pub every: Option<u64>,
    /// Held-out rows, always the same ones, spread over the held-out text. 0: no evaluation.
    pub rows: u64,
}

impl Default for EvalSettings {
    fn default() -> Self {
        Self { every: None, rows: 64 }
    }
}

/// `[sample]`. What is generated is up to the caller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SampleSettings {
    /// Steps between samples; there is always one after the last step. 0: never any.
    pub every: Option<u64>,
    /// How the texts begin.
    pub prompt: Option<String>,
    /// How long they get.
    pub max_tokens: usize,
}

impl Default for SampleSettings {
    fn default() -> Self {
        Self { every: None, prompt: None, max_tokens: 80 }
    }
}

/// How a checkpoint is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// Copied to host memory between two steps and written while training goes on.
    Background,
    /// Written between two steps, holding one tensor at a time in addition.
    Blocking,
}

/// `[checkpoint]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointSettings {
    /// Steps between checkpoints; there is always one after the last step. 0: by time only.
    pub every_steps: Option<u64>,
    /// Minutes between checkpoints.
    pub every_minutes: f64,
    /// How many of the newest are kept, beside the one with the lowest held-out loss.
    pub keep_last: usize,
    /// How they are written; in the background if memory allows and nothing is said.
    pub write: Option<WriteMode>,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every_steps: None, every_minutes: 10.0, keep_last: 2, write: None }
    }
}

//! Arguments of training.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::TextArgs;
use crate::units;

/// Type of weights and activations. Master weights, moments, statistics and loss are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 16 bits, half the memory traffic
    Bf16,
    /// 32 bits
    F32,
}

#[derive(Debug, Args)]
pub struct QuickstartArgs {
    /// Run folder [default: runs/quickstart, or with a number behind it if that is taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Minutes to train
    #[arg(long, value_name = "MINUTES", default_value = "2", value_parser = units::positive)]
    pub minutes: f64,
    /// Prompt of the final text
    #[arg(long, value_name = "TEXT", default_value = "The ")]
    pub prompt: String,
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    pub text: TextArgs,
    /// Run folder; must be empty or absent unless --resume [default with --config NAME.toml: runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Settings as TOML; flags given here win over the file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on from the newest sound checkpoint in the run folder
    #[arg(long)]
    pub resume: bool,
    /// Train twice for --steps steps, once without and once with a stop and a resume in the middle, and compare every bit
    #[arg(long, conflicts_with = "resume")]
    pub verify_resume: bool,
    /// Train for about this long; the number of steps follows from a short measurement
    #[arg(long, value_name = "MINUTES", value_parser = units::positive, conflicts_with_all = ["steps", "tokens"])]
    pub minutes: Option<f64>,
    /// Train for this many optimizer steps
    #[arg(long, value_name = "N", value_parser = units::steps, conflicts_with = "tokens")]
    pub steps: Option<u64>,
    /// Train on this many tokens, such as 20M
    #[arg(long, value_name = "TOKENS", value_parser = units::count)]
    pub tokens: Option<u64>,
    /// Model size by name: nano, tiny, mini, small-cpu, gpt2, gpt3-125m ... [default: chosen for the machine, text and time]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Existing token shards, instead of text
    #[arg(long, value_name = "DIR", conflicts_with = "text")]
    pub shards: Option<PathBuf>,
    /// Existing tokenizer [default: one is trained on the text]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens in a vocabulary trained here [default: chosen by the amount of text]
    #[arg(long, value_name = "N", value_parser = units::vocabulary)]
    pub vocab: Option<usize>,
    /// Share of the documents held out for evaluation
    #[arg(long, value_name = "SHARE", value_parser = units::share)]
    pub held_out: Option<f64>,
    /// Start from this model, a folder or a GGUF file, instead of random weights
    #[arg(long, value_name = "MODEL")]
    pub init: Option<PathBuf>,
    /// Seed of initialisation, data order and samples
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Type of weights and activations [default: bf16]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Peak learning rate
    #[arg(long, value_name = "RATE", value_parser = units::positive)]
    pub lr: Option<f64>,
    /// Tokens in one optimizer step, such as 16k
    #[arg(long, value_name = "TOKENS", value_parser = units::count)]
    pub batch_tokens: Option<u64>,
    /// Rows of one forward and backward pass; more are accumulated to --batch-tokens
    #[arg(long, value_name = "ROWS", value_parser = units::small_count)]
    pub micro_batch: Option<usize>,
    /// Context length in tokens [default: the preset's]
    #[arg(long, value_name = "TOKENS", value_parser = units::small_count)]
    pub context: Option<usize>,
    /// Evaluate on held-out text every N steps
    #[arg(long, value_name = "N", value_parser = units::steps)]
    pub eval_every: Option<u64>,
    /// Generate samples every N steps
    #[arg(long, value_name = "N", value_parser = units::steps)]
    pub sample_every: Option<u64>,
    /// Prompt of the samples
    #[arg(long, value_name = "TEXT")]
    pub sample_prompt: Option<String>,
    /// Write a checkpoint every N steps
    #[arg(long, value_name = "N", value_parser = units::steps)]
    pub checkpoint_every: Option<u64>,
    /// Plain lines instead of a live display
    #[arg(long)]
    pub plain: bool,
}

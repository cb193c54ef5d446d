//! Arguments of generation.

use std::path::PathBuf;

use clap::Args;

use super::Dtype;
use crate::units;

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Model: a run folder or a model folder (config.json, model.safetensors, tokenizer.json)
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Text to go on from
    #[arg(required_unless_present = "prompts", conflicts_with = "prompts")]
    pub prompt: Option<String>,
    /// JSON lines to answer as one batch: {"prompt": "...", "max_tokens": 100, "temperature": 0.8, "seed": 1, ...}
    #[arg(long, value_name = "FILE", requires = "out")]
    pub prompts: Option<PathBuf>,
    /// Where the answers to --prompts go, one JSON line each, in order
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub out: Option<PathBuf>,
    /// Most new tokens
    #[arg(short = 'n', long, value_name = "N", default_value = "200", value_parser = units::small_count)]
    pub max_tokens: usize,
    /// 0 always takes the likeliest token; 1 samples from the model's own distribution
    #[arg(long, value_name = "T", default_value = "0.8", value_parser = units::temperature)]
    pub temperature: f32,
    /// Sample from the N likeliest tokens only; 0 for all
    #[arg(long, value_name = "N", default_value = "0")]
    pub top_k: usize,
    /// Sample from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value = "1", value_parser = units::probability)]
    pub top_p: f32,
    /// Sample from tokens at least this likely relative to the likeliest
    #[arg(long, value_name = "P", default_value = "0", value_parser = units::probability_or_zero)]
    pub min_p: f32,
    /// Above 1 makes tokens that already occur less likely
    #[arg(long, value_name = "R", default_value = "1", value_parser = units::positive_f32)]
    pub repetition_penalty: f32,
    /// Taken off a token's logit once it has been generated
    #[arg(long, value_name = "X", default_value = "0", allow_negative_numbers = true, value_parser = units::penalty)]
    pub presence_penalty: f32,
    /// Taken off a token's logit for each time it has been generated
    #[arg(long, value_name = "X", default_value = "0", allow_negative_numbers = true, value_parser = units::penalty)]
    pub frequency_penalty: f32,
    /// Added to one token's logit; may be given several times
    #[arg(long, value_name = "ID=BIAS", allow_hyphen_values = true, value_parser = units::logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// The same seed gives the same text [default: drawn and shown]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Show each token's log-probability and the N likeliest alternatives instead of streaming text
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0")]
    pub logprobs: Option<usize>,
    /// Go on past the end-of-text token
    #[arg(long)]
    pub ignore_eos: bool,
    /// Sequences decoded together with --prompts
    #[arg(long, value_name = "N", default_value = "16", value_parser = units::small_count)]
    pub batch: usize,
    /// Type of weights and activations [default: the model's own]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
}

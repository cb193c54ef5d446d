//! Arguments of generation and chat.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use verve_engine::{BeamSearch, EarlyStopping};
use verve_ops::KvFormat;
use verve_ops::quant::ActivationPrecision;

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
    /// JSON lines to answer as one batch: {"prompt": "...", "max_tokens": 100, "temperature": 0.8, "seed": 1, ...}. What a
    /// line leaves out is as the flags say. Only in lines: "n" and "best_of" (several answers), "prompt_logprobs",
    /// "embed": "mean" or "last" (a vector instead of an answer), "json_schema": {...} or true, "regex", "priority"
    #[arg(long, value_name = "FILE", requires = "out")]
    pub prompts: Option<PathBuf>,
    /// Where the answers to --prompts go, one JSON line each, in order. After an interrupt the same command goes on with
    /// those that are missing
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub beams: BeamArgs,
    /// Show each token's log-probability and the N likeliest alternatives instead of streaming text
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0")]
    pub logprobs: Option<usize>,
    #[command(flatten)]
    pub rule: RuleArgs,
    #[command(flatten)]
    pub guess: GuessArgs,
    /// Sequences decoded together with --prompts
    #[arg(long, value_name = "N", default_value = "16", value_parser = units::small_count)]
    pub batch: usize,
    /// Type of weights and activations [default: the model's own]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    #[command(flatten)]
    pub precision: PrecisionArgs,
}

/// Searching for the likeliest answers.
#[derive(Debug, Clone, Args)]
pub struct BeamArgs {
    /// Search for the likeliest answer, following the N likeliest beginnings, instead of drawing one: no temperature, no
    /// filters, no seed. It is shown when the search is over
    #[arg(long, value_name = "N", value_parser = units::small_count, conflicts_with_all = [
        "temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "mirostat_tau", "seed",
    ])]
    pub beams: Option<usize>,
    /// With --beams: likelihoods are divided by the answer's length to this power; above 0 favours long answers
    #[arg(long, value_name = "X", default_value = "1", allow_negative_numbers = true, requires = "beams")]
    pub length_penalty: f64,
    /// With --beams: when the search ends, once N answers are complete
    #[arg(long, value_enum, default_value = "heuristic", requires = "beams")]
    pub early_stopping: EarlyStop,
    /// With --beams: show the K best answers
    #[arg(long = "n", value_name = "K", default_value = "1", value_parser = units::small_count, requires = "beams")]
    pub n: usize,
}

impl BeamArgs {
    /// As the engine has it.
    pub fn search(&self) -> Option<BeamSearch> {
        let early_stopping = match self.early_stopping {
            EarlyStop::Heuristic => EarlyStopping::Heuristic,
            EarlyStop::Full => EarlyStopping::Full,
            EarlyStop::Never => EarlyStopping::Never,
        };
        let length_penalty = self.length_penalty;
        self.beams.map(|width| BeamSearch { width, length_penalty, early_stopping })
    }
}

/// When a beam search ends.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum EarlyStop {
    /// When the best beginning, if it ended as it is, would be no better than the worst complete answer
    Heuristic,
    /// At once
    Full,
    /// When no beginning could become better at any length
    Never,
}

/// What answers must look like. They are complete before --max-tokens are reached.
#[derive(Debug, Clone, Args)]
pub struct RuleArgs {
    /// Answer with a JSON object
    #[arg(long, group = "rule")]
    pub json: bool,
    /// Answer with JSON that this schema accepts
    #[arg(long, value_name = "FILE", group = "rule")]
    pub json_schema: Option<PathBuf>,
    /// Answer with text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX", group = "rule")]
    pub regex: Option<String>,
    /// Answer with text of this grammar (Lark's syntax)
    #[arg(long, value_name = "FILE", group = "rule")]
    pub grammar: Option<PathBuf>,
}

/// Guessing tokens ahead, to check several in one step. It changes no answer, only when it comes.
#[derive(Debug, Clone, Args)]
pub struct GuessArgs {
    /// Guess what followed the last words before: faster where answers quote their prompt or repeat themselves
    #[arg(long, conflicts_with = "draft_model")]
    pub prompt_lookup: bool,
    /// Guess with a smaller model that has the same tokenizer
    #[arg(long, value_name = "MODEL")]
    pub draft_model: Option<PathBuf>,
    /// Most tokens guessed at a time
    #[arg(long, value_name = "N", default_value = "7", value_parser = units::small_count)]
    pub guesses: usize,
}

/// What is rounded where a model is computed, beside what its file has rounded.
#[derive(Debug, Clone, Copy, Args)]
pub struct PrecisionArgs {
    /// What activations are in products with quantised weights. Either way an answer is the same bytes in every batch and
    /// with any number of threads
    #[arg(long, value_enum, default_value = "int16")]
    activations: Activations,
    /// What the keys and values of past tokens are kept as; the same holds [default: f16 where weights are quantised and
    /// activations f32, else as-is]
    #[arg(long, value_enum)]
    kv_cache: Option<KvCacheFormat>,
}

/// What is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Activations in products with quantised weights.
    pub activations: ActivationPrecision,
    /// Keys and values in the cache; `None` as [`kv_format`](crate::device::kv_format) says.
    pub kv: Option<KvFormat>,
}

impl Precision {
    /// Nothing.
    pub fn exact() -> Self {
        Self { activations: ActivationPrecision::Exact, kv: Some(KvFormat::Elem) }
    }
}

impl PrecisionArgs {
    /// As weights and cache are made for it.
    pub fn precision(self) -> Precision {
        let activations = match self.activations {
            Activations::Int8 => ActivationPrecision::Int8,
            Activations::Int16 => ActivationPrecision::Int16,
            Activations::F32 => ActivationPrecision::Exact,
        };
        let kv = self.kv_cache.map(|format| match format {
            KvCacheFormat::AsIs => KvFormat::Elem,
            KvCacheFormat::F16 => KvFormat::F16,
            KvCacheFormat::Int8 => KvFormat::Int8,
        });
        Precision { activations, kv }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Activations {
    /// Rounded to 8 bits: fastest where prompts are long, with an error like that of q8_0 weights
    Int8,
    /// Rounded to 16 bits: fast, and the likeliest token stays the likeliest but for ties
    Int16,
    /// Not rounded: the exact products of the weights in the file, slowest
    F32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KvCacheFormat {
    /// As activations are: nothing is lost
    AsIs,
    /// In half precision: half the memory of f32
    F16,
    /// 8-bit integers with a scale for each head of a token: about a quarter of the memory of f32
    Int8,
}

/// How tokens are chosen and when an answer ends.
#[derive(Debug, Clone, Args)]
pub struct SamplingArgs {
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
    /// Sample from the tokens whose surprise is nearest to the expected one, that together have this probability (locally
    /// typical)
    #[arg(long, value_name = "P", default_value = "1", value_parser = units::probability)]
    pub typical_p: f32,
    /// Sample from logits within N standard deviations of the greatest; 0 for all
    #[arg(long, value_name = "N", default_value = "0", value_parser = units::from_0_to_100)]
    pub top_n_sigma: f32,
    /// Keep the surprise near so many bits a token, in place of all --top-, --min- and --typical-p (mirostat 2); 0 for off
    #[arg(long, value_name = "BITS", default_value = "0", value_parser = units::from_0_to_100)]
    pub mirostat_tau: f32,
    /// How fast mirostat follows its aim
    #[arg(long, value_name = "X", default_value = "0.1", value_parser = units::probability_or_zero)]
    pub mirostat_eta: f32,
    /// Taken off the logits of tokens that go on with a repetition (DRY); 0 for off, 0.8 is usual
    #[arg(long, value_name = "X", default_value = "0", value_parser = units::from_0_to_100)]
    pub dry_multiplier: f32,
    /// The DRY penalty grows by this factor with each token of the repetition
    #[arg(long, value_name = "X", default_value = "1.75", value_parser = units::from_1_to_100)]
    pub dry_base: f32,
    /// Tokens of a repetition from which on DRY acts
    #[arg(long, value_name = "N", default_value = "2", value_parser = units::small_count)]
    pub dry_allowed_length: usize,
    /// Repetitions do not go across this text; may be given several times [default: line break, ":", quotation mark, "*"]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub dry_breaker: Vec<String>,
    /// Last tokens of prompt and answer that DRY looks at; 0 for all
    #[arg(long, value_name = "N", default_value = "0")]
    pub dry_range: usize,
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
    /// Go on past the end-of-text token
    #[arg(long)]
    pub ignore_eos: bool,
}

#[derive(Debug, Args)]
#[command(mut_arg("max_tokens", |arg| arg.default_value("1024")))]
#[command(
    after_help = "In the chat:  /help /reset /system TEXT /save FILE /quit; a line that ends with \\ goes on in the next.\n\
    Ctrl-C stops an answer, a second one the program. Where standard input is no terminal, each line is a message."
)]
pub struct ChatArgs {
    /// Model: a folder, a GGUF file, a run, or a downloaded model's name (OWNER/NAME or NAME)
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Answer this message and end
    pub message: Option<String>,
    /// Instructions for the whole conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Chat template: a file, one of the model's own by name, or chatml, gemma, llama2, llama3, mistral, phi3, smollm2,
    /// zephyr [default: the model's]
    #[arg(long, value_name = "NAME|FILE")]
    pub template: Option<String>,
    /// A variable for the template, such as enable_thinking=false; may be given several times
    #[arg(long, value_name = "NAME=JSON", value_parser = units::variable)]
    pub variable: Vec<(String, serde_json::Value)>,
    /// Print the exact text and ids that the model reads before each answer
    #[arg(long)]
    pub show_prompt: bool,
    /// With --show-prompt: do not answer, and do not read the weights
    #[arg(long, requires = "show_prompt")]
    pub no_answer: bool,
    /// Tokens of the whole conversation that there is room for [default: the model's, at most 4096]
    #[arg(long, value_name = "N", value_parser = units::small_count)]
    pub context: Option<usize>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Type of activations, and of weights that are not quantised [default: the model's own]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    #[command(flatten)]
    pub precision: PrecisionArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Environment:  HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, \
    HF_HUB_DOWNLOAD_TIMEOUT, SSL_CERT_FILE, HTTPS_PROXY")]
pub struct PullArgs {
    /// Model of a hub: OWNER/NAME or OWNER/NAME@REVISION
    #[arg(value_name = "OWNER/NAME[@REVISION]")]
    pub model: String,
    /// Only files that match, such as '*Q8_0.gguf'; may be given several times [default: configuration, tokenizer and the
    /// safetensors weights or one GGUF file]
    #[arg(long, value_name = "PATTERN")]
    pub file: Vec<String>,
    /// Write plain files into this folder [default: the cache that other programs of the hub share]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Show what would be downloaded, and end
    #[arg(long)]
    pub plan: bool,
}

//! The command line. Every flag's help says what it is, its unit and what happens without it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod generate;
mod keys;
mod models;
mod serve;
mod text;
mod train;

pub use generate::{
    BeamArgs, ChatArgs, GenerateArgs, GuessArgs, Precision, PrecisionArgs, PullArgs, RuleArgs, SamplingArgs,
};
pub use keys::{KeysAddArgs, KeysArgs, KeysCommand};
pub use models::{Format, InspectArgs, QuantizeArgs, WeightType};
pub use serve::{ServeArgs, ServeSettings};
pub use text::{Documents, InvalidText, TextArgs};
pub use train::{Dtype, QuickstartArgs, TrainArgs};

use crate::device::DeviceChoice;
use crate::units;

/// Train a GPT on your own text and generate from it.
#[derive(Debug, Parser)]
#[command(name = "verve", version = crate::VERSION, about, propagate_version = true)]
#[command(after_help = "Start here:  verve quickstart\nExit codes:  0 done, 1 failed, 2 wrong usage")]
pub struct Verve {
    #[command(flatten)]
    pub machine: MachineArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// What the program may use of the machine.
#[derive(Debug, Clone, Args)]
pub struct MachineArgs {
    /// What to compute on: cpu, cuda (the first NVIDIA GPU) or cuda:N
    #[arg(long, global = true, value_name = "DEVICE", default_value = "cpu", value_parser = units::device)]
    pub device: DeviceChoice,
    /// Threads to compute with [default: all cores this process may use]
    #[arg(long, global = true, value_name = "N", value_parser = units::threads)]
    pub threads: Option<usize>,
    /// SIMD level: portable, avx2, avx512 or avx512-nobf16 [default: the best this CPU has; also VERVE_SIMD]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub simd: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a small GPT on text found on this machine for about two minutes, then generate from it
    Quickstart(QuickstartArgs),
    /// Train a model: raw text in, model out
    Train(Box<TrainArgs>),
    /// Generate text from a model
    Generate(GenerateArgs),
    /// Converse with a model in the terminal, with the model's own chat template
    Chat(ChatArgs),
    /// Download a model from a hub: resumed, checked, and kept where other programs look
    Pull(PullArgs),
    /// Write a model in another format or with smaller weights: GGUF file or Hugging Face folder, from either
    Quantize(QuantizeArgs),
    /// Describe a model: architecture, sizes, tokenizer, chat template, memory, problems
    Inspect(InspectArgs),
    /// Train, use and look into tokenizers
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
    /// Turn text into token shards
    Shard(ShardArgs),
    /// Plan a training run: memory by purpose, FLOPs and time on described hardware
    Plan(PlanArgs),
    /// Measure this machine's ceilings and how near to them verve runs
    Bench(BenchArgs),
    /// Serve models over HTTP: the OpenAI API, and a page to try them
    Serve(Box<ServeArgs>),
    /// Make, list and revoke the API keys of a server
    Keys(KeysArgs),
    /// Say what was found on this machine and what would fix what was not
    Doctor,
    /// Write a run's curves, samples and settings as one HTML page
    Report(ReportArgs),
}

#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Train a byte-level BPE vocabulary on text
    Train(TokenizerTrainArgs),
    /// Print the token ids of a text file
    Encode(TokenizerEncodeArgs),
    /// Print the text of token ids (separated by white space or commas)
    Decode(TokenizerDecodeArgs),
    /// Describe a tokenizer: kind of model, sizes, special tokens, hash
    Inspect(TokenizerInspectArgs),
}

#[derive(Debug, Args)]
pub struct TokenizerTrainArgs {
    #[command(flatten)]
    pub text: TextArgs,
    /// Tokens in the vocabulary, at least 257 (256 bytes and the end-of-text token)
    #[arg(long, value_name = "N", default_value = "8192", value_parser = units::vocabulary)]
    pub vocab: usize,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct TokenizerEncodeArgs {
    /// tokenizer.json, a SentencePiece .model file, vocab.json (with merges.txt beside it), a .tiktoken file, or a folder with
    /// one of them
    #[arg(long, value_name = "FILE")]
    pub tokenizer: PathBuf,
    /// UTF-8 text file; - for standard input
    pub text: PathBuf,
    /// Let special tokens such as <|endoftext|> in the text become their ids
    #[arg(long)]
    pub special: bool,
    /// Print each token's id and text, one a line
    #[arg(long)]
    pub pieces: bool,
}

#[derive(Debug, Args)]
pub struct TokenizerDecodeArgs {
    /// As for encode
    #[arg(long, value_name = "FILE")]
    pub tokenizer: PathBuf,
    /// File of ids; - for standard input
    pub ids: PathBuf,
}

#[derive(Debug, Args)]
pub struct TokenizerInspectArgs {
    /// As for encode
    pub tokenizer: PathBuf,
}

#[derive(Debug, Args)]
pub struct ShardArgs {
    #[command(flatten)]
    pub text: TextArgs,
    /// Tokenizer to encode with
    #[arg(long, value_name = "FILE")]
    pub tokenizer: PathBuf,
    /// Folder to write; must be empty or absent
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Tokens in one shard file, such as 100M
    #[arg(long, value_name = "TOKENS", default_value = "100M", value_parser = units::count)]
    pub shard_tokens: u64,
    /// Share of the documents held out for evaluation
    #[arg(long, value_name = "SHARE", default_value = "0.01", value_parser = units::share)]
    pub held_out: f64,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Model size, such as gpt3-125m ... gpt3-175b, gpt2, mini
    #[arg(long, value_name = "NAME", default_value = "gpt3-125m")]
    pub preset: String,
    /// Tokens in one optimizer step, such as 0.5M [default: the paper's for GPT-3 sizes]
    #[arg(long, value_name = "TOKENS", value_parser = units::count)]
    pub batch_tokens: Option<u64>,
    /// Tokens to train on, such as 300B [default: 300B for GPT-3 sizes, else 20 a parameter]
    #[arg(long, value_name = "TOKENS", value_parser = units::count)]
    pub tokens: Option<u64>,
    /// Hardware, such as 8x80GB; without it this machine
    #[arg(long, value_name = "COUNTxMEMORY")]
    pub devices: Option<String>,
    /// Peak of one device, TFLOP/s in the compute type [default: 989 for described devices, measured for this machine]
    #[arg(long, value_name = "TFLOPS", value_parser = units::positive)]
    pub peak: Option<f64>,
    /// Share of the peak that the run is assumed to reach
    #[arg(long, value_name = "SHARE", default_value = "0.4", value_parser = units::share)]
    pub utilisation: f64,
    /// Tokens in the vocabulary, for presets that leave it open
    #[arg(long, value_name = "N", value_parser = units::vocabulary)]
    pub vocab: Option<usize>,
    /// Print one line of JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Jobs of `verve bench`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchJob {
    /// Peak arithmetic and memory bandwidth
    Ceilings,
    /// GPT-2 small, 124M parameters, batch 4 x 512
    #[value(name = "train-124m")]
    Train124m,
    /// 6 layers, width 384, vocabulary 50,257, batch 8 x 256
    #[value(name = "train-30m")]
    Train30m,
    /// 6 layers, width 384, vocabulary 512, batch 16 x 256
    #[value(name = "train-10m")]
    Train10m,
    /// GPT-2 small, 32 x 1024, 16 times a step: for a GPU, and only if asked for
    #[value(name = "train-gpt2")]
    TrainGpt2,
    /// GPT-3's 1.3B, 8 x 2048, 8 times a step: for a GPU, and only if asked for
    #[value(name = "train-1.3b")]
    Train1300m,
    /// One sequence from a 124M model in bf16
    #[value(name = "decode-124m")]
    Decode124m,
    /// Encoding with a vocabulary of 50,257, one thread
    #[value(name = "encode-gpt2")]
    EncodeGpt2,
    /// Training a vocabulary of 8,192
    #[value(name = "bpe-train")]
    BpeTrain,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Run only this job; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    pub job: Vec<BenchJob>,
    /// Measure this model instead: load to first token, prefill, decoding one and 16 sequences, what cached prompts save
    #[arg(long, value_name = "MODEL", conflicts_with = "job")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// Print one line of JSON a job
    #[arg(long)]
    pub json: bool,
    /// Compute type of the training jobs
    #[arg(long, value_enum, default_value = "bf16")]
    pub dtype: Dtype,
    /// Timed steps of each training job
    #[arg(long, value_name = "N", default_value = "5", value_parser = units::small_count)]
    pub steps: usize,
    /// Text file for the tokenizer jobs [default: the text that quickstart uses]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Tokenizer for encode-gpt2, such as GPT-2's [default: one trained on the text first]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run folder
    pub run: PathBuf,
    /// Page to write [default: report.html in the run folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

//! Arguments of `verve quantize` and `verve inspect`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(
    after_help = "Types:  q4 is q4_k where rows of weights are a multiple of 256, else q4_0. Vectors stay f32; the head of \
    4- and 6-bit files is q6_k or q8_0.\nCheck:  what was written is read again and compared number by number, then \
    logits on a fixed text with those of MODEL; a file that fails is not kept.\n\nExample:  verve quantize runs/mine \
    --to q4 --out mine-q4.gguf"
)]
pub struct QuantizeArgs {
    /// Model: a folder, a GGUF file, a run, or a downloaded model's name (OWNER/NAME or NAME)
    pub model: PathBuf,
    /// Type of the weights
    #[arg(long, value_name = "TYPE", value_enum)]
    pub to: WeightType,
    /// File or folder to write; must not exist
    #[arg(long, value_name = "FILE.gguf|DIR")]
    pub out: PathBuf,
    /// Format to write; a Hugging Face folder holds f32, f16 and bf16 only [default: gguf if --out ends in .gguf, else hf]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Do not compare logits (numbers are always compared)
    #[arg(long)]
    pub no_check: bool,
}

/// Types of weights that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightType {
    /// The best 4-bit type that the rows allow
    Q4,
    /// 4 bits, a scale for 32
    #[value(name = "q4_0")]
    Q4_0,
    /// 8 bits, a scale for 32
    #[value(name = "q8_0", alias = "q8")]
    Q8_0,
    /// 4 bits, scales and offsets, some tensors q6_k (llama.cpp's Q4_K_M)
    #[value(name = "q4_k", alias = "q4_k_m")]
    Q4K,
    /// 6 bits, scales
    #[value(name = "q6_k")]
    Q6K,
    /// Half precision
    F16,
    /// Half the bytes, the range of f32
    Bf16,
    /// Exact
    F32,
}

/// Formats that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One GGUF file
    Gguf,
    /// A folder in the Hugging Face layout
    Hf,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Model: a folder, a GGUF file, a run, or a downloaded model's name (OWNER/NAME or NAME)
    pub model: PathBuf,
    /// Read all weights and look for numbers that are none
    #[arg(long)]
    pub check_values: bool,
    /// Print all metadata of a GGUF file too
    #[arg(long)]
    pub metadata: bool,
}

//! Arguments about input text.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Where a document begins and ends in a plain text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Documents {
    /// One document a file
    PerFile,
    /// Blank lines part documents
    BlankLine,
    /// One document a line
    PerLine,
}

/// What to do with a file that is binary or not valid UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InvalidText {
    /// Stop and name the file
    Error,
    /// Leave the file out and count it
    Skip,
    /// Replace what is not UTF-8 and count it
    Replace,
}

#[derive(Debug, Clone, Args)]
pub struct TextArgs {
    /// Text: files, folders (searched for .txt .md .jsonl, each also .gz or .zst) or glob patterns
    #[arg(value_name = "TEXT")]
    pub text: Vec<PathBuf>,
    /// What a document is in .txt and .md files
    #[arg(long, value_enum, default_value = "per-file")]
    pub documents: Documents,
    /// A line that parts documents in .txt and .md files, instead of --documents
    #[arg(long, value_name = "LINE", conflicts_with = "documents")]
    pub delimiter: Option<String>,
    /// Field of a .jsonl line that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub field: String,
    /// What to do with binary files and invalid UTF-8
    #[arg(long, value_enum, default_value = "error")]
    pub invalid_text: InvalidText,
    /// Read files with this ending as plain text too, such as rs; may be given several times
    #[arg(long, value_name = "ENDING")]
    pub also: Vec<String>,
}

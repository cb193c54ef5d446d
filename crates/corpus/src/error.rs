//! What can go wrong between raw text and shards, in words for the person who has to fix it.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of reading text and writing shards.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {}", path.display(), explain(source))]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's, or the decompressor's, answer.
        source: io::Error,
    },
    /// Not one input was given.
    #[error("no input was given: name a file, a folder or a pattern such as 'texts/*.txt'")]
    NoInput,
    /// A pattern that cannot be understood.
    #[error("the pattern {pattern:?} cannot be used: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        problem: String,
    },
    /// A pattern that matches nothing.
    #[error("nothing matches the pattern {pattern:?}")]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
    /// No file with text was found.
    #[error("no text found in {inputs}: looked for files ending in {looked_for}; found {found}")]
    NoFiles {
        /// The inputs as given.
        inputs: String,
        /// Endings that are read.
        looked_for: String,
        /// What was there instead.
        found: String,
    },
    /// A file that was named has an ending that says nothing about how to read it.
    #[error("{}: don't know how to read files ending in {ending:?}; known endings are {known}", path.display())]
    UnknownEnding {
        /// The file.
        path: PathBuf,
        /// Its ending.
        ending: String,
        /// Endings that are read.
        known: String,
    },
    /// Bytes that are not UTF-8.
    #[error(
        "{}: not valid UTF-8 at byte {offset} (found {found}): convert the file to UTF-8, or ask for invalid text to be \
         skipped or replaced",
        path.display()
    )]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// Where the first invalid byte is, counted from zero, after decompression.
        offset: u64,
        /// The bytes found there, in hexadecimal.
        found: String,
    },
    /// A file that is not text.
    #[error("{}: not text: {problem} at byte {offset}; remove the file, or ask for invalid text to be skipped", path.display())]
    Binary {
        /// The file.
        path: PathBuf,
        /// Where the first telling byte is, counted from zero, after decompression.
        offset: u64,
        /// What gives it away.
        problem: String,
    },
    /// A line of a `.jsonl` file that does not hold a document.
    #[error("{}:{line}: {problem}", path.display())]
    JsonLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// All files together hold no text.
    #[error("the {files} files in {inputs} hold no text: all are empty or blank")]
    NoText {
        /// The inputs as given.
        inputs: String,
        /// How many files were read.
        files: u64,
    },
    /// A setting that makes no sense.
    #[error("{field}: {problem}")]
    Options {
        /// Which setting.
        field: &'static str,
        /// Why it cannot be used, and what would do.
        problem: String,
    },
    /// The tokenizer has no token that ends a document.
    #[error("the tokenizer has no end-of-text token (such as <|endoftext|>), which must stand between documents")]
    NoEndOfText,
    /// A worker thread could not be started.
    #[error("cannot start {threads} threads: {problem}; use fewer")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The system's answer.
        problem: String,
    },
    /// The caller stopped the job.
    #[error("stopped on request; nothing was left behind")]
    Stopped,
    /// Writing shards failed.
    #[error(transparent)]
    Shard(#[from] verve_shard::Error),
}

impl Error {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::UnexpectedEof => format!("the compressed file is cut off ({error})"),
        _ => error.to_string(),
    }
}

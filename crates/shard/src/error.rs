//! What can go wrong with shards, in words for the person who has to fix it.

use std::io;
use std::path::{Path, PathBuf};

use crate::format::Split;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of reading and writing shards.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {doing} {}: {}", path.display(), explain(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as a verb: "write", "open", ...
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The folder to write into already holds something.
    #[error(
        "the output folder {} is not empty (it holds {found}): choose another folder, or ask for its shards to be replaced",
        path.display()
    )]
    FolderNotEmpty {
        /// The folder.
        path: PathBuf,
        /// Name of one thing in it.
        found: String,
    },
    /// The writer's settings make no sense.
    #[error("shard setting {field}: {problem}")]
    Options {
        /// Which setting.
        field: &'static str,
        /// Why it cannot be used, and what would do.
        problem: String,
    },
    /// The file does not start as a shard does.
    #[error("{} is not a verve shard: {problem}", path.display())]
    NotAShard {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        problem: String,
    },
    /// The file was written by another version of the format.
    #[error(
        "{} has shard format version {found}, this program reads version {expected}: write the shards again from the text",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Version this program reads.
        expected: u32,
    },
    /// The file is shorter or longer than its header says.
    #[error(
        "{} is damaged: it has {found} bytes where its header calls for {expected}; copy it again or write the shards again",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes the header calls for.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A header field is missing, malformed or contradicts another.
    #[error("{} is damaged: {problem}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Which field, found and expected.
        problem: String,
    },
    /// Stored and computed checksums differ.
    #[error(
        "{} is damaged: the checksum of its {part} does not match; copy it again or write the shards again",
        path.display()
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// "header" or "tokens and documents".
        part: &'static str,
    },
    /// The folder's `shards.json` is missing, unreadable or contradicts the files.
    #[error("{}: {problem}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Shards that do not belong together.
    #[error("{} and {} cannot be read together: {field} is {first} in one and {second} in the other", a.display(), b.display())]
    Mixed {
        /// One shard or folder.
        a: PathBuf,
        /// The other.
        b: PathBuf,
        /// What differs.
        field: &'static str,
        /// Its value in `a`.
        first: String,
        /// Its value in `b`.
        second: String,
    },
    /// The shards were written with another tokenizer than the one given.
    #[error(
        "the shards in {} were written with tokenizer {shards}, but the tokenizer given is {given}: use the tokenizer they \
         were written with, or write the shards again",
        path.display()
    )]
    OtherTokenizer {
        /// The folder.
        path: PathBuf,
        /// Hash and vocabulary size in the shards.
        shards: String,
        /// Hash and vocabulary size of the tokenizer given.
        given: String,
    },
    /// A token id that the vocabulary does not have.
    #[error("token id {id} at position {position} of {} is outside the vocabulary of {n_vocab}", path.display())]
    TokenOutOfRange {
        /// Shard file (when reading) or output folder (when writing).
        path: PathBuf,
        /// Token position in the shard, or in the document given to the writer.
        position: u64,
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// Not one row of the asked context fits into the sequence.
    #[error(
        "the {split} text has {found} tokens, but one row of context {n_ctx} needs {needed}: give more text or choose a context \
         of at most {largest}"
    )]
    TooFewTokens {
        /// Which sequence.
        split: Split,
        /// Tokens there are.
        found: u64,
        /// Tokens one row needs.
        needed: u64,
        /// Context asked for.
        n_ctx: usize,
        /// Largest context that would fit.
        largest: u64,
    },
    /// The data is not what a run's manifest recorded.
    #[error("the training data changed since the run began: {problem}; restore the shards, or start a new run")]
    DataChanged {
        /// Which shard, and how it differs.
        problem: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), doing, source }
    }

    pub(crate) fn header(path: &Path, problem: impl Into<String>) -> Self {
        Self::Header { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn manifest(path: &Path, problem: impl Into<String>) -> Self {
        Self::Manifest { path: path.to_owned(), problem: problem.into() }
    }
}

/// The system's words, and what to do where that is known.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => {
            "the disk is full; free some space or choose a folder on another disk, then run again \
             (nothing half-written was left behind)"
                .to_owned()
        }
        io::ErrorKind::QuotaExceeded => {
            "your disk quota is used up; free some space or choose another folder, then run again".to_owned()
        }
        io::ErrorKind::PermissionDenied => "permission denied; check who may read and write there".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another folder".to_owned(),
        io::ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        _ => error.to_string(),
    }
}

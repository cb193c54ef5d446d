//! What can go wrong, said so that a person can act on it.

use std::path::PathBuf;

/// Errors of this crate.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A folder without a tokenizer in it.
    #[error("{}: no tokenizer here; looked for tokenizer.json, tokenizer.model, spiece.model, vocab.json with merges.txt, and a .tiktoken file", path.display())]
    NotFound {
        /// The folder.
        path: PathBuf,
    },
    /// A file larger than any tokenizer is read from.
    #[error("{}: {bytes} bytes is too large for a tokenizer file (limit {limit})", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size read.
        limit: u64,
    },
    /// A file whose content is not what its format says.
    #[error("{origin}: {place}: {problem}")]
    Malformed {
        /// The file, or what the caller called the source.
        origin: String,
        /// Line, field or token.
        place: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A tokenizer that works in a way this crate does not reproduce.
    #[error("{origin}: {field} {found} is not supported; supported: {supported}")]
    Unsupported {
        /// The file, or what the caller called the source.
        origin: String,
        /// Which part of the tokenizer.
        field: String,
        /// What the file asks for.
        found: String,
        /// What would be accepted.
        supported: &'static str,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {n_vocab} ids")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Number of ids.
        n_vocab: usize,
    },
    /// An option with a value that cannot work.
    #[error("{option}: {problem}")]
    InvalidOption {
        /// Name of the option.
        option: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn malformed(origin: &str, place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { origin: origin.to_owned(), place: place.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(
        origin: &str,
        field: impl Into<String>,
        found: impl Into<String>,
        supported: &'static str,
    ) -> Self {
        Self::Unsupported { origin: origin.to_owned(), field: field.into(), found: found.into(), supported }
    }
}

//! What can go wrong with a template, with its files, or with what it is given.

use std::path::PathBuf;

/// Every failure of this crate that is not a bug.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The source is longer than [`crate::Limits::source_bytes`].
    #[error("the chat template has {found} bytes, at most {limit} are allowed")]
    SourceTooLong {
        /// Bytes of the source.
        found: usize,
        /// Most bytes.
        limit: usize,
    },
    /// The source is not a template.
    #[error("the chat template is malformed at line {line}: {message}")]
    Malformed {
        /// Line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The template refused these messages with `raise_exception`.
    #[error("the chat template refuses these messages (line {line}): {message}")]
    Refused {
        /// Line, counted from 1.
        line: usize,
        /// What the template says.
        message: String,
    },
    /// The template did something that cannot be done, such as adding a number to a text.
    #[error("the chat template failed at line {line}: {message}")]
    Failed {
        /// Line, counted from 1.
        line: usize,
        /// What went wrong.
        message: String,
    },
    /// The template ran for too long: it loops, or builds a text that is too large.
    #[error(
        "the chat template was stopped at line {line}: it takes more work than a template may (it loops, or builds too large a text)"
    )]
    TooMuchWork {
        /// Line, counted from 1.
        line: usize,
    },
    /// The rendered text is longer than [`crate::Limits::output_bytes`].
    #[error("the chat template was stopped: it wrote more than {limit} bytes")]
    OutputTooLong {
        /// Most bytes.
        limit: usize,
    },
    /// There is nothing to render.
    #[error("there are no messages")]
    NoMessages,
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what is expected.
        message: String,
    },
    /// A name that no template of the model has.
    #[error("the model has no chat template named {name:?}; it has: {}", known.join(", "))]
    UnknownName {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// Neither a file nor the name of a template.
    #[error(
        "{name}: no such file and no such template; built in: {}; the model's own: {}",
        builtin.join(", "),
        if own.is_empty() { "none".to_owned() } else { own.join(", ") }
    )]
    NoSuchTemplate {
        /// What was asked for.
        name: String,
        /// The built-in names.
        builtin: Vec<&'static str>,
        /// The model's own.
        own: Vec<String>,
    },
}

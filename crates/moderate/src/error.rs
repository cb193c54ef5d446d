//! What can be wrong with a chain, in words for the person who wrote it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a chain cannot be made, or a text's categories not be told.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModerationError {
    /// Two filters have one name.
    #[error("filter `{filter}`: there are two filters of this name")]
    SameName {
        /// The name.
        filter: String,
    },
    /// A name or reason code is empty or too long.
    #[error("filter `{filter}`: {field} must have 1 to 64 characters and no control characters")]
    Label {
        /// The filter's name.
        filter: String,
        /// Which field.
        field: &'static str,
    },
    /// It is not said what to look for, or twice.
    #[error("filter `{filter}`: expected one of words, patterns, builtin or service, found {}",
        if found.is_empty() { "none".to_string() } else { found.join(" and ") })]
    Source {
        /// The filter's name.
        filter: String,
        /// What is there.
        found: Vec<&'static str>,
    },
    /// A field that means nothing for this kind of filter.
    #[error("filter `{filter}`: {field} has no meaning here; it goes with {with}")]
    Field {
        /// The filter's name.
        filter: String,
        /// Which field.
        field: &'static str,
        /// What it goes with.
        with: &'static str,
    },
    /// A list is empty.
    #[error("filter `{filter}`: {what} hold nothing to look for")]
    Empty {
        /// The filter's name.
        filter: String,
        /// Which list.
        what: &'static str,
    },
    /// A list is too long.
    #[error("filter `{filter}`: {found} {what}, more than {most}")]
    TooMany {
        /// The filter's name.
        filter: String,
        /// How many.
        found: usize,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// A file cannot be read.
    #[error("filter `{filter}`: cannot read {}: {source}", path.display())]
    File {
        /// The filter's name.
        filter: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is too large.
    #[error("filter `{filter}`: {} has {found} bytes, more than {most}", path.display())]
    FileSize {
        /// The filter's name.
        filter: String,
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        found: u64,
        /// The most it may have.
        most: u64,
    },
    /// An entry cannot be used.
    #[error("filter `{filter}`: {place}: {why}")]
    Entry {
        /// The filter's name.
        filter: String,
        /// Where it stands: a file with its line, or the number in an inline list.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// All of a filter's entries together are too much.
    #[error("filter `{filter}`: all entries together are too large: {why}")]
    TooLarge {
        /// The filter's name.
        filter: String,
        /// What the library said.
        why: String,
    },
    /// A number is out of its range.
    #[error("filter `{filter}`: {field} is {found}; it must be from {low} to {high}")]
    Range {
        /// The filter's name.
        filter: String,
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// The least it may be.
        low: u64,
        /// The most it may be.
        high: u64,
    },
    /// A service cannot be used as described.
    #[error("filter `{filter}`: service: {why}")]
    Service {
        /// The filter's name.
        filter: String,
        /// What is wrong.
        why: String,
    },
    /// A service that must be asked did not answer.
    #[error("the moderation service of filter `{filter}` did not answer as expected: {why}")]
    Unavailable {
        /// The filter's name.
        filter: String,
        /// What happened.
        why: String,
    },
}

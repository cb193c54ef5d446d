//! What can go wrong, in words for the person who has to put it right.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why keys could not be read, written, added or revoked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AccessError {
    /// There is no file of keys.
    #[error("{}: there is no such file of keys; `verve keys add NAME` makes one", path.display())]
    Missing {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// Another process held the file all the time.
    #[error("{}: another process has the file of keys in use and did not let go within {} s", path.display(), waited.as_secs())]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long this process waited.
        waited: Duration,
    },
    /// The file is something else.
    #[error("{}: this is not a file of keys ({found}); nothing was changed. Name another file", path.display())]
    NotAKeyFile {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// The file was one of keys, and is damaged.
    #[error("{}: the file of keys is damaged ({detail}); restore it from a copy, or move it away and make new keys", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file was written by a later version.
    #[error("{}: the file of keys has format {found}; this version of verve knows formats up to {known}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u8,
        /// The latest format known here.
        known: u8,
    },
    /// The system refused to read or write.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, such as "create the file".
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The database could not read or write.
    #[error("{}: the database failed: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database said.
        source: Box<redb::Error>,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes for a new key: {0}")]
    Randomness(getrandom::Error),
    /// A key that is in force has the name already.
    #[error("there is a key named `{name}` already ({id}); revoke it first or choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// The key that has it.
        id: String,
    },
    /// The name cannot be one.
    #[error("`{}` cannot name a key: {why}", name.escape_debug())]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No key has this name or id.
    #[error("{}: no key is named `{wanted}` or has that id{}", path.display(), if *revoked { " (one of that name was revoked)" } else { "" })]
    NoSuchKey {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// Whether a revoked key had the name.
        revoked: bool,
    },
    /// A limit of 0 would refuse everything.
    #[error("a limit of 0 {what} would refuse everything; leave it out for no limit, or revoke the key")]
    ZeroLimit {
        /// What is limited, such as "requests per minute".
        what: &'static str,
    },
    /// A key without scopes could do nothing.
    #[error("a key needs at least one scope: {}", crate::Scope::names())]
    NoScope,
    /// No scope has this name.
    #[error("there is no scope `{found}`; scopes are {}", crate::Scope::names())]
    UnknownScope {
        /// What was given.
        found: String,
    },
    /// The key would have expired before it was made.
    #[error("the key would expire at once: the time given lies in the past")]
    PastExpiry,
}

/// Why a secret does not open the door. The difference is for logs; a client is told the same in each case unless it has
/// shown a secret that was good once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// No key has this secret.
    #[error("the API key is not known here")]
    Unknown,
    /// The key's time is over.
    #[error("the API key has expired")]
    Expired,
    /// The key was taken back.
    #[error("the API key was revoked")]
    Revoked,
}

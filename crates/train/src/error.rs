//! What can go wrong in training, in words for the person who has to act.

use std::io;
use std::path::{Path, PathBuf};

use verve_model::ModelError;
use verve_ops::BackendError;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, TrainError>;

/// Errors of settings, run folders, checkpoints and the training itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file operation failed.
    #[error("cannot {doing} {}: {}", path.display(), explain(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done: "write", "open", ...
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A settings file is not TOML, or a key has a value of the wrong type.
    #[error("{origin}: {problem}")]
    ConfigSyntax {
        /// Which file.
        origin: String,
        /// Line, what was found, what was expected.
        problem: String,
    },
    /// A settings file has a key or section that does not exist.
    #[error("{origin}: {what} is not known; {hint}")]
    UnknownKey {
        /// Which file.
        origin: String,
        /// The key with its section.
        what: String,
        /// The nearest known key, or all of them.
        hint: String,
    },
    /// A setting has a value that cannot be, or that contradicts another.
    #[error("setting [{section}] {key} = {found}: {problem}")]
    Setting {
        /// Section of the settings file.
        section: &'static str,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// Why it cannot be and what would do.
        problem: String,
    },
    /// The run folder already holds something.
    #[error("the output folder {} is not empty (it holds {found}): choose another folder, or empty this one", path.display())]
    FolderNotEmpty {
        /// The folder.
        path: PathBuf,
        /// Name of one thing in it.
        found: String,
    },
    /// The run folder already holds a run.
    #[error("{} already holds a run: go on with it (--resume), or choose another folder", path.display())]
    HoldsRun {
        /// The folder.
        path: PathBuf,
    },
    /// There is nothing to resume.
    #[error("{} holds no run to resume: it has no config.toml", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// Another process trains in the folder.
    #[error("another run is at work in {}{}: wait for it, stop it, or choose another folder", path.display(), by(holder))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What the holder wrote about itself.
        holder: String,
    },
    /// A resumed run was given other settings than it began with.
    #[error(
        "the run began with {key} = {then} and cannot go on with {now}, because it would not be the same run: leave the \
         setting as it was, or start a new run"
    )]
    SettingChanged {
        /// Section and key.
        key: String,
        /// Recorded value.
        then: String,
        /// Value given now.
        now: String,
    },
    /// A checkpoint cannot be used.
    #[error("checkpoint {} cannot be used: {problem}", path.display())]
    BadCheckpoint {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is no checkpoint to load.
    #[error("{} holds no finished checkpoint yet", path.display())]
    NoCheckpoint {
        /// The run folder.
        path: PathBuf,
    },
    /// Every checkpoint of a run is damaged.
    #[error("none of the {count} checkpoints in {} can be used; the newest: {newest}", path.display())]
    AllCheckpointsBad {
        /// The folder of checkpoints.
        path: PathBuf,
        /// How many there are.
        count: usize,
        /// What is wrong with the newest.
        newest: String,
    },
    /// The loss or a gradient is infinite or not a number.
    #[error(
        "step {step}: {what}; the step was not applied and earlier checkpoints are untouched. The batch is kept in {}. \
         Resuming would come to the same step again: start a new run with a lower learning rate or a longer warm-up, or \
         look at the rows of the batch",
        folder.display()
    )]
    NotFinite {
        /// Optimizer step, counted from 1.
        step: u64,
        /// The loss row or the first tensor whose gradient is not finite.
        what: String,
        /// Where the batch and the figures of the step are.
        folder: PathBuf,
    },
    /// The run does not fit into memory.
    #[error("the run needs {needed} of memory and {available} are available; {hint}")]
    Memory {
        /// Bytes needed, for people.
        needed: String,
        /// Bytes available, for people.
        available: String,
        /// The largest setting that fits.
        hint: String,
    },
    /// Training ended but its result is not on disk.
    #[error("training reached step {step}, but its last checkpoint could not be written: {source}. {kept}")]
    LastCheckpoint {
        /// The step reached.
        step: u64,
        /// Which checkpoint there is instead.
        kept: String,
        /// Why.
        source: Box<TrainError>,
    },
    /// The data of a run cannot be used with its model.
    #[error("{problem}")]
    Data {
        /// What does not fit, and what to do.
        problem: String,
    },
    /// Text that cannot be parsed as hardware or a count.
    #[error("{found:?} is not {expected}")]
    Parse {
        /// The text.
        found: String,
        /// What it should look like.
        expected: &'static str,
    },
    /// The model cannot be made, loaded or saved.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The token shards cannot be read.
    #[error(transparent)]
    Shard(#[from] verve_shard::Error),
    /// The machine failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl TrainError {
    pub(crate) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), doing, source }
    }

    pub(crate) fn setting(
        section: &'static str,
        key: &'static str,
        found: impl std::fmt::Display,
        problem: impl Into<String>,
    ) -> Self {
        Self::Setting { section, key, found: found.to_string(), problem: problem.into() }
    }

    pub(crate) fn bad_checkpoint(path: &Path, problem: impl Into<String>) -> Self {
        Self::BadCheckpoint { path: path.to_owned(), problem: problem.into() }
    }
}

fn by(holder: &str) -> String {
    if holder.is_empty() { String::new() } else { format!(" ({holder})") }
}

/// The system's words, and what to do where that is known.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full; free some space".to_owned(),
        io::ErrorKind::QuotaExceeded => "your disk quota is used up; free some space".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied; check who may read and write there".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another folder".to_owned(),
        io::ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        _ => error.to_string(),
    }
}

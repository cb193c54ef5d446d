//! The folder of a run: one process at a time works in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::config::RunConfig;
use crate::error::{Result, TrainError};
use crate::files::{list, read_text};

/// Settings with every choice filled in. A folder with it holds a run.
pub(crate) const CONFIG: &str = "config.toml";
/// What the run is made of; see [`crate::run`].
pub(crate) const RUN: &str = "run.json";
/// The data by hash.
pub(crate) const DATA: &str = "data.json";
/// Copy of the tokenizer.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// Figures of steps and evaluations.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// Texts generated on the way.
pub(crate) const SAMPLES: &str = "samples.jsonl";
/// Checkpoints, a folder each.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// Steps whose loss or gradient was not finite, a folder each.
pub(crate) const FAILED: &str = "failed";
const LOCK: &str = "lock";

/// A run folder that this process works in. The operating system takes the lock back when the process ends, however it
/// ends.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl RunFolder {
    /// Makes a folder for a new run and locks it. An empty folder will do, and so will one that an earlier call prepared
    /// but in which no run began.
    ///
    /// # Errors
    /// [`TrainError::FolderNotEmpty`], [`TrainError::HoldsRun`], [`TrainError::Locked`], or what the system says.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(|e| TrainError::io(path, "create", e))?;
        if path.join(CONFIG).exists() {
            return Err(TrainError::HoldsRun { path: path.to_owned() });
        }
        let lock = path.join(LOCK);
        if !lock.exists()
            && let Some(found) = list(path)?.first()
        {
            let found = found.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(TrainError::FolderNotEmpty { path: path.to_owned(), found });
        }
        let folder = Self::lock(path)?;
        // Another process may have begun a run between the look and the lock.
        if path.join(CONFIG).exists() {
            return Err(TrainError::HoldsRun { path: path.to_owned() });
        }
        Ok(folder)
    }

    /// Opens the folder of a run and locks it.
    ///
    /// # Errors
    /// [`TrainError::NoRun`], [`TrainError::Locked`], or what the system says.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.join(CONFIG).is_file() {
            return Err(TrainError::NoRun { path: path.to_owned() });
        }
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self> {
        let lock_path = path.join(LOCK);
        let io = |e| TrainError::io(&lock_path, "lock", e);
        let mut lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message; where a locked file cannot be read, the message does without.
                let _ = lock.take(200).read_to_string(&mut holder);
                return Err(TrainError::Locked { path: path.to_owned(), holder: holder.trim().to_owned() });
            }
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        let holder = format!("process {}\n", std::process::id());
        lock.set_len(0).map_err(io)?;
        lock.rewind().map_err(io)?;
        // A full disk is no reason not to run: the lock itself is held.
        let _ = lock.write_all(holder.as_bytes());
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The settings recorded in a run folder. Takes no lock.
    ///
    /// # Errors
    /// [`TrainError::NoRun`]; settings that cannot be read.
    pub fn config(path: &Path) -> Result<RunConfig> {
        let file = path.join(CONFIG);
        match read_text(&file) {
            Ok(text) => RunConfig::parse(&text, &file.display().to_string()),
            Err(TrainError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Err(TrainError::NoRun { path: path.to_owned() })
            }
            Err(e) => Err(e),
        }
    }
}

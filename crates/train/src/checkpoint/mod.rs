//! Checkpoints: folders that Hugging Face's libraries open, with what training needs besides.
//!
//! ```text
//! checkpoints/step-00000100/
//!   config.json model.safetensors tokenizer.json   a model folder; weights in f32, exactly those of training
//!   train_state.safetensors                        moments of AdamW: m.NAME and v.NAME for each parameter
//!   state.json                                     place in the run, and the hash of every other file
//! checkpoints/index.json                           names of the last and of the best checkpoint
//! ```
//!
//! A checkpoint is written under a temporary name, synced and renamed, so that a folder called `step-...` is whole. Older
//! ones are removed only then.

mod read;
mod save;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::files::{list, read_json};
use crate::folder::{CHECKPOINTS, CONFIG};

pub(crate) use read::{Loaded, newest_sound, set_aside};
pub(crate) use save::Identity;
pub(crate) use writer::{Tried, Writer};

/// Place in the run and hashes.
pub(crate) const STATE: &str = "state.json";
/// Moments.
pub(crate) const TRAIN_STATE: &str = "train_state.safetensors";
/// Names of last and best.
const INDEX: &str = "index.json";
const PREFIX: &str = "step-";
const FORMAT: &str = "verve-checkpoint";
const VERSION: u32 = 1;

/// `state.json`: with the weights and moments, everything that training goes on from. The learning rate, the batch size
/// and the next rows follow from `tokens`; there is no state of a random generator, since every random number is addressed
/// by seed and place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StateFile {
    format: String,
    version: u32,
    /// Steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Settings that decide the numbers.
    pub config_hash: String,
    /// Data.
    pub data_hash: String,
    /// Program.
    pub code_version: String,
    /// Held-out loss at this step, if it was measured.
    pub eval_loss: Option<f64>,
    /// Lowest held-out loss so far, and its step.
    pub best: Option<Best>,
    /// Every other file of the folder.
    pub files: BTreeMap<String, FileEntry>,
    /// Hash of this file's content with an empty `seal`.
    seal: String,
}

impl StateFile {
    /// Puts the seal on.
    fn sealed(mut self) -> Self {
        self.seal = self.hash();
        self
    }

    /// True when no value has changed since the seal was put on.
    fn is_sealed(&self) -> bool {
        self.seal == self.hash()
    }

    fn hash(&self) -> String {
        let open = Self { seal: String::new(), ..self.clone() };
        // Numbers, texts and names only: cannot fail; if it did, no seal would fit.
        let text = serde_json::to_vec(&open).unwrap_or_default();
        blake3::hash(&text).to_hex().to_string()
    }
}

/// The lowest held-out loss of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub step: u64,
    pub loss: f64,
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    pub bytes: u64,
    pub blake3: String,
}

/// Where a run is, for a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Position {
    pub step: u64,
    pub tokens: u64,
    pub eval_loss: Option<f64>,
    pub best: Option<Best>,
}

#[derive(Debug, Serialize)]
struct Index {
    last: Option<String>,
    best: Option<String>,
    best_loss: Option<f64>,
}

fn name(step: u64) -> String {
    format!("{PREFIX}{step:08}")
}

/// The checkpoints of a run, oldest first: finished ones whose `state.json` can be read. Contents are not looked at.
fn list_states(checkpoints: &Path) -> Result<Vec<(PathBuf, StateFile)>> {
    let mut found: Vec<(PathBuf, StateFile)> = step_folders(checkpoints)?
        .into_iter()
        .filter_map(|(_, path)| read_json(&path.join(STATE)).ok().map(|state| (path, state)))
        .collect();
    found.sort_by_key(|(_, state)| state.step);
    Ok(found)
}

/// The folders called `step-...`, oldest first.
fn step_folders(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !checkpoints.exists() {
        return Ok(Vec::new());
    }
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse::<u64>().ok();
    let mut found: Vec<(u64, PathBuf)> =
        list(checkpoints)?.into_iter().filter_map(|path| Some((step(&path)?, path))).collect();
    found.sort();
    Ok(found)
}

/// The one with the lowest held-out loss, the earliest of equals.
fn best(states: &[(PathBuf, StateFile)]) -> Option<&(PathBuf, StateFile)> {
    let measured = states.iter().filter(|(_, state)| state.eval_loss.is_some());
    measured.min_by(|(_, a), (_, b)| a.eval_loss.unwrap_or(f64::NAN).total_cmp(&b.eval_loss.unwrap_or(f64::NAN)))
}

/// Which checkpoint of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Last,
    /// The one with the lowest held-out loss; the newest if there was no evaluation.
    Best,
}

/// The folder of a run's checkpoint: a model folder with its tokenizer.
///
/// # Errors
/// [`TrainError::NoRun`], [`TrainError::NoCheckpoint`].
pub fn locate(run: &Path, which: Which) -> Result<PathBuf> {
    if !run.join(CONFIG).is_file() {
        return Err(TrainError::NoRun { path: run.to_owned() });
    }
    let states = list_states(&run.join(CHECKPOINTS))?;
    let best = (which == Which::Best).then(|| best(&states)).flatten();
    match best.or(states.last()) {
        Some((path, _)) => Ok(path.clone()),
        None => Err(TrainError::NoCheckpoint { path: run.to_owned() }),
    }
}

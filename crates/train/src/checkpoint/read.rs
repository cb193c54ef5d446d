//! Finding and checking the checkpoint to go on from.

use std::fs;
use std::path::{Path, PathBuf};

use verve_model::ModelConfig;
use verve_model::formats::tensor_file::TensorFile;

use super::{FORMAT, STATE, StateFile, TRAIN_STATE, VERSION, name, step_folders};
use crate::error::{Result, TrainError};
use crate::files::{hash_file, list, read_json};
use crate::state::open_model;

/// A checkpoint whose files are what its `state.json` says.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub path: PathBuf,
    pub state: StateFile,
    pub model: verve_model::formats::ModelFile,
    pub moments: TensorFile,
}

impl Loaded {
    /// Closes the files: mapped pages that were read count as memory of the process.
    pub fn close(self) -> (StateFile, PathBuf) {
        (self.state, self.path)
    }
}

/// The newest checkpoint that is whole and belongs to this run; `None` if there is none at all. Calls `damaged` for each
/// newer one, which is renamed so that it is in nobody's way.
pub(crate) fn newest_sound(
    checkpoints: &Path,
    model: &ModelConfig,
    config_hash: &str,
    data_hash: &str,
    mut damaged: impl FnMut(&TrainError),
) -> Result<Option<Loaded>> {
    let folders = step_folders(checkpoints)?;
    let mut newest = None;
    for (_, path) in folders.iter().rev() {
        match load(path, model, config_hash, data_hash) {
            Ok(loaded) => return Ok(Some(loaded)),
            Err(error) => {
                damaged(&error);
                newest.get_or_insert(error.to_string());
            }
        }
    }
    match newest {
        Some(newest) => {
            Err(TrainError::AllCheckpointsBad { path: checkpoints.to_owned(), count: folders.len(), newest })
        }
        None => Ok(None),
    }
}

/// Renames checkpoints newer than `step`, which turned out to be damaged, and removes what an interrupted write has left.
pub(crate) fn set_aside(checkpoints: &Path, step: u64) -> Result<()> {
    for (_, path) in step_folders(checkpoints)?.into_iter().filter(|(newer, _)| *newer > step) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let free = (0..).map(|n| if n == 0 { format!("damaged-{name}") } else { format!("damaged-{name}-{n}") });
        let target = free.map(|name| checkpoints.join(name)).find(|path| !path.exists());
        if let Some(target) = target {
            fs::rename(&path, &target).map_err(|e| TrainError::io(&path, "rename", e))?;
        }
    }
    clean_up(checkpoints)
}

/// Removes what an interrupted write has left.
pub(crate) fn clean_up(checkpoints: &Path) -> Result<()> {
    if !checkpoints.exists() {
        return Ok(());
    }
    for path in list(checkpoints)? {
        if path.file_name().unwrap_or_default().to_string_lossy().starts_with(".writing-") {
            fs::remove_dir_all(&path).map_err(|e| TrainError::io(&path, "remove", e))?;
        }
    }
    Ok(())
}

fn load(path: &Path, model: &ModelConfig, config_hash: &str, data_hash: &str) -> Result<Loaded> {
    let bad = |problem: String| TrainError::bad_checkpoint(path, problem);
    let state: StateFile = read_json(&path.join(STATE)).map_err(|e| bad(e.to_string()))?;
    if state.format != FORMAT || state.version != VERSION {
        let problem =
            format!("its format is {} {}, this program reads {FORMAT} {VERSION}", state.format, state.version);
        return Err(bad(problem));
    }
    if !state.is_sealed() || path.file_name() != Some(name(state.step).as_ref()) {
        return Err(bad(format!("{STATE} is not what was written")));
    }
    if state.config_hash != config_hash || state.data_hash != data_hash {
        return Err(bad("it was written by a run with other settings or other data".to_owned()));
    }
    for (name, entry) in &state.files {
        let file = path.join(name);
        let (blake3, bytes) = hash_file(&file).map_err(|e| bad(e.to_string()))?;
        if bytes != entry.bytes {
            return Err(bad(format!("{name} has {bytes} bytes, it had {} when it was written", entry.bytes)));
        }
        if blake3 != entry.blake3 {
            return Err(bad(format!("{name} is not what was written: its hash is {blake3}, it was {}", entry.blake3)));
        }
    }
    let opened = || {
        let moments = TensorFile::open(&path.join(TRAIN_STATE))?;
        Ok::<_, TrainError>((open_model(path, model)?, moments))
    };
    let (model, moments) = opened().map_err(|e| bad(e.to_string()))?;
    Ok(Loaded { path: path.to_owned(), state, model, moments })
}

//! Writing one checkpoint.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use verve_model::formats::tensor_file::{self, TensorSpec, encode};
use verve_model::formats::{FileType, GenerationIds, SaveOptions};
use verve_model::{ModelConfig, ParamSpec, Params, layout};
use verve_ops::{Backend, Buffer, Real};

use super::{
    FORMAT, FileEntry, INDEX, Index, Position, STATE, StateFile, TRAIN_STATE, VERSION, best, list_states, name,
};
use crate::error::{Result, TrainError};
use crate::files::{copy_synced, hash_file, list, sync_folder, write_json};
use crate::folder::TOKENIZER;
use crate::state::{MOMENTS, moment_name};

/// What all checkpoints of a run have in common.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The run's folder of checkpoints.
    pub checkpoints: PathBuf,
    /// The run's tokenizer.
    pub tokenizer: PathBuf,
    pub model: ModelConfig,
    pub ids: GenerationIds,
    pub keep_last: usize,
    pub seed: u64,
    pub config_hash: String,
    pub data_hash: String,
    pub code_version: String,
}

/// Tensors of a state, in the memory of some machine.
pub(crate) struct Tensors<'a, B: Backend, W: Real, M: Real> {
    pub backend: &'a B,
    /// Exact weights.
    pub weights: &'a Params<B::Buf<W>>,
    pub m: &'a Params<B::Buf<M>>,
    pub v: &'a Params<B::Buf<M>>,
}

/// A checkpoint that is on the disk.
#[derive(Debug)]
pub(crate) struct Written {
    pub path: PathBuf,
    pub bytes: u64,
    pub seconds: f64,
    /// An older checkpoint that could not be removed.
    pub warning: Option<TrainError>,
}

/// Writes a checkpoint, then removes those that need not be kept.
pub(crate) fn save<B: Backend, W: Real, M: Real>(
    identity: &Identity,
    position: Position,
    tensors: &Tensors<'_, B, W, M>,
) -> Result<Written> {
    let began = Instant::now();
    let name = name(position.step);
    let temporary = identity.checkpoints.join(format!(".writing-{name}"));
    let path = identity.checkpoints.join(&name);
    let bytes = write_files(identity, position, tensors, &temporary).inspect_err(|_| {
        // Best effort: the first error is the one to report.
        let _ = fs::remove_dir_all(&temporary);
    })?;
    put_in_place(&temporary, &path)?;
    let warning = tidy_up(identity).err();
    Ok(Written { path, bytes, seconds: began.elapsed().as_secs_f64(), warning })
}

fn write_files<B: Backend, W: Real, M: Real>(
    identity: &Identity,
    position: Position,
    tensors: &Tensors<'_, B, W, M>,
    folder: &Path,
) -> Result<u64> {
    remove_folder(folder)?;
    fs::create_dir(folder).map_err(|e| TrainError::io(folder, "create", e))?;
    // f32 holds the exact weights; the factor that some families put on queries is a power of two.
    let options = SaveOptions { dtype: FileType::F32, ids: identity.ids.clone() };
    verve_model::formats::save::<B, W>(folder, tensors.backend, &identity.model, tensors.weights, &options)?;
    copy_synced(&identity.tokenizer, &folder.join(TOKENIZER))?;
    write_moments(identity, tensors, &folder.join(TRAIN_STATE))?;
    let mut files = BTreeMap::new();
    for path in list(folder)? {
        let (blake3, bytes) = hash_file(&path)?;
        files.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), FileEntry { bytes, blake3 });
    }
    let bytes = files.values().map(|file| file.bytes).sum();
    let state = StateFile {
        format: FORMAT.to_owned(),
        version: VERSION,
        step: position.step,
        tokens: position.tokens,
        seed: identity.seed,
        config_hash: identity.config_hash.clone(),
        data_hash: identity.data_hash.clone(),
        code_version: identity.code_version.clone(),
        eval_loss: position.eval_loss,
        best: position.best,
        files,
        seal: String::new(),
    }
    .sealed();
    write_json(&folder.join(STATE), &state)?;
    sync_folder(folder).map_err(|e| TrainError::io(folder, "sync", e))?;
    Ok(bytes)
}

fn write_moments<B: Backend, W: Real, M: Real>(
    identity: &Identity,
    tensors: &Tensors<'_, B, W, M>,
    path: &Path,
) -> Result<()> {
    let table = layout(&identity.model);
    let specs: Vec<&ParamSpec> = table.iter().collect();
    let describe = |moment: &str, spec: &&ParamSpec| TensorSpec {
        name: moment_name(moment, spec),
        shape: spec.shape.clone(),
        dtype: FileType::F32,
    };
    let described: Vec<TensorSpec> =
        MOMENTS.iter().flat_map(|moment| specs.iter().map(move |spec| describe(moment, spec))).collect();
    let buffers: Vec<&B::Buf<M>> = tensors.m.iter().chain(tensors.v.iter()).collect();
    let mut host: Vec<M> = Vec::new();
    tensor_file::write(path, &BTreeMap::new(), &described, |index, bytes| {
        host.clear();
        host.resize(buffers[index].len(), M::default());
        tensors.backend.download(buffers[index], &mut host)?;
        encode(host.iter().copied(), FileType::F32, bytes);
        Ok(())
    })?;
    Ok(())
}

/// Renames a finished folder. One of the same step that is there already was written by the same run: it is replaced.
fn put_in_place(temporary: &Path, path: &Path) -> Result<()> {
    let old = temporary.with_extension("old");
    let attempt = || {
        if path.exists() {
            remove(&old)?;
            fs::rename(path, &old)?;
        }
        fs::rename(temporary, path)?;
        sync_folder(crate::files::parent(path))?;
        remove(&old)
    };
    attempt().map_err(|e| TrainError::io(path, "put in place", e))
}

fn remove(folder: &Path) -> std::io::Result<()> {
    if folder.exists() { fs::remove_dir_all(folder) } else { Ok(()) }
}

fn remove_folder(folder: &Path) -> Result<()> {
    remove(folder).map_err(|e| TrainError::io(folder, "remove", e))
}

/// Writes the index and removes the checkpoints that are neither among the newest nor the best.
fn tidy_up(identity: &Identity) -> Result<()> {
    let states = list_states(&identity.checkpoints)?;
    let best = best(&states);
    let file_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let index = Index {
        last: states.last().map(|(path, _)| file_name(path)),
        best: best.map(|(path, _)| file_name(path)),
        best_loss: best.and_then(|(_, state)| state.eval_loss),
    };
    write_json(&identity.checkpoints.join(INDEX), &index)?;
    let old = states.len().saturating_sub(identity.keep_last);
    for (path, _) in &states[..old] {
        if Some(path) != best.map(|(path, _)| path) {
            remove_folder(path)?;
        }
    }
    Ok(())
}

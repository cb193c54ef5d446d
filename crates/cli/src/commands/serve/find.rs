//! The models that paths mean, and their names.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::commands::model::model_at;

/// A model to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name that requests give.
    pub name: String,
    /// Its folder or file.
    pub path: PathBuf,
}

/// The models that `--model` arguments mean: each a model, `NAME=` and a model, or a folder with models in it.
pub fn find(arguments: &[String]) -> Result<Vec<Found>> {
    if arguments.is_empty() {
        bail!(
            "which model? give --model MODEL (a run, a model folder, a GGUF file, a downloaded model's name) or a folder of them"
        );
    }
    let mut found = Vec::new();
    for argument in arguments {
        match argument.split_once('=') {
            Some((name, path)) if !name.contains('/') && !Path::new(argument).exists() => {
                found.push(Found { name: name.to_owned(), path: model_at(Path::new(path))? });
            }
            _ => found.extend(at(Path::new(argument))?),
        }
    }
    Ok(found)
}

fn at(path: &Path) -> Result<Vec<Found>> {
    let is_collection = path.is_dir() && !path.join("config.json").is_file() && !path.join("config.toml").is_file();
    if !is_collection {
        return Ok(vec![Found { name: name(path), path: model_at(path)? }]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.with_context(|| format!("cannot read {}", path.display()))?.path());
    }
    paths.sort();
    let is_model = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "gguf")
            || path.join("config.json").is_file()
            || path.join("config.toml").is_file()
    };
    paths.retain(is_model);
    if paths.is_empty() {
        bail!("{} has no model in it: neither GGUF files nor folders with config.json or config.toml", path.display());
    }
    paths.iter().map(|path| Ok(Found { name: name(path), path: model_at(path)? })).collect()
}

/// A model's name: its file's without `.gguf`, its folder's, or what it was downloaded by.
fn name(path: &Path) -> String {
    if !path.exists() {
        return path.to_string_lossy().into_owned();
    }
    let whole = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.strip_suffix(".gguf").map_or_else(|| name.clone(), str::to_owned)
}

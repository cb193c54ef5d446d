//! Writing checkpoints as folders that [`super::load`] and, where the family allows, transformers read.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use half::f16;
use serde_json::{Value, json};
use verve_ops::{Backend, Buffer, Real};

use super::hf_config::{self, GenerationIds};
use super::huggingface::{CONFIG, INDEX, MODEL};
use super::names::{Family, Layout, Role, Source};
use super::tensor_file::{FileType, TensorSpec, encode, write, write_atomically};
use super::{ModelFile, norms};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::params::{ParamSpec, Params, layout};

/// How to write a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct SaveOptions {
    /// Element type of the weights.
    pub dtype: FileType,
    /// Token ids that generation needs.
    pub ids: GenerationIds,
}

/// What [`save`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The convention.
    pub family: Family,
    /// For [`Family::Verve`]: why transformers cannot open it.
    pub note: Option<String>,
}

/// Reads the tensor at a place of the parameter table.
type Fetch<'a, T> = dyn FnMut(usize, &ParamSpec, &mut [T]) -> Result<(), ModelError> + 'a;

/// Writes a checkpoint in the family that represents `config` exactly, or else in our own. The folder is made if it is
/// not there; each file is written under a temporary name, synced and renamed, the configuration last.
///
/// A query projection of a GPT-Neo shaped model that scales its scores is written times `1 / sqrt(d_head)`, a power of
/// two; [`super::load`] takes it back. Nothing else is changed but the rounding to [`SaveOptions::dtype`].
///
/// # Errors
/// Whatever the operating system says; a failed device; for [`FileType::F16`] a number above 65504.
///
/// # Panics
/// When `params` are not of this configuration.
pub fn save<B: Backend, T: Real>(
    folder: &Path,
    backend: &B,
    config: &ModelConfig,
    params: &Params<B::Buf<T>>,
    options: &SaveOptions,
) -> Result<Saved, ModelError> {
    save_sharded(folder, backend, config, params, options, u64::MAX)
}

/// [`save`] in several files with an index, as large models are published: none holds more than `max_file_bytes` of
/// tensors, unless a single tensor is larger. What fits one file is written as one, without an index.
///
/// # Errors
/// As [`save`].
///
/// # Panics
/// As [`save`].
pub fn save_sharded<B: Backend, T: Real>(
    folder: &Path,
    backend: &B,
    config: &ModelConfig,
    params: &Params<B::Buf<T>>,
    options: &SaveOptions,
    max_file_bytes: u64,
) -> Result<Saved, ModelError> {
    let buffers: Vec<&B::Buf<T>> = params.iter().collect();
    let table: Vec<ParamSpec> = layout(config).iter().cloned().collect();
    assert!(table.len() == buffers.len(), "save: {} tensors for a model of {}", buffers.len(), table.len());
    for (spec, buffer) in table.iter().zip(&buffers) {
        assert!(buffer.len() == spec.len(), "save: {} has {} elements", spec.name, buffer.len());
    }
    let mut fetch = |place: usize, _: &ParamSpec, out: &mut [T]| Ok(backend.download(buffers[place], out)?);
    save_from(folder, config, table, &mut fetch, options, max_file_bytes)
}

/// Writes a model that lies in files, in the Hugging Face layout, one tensor at a time. `progress` is told how many
/// parameter tensors have been read.
///
/// # Errors
/// As [`save`]; a source that cannot be read.
pub fn save_model(
    folder: &Path,
    source: &ModelFile,
    options: &SaveOptions,
    max_file_bytes: u64,
    mut progress: impl FnMut(usize),
) -> Result<Saved, ModelError> {
    let (config, norm_shift) = norms::for_folder(source.config());
    let table: Vec<ParamSpec> = layout(&config).iter().cloned().collect();
    let mut fetch = |place: usize, spec: &ParamSpec, out: &mut [f32]| {
        source.read(spec, out)?;
        if norm_shift != 0.0 && norms::is_norm_weight(spec) {
            out.iter_mut().for_each(|x| *x += norm_shift);
        }
        progress(place + 1);
        Ok(())
    };
    save_from(folder, &config, table, &mut fetch, options, max_file_bytes)
}

fn save_from<T: Real>(
    folder: &Path,
    config: &ModelConfig,
    table: Vec<ParamSpec>,
    fetch: &mut Fetch<'_, T>,
    options: &SaveOptions,
    max_file_bytes: u64,
) -> Result<Saved, ModelError> {
    let (family, why) = hf_config::family_for(config);
    std::fs::create_dir_all(folder).map_err(|source| ModelError::Io {
        action: "create",
        path: folder.to_owned(),
        source,
    })?;
    let mut source = Tensors::new(config, family, table, fetch, options.dtype);
    let files = source.files(max_file_bytes);
    match files.as_slice() {
        [_] => {
            source.write(&folder.join(MODEL), 0..source.specs.len())?;
            remove(&folder.join(INDEX))?;
            remove_other_parts(folder, &[])?;
        }
        _ => {
            let mut weight_map = serde_json::Map::new();
            let names: Vec<String> = (1..=files.len()).map(|number| part_name(number, files.len())).collect();
            for (name, range) in names.iter().zip(&files) {
                source.write(&folder.join(name), range.clone())?;
                weight_map.extend(source.specs[range.clone()].iter().map(|spec| (spec.name.clone(), json!(name))));
            }
            let total: usize = source.specs.iter().map(TensorSpec::bytes).sum();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
            write_json(&folder.join(INDEX), &index)?;
            // Readers prefer a single file to an index.
            remove(&folder.join(MODEL))?;
            remove_other_parts(folder, &names)?;
        }
    }
    write_config(&folder.join(CONFIG), family, config, options)?;
    let note = why.map(|why| format!("saved in verve's own format, which transformers cannot open: {why}"));
    Ok(Saved { family, note })
}

/// The parameters of a model as a sequence of tensors in files.
struct Tensors<'a, 'b, T: Real> {
    fetch: &'a mut Fetch<'b, T>,
    table: Vec<ParamSpec>,
    /// What each file tensor is: which parameter tensor, and which of its rows.
    parts: Vec<(usize, Source)>,
    /// What each file tensor is called there.
    specs: Vec<TensorSpec>,
    query_factor: f64,
    host: Vec<T>,
    /// Which parameter tensor `host` holds.
    held: Option<usize>,
}

impl<'a, 'b, T: Real> Tensors<'a, 'b, T> {
    fn new(
        config: &ModelConfig,
        family: Family,
        table: Vec<ParamSpec>,
        fetch: &'a mut Fetch<'b, T>,
        dtype: FileType,
    ) -> Self {
        let mut parts: Vec<(usize, Source)> = Vec::new();
        let mut specs = Vec::new();
        for (place, spec) in table.iter().enumerate() {
            for source in family.sources(family.prefix(), config, spec) {
                specs.push(TensorSpec { name: source.name.clone(), shape: source.shape(spec), dtype });
                parts.push((place, source));
            }
        }
        let factor = if family == Family::GptNeo { hf_config::folded_scale(config).unwrap_or(1.0) } else { 1.0 };
        Self { fetch, table, parts, specs, query_factor: f64::from(factor), host: Vec::new(), held: None }
    }

    /// Runs of tensors that go into one file each.
    fn files(&self, max_bytes: u64) -> Vec<std::ops::Range<usize>> {
        let mut files = Vec::new();
        let (mut start, mut bytes) = (0, 0u64);
        for (index, spec) in self.specs.iter().enumerate() {
            let more = spec.bytes() as u64;
            if index > start && bytes.saturating_add(more) > max_bytes {
                files.push(start..index);
                (start, bytes) = (index, 0);
            }
            bytes += more;
        }
        files.push(start..self.specs.len());
        files
    }

    fn write(&mut self, path: &Path, range: std::ops::Range<usize>) -> Result<(), ModelError> {
        // "pt" tells transformers that the layout is PyTorch's; it refuses files that do not say.
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let specs = self.specs[range.clone()].to_vec();
        write(path, &metadata, &specs, |index, bytes| self.append(range.start + index, bytes))
    }

    /// Appends the bytes of a file tensor.
    fn append(&mut self, index: usize, bytes: &mut Vec<u8>) -> Result<(), ModelError> {
        let (place, source) = &self.parts[index];
        let (spec, dtype) = (&self.table[*place], self.specs[index].dtype);
        if self.held != Some(*place) {
            self.host.clear();
            self.host.resize(spec.len(), T::default());
            (self.fetch)(*place, spec, &mut self.host)?;
            let fits = |x: &&T| !x.to_f32().is_finite() || f16::from_f32(x.to_f32()).is_finite();
            if let (FileType::F16, Some(x)) = (dtype, self.host.iter().find(|x| !fits(x))) {
                let found = format!("{} in {}", x.to_f32(), spec.name);
                let problem = "more than f16 can hold; take bf16 or f32".to_owned();
                return Err(ModelError::Config { field: "a weight", found, problem });
            }
            self.held = Some(*place);
        }
        let width = spec.len() / spec.shape[0];
        let part = &self.host[source.rows.start * width..source.rows.end * width];
        match (source.layout, source.role) {
            (Layout::Transposed, _) => {
                let columns = (0..width).flat_map(|column| part.iter().skip(column).step_by(width).copied());
                encode(columns, dtype, bytes);
            }
            (Layout::Below { rows }, _) => {
                // Nothing reads them.
                let unread = std::iter::repeat_n(T::default(), rows * width);
                encode(unread.chain(part.iter().copied()), dtype, bytes);
            }
            (Layout::HeadsTogether { n_heads }, _) => {
                let run = part.len() / (3 * n_heads);
                for (head, projection) in (0..n_heads).flat_map(|head| (0..3).map(move |projection| (head, projection)))
                {
                    let from = (projection * n_heads + head) * run;
                    encode(part[from..from + run].iter().copied(), dtype, bytes);
                }
            }
            (Layout::Same, Role::Queries) => {
                let factor = self.query_factor;
                encode(part.iter().map(|value| T::from_f64(value.to_f64() * factor)), dtype, bytes);
            }
            (Layout::Same, Role::Other) => encode(part.iter().copied(), dtype, bytes),
        }
        Ok(())
    }
}

/// Removes a file that may be there.
fn remove(path: &Path) -> Result<(), ModelError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ModelError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn part_name(number: usize, total: usize) -> String {
    format!("model-{number:05}-of-{total:05}.safetensors")
}

/// Removes parts that an earlier model in this folder had and that the index does not name.
fn remove_other_parts(folder: &Path, names: &[String]) -> Result<(), ModelError> {
    let io = |source| ModelError::Io { action: "read", path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
        let numbers = numbers.and_then(|rest| rest.split_once("-of-"));
        let is_part = numbers.is_some_and(|(number, total)| {
            number.parse().ok().zip(total.parse().ok()).is_some_and(|(number, total)| part_name(number, total) == name)
        });
        if is_part && !names.iter().any(|kept| *kept == name) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    write_atomically(path, |out| {
        let text = format!("{value:#}\n");
        out.write_all(text.as_bytes()).map_err(|source| ModelError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    })
}

fn write_config(path: &Path, family: Family, config: &ModelConfig, options: &SaveOptions) -> Result<(), ModelError> {
    let ids = &options.ids;
    let mut map = hf_config::describe(family, config);
    let eos = match ids.eos.as_slice() {
        [] => Value::Null,
        [id] => (*id).into(),
        several => several.into(),
    };
    let name = options.dtype.torch_name();
    for (key, value) in [
        // Written even when there is none: the families' defaults are ids of their own vocabularies.
        ("bos_token_id", ids.bos.into()),
        ("eos_token_id", eos),
        ("pad_token_id", ids.pad.into()),
        // The key of transformers 4 and that of 5.
        ("torch_dtype", name.into()),
        ("dtype", name.into()),
    ] {
        map.insert(key.to_owned(), value);
    }
    // Our own keys beside the family's: what the family does not say (initialisation, folded scale) survives a round trip.
    let own = serde_json::to_value(config)
        .map_err(|e| ModelError::Malformed { path: path.to_owned(), problem: e.to_string() })?;
    map.insert("verve".to_owned(), own);
    write_json(path, &Value::Object(map))
}

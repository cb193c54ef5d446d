//! Checkpoints as folders that Hugging Face's transformers reads and writes: `config.json` and `model.safetensors`, or
//! several files with a `model.safetensors.index.json`.
//!
//! Families are configurations and name maps, see [`super::names`]. A model that no family represents exactly is written
//! with `model_type` "verve" and our own names; transformers cannot open it, this crate can.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};
use verve_ops::{Backend, Buffer, InferBackend, Real};

use super::hf_config::{self, GenerationIds, Keys};
use super::names::{Family, Layout, Role, Source};
use super::tensor_file::{FileType, TensorFile, TensorSpec, encode, write, write_atomically};
use crate::config::{AttnScale, ModelConfig};
use crate::error::ModelError;
use crate::infer::InferWeights;
use crate::params::{ParamSpec, Params, layout};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const MODEL: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Longest JSON file that is read. Real ones are below 1 MiB; an index may have a line for each of 10^5 tensors.
const MAX_JSON: u64 = 64 << 20;

/// A checkpoint whose files have been opened and checked against its configuration; no weight has been read yet.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    family: Family,
    config: ModelConfig,
    ids: GenerationIds,
    prefix: &'static str,
    files: Vec<TensorFile>,
    /// Which file holds a tensor.
    places: HashMap<String, usize>,
    /// Factor on query rows as they are in the file.
    query_factor: f32,
}

/// Opens a checkpoint folder and checks it: every tensor that its configuration implies is there with the right shape
/// and a type that can be converted, and nothing else is there.
///
/// # Errors
/// See [`ModelError`]; each names the file and the key or tensor.
pub fn load(folder: &Path) -> Result<Checkpoint, ModelError> {
    let path = folder.join(CONFIG);
    let map = read_json(&path)?;
    let keys = Keys { path: &path, map: &map };
    let (family, described) = hf_config::parse(&keys)?;
    let config = own_config(&map, family, &described).unwrap_or(described);
    let query_factor = match (family, config.attn_scale) {
        (Family::GptNeo, AttnScale::InvSqrtHead) => 1.0 / hf_config::folded_scale(&config).unwrap_or(1.0),
        _ => 1.0,
    };
    let ids = read_ids(folder, &keys)?;
    let (files, places) = open_files(folder)?;
    let mut checkpoint = Checkpoint {
        folder: folder.to_owned(),
        family,
        config,
        ids,
        prefix: family.prefix(),
        files,
        places,
        query_factor,
    };
    checkpoint.check()?;
    Ok(checkpoint)
}

/// The exact configuration that [`save`] put beside the family's keys, if those still say the same.
fn own_config(map: &Map<String, Value>, family: Family, described: &ModelConfig) -> Option<ModelConfig> {
    let config: ModelConfig = serde_json::from_value(map.get("verve")?.clone()).ok()?;
    config.validate().ok()?;
    if hf_config::family_for(&config).0 != family {
        return None;
    }
    let again = hf_config::describe(family, &config);
    let (_, again) = hf_config::parse(&Keys { path: Path::new(CONFIG), map: &again }).ok()?;
    (again == *described).then_some(config)
}

/// Ids from `config.json`, unless `generation_config.json` says otherwise.
fn read_ids(folder: &Path, keys: &Keys<'_>) -> Result<GenerationIds, ModelError> {
    let mut ids = hf_config::parse_ids(keys)?;
    let path = folder.join(GENERATION_CONFIG);
    if path.is_file() {
        let map = read_json(&path)?;
        let own = hf_config::parse_ids(&Keys { path: &path, map: &map })?;
        ids.bos = own.bos.or(ids.bos);
        ids.pad = own.pad.or(ids.pad);
        if !own.eos.is_empty() {
            ids.eos = own.eos;
        }
    }
    Ok(ids)
}

fn read_json(path: &Path) -> Result<Map<String, Value>, ModelError> {
    let io = |source| ModelError::Io { action: "read", path: path.to_owned(), source };
    let malformed = |problem: String| ModelError::Malformed { path: path.to_owned(), problem };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(MAX_JSON + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_JSON {
        return Err(malformed(format!("is longer than {MAX_JSON} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|e| malformed(format!("is not a JSON object: {e}")))
}

/// Opens the tensor files of a folder and lists where each tensor is.
fn open_files(folder: &Path) -> Result<(Vec<TensorFile>, HashMap<String, usize>), ModelError> {
    let single = folder.join(MODEL);
    let index = folder.join(INDEX);
    if single.is_file() || !index.is_file() {
        if !single.is_file() {
            let problem = format!("holds no {MODEL} and no {INDEX}; other formats of weights cannot be read");
            return Err(ModelError::Malformed { path: folder.to_owned(), problem });
        }
        let file = TensorFile::open(&single)?;
        let places = file.names().into_iter().map(|name| (name, 0)).collect();
        return Ok((vec![file], places));
    }
    let malformed = |problem: String| ModelError::Malformed { path: index.clone(), problem };
    let map = read_json(&index)?;
    let Some(Value::Object(weight_map)) = map.get("weight_map") else {
        return Err(malformed("`weight_map` is missing or no object".to_owned()));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in weight_map {
        let Some(name) = file.as_str().filter(|name| is_plain_name(name)) else {
            return Err(malformed(format!(
                "tensor {tensor:?} is in {file}, which is not the name of a file beside it"
            )));
        };
        names.insert(name);
    }
    let files = names.iter().map(|name| TensorFile::open(&folder.join(name))).collect::<Result<Vec<_>, _>>()?;
    let mut places = HashMap::new();
    for (place, (file, name)) in files.iter().zip(&names).enumerate() {
        for tensor in file.names() {
            if weight_map.get(&tensor).and_then(Value::as_str) != Some(name) {
                return Err(malformed(format!("does not say that tensor {tensor:?} is in {name}, where it is")));
            }
            places.insert(tensor, place);
        }
    }
    match weight_map.iter().find(|(tensor, _)| !places.contains_key(tensor.as_str())) {
        Some((tensor, file)) => Err(malformed(format!("says that tensor {tensor:?} is in {file}, where it is not"))),
        None => Ok((files, places)),
    }
}

/// True for the name of a file in the same folder: one normal component, whatever the operating system.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
        && !name.contains(['/', '\\', ':', '\0'])
}

impl Checkpoint {
    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The convention it is written in.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Token ids that generation needs.
    pub fn ids(&self) -> &GenerationIds {
        &self.ids
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn check(&mut self) -> Result<(), ModelError> {
        let table = layout(&self.config);
        // Some files hold the bare model, without the part of the names that the head's class adds.
        let bare = self.family.sources("", &self.config, &table.tok_embed);
        if self.places.contains_key(&bare[0].name) {
            self.prefix = "";
        }
        let mut expected = BTreeSet::new();
        for spec in table.iter() {
            for source in self.sources(spec) {
                self.file(&source.name)?.check(&source.name, &source.shape(spec))?;
                expected.insert(source.name);
            }
        }
        if self.config.tied_head {
            self.check_tied_head(&table.tok_embed)?;
        }
        let tied_head = |name: &str| self.config.tied_head && self.family != Family::Verve && name == "lm_head.weight";
        let unknown: BTreeSet<&String> = self
            .places
            .keys()
            .filter(|name| !expected.contains(*name) && !self.family.is_buffer(name) && !tied_head(name))
            .collect();
        match unknown.first() {
            Some(name) => Err(ModelError::UnknownTensor {
                path: self.folder.clone(),
                name: (*name).clone(),
                count: unknown.len(),
            }),
            None => Ok(()),
        }
    }

    /// Some files repeat the token table as the head. It must be the same.
    fn check_tied_head(&self, tok_embed: &ParamSpec) -> Result<(), ModelError> {
        const HEAD: &str = "lm_head.weight";
        if self.family == Family::Verve || !self.places.contains_key(HEAD) {
            return Ok(());
        }
        let file = self.file(HEAD)?;
        file.check(HEAD, &tok_embed.shape)?;
        let table = &self.sources(tok_embed)[0].name;
        if file.bytes(HEAD)? != self.file(table)?.bytes(table)? {
            let problem = format!("{HEAD} differs from {table}, though tie_word_embeddings is true");
            return Err(ModelError::Malformed { path: file.path().to_owned(), problem });
        }
        Ok(())
    }

    fn sources(&self, spec: &ParamSpec) -> Vec<Source> {
        self.family.sources(self.prefix, &self.config, spec)
    }

    fn file(&self, tensor: &str) -> Result<&TensorFile, ModelError> {
        match self.places.get(tensor) {
            Some(&place) => Ok(&self.files[place]),
            None => Err(ModelError::MissingTensor { path: self.folder.clone(), name: tensor.to_owned() }),
        }
    }

    /// Reads one tensor of [`layout`]`(config)`, converted to `T` (by way of `f32`).
    ///
    /// # Errors
    /// A `spec` of another model.
    ///
    /// # Panics
    /// When `out` has not [`ParamSpec::len`] elements.
    pub fn read<T: Real>(&self, spec: &ParamSpec, out: &mut [T]) -> Result<(), ModelError> {
        assert!(out.len() == spec.len(), "{}: {} elements, not {}", spec.name, out.len(), spec.len());
        for source in self.sources(spec) {
            let numbers = self.file(&source.name)?.numbers(&source.name)?;
            let width = spec.len() / spec.shape[0];
            let part = &mut out[source.rows.start * width..source.rows.end * width];
            let factor = if source.role == Role::Queries { self.query_factor } else { 1.0 };
            match source.layout {
                Layout::Same => numbers.each(0, part.len(), |i, value| part[i] = T::from_f32(value * factor)),
                Layout::Transposed => {
                    // A band of rows at a time, so that the lines written to stay in the cache.
                    const BAND: usize = 64;
                    let d_out = source.rows.len();
                    for first in (0..d_out).step_by(BAND) {
                        let rows = BAND.min(d_out - first);
                        for column in 0..width {
                            numbers.each(column * d_out + first, rows, |row, value| {
                                part[(first + row) * width + column] = T::from_f32(value);
                            });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads all weights into a machine's memory, one tensor at a time: `T` is `B::Elem` for weights, `B::Acc` for master
    /// weights.
    ///
    /// # Errors
    /// Out of memory.
    pub fn weights<B: Backend, T: Real>(&self, backend: &B) -> Result<Params<B::Buf<T>>, ModelError> {
        layout(&self.config).build(backend, |spec, out| self.read(spec, out))
    }

    /// Reads and prepares all weights for generation, one tensor at a time.
    ///
    /// # Errors
    /// Out of memory.
    pub fn infer_weights<B: InferBackend>(&self, backend: &B) -> Result<InferWeights<B>, ModelError> {
        let mut host: Vec<B::Elem> = Vec::new();
        InferWeights::build(backend, &self.config, |spec, buffer| {
            host.clear();
            host.resize(spec.len(), B::Elem::default());
            self.read(spec, &mut host)?;
            backend.upload(&host, buffer);
            Ok(())
        })
    }
}

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

/// Writes a checkpoint in the family that represents `config` exactly, or else in our own. The folder is made if it is
/// not there; each file is written under a temporary name, synced and renamed, the configuration last.
///
/// A query projection of a GPT-Neo shaped model that scales its scores is written times `1 / sqrt(d_head)`, a power of
/// two; [`load`] takes it back. Nothing else is changed but the rounding to [`SaveOptions::dtype`].
///
/// # Errors
/// Whatever the operating system says; a failed device; [`FileType::F16`], which is for reading only.
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
    let (family, why) = hf_config::family_for(config);
    if options.dtype == FileType::F16 {
        let problem = "weights are saved as f32 or bf16; f16 would overflow".to_owned();
        return Err(ModelError::Malformed { path: folder.to_owned(), problem });
    }
    std::fs::create_dir_all(folder).map_err(|source| ModelError::Io {
        action: "create",
        path: folder.to_owned(),
        source,
    })?;

    let table = layout(config);
    let buffers: Vec<&B::Buf<T>> = params.iter().collect();
    let specs: Vec<&ParamSpec> = table.iter().collect();
    assert!(specs.len() == buffers.len(), "save: {} tensors for a model of {}", buffers.len(), specs.len());
    let mut parts: Vec<(usize, Source)> = Vec::new();
    for (place, spec) in specs.iter().enumerate() {
        assert!(buffers[place].len() == spec.len(), "save: {} has {} elements", spec.name, buffers[place].len());
        parts.extend(family.sources(family.prefix(), config, spec).into_iter().map(|source| (place, source)));
    }
    let tensors: Vec<TensorSpec> = parts
        .iter()
        .map(|(place, source)| TensorSpec {
            name: source.name.clone(),
            shape: source.shape(specs[*place]),
            dtype: options.dtype,
        })
        .collect();
    let query_factor = if family == Family::GptNeo { hf_config::folded_scale(config).unwrap_or(1.0) } else { 1.0 };
    // "pt" tells transformers that the layout is PyTorch's; it refuses files that do not say.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut host: Vec<T> = Vec::new();
    let mut held = None;
    write(&folder.join(MODEL), &metadata, &tensors, |index, bytes| {
        let (place, source) = &parts[index];
        let spec = specs[*place];
        if held != Some(*place) {
            host.clear();
            host.resize(spec.len(), T::default());
            backend.download(buffers[*place], &mut host)?;
            held = Some(*place);
        }
        let width = spec.len() / spec.shape[0];
        let part = &host[source.rows.start * width..source.rows.end * width];
        match (source.layout, source.role) {
            (Layout::Transposed, _) => {
                let columns = (0..width).flat_map(|column| part.iter().skip(column).step_by(width).copied());
                encode(columns, options.dtype, bytes);
            }
            (Layout::Same, Role::Queries) => {
                let factor = f64::from(query_factor);
                encode(part.iter().map(|value| T::from_f64(value.to_f64() * factor)), options.dtype, bytes);
            }
            (Layout::Same, Role::Other) => encode(part.iter().copied(), options.dtype, bytes),
        }
        Ok(())
    })?;
    write_config(&folder.join(CONFIG), family, config, options)?;
    let note = why.map(|why| format!("saved in verve's own format, which transformers cannot open: {why}"));
    Ok(Saved { family, note })
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
    write_atomically(path, |out| {
        let text = format!("{:#}\n", Value::Object(map));
        out.write_all(text.as_bytes()).map_err(|source| ModelError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    })
}

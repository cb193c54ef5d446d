//! Reading checkpoints: folders that Hugging Face's transformers reads and writes, `config.json` and `model.safetensors`, or
//! several files with a `model.safetensors.index.json`.
//!
//! Families are configurations and name maps, see [`super::names`]. A model that no family represents exactly is written
//! with `model_type` "verve" and our own names; transformers cannot open it, this crate can.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};
use verve_ops::{Backend, InferBackend, Real};

use super::hf_config::{self, GenerationIds, Keys};
use super::names::{Family, Layout, Role, Source};
use super::tensor_file::{FileType, TensorFile};
use crate::config::{AttnScale, ModelConfig};
use crate::error::ModelError;
use crate::infer_weights::InferWeights;
use crate::params::{ParamSpec, Params, layout};

pub(super) const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
pub(super) const MODEL: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

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

/// The exact configuration that [`super::save`] put beside the family's keys, if those still say the same.
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

    /// Element type of the token table, which stands for that of all weights.
    ///
    /// # Errors
    /// None after [`load`], which has checked the table.
    pub fn dtype(&self) -> Result<FileType, ModelError> {
        let name = &self.sources(&layout(&self.config).tok_embed)[0].name;
        self.file(name)?.dtype(name)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn check(&mut self) -> Result<(), ModelError> {
        let table = layout(&self.config);
        // Some files hold the bare model, without the part of the names that the head's class adds.
        let bare = self.family.sources(self.family.bare_prefix(), &self.config, &table.tok_embed);
        if self.places.contains_key(&bare[0].name) {
            self.prefix = self.family.bare_prefix();
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
        let tied_head =
            |name: &str| self.config.tied_head && self.family != Family::Verve && name == self.family.head();
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
        let head = self.family.head();
        if self.family == Family::Verve || !self.places.contains_key(head) {
            return Ok(());
        }
        let file = self.file(head)?;
        file.check(head, &tok_embed.shape)?;
        let table = &self.sources(tok_embed)[0].name;
        if file.bytes(head)? != self.file(table)?.bytes(table)? {
            let problem = format!("{head} differs from {table}, though tie_word_embeddings is true");
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
                Layout::Below { rows } => {
                    numbers.each(rows * width, part.len(), |i, value| part[i] = T::from_f32(value));
                }
                Layout::HeadsTogether { n_heads } => {
                    let run = part.len() / (3 * n_heads);
                    for (place, rows) in part.chunks_exact_mut(run).enumerate() {
                        let (projection, head) = (place / n_heads, place % n_heads);
                        numbers.each((3 * head + projection) * run, run, |i, value| rows[i] = T::from_f32(value));
                    }
                }
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

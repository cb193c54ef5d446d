//! Writing models to GGUF files, one tensor at a time.

use std::path::Path;

use half::{bf16, f16};
use verve_gguf::{TensorSpec, TensorType, Value};
use verve_ops::quant::QuantKind;

use super::architecture::ROPE_FREQS;
use super::describe::{Described, describe, metadata};
use super::names::{RowOrder, Source, sources};
use super::{Architecture, GgufModel, numbers, rope_factors, types};
use crate::config::{ModelConfig, Positions};
use crate::error::ModelError;
use crate::formats::norms::is_norm_weight;
use crate::formats::{FileType, ModelFile};
use crate::params::{ParamSpec, layout};

/// How a model will be written: which architecture says it, and in which type each tensor is.
#[derive(Debug)]
pub struct GgufExport<'a> {
    source: &'a ModelFile,
    described: Described,
    weights: TensorType,
    table: Vec<ParamSpec>,
    parts: Vec<Part>,
    specs: Vec<TensorSpec>,
    rope_freqs: Option<Vec<f32>>,
}

/// What a file tensor is.
#[derive(Debug)]
struct Part {
    /// Which parameter tensor.
    place: usize,
    /// Which of its rows.
    source: Source,
    /// What it would have been if its rows allowed it.
    wanted: Option<QuantKind>,
}

/// What [`GgufExport::write`] wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// True when every number in the file is that of the source.
    pub exact: bool,
    /// Of the numbers of each file tensor, in the order of the rows of the model.
    digests: Vec<blake3::Hash>,
}

impl<'a> GgufExport<'a> {
    /// Plans a file whose matrices are of type `weights`: `f32`, `f16`, `bf16` or a type that can be quantised to.
    ///
    /// # Errors
    /// Another type.
    pub fn new(source: &'a ModelFile, weights: TensorType) -> Result<Self, ModelError> {
        let can = match weights {
            TensorType::F32 | TensorType::F16 | TensorType::Bf16 => true,
            TensorType::Quant(kind) => kind.can_quantize(),
            TensorType::Other(_) => false,
        };
        if !can {
            return Err(ModelError::Config {
                field: "type of weights",
                found: weights.to_string(),
                problem: "can be read and not written; written are f32, f16, bf16, q8_0, q4_0, q4_k and q6_k"
                    .to_owned(),
            });
        }
        let described = describe(source.config());
        let config = &described.config;
        let table: Vec<ParamSpec> = layout(config).iter().cloned().collect();
        let (mut parts, mut specs) = (Vec::new(), Vec::new());
        for (place, spec) in table.iter().enumerate() {
            for source in sources(described.architecture, config, spec) {
                let mut shape = spec.shape.clone();
                shape[0] = source.rows.len();
                let (kind, wanted) = types::choose(weights, &source.name, &shape, config.n_layers, config.tied_head);
                specs.push(TensorSpec { name: source.name.clone(), shape, kind });
                parts.push(Part { place, source, wanted });
            }
        }
        let rope_freqs = match (described.architecture, config.positions) {
            (Architecture::Llama, Positions::Rotary { theta }) => {
                rope_factors::factors(config.rotary_scaling, theta, config.d_rot())
            }
            _ => None,
        };
        if let Some(factors) = &rope_freqs {
            let (name, shape) = (ROPE_FREQS.to_owned(), vec![factors.len()]);
            specs.push(TensorSpec { name, shape, kind: TensorType::F32 });
        }
        Ok(Self { source, described, weights, table, parts, specs, rope_freqs })
    }

    /// Whose names and layouts the file will have.
    pub fn architecture(&self) -> Architecture {
        self.described.architecture
    }

    /// The configuration that will be read from the file.
    pub fn config(&self) -> &ModelConfig {
        &self.described.config
    }

    /// For [`Architecture::Verve`]: why other programs cannot open it.
    pub fn why_own(&self) -> Option<&str> {
        self.described.why_own.as_deref()
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.specs.iter().map(|spec| spec.n_bytes() as u64).sum()
    }

    /// Tensors that are of another type than they should be, because their rows are no whole number of its blocks: the type
    /// that was wanted, the type instead, and how many there are.
    pub fn fallbacks(&self) -> Vec<(QuantKind, TensorType, usize)> {
        let mut out: Vec<(QuantKind, TensorType, usize)> = Vec::new();
        for (part, spec) in self.parts.iter().zip(&self.specs) {
            let Some(wanted) = part.wanted else { continue };
            match out.iter_mut().find(|(a, b, _)| (*a, *b) == (wanted, spec.kind)) {
                Some((_, _, count)) => *count += 1,
                None => out.push((wanted, spec.kind, 1)),
            }
        }
        out
    }

    /// Writes the file under a temporary name and renames it when it is on the disk. `more` is metadata beside the model's
    /// own: name, tokenizer, chat template. `progress` is told the bytes of tensors that have been made.
    ///
    /// Blocks that the source has in the type that is wanted are taken as they are.
    ///
    /// # Errors
    /// Whatever the operating system says; a number that the type does not hold: infinite or none in blocks, above 65504 in
    /// `f16`.
    pub fn write(
        &self,
        path: &Path,
        more: Vec<(String, Value)>,
        mut progress: impl FnMut(u64),
    ) -> Result<Written, ModelError> {
        let mut all = metadata(&self.described, self.weights)?;
        all.extend(more);
        let mut written = Written { exact: true, digests: Vec::with_capacity(self.parts.len()) };
        let (mut host, mut held, mut done) = (Vec::new(), None, 0);
        verve_gguf::write(path, &all, &self.specs, |index, bytes| {
            match self.parts.get(index) {
                Some(part) => {
                    if held != Some(part.place) {
                        self.fetch(part.place, &mut host)?;
                        held = Some(part.place);
                    }
                    let (digest, exact) = self.append(index, part, &host, bytes).map_err(|problem| {
                        ModelError::Malformed { path: path.to_owned(), problem: format!("not written: {problem}") }
                    })?;
                    written.digests.push(digest);
                    written.exact &= exact;
                }
                None => self.rope_freqs.iter().flatten().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes())),
            }
            done += bytes.len() as u64;
            progress(done);
            Ok::<_, ModelError>(())
        })?;
        Ok(written)
    }

    /// The numbers of a parameter tensor as the file's architecture has them.
    fn fetch(&self, place: usize, host: &mut Vec<f32>) -> Result<(), ModelError> {
        let spec = &self.table[place];
        host.clear();
        host.resize(spec.len(), 0.0);
        self.source.read(spec, host)?;
        if self.described.norm_shift != 0.0 && is_norm_weight(spec) {
            host.iter_mut().for_each(|x| *x += self.described.norm_shift);
        }
        Ok(())
    }

    /// Appends the bytes of a file tensor. Returns the digest of their numbers, and whether they are those of the source.
    fn append(
        &self,
        index: usize,
        part: &Part,
        host: &[f32],
        bytes: &mut Vec<u8>,
    ) -> Result<(blake3::Hash, bool), String> {
        let (spec, file_tensor) = (&self.table[part.place], &self.specs[index]);
        let width = spec.len() / spec.shape[0];
        let rows = &part.source.rows;
        let values = &host[rows.start * width..rows.end * width];
        let in_file = match part.source.order {
            RowOrder::Same => None,
            order => {
                let mut moved = vec![0.0; values.len()];
                for (row, values) in values.chunks_exact(width).enumerate() {
                    let to = order.row_in_file(row) * width;
                    moved[to..to + width].copy_from_slice(values);
                }
                Some(moved)
            }
        };
        match self.same_blocks(file_tensor) {
            Some(blocks) => bytes.extend_from_slice(blocks),
            None => encode(file_tensor, in_file.as_deref().unwrap_or(values), bytes)?,
        }
        let mut found = vec![0.0; values.len()];
        let row_bytes = bytes.len() / rows.len();
        for (row, out) in found.chunks_exact_mut(width).enumerate() {
            let from = part.source.order.row_in_file(row) * row_bytes;
            numbers(file_tensor.kind, &bytes[from..from + row_bytes], out);
        }
        let exact = found.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits());
        Ok((digest(&found), exact))
    }

    /// The blocks of the source, if it has this tensor in this type and layout.
    fn same_blocks(&self, tensor: &TensorSpec) -> Option<&[u8]> {
        let (ModelFile::Gguf(source), TensorType::Quant(_)) = (self.source, tensor.kind) else { return None };
        let found = source.file().tensor(&tensor.name)?;
        if source.architecture() != self.architecture() || found.kind != tensor.kind || found.shape != tensor.shape {
            return None;
        }
        source.file().bytes(&tensor.name).ok()
    }

    /// Reads a file that [`Self::write`] wrote, and checks that it is the model, number for number.
    ///
    /// # Errors
    /// The first tensor that differs; a file that cannot be read.
    pub fn verify(&self, path: &Path, written: &Written) -> Result<(), ModelError> {
        let found = GgufModel::open(path)?;
        let differs = |what: &str| ModelError::Malformed {
            path: path.to_owned(),
            problem: format!("is not what was written: {what} differs when it is read again"),
        };
        if found.config() != self.config() || found.architecture() != self.architecture() {
            return Err(differs("the configuration"));
        }
        let (mut host, mut held) = (Vec::new(), None);
        for (part, digest_written) in self.parts.iter().zip(&written.digests) {
            let spec = &self.table[part.place];
            if held != Some(part.place) {
                host.clear();
                host.resize(spec.len(), 0.0);
                found.read(spec, &mut host)?;
                held = Some(part.place);
            }
            let width = spec.len() / spec.shape[0];
            if digest(&host[part.source.rows.start * width..part.source.rows.end * width]) != *digest_written {
                return Err(differs(&part.source.name));
            }
        }
        Ok(())
    }
}

fn digest(values: &[f32]) -> blake3::Hash {
    blake3::hash(bytemuck::cast_slice(values))
}

/// Appends numbers in a type.
fn encode(tensor: &TensorSpec, values: &[f32], bytes: &mut Vec<u8>) -> Result<(), String> {
    match tensor.kind {
        TensorType::Quant(kind) => {
            if let Some(x) = values.iter().find(|x| !x.is_finite()) {
                return Err(format!("{} holds {x}, which {kind} cannot", tensor.name));
            }
            quantize(kind, values, bytes);
        }
        TensorType::F16 => {
            if let Some(x) = values.iter().find(|x| x.is_finite() && f16::from_f32(**x).is_infinite()) {
                return Err(format!("{} holds {x}, which is more than f16 can hold; take bf16 or f32", tensor.name));
            }
            crate::formats::tensor_file::encode(values.iter().copied(), FileType::F16, bytes);
        }
        TensorType::Bf16 => values.iter().for_each(|x| bytes.extend_from_slice(&bf16::from_f32(*x).to_le_bytes())),
        TensorType::F32 => values.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes())),
        TensorType::Other(_) => panic!("a tensor of type {} is not written", tensor.kind),
    }
    Ok(())
}

/// Values that one thread quantises at least.
const MIN_PIECE: usize = 1 << 16;

/// Appends blocks, made by all cores: every block is a function of its values alone.
fn quantize(kind: QuantKind, values: &[f32], bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.resize(start + kind.bytes(values.len()), 0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let piece = values.len().div_ceil(threads).max(MIN_PIECE).next_multiple_of(kind.block_len());
    std::thread::scope(|scope| {
        for (values, blocks) in values.chunks(piece).zip(bytes[start..].chunks_mut(kind.bytes(piece))) {
            scope.spawn(move || kind.quantize(values, blocks));
        }
    });
}

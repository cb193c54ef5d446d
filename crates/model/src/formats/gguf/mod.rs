//! Models in GGUF files.
//!
//! Weights in blocks are handed to generation as they are ([`GgufModel::infer_weights`]); whoever wants numbers gets them
//! dequantised ([`GgufModel::read`]).

mod architecture;
mod describe;
mod export;
mod names;
mod rope_factors;
mod types;

use std::collections::BTreeSet;
use std::path::Path;

use half::{bf16, f16};
use verve_gguf::{GgufFile, TensorType};
use verve_ops::quant::ActivationPrecision;
use verve_ops::{InferBackend, Real};

use self::names::{RowOrder, Source};
use super::hf_config::GenerationIds;
use super::tensor_file::FileType;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::infer_weights::{InferWeights, QuantRows, WeightFormats};
use crate::params::{ParamSpec, layout};

pub use architecture::Architecture;
pub use export::{GgufExport, Written};

/// A model in a GGUF file that has been opened and checked against its own metadata; no weight has been read yet.
#[derive(Debug)]
pub struct GgufModel {
    file: GgufFile,
    architecture: Architecture,
    config: ModelConfig,
    ids: GenerationIds,
}

/// Tensors that hold no weights: what llama.cpp precomputes.
const DERIVED: [&str; 1] = [architecture::ROPE_FREQS];

impl GgufModel {
    /// Opens a file and checks it: every tensor that its metadata imply is there with the right shape and a type that can
    /// be computed with, and nothing else is there.
    ///
    /// # Errors
    /// See [`ModelError`]; each names the file and the key or tensor.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = GgufFile::open(path)?;
        let (architecture, config) = architecture::parse(&file)?;
        config.validate()?;
        let ids = architecture::ids(&file, config.n_vocab)?;
        let model = Self { file, architecture, config, ids };
        model.check()?;
        Ok(model)
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whose names and layouts the file has.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Token ids that generation needs.
    pub fn ids(&self) -> &GenerationIds {
        &self.ids
    }

    /// The file: metadata for a tokenizer, tensor types for people.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    /// The narrowest type of numbers that holds every weight exactly: `f32` unless all matrices are `bf16`.
    pub fn dtype(&self) -> FileType {
        let matrices = self.file.tensors().iter().filter(|tensor| tensor.shape.len() > 1);
        if matrices.into_iter().all(|tensor| tensor.kind == TensorType::Bf16) { FileType::Bf16 } else { FileType::F32 }
    }

    fn sources(&self, spec: &ParamSpec) -> Vec<Source> {
        names::sources(self.architecture, &self.config, spec)
    }

    fn check(&self) -> Result<(), ModelError> {
        let mut expected: BTreeSet<String> = DERIVED.map(str::to_owned).into();
        for spec in layout(&self.config).iter() {
            for source in self.sources(spec) {
                self.file.bytes(&source.name)?;
                let found = self.file.tensor(&source.name).map(|tensor| tensor.shape.clone()).unwrap_or_default();
                let mut shape = spec.shape.clone();
                shape[0] = source.rows.len();
                if found != shape {
                    return Err(ModelError::TensorShape {
                        path: self.file.path().to_owned(),
                        name: source.name,
                        found,
                        expected: shape,
                    });
                }
                expected.insert(source.name);
            }
        }
        let unknown: Vec<&str> = self
            .file
            .tensors()
            .iter()
            .map(|tensor| tensor.name.as_str())
            .filter(|name| !expected.contains(*name))
            .collect();
        match unknown.first() {
            Some(name) => Err(ModelError::UnknownTensor {
                path: self.file.path().to_owned(),
                name: (*name).to_owned(),
                count: unknown.len(),
            }),
            None => Ok(()),
        }
    }

    /// Reads one tensor of [`layout`]`(config)`, dequantised and converted to `T` (by way of `f32`).
    ///
    /// # Errors
    /// A `spec` of another model.
    ///
    /// # Panics
    /// When `out` has not [`ParamSpec::len`] elements.
    pub fn read<T: Real>(&self, spec: &ParamSpec, out: &mut [T]) -> Result<(), ModelError> {
        assert!(out.len() == spec.len(), "{}: {} elements, not {}", spec.name, out.len(), spec.len());
        let width = spec.len() / spec.shape[0];
        let mut row = vec![0.0f32; width];
        for source in self.sources(spec) {
            let (kind, bytes) = self.tensor(&source)?;
            // A vector is one row of the file, and as many rows of one value here.
            let row_bytes = bytes.len() / source.rows.len();
            for (index, at) in source.rows.clone().enumerate() {
                let from = source.order.row_in_file(index) * row_bytes;
                numbers(kind, &bytes[from..from + row_bytes], &mut row);
                for (out, value) in out[at * width..(at + 1) * width].iter_mut().zip(&row) {
                    *out = T::from_f32(*value);
                }
            }
        }
        Ok(())
    }

    fn tensor(&self, source: &Source) -> Result<(TensorType, &[u8]), ModelError> {
        let bytes = self.file.bytes(&source.name)?;
        let kind = self.file.tensor(&source.name).map_or(TensorType::Other(u32::MAX), |tensor| tensor.kind);
        Ok((kind, bytes))
    }

    /// The blocks of a weight matrix, if all of it is in blocks.
    fn blocks(&self, spec: &ParamSpec) -> Result<Option<Vec<QuantRows>>, ModelError> {
        let mut parts = Vec::new();
        for source in self.sources(spec) {
            let (TensorType::Quant(kind), bytes) = self.tensor(&source)? else { return Ok(None) };
            let (rows, row_bytes) = (source.rows.len(), bytes.len() / source.rows.len());
            let blocks = match source.order {
                RowOrder::Same => bytes.to_vec(),
                order => {
                    let row = |index| &bytes[order.row_in_file(index) * row_bytes..][..row_bytes];
                    (0..rows).flat_map(row).copied().collect()
                }
            };
            parts.push(QuantRows { kind, rows, blocks });
        }
        Ok(Some(parts))
    }

    /// Which weights stay in blocks.
    ///
    /// # Errors
    /// None after [`GgufModel::open`], which has looked at every tensor.
    pub fn formats(&self) -> Result<WeightFormats, ModelError> {
        layout(&self.config).try_map(|spec| {
            let mut parts = Vec::new();
            for source in self.sources(&spec) {
                match self.tensor(&source)? {
                    (TensorType::Quant(kind), _) if spec.shape.len() > 1 => parts.push((kind, source.rows.len())),
                    _ => return Ok(None),
                }
            }
            Ok(Some(parts))
        })
    }

    /// Reads and prepares all weights for generation, one tensor at a time. `precision` is that of products with weights
    /// that stay in blocks.
    ///
    /// # Errors
    /// Out of memory.
    pub fn infer_weights<B: InferBackend>(
        &self,
        backend: &B,
        precision: ActivationPrecision,
    ) -> Result<InferWeights<B>, ModelError> {
        let mut host: Vec<B::Elem> = Vec::new();
        let fill = |spec: &ParamSpec, buffer: &mut B::Buf<B::Elem>| {
            host.clear();
            host.resize(spec.len(), B::Elem::default());
            self.read(spec, &mut host)?;
            backend.upload(&host, buffer);
            Ok(())
        };
        InferWeights::build_quantized(backend, &self.config, precision, |spec| self.blocks(spec), fill)
    }
}

/// The numbers of some whole blocks.
fn numbers(kind: TensorType, bytes: &[u8], out: &mut [f32]) {
    match kind {
        TensorType::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        TensorType::F16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        TensorType::Bf16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        TensorType::Quant(kind) => kind.dequantize(bytes, out),
        TensorType::Other(_) => panic!("a tensor of type {kind} was not refused"),
    }
}

//! A model on disk in any format that can be read.

use std::path::Path;

use verve_ops::quant::ActivationPrecision;
use verve_ops::{InferBackend, Real};

use super::{Checkpoint, FileType, GenerationIds, GgufModel, load};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::infer_weights::{InferWeights, WeightFormats};
use crate::params::ParamSpec;

/// A model whose files have been opened and checked; no weight has been read yet.
#[derive(Debug)]
pub enum ModelFile {
    /// A folder in the Hugging Face layout.
    Folder(Checkpoint),
    /// A GGUF file.
    Gguf(GgufModel),
}

impl ModelFile {
    /// Opens a folder, or else a GGUF file.
    ///
    /// # Errors
    /// See [`load`] and [`GgufModel::open`].
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Ok(if path.is_dir() { Self::Folder(load(path)?) } else { Self::Gguf(GgufModel::open(path)?) })
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Self::Folder(model) => model.config(),
            Self::Gguf(model) => model.config(),
        }
    }

    /// Token ids that generation needs.
    pub fn ids(&self) -> &GenerationIds {
        match self {
            Self::Folder(model) => model.ids(),
            Self::Gguf(model) => model.ids(),
        }
    }

    /// The type of numbers to compute with that loses nothing of the weights.
    ///
    /// # Errors
    /// None after [`ModelFile::open`].
    pub fn dtype(&self) -> Result<FileType, ModelError> {
        match self {
            Self::Folder(model) => model.dtype(),
            Self::Gguf(model) => Ok(model.dtype()),
        }
    }

    /// Which weights stay in blocks for generation; `None` if the format has none.
    ///
    /// # Errors
    /// None after [`ModelFile::open`].
    pub fn formats(&self) -> Result<Option<WeightFormats>, ModelError> {
        match self {
            Self::Folder(_) => Ok(None),
            Self::Gguf(model) => model.formats().map(Some),
        }
    }

    /// Reads one tensor of the parameter table, converted to `T`.
    ///
    /// # Errors
    /// A `spec` of another model.
    ///
    /// # Panics
    /// When `out` has not [`ParamSpec::len`] elements.
    pub fn read<T: Real>(&self, spec: &ParamSpec, out: &mut [T]) -> Result<(), ModelError> {
        match self {
            Self::Folder(model) => model.read(spec, out),
            Self::Gguf(model) => model.read(spec, out),
        }
    }

    /// Reads and prepares all weights for generation, one tensor at a time. `precision` is that of products with weights
    /// that stay in blocks; others are as they are.
    ///
    /// # Errors
    /// Out of memory.
    pub fn infer_weights<B: InferBackend>(
        &self,
        backend: &B,
        precision: ActivationPrecision,
    ) -> Result<InferWeights<B>, ModelError> {
        match self {
            Self::Folder(model) => model.infer_weights(backend),
            Self::Gguf(model) => model.infer_weights(backend, precision),
        }
    }
}

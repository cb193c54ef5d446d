//! Weights prepared for generation.

use verve_ops::quant::{ActivationPrecision, QuantKind, QuantPart};
use verve_ops::{Backend, InferBackend};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::params::{ParamSpec, Params, Weights, layout};

type Elems<B> = <B as Backend>::Buf<<B as Backend>::Elem>;

/// One tensor of an inference model.
pub(crate) enum InferTensor<B: InferBackend> {
    /// A weight matrix or the token table, in the machine's layout.
    Prepared(B::Weight),
    /// A bias, a norm weight or the position table, as it is.
    Plain(Elems<B>),
}

impl<B: InferBackend> InferTensor<B> {
    /// True for tensors that are stored plain: vectors and the position table.
    fn is_plain(spec: &ParamSpec) -> bool {
        spec.shape.len() == 1 || spec.name == "pos_embed"
    }

    pub(crate) fn prepared(&self) -> &B::Weight {
        match self {
            Self::Prepared(weight) => weight,
            Self::Plain(_) => panic!("a matrix is stored plain"),
        }
    }

    pub(crate) fn plain(&self) -> &Elems<B> {
        match self {
            Self::Plain(buffer) => buffer,
            Self::Prepared(_) => panic!("a vector is stored prepared"),
        }
    }
}

/// Some rows of a weight in blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantRows {
    /// Block format.
    pub kind: QuantKind,
    /// Number of rows.
    pub rows: usize,
    /// The blocks of all rows.
    pub blocks: Vec<u8>,
}

impl QuantRows {
    fn as_part(&self) -> QuantPart<'_> {
        QuantPart { kind: self.kind, blocks: &self.blocks, rows: self.rows }
    }
}

/// Which tensors stay in blocks for generation: the formats and row counts of the parts that lie below one another.
/// `None` for a tensor of plain numbers.
pub type WeightFormats = Params<Option<Vec<(QuantKind, usize)>>>;

/// Weights ready for generation.
pub struct InferWeights<B: InferBackend>(pub(crate) Params<InferTensor<B>>);

impl<B: InferBackend> InferWeights<B> {
    /// Prepares weights one tensor at a time. `fill` writes a tensor of the table into a buffer of its size; tensors come
    /// in canonical order.
    ///
    /// # Errors
    /// Out of memory, or the first error of `fill`.
    pub fn build(
        backend: &B,
        config: &ModelConfig,
        fill: impl FnMut(&ParamSpec, &mut Elems<B>) -> Result<(), ModelError>,
    ) -> Result<Self, ModelError> {
        Self::build_quantized(backend, config, ActivationPrecision::Exact, |_| Ok(None), fill)
    }

    /// As [`InferWeights::build`]; where `blocks` has a weight matrix in blocks, they are taken as they are. `precision` is
    /// that of products with such weights.
    ///
    /// # Errors
    /// Out of memory, or the first error of `blocks` or `fill`.
    pub fn build_quantized(
        backend: &B,
        config: &ModelConfig,
        precision: ActivationPrecision,
        mut blocks: impl FnMut(&ParamSpec) -> Result<Option<Vec<QuantRows>>, ModelError>,
        mut fill: impl FnMut(&ParamSpec, &mut Elems<B>) -> Result<(), ModelError>,
    ) -> Result<Self, ModelError> {
        let tensors = layout(config).try_map(|spec| {
            let plain = InferTensor::<B>::is_plain(&spec);
            if !plain && let Some(rows) = blocks(&spec)? {
                let parts: Vec<QuantPart<'_>> = rows.iter().map(QuantRows::as_part).collect();
                return Ok(InferTensor::Prepared(backend.prepare_quantized(&parts, spec.shape[1], precision)?));
            }
            let mut buffer = backend.alloc(spec.len())?;
            fill(&spec, &mut buffer)?;
            if plain {
                return Ok(InferTensor::Plain(buffer));
            }
            Ok::<_, ModelError>(InferTensor::Prepared(backend.prepare(&buffer, spec.shape[0], spec.shape[1])?))
        })?;
        Ok(Self(tensors))
    }

    /// Prepares a copy of weights that go on being trained.
    ///
    /// # Errors
    /// Out of memory.
    ///
    /// # Panics
    /// When the weights are not of this configuration.
    pub fn prepare(backend: &B, config: &ModelConfig, weights: &Weights<B>) -> Result<Self, ModelError> {
        let mut source = weights.iter();
        Self::build(backend, config, |spec, buffer| {
            let Some(weight) = source.next() else { panic!("weights of another model: {} is missing", spec.name) };
            backend.copy(weight, buffer);
            Ok(())
        })
    }

    /// Bytes that a model takes on this machine, with the tensors in blocks that `formats` has, if any.
    pub fn bytes(backend: &B, config: &ModelConfig, formats: Option<&WeightFormats>) -> usize {
        Self::tensors(config, formats).map(|(spec, parts)| Self::tensor_bytes(backend, &spec, parts)).sum()
    }

    /// Most bytes held at once by [`Self::build_quantized`], with a copy of each tensor on the host, where it has been read.
    pub fn bytes_while_building(backend: &B, config: &ModelConfig, formats: Option<&WeightFormats>) -> usize {
        let (mut done, mut most) = (0, 0);
        for (spec, parts) in Self::tensors(config, formats) {
            let elems = spec.len() * size_of::<B::Elem>();
            let source = match parts {
                Some(parts) => parts.iter().map(|(kind, rows)| kind.bytes(rows * spec.shape[1])).sum(),
                None if InferTensor::<B>::is_plain(&spec) => elems,
                None => 2 * elems,
            };
            done += Self::tensor_bytes(backend, &spec, parts);
            most = most.max(done + source);
        }
        most
    }

    fn tensors<'a>(
        config: &ModelConfig,
        formats: Option<&'a WeightFormats>,
    ) -> impl Iterator<Item = (ParamSpec, Option<&'a [(QuantKind, usize)]>)> {
        let mut specs = Vec::new();
        layout(config).map(|spec| specs.push(spec));
        let mut parts = formats.into_iter().flat_map(|formats| formats.iter());
        specs.into_iter().map(move |spec| (spec, parts.next().and_then(|parts| parts.as_deref())))
    }

    fn tensor_bytes(backend: &B, spec: &ParamSpec, parts: Option<&[(QuantKind, usize)]>) -> usize {
        match parts {
            Some(parts) => backend.prepared_quantized_bytes(parts, spec.shape[1]),
            None if InferTensor::<B>::is_plain(spec) => spec.len() * size_of::<B::Elem>(),
            None => backend.prepared_bytes(spec.shape[0], spec.shape[1]),
        }
    }
}

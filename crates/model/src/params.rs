//! The one parameter table: its fields, their order, and what is known about each tensor. Weights, gradients, moments,
//! parameter count, files and optimizer groups are all derived from it.

use verve_ops::{Backend, Buffer, Element, Real};

use crate::config::{ModelConfig, Norm, Positions, Residual};
use crate::error::ModelError;

/// Weight and bias of a linear layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearParams<T> {
    /// `[d_out, d_in]`.
    pub weight: T,
    /// `[d_out]`.
    pub bias: Option<T>,
}

/// Weight and bias of a normalisation.
#[derive(Debug, Clone, PartialEq)]
pub struct NormParams<T> {
    /// `[C]`.
    pub weight: T,
    /// `[C]`; LayerNorm only.
    pub bias: Option<T>,
}

/// One block.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerParams<T> {
    /// Before attention; the first block has none where norms come after the halves of a block.
    pub attn_norm: Option<NormParams<T>>,
    /// `[(H + 2K) D, C]`: query heads, key heads, value heads.
    pub attn_qkv: LinearParams<T>,
    /// `[D]`, of query heads.
    pub q_norm: Option<T>,
    /// `[D]`, of key heads.
    pub k_norm: Option<T>,
    /// `[C, H D]`.
    pub attn_out: LinearParams<T>,
    /// Of attention's output.
    pub attn_post_norm: Option<NormParams<T>>,
    /// Before the feed-forward layer.
    pub ffn_norm: NormParams<T>,
    /// `[d_ff, C]`.
    pub ffn_up: LinearParams<T>,
    /// `[d_ff, C]`; gated activations only.
    pub ffn_gate: Option<LinearParams<T>>,
    /// `[C, d_ff]`.
    pub ffn_down: LinearParams<T>,
    /// Of the feed-forward layer's output.
    pub ffn_post_norm: Option<NormParams<T>>,
}

/// One `T` for each parameter tensor of a model. The canonical order is that of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Params<T> {
    /// `[V, C]`.
    pub tok_embed: T,
    /// `[n_ctx, C]`; learned positions only.
    pub pos_embed: Option<T>,
    /// The blocks.
    pub layers: Vec<LayerParams<T>>,
    /// Before the head.
    pub final_norm: NormParams<T>,
    /// `[V, C]`; absent when the head is tied to `tok_embed`.
    pub lm_head: Option<T>,
}

/// Weights a backend computes with.
pub type Weights<B> = Params<<B as Backend>::Buf<<B as Backend>::Elem>>;
/// Gradients, in the accumulator type.
pub type Grads<B> = Params<<B as Backend>::Buf<<B as Backend>::Acc>>;
/// First or second moments of the optimizer, or master weights.
pub type Moments<B> = Grads<B>;

impl<T> NormParams<T> {
    fn try_map<U, E>(self, f: &mut impl FnMut(T) -> Result<U, E>) -> Result<NormParams<U>, E> {
        Ok(NormParams { weight: f(self.weight)?, bias: self.bias.map(f).transpose()? })
    }

    fn as_ref(&self) -> NormParams<&T> {
        NormParams { weight: &self.weight, bias: self.bias.as_ref() }
    }

    fn as_mut(&mut self) -> NormParams<&mut T> {
        NormParams { weight: &mut self.weight, bias: self.bias.as_mut() }
    }
}

impl<T> LinearParams<T> {
    fn try_map<U, E>(self, f: &mut impl FnMut(T) -> Result<U, E>) -> Result<LinearParams<U>, E> {
        Ok(LinearParams { weight: f(self.weight)?, bias: self.bias.map(f).transpose()? })
    }

    fn as_ref(&self) -> LinearParams<&T> {
        LinearParams { weight: &self.weight, bias: self.bias.as_ref() }
    }

    fn as_mut(&mut self) -> LinearParams<&mut T> {
        LinearParams { weight: &mut self.weight, bias: self.bias.as_mut() }
    }
}

impl<T> LayerParams<T> {
    fn try_map<U, E>(self, f: &mut impl FnMut(T) -> Result<U, E>) -> Result<LayerParams<U>, E> {
        Ok(LayerParams {
            attn_norm: self.attn_norm.map(|norm| norm.try_map(f)).transpose()?,
            attn_qkv: self.attn_qkv.try_map(f)?,
            q_norm: self.q_norm.map(&mut *f).transpose()?,
            k_norm: self.k_norm.map(&mut *f).transpose()?,
            attn_out: self.attn_out.try_map(f)?,
            attn_post_norm: self.attn_post_norm.map(|norm| norm.try_map(f)).transpose()?,
            ffn_norm: self.ffn_norm.try_map(f)?,
            ffn_up: self.ffn_up.try_map(f)?,
            ffn_gate: self.ffn_gate.map(|gate| gate.try_map(f)).transpose()?,
            ffn_down: self.ffn_down.try_map(f)?,
            ffn_post_norm: self.ffn_post_norm.map(|norm| norm.try_map(f)).transpose()?,
        })
    }

    fn as_ref(&self) -> LayerParams<&T> {
        LayerParams {
            attn_norm: self.attn_norm.as_ref().map(NormParams::as_ref),
            attn_qkv: self.attn_qkv.as_ref(),
            q_norm: self.q_norm.as_ref(),
            k_norm: self.k_norm.as_ref(),
            attn_out: self.attn_out.as_ref(),
            attn_post_norm: self.attn_post_norm.as_ref().map(NormParams::as_ref),
            ffn_norm: self.ffn_norm.as_ref(),
            ffn_up: self.ffn_up.as_ref(),
            ffn_gate: self.ffn_gate.as_ref().map(LinearParams::as_ref),
            ffn_down: self.ffn_down.as_ref(),
            ffn_post_norm: self.ffn_post_norm.as_ref().map(NormParams::as_ref),
        }
    }

    fn as_mut(&mut self) -> LayerParams<&mut T> {
        LayerParams {
            attn_norm: self.attn_norm.as_mut().map(NormParams::as_mut),
            attn_qkv: self.attn_qkv.as_mut(),
            q_norm: self.q_norm.as_mut(),
            k_norm: self.k_norm.as_mut(),
            attn_out: self.attn_out.as_mut(),
            attn_post_norm: self.attn_post_norm.as_mut().map(NormParams::as_mut),
            ffn_norm: self.ffn_norm.as_mut(),
            ffn_up: self.ffn_up.as_mut(),
            ffn_gate: self.ffn_gate.as_mut().map(LinearParams::as_mut),
            ffn_down: self.ffn_down.as_mut(),
            ffn_post_norm: self.ffn_post_norm.as_mut().map(NormParams::as_mut),
        }
    }
}

impl<T> Params<T> {
    /// Makes a table of the same fields, in canonical order; stops at the first error.
    pub fn try_map<U, E>(self, mut f: impl FnMut(T) -> Result<U, E>) -> Result<Params<U>, E> {
        Ok(Params {
            tok_embed: f(self.tok_embed)?,
            pos_embed: self.pos_embed.map(&mut f).transpose()?,
            layers: self.layers.into_iter().map(|layer| layer.try_map(&mut f)).collect::<Result<_, E>>()?,
            final_norm: self.final_norm.try_map(&mut f)?,
            lm_head: self.lm_head.map(&mut f).transpose()?,
        })
    }

    /// Makes a table of the same fields, in canonical order.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Params<U> {
        match self.try_map(|value| Ok::<U, std::convert::Infallible>(f(value))) {
            Ok(table) => table,
            Err(never) => match never {},
        }
    }

    /// A table of references.
    pub fn as_ref(&self) -> Params<&T> {
        Params {
            tok_embed: &self.tok_embed,
            pos_embed: self.pos_embed.as_ref(),
            layers: self.layers.iter().map(LayerParams::as_ref).collect(),
            final_norm: self.final_norm.as_ref(),
            lm_head: self.lm_head.as_ref(),
        }
    }

    /// A table of exclusive references.
    pub fn as_mut(&mut self) -> Params<&mut T> {
        Params {
            tok_embed: &mut self.tok_embed,
            pos_embed: self.pos_embed.as_mut(),
            layers: self.layers.iter_mut().map(LayerParams::as_mut).collect(),
            final_norm: self.final_norm.as_mut(),
            lm_head: self.lm_head.as_mut(),
        }
    }

    /// All tensors in canonical order. Allocates nothing.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let layers = self.layers.iter().flat_map(|l| {
            (l.attn_norm.iter().flat_map(norm_iter))
                .chain(linear_iter(&l.attn_qkv))
                .chain(&l.q_norm)
                .chain(&l.k_norm)
                .chain(linear_iter(&l.attn_out))
                .chain(l.attn_post_norm.iter().flat_map(norm_iter))
                .chain(norm_iter(&l.ffn_norm))
                .chain(linear_iter(&l.ffn_up))
                .chain(l.ffn_gate.iter().flat_map(linear_iter))
                .chain(linear_iter(&l.ffn_down))
                .chain(l.ffn_post_norm.iter().flat_map(norm_iter))
        });
        std::iter::once(&self.tok_embed)
            .chain(&self.pos_embed)
            .chain(layers)
            .chain(norm_iter(&self.final_norm))
            .chain(&self.lm_head)
    }

    /// All tensors in canonical order. Allocates nothing.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let layers = self.layers.iter_mut().flat_map(|l| {
            (l.attn_norm.iter_mut().flat_map(norm_iter_mut))
                .chain(linear_iter_mut(&mut l.attn_qkv))
                .chain(&mut l.q_norm)
                .chain(&mut l.k_norm)
                .chain(linear_iter_mut(&mut l.attn_out))
                .chain(l.attn_post_norm.iter_mut().flat_map(norm_iter_mut))
                .chain(norm_iter_mut(&mut l.ffn_norm))
                .chain(linear_iter_mut(&mut l.ffn_up))
                .chain(l.ffn_gate.iter_mut().flat_map(linear_iter_mut))
                .chain(linear_iter_mut(&mut l.ffn_down))
                .chain(l.ffn_post_norm.iter_mut().flat_map(norm_iter_mut))
        });
        std::iter::once(&mut self.tok_embed)
            .chain(&mut self.pos_embed)
            .chain(layers)
            .chain(norm_iter_mut(&mut self.final_norm))
            .chain(&mut self.lm_head)
    }

    /// Pairs two tables of the same model.
    ///
    /// # Panics
    /// When the tables have different fields: they belong to different models, which is a bug.
    pub fn zip<U>(self, other: Params<U>) -> Params<(T, U)> {
        let mut others = Vec::new();
        other.map(|value| others.push(value));
        let total = others.len();
        let mut others = others.into_iter();
        let mut taken = 0;
        let pairs = self.map(|value| {
            taken += 1;
            let other = others.next().unwrap_or_else(|| panic!("zip: {taken} tensors against {total}"));
            (value, other)
        });
        assert!(taken == total, "zip: {taken} tensors against {total}");
        pairs
    }
}

fn norm_iter<T>(norm: &NormParams<T>) -> impl Iterator<Item = &T> {
    std::iter::once(&norm.weight).chain(&norm.bias)
}

fn linear_iter<T>(linear: &LinearParams<T>) -> impl Iterator<Item = &T> {
    std::iter::once(&linear.weight).chain(&linear.bias)
}

fn norm_iter_mut<T>(norm: &mut NormParams<T>) -> impl Iterator<Item = &mut T> {
    std::iter::once(&mut norm.weight).chain(&mut norm.bias)
}

fn linear_iter_mut<T>(linear: &mut LinearParams<T>) -> impl Iterator<Item = &mut T> {
    std::iter::once(&mut linear.weight).chain(&mut linear.bias)
}

/// First values of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zero: biases.
    Zeros,
    /// All one: norm weights.
    Ones,
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
}

/// Whether weight decay applies to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// Matrices and embedding tables.
    Apply,
    /// Biases and norm weights.
    Skip,
}

/// What is known about one parameter tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// Field path in [`Params`], for example `layers.3.attn_qkv.weight`; also the name in our own checkpoints.
    pub name: String,
    /// Extents, one or two.
    pub shape: Vec<usize>,
    /// First values.
    pub init: Init,
    /// Weight decay.
    pub decay: Decay,
}

impl ParamSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when there are no elements; no valid configuration has such a tensor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn matrix(name: String, rows: usize, cols: usize, std: f64) -> Self {
        Self { name, shape: vec![rows, cols], init: Init::Normal { std }, decay: Decay::Apply }
    }

    fn vector(name: String, len: usize, init: Init) -> Self {
        Self { name, shape: vec![len], init, decay: Decay::Skip }
    }
}

impl Params<ParamSpec> {
    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        self.iter().map(ParamSpec::len).sum()
    }

    /// Zeroed buffers for every tensor.
    ///
    /// # Errors
    /// Out of memory.
    pub fn alloc<B: Backend, T: Element>(&self, backend: &B) -> Result<Params<B::Buf<T>>, ModelError> {
        Ok(self.as_ref().try_map(|spec| backend.alloc::<T>(spec.len()))?)
    }

    /// Buffers holding what `fill` writes for each tensor: one tensor at a time is on the host.
    ///
    /// # Errors
    /// Out of memory, or the first error of `fill`.
    pub fn build<B: Backend, T: Real>(
        &self,
        backend: &B,
        mut fill: impl FnMut(&ParamSpec, &mut [T]) -> Result<(), ModelError>,
    ) -> Result<Params<B::Buf<T>>, ModelError> {
        let mut host: Vec<T> = Vec::new();
        self.as_ref().try_map(|spec| {
            host.clear();
            host.resize(spec.len(), T::default());
            fill(spec, &mut host)?;
            let mut buffer = backend.alloc::<T>(spec.len())?;
            backend.upload(&host, &mut buffer);
            Ok(buffer)
        })
    }
}

/// Zeroes every tensor.
pub fn fill_zero<B: Backend, T: Element>(backend: &B, params: &mut Params<B::Buf<T>>) {
    for buffer in params.iter_mut() {
        backend.fill_zero(buffer);
    }
}

/// Copies every tensor to the host, in canonical order.
///
/// # Errors
/// A failed device.
pub fn download<B: Backend, T: Element>(backend: &B, params: &Params<B::Buf<T>>) -> Result<Params<Vec<T>>, ModelError> {
    params.as_ref().try_map(|buffer| {
        let mut host = vec![T::default(); buffer.len()];
        backend.download(buffer, &mut host)?;
        Ok(host)
    })
}

/// The table of a configuration: GPT-2's initialisation (normal, residual projections scaled by `1 / sqrt(2 L)` for the
/// number of residual layers; Radford et al. 2019), and decay on matrices and embedding tables only (GPT-3).
pub fn layout(config: &ModelConfig) -> Params<ParamSpec> {
    let c = config;
    let std = c.init_std;
    let residual_std = std / (2.0 * c.n_layers as f64).sqrt();
    let norm_init = if c.norm == Norm::RmsNormPlusOne { Init::Zeros } else { Init::Ones };
    let norm = |path: String| NormParams {
        weight: ParamSpec::vector(format!("{path}.weight"), c.d_model, norm_init),
        bias: (c.norm == Norm::LayerNorm).then(|| ParamSpec::vector(format!("{path}.bias"), c.d_model, Init::Zeros)),
    };
    let linear = |path: String, d_out: usize, d_in: usize, std: f64, bias: bool| LinearParams {
        weight: ParamSpec::matrix(format!("{path}.weight"), d_out, d_in, std),
        bias: bias.then(|| ParamSpec::vector(format!("{path}.bias"), d_out, Init::Zeros)),
    };
    let layers = (0..c.n_layers)
        .map(|l| {
            let at = |field: &str| format!("layers.{l}.{field}");
            LayerParams {
                attn_norm: (l > 0 || c.residual != Residual::PostNorm).then(|| norm(at("attn_norm"))),
                attn_qkv: linear(at("attn_qkv"), c.qkv_width(), c.d_model, std, c.biases.qkv),
                q_norm: c.qk_norm.then(|| ParamSpec::vector(at("q_norm.weight"), c.d_head, norm_init)),
                k_norm: c.qk_norm.then(|| ParamSpec::vector(at("k_norm.weight"), c.d_head, norm_init)),
                attn_out: linear(at("attn_out"), c.d_model, c.heads_width(), residual_std, c.biases.attn_out),
                attn_post_norm: c.post_norms.then(|| norm(at("attn_post_norm"))),
                ffn_norm: norm(at("ffn_norm")),
                ffn_up: linear(at("ffn_up"), c.d_ff, c.d_model, std, c.biases.ffn),
                ffn_gate: (c.activation.is_gated())
                    .then(|| linear(at("ffn_gate"), c.d_ff, c.d_model, std, c.biases.ffn)),
                ffn_down: linear(at("ffn_down"), c.d_model, c.d_ff, residual_std, c.biases.ffn),
                ffn_post_norm: c.post_norms.then(|| norm(at("ffn_post_norm"))),
            }
        })
        .collect();
    let table = |name: &str, rows: usize| ParamSpec::matrix(name.to_owned(), rows, c.d_model, std);
    Params {
        tok_embed: table("tok_embed", c.n_vocab),
        pos_embed: matches!(c.positions, Positions::Learned).then(|| table("pos_embed", c.n_ctx)),
        layers,
        final_norm: norm("final_norm".to_owned()),
        lm_head: (!c.tied_head).then(|| table("lm_head", c.n_vocab)),
    }
}

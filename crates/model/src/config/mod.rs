//! What a model looks like: one configuration for every architecture this crate can compute.

mod kinds;
mod raw;

use serde::{Deserialize, Serialize};
use verve_ops::{NormKind, Real};

pub use kinds::*;
pub use raw::CONFIG_KEYS;

use crate::error::ModelError;

/// The shape of a decoder. `Deserialize` fills in what is left out with GPT-3's choices (only `n_layers`, `d_model`,
/// `n_heads`, `n_ctx` and `n_vocab` have none) and refuses unknown keys; it does not [`ModelConfig::validate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "raw::RawConfig")]
pub struct ModelConfig {
    /// `L`: number of blocks.
    pub n_layers: usize,
    /// `C`: width of the residual stream.
    pub d_model: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// `H`: query heads.
    pub n_heads: usize,
    /// `K`: key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// `D`: width of a head. `n_heads * d_head` need not be `d_model`.
    pub d_head: usize,
    /// Longest sequence, in tokens.
    pub n_ctx: usize,
    /// `V`: vocabulary size.
    pub n_vocab: usize,
    /// Normalisation.
    pub norm: Norm,
    /// Added to the variance (or mean square) inside the normalisation.
    pub norm_eps: f64,
    /// Positions.
    pub positions: Positions,
    /// Feed-forward non-linearity.
    pub activation: FfnActivation,
    /// Attention pattern.
    pub attention: AttentionPattern,
    /// Factor on the scores.
    pub attn_scale: AttnScale,
    /// Which layers have biases.
    pub biases: Biases,
    /// True when the head uses the token table, so that there is no `lm_head`.
    pub tied_head: bool,
    /// Standard deviation of initial weights; residual projections get `init_std / sqrt(2 n_layers)`.
    pub init_std: f64,
    /// Share of each head, its first dimensions, that rotates; rotary positions only.
    pub rotary_pct: f64,
    /// Scaling of the rotary frequencies of layers that have the base of [`Positions::Rotary`].
    pub rotary_scaling: RotaryScaling,
    /// Rotary base of layers that see a band only, without scaling; `None`: they rotate as the others do.
    pub rotary_local_theta: Option<f64>,
    /// How the halves of a block are joined.
    pub residual: Residual,
    /// True when each query and key head goes through an RMSNorm of its own before the rotation.
    pub qk_norm: bool,
    /// True when the output of attention and of the feed-forward layer goes through a norm before it is added.
    pub post_norms: bool,
    /// Factor on the token embedding.
    pub embed_scale: EmbedScale,
}

/// Bounds that keep every product of sizes inside 64 bits and a hostile file from asking for absurd tables.
pub(crate) const MAX_LAYERS: usize = 1 << 12;
const MAX_WIDTH: usize = 1 << 20;
const MAX_HEADS: usize = 1 << 14;
const MAX_CONTEXT: usize = 1 << 24;
const MAX_VOCAB: usize = 1 << 24;

/// GPT-2's choices without any size, for `..GPT_CHOICES`.
pub(crate) const GPT_CHOICES: ModelConfig = ModelConfig {
    n_layers: 0,
    d_model: 0,
    d_ff: 0,
    n_heads: 0,
    n_kv_heads: 0,
    d_head: 0,
    n_ctx: 0,
    n_vocab: 0,
    norm: Norm::LayerNorm,
    norm_eps: 1e-5,
    positions: Positions::Learned,
    activation: FfnActivation::GeluTanh,
    attention: AttentionPattern::Dense,
    attn_scale: AttnScale::InvSqrtHead,
    biases: Biases::ALL,
    tied_head: true,
    init_std: 0.02,
    rotary_pct: 1.0,
    rotary_scaling: RotaryScaling::None,
    rotary_local_theta: None,
    residual: Residual::Sequential,
    qk_norm: false,
    post_norms: false,
    embed_scale: EmbedScale::One,
};

impl ModelConfig {
    /// Checks every field and their agreement.
    ///
    /// # Errors
    /// [`ModelError::Config`], which names the first field that is wrong.
    pub fn validate(&self) -> Result<(), ModelError> {
        for (field, value, limit) in [
            ("n_layers", self.n_layers, MAX_LAYERS),
            ("d_model", self.d_model, MAX_WIDTH),
            ("d_ff", self.d_ff, 8 * MAX_WIDTH),
            ("n_heads", self.n_heads, MAX_HEADS),
            ("n_kv_heads", self.n_kv_heads, MAX_HEADS),
            ("d_head", self.d_head, MAX_HEADS),
            ("n_ctx", self.n_ctx, MAX_CONTEXT),
            ("n_vocab", self.n_vocab, MAX_VOCAB),
        ] {
            if value == 0 || value > limit {
                return Err(wrong(field, value, format!("must be from 1 to {limit}")));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let problem = format!("must divide n_heads, which is {}", self.n_heads);
            return Err(wrong("n_kv_heads", self.n_kv_heads, problem));
        }
        if self.n_heads * self.d_head > MAX_WIDTH {
            let problem = format!("n_heads * d_head must be at most {MAX_WIDTH}, n_heads is {}", self.n_heads);
            return Err(wrong("d_head", self.d_head, problem));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps <= 0.1) {
            return Err(wrong("norm_eps", self.norm_eps, "must be above 0 and at most 0.1; 1e-5 is usual".to_owned()));
        }
        self.validate_rotary()?;
        self.validate_attention()?;
        if !(self.init_std > 0.0 && self.init_std <= 1.0) {
            return Err(wrong("init_std", self.init_std, "must be above 0 and at most 1; 0.02 is usual".to_owned()));
        }
        if self.residual != Residual::Sequential && self.post_norms {
            let problem = "norms of the branches go together with a sequential residual only".to_owned();
            return Err(wrong("post_norms", self.post_norms, problem));
        }
        if self.qk_norm && self.norm == Norm::LayerNorm {
            let problem = "queries and keys are normalised as the rest is, which must be an RMSNorm".to_owned();
            return Err(wrong("qk_norm", self.qk_norm, problem));
        }
        Ok(())
    }

    fn validate_rotary(&self) -> Result<(), ModelError> {
        let Positions::Rotary { theta } = self.positions else {
            let plain = self.rotary_pct == 1.0 && self.rotary_scaling == RotaryScaling::None;
            return match plain && self.rotary_local_theta.is_none() {
                true => Ok(()),
                false => {
                    let problem = "rotary_pct, rotary_scaling and rotary_local_theta belong to rotary positions";
                    Err(wrong("positions", "learned", problem.to_owned()))
                }
            };
        };
        let is_theta = |theta: f64| theta > 1.0 && theta <= 1e12;
        if !is_theta(theta) {
            return Err(wrong("positions.rotary.theta", theta, "must be above 1; 10000 is usual".to_owned()));
        }
        if let Some(local) = self.rotary_local_theta
            && !is_theta(local)
        {
            return Err(wrong("rotary_local_theta", local, "must be above 1; 10000 is usual".to_owned()));
        }
        if !(self.rotary_pct > 0.0 && self.rotary_pct <= 1.0) {
            return Err(wrong("rotary_pct", self.rotary_pct, "must be above 0 and at most 1".to_owned()));
        }
        let d_rot = self.d_rot();
        if d_rot == 0 || !d_rot.is_multiple_of(2) {
            let problem = format!("must be even for rotary positions where they rotate, and {d_rot} dimensions do");
            return Err(wrong("d_head", self.d_head, problem));
        }
        let is_factor = |factor: f64| (1.0..=1e6).contains(&factor);
        match self.rotary_scaling {
            RotaryScaling::None => Ok(()),
            RotaryScaling::Linear { factor } if is_factor(factor) => Ok(()),
            RotaryScaling::Linear { factor } | RotaryScaling::Llama3 { factor, .. } if !is_factor(factor) => {
                Err(wrong("rotary_scaling.factor", factor, "must be from 1 to 1000000".to_owned()))
            }
            RotaryScaling::Linear { .. } => Ok(()),
            RotaryScaling::Llama3 { low_freq_factor, high_freq_factor, original_context, .. } => {
                if !(low_freq_factor > 0.0 && high_freq_factor > low_freq_factor && high_freq_factor <= 1e6) {
                    let found = format!("{low_freq_factor} and {high_freq_factor}");
                    let problem = "low_freq_factor must be above 0 and below high_freq_factor".to_owned();
                    return Err(wrong("rotary_scaling", found, problem));
                }
                if original_context == 0 || original_context > MAX_CONTEXT {
                    let problem = format!("must be from 1 to {MAX_CONTEXT}");
                    return Err(wrong("rotary_scaling.original_context", original_context, problem));
                }
                Ok(())
            }
        }
    }

    fn validate_attention(&self) -> Result<(), ModelError> {
        if let AttnScale::InvSqrtOf { width } = self.attn_scale
            && (width == 0 || width > MAX_WIDTH)
        {
            return Err(wrong("attn_scale.inv_sqrt_of.width", width, format!("must be from 1 to {MAX_WIDTH}")));
        }
        let least = || "must be at least 1".to_owned();
        match self.attention {
            AttentionPattern::Alternating { band: 0 } => Err(wrong("attention.alternating.band", 0, least())),
            AttentionPattern::Windowed { band: 0 } => Err(wrong("attention.windowed.band", 0, least())),
            AttentionPattern::Periodic { band: 0, .. } => Err(wrong("attention.periodic.band", 0, least())),
            AttentionPattern::Periodic { global_every: 0, .. } => {
                Err(wrong("attention.periodic.global_every", 0, least()))
            }
            _ => Ok(()),
        }
    }

    /// Leading dimensions of each head that rotate.
    pub fn d_rot(&self) -> usize {
        match self.positions {
            Positions::Learned => 0,
            Positions::Rotary { .. } => (self.d_head as f64 * self.rotary_pct) as usize,
        }
    }

    /// Width of a row of `attn_qkv`'s output: `(H + 2K) D`.
    pub fn qkv_width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.d_head
    }

    /// Width of the heads side by side: `H D`.
    pub fn heads_width(&self) -> usize {
        self.n_heads * self.d_head
    }

    /// What the queries of `layer` see: `None` is everything before them, `Some(w)` the last `w` tokens.
    pub fn window(&self, layer: usize) -> Option<usize> {
        match self.attention {
            AttentionPattern::Alternating { band } => (layer % 2 == 1).then_some(band),
            AttentionPattern::Windowed { band } => Some(band),
            AttentionPattern::Periodic { band, global_every } => {
                (!(layer + 1).is_multiple_of(global_every)).then_some(band)
            }
            AttentionPattern::Dense => None,
        }
    }

    /// Factor on the attention scores.
    pub fn score_scale(&self) -> f32 {
        let inverse_root = |width: usize| (1.0 / (width as f64).sqrt()) as f32;
        match self.attn_scale {
            AttnScale::InvSqrtHead => inverse_root(self.d_head),
            AttnScale::One => 1.0,
            AttnScale::InvSqrtOf { width } => inverse_root(width),
        }
    }

    /// The normalisation in the backend's terms.
    pub fn norm_kind(&self) -> NormKind {
        match self.norm {
            Norm::LayerNorm => NormKind::Layer,
            Norm::RmsNorm => NormKind::Rms,
            Norm::RmsNormPlusOne => NormKind::RmsPlusOne,
        }
    }

    /// Factor on the token embedding, rounded to `T` by way of `f32`.
    pub(crate) fn embed_factor<T: Real>(&self) -> Option<f32> {
        match self.embed_scale {
            EmbedScale::One => None,
            EmbedScale::SqrtWidth => Some(T::from_f32((self.d_model as f64).sqrt() as f32).to_f64() as f32),
        }
    }

    /// True when the output of a branch is kept apart before or while it is added.
    pub(crate) fn has_branch_buffer(&self) -> bool {
        self.post_norms || self.residual == Residual::Parallel
    }

    /// Number of trained parameters; a tied head counts once.
    pub fn n_params(&self) -> usize {
        crate::params::layout(self).n_params()
    }
}

fn wrong(field: &'static str, found: impl std::fmt::Display, problem: String) -> ModelError {
    ModelError::Config { field, found: found.to_string(), problem }
}

//! What a model looks like: one configuration for every architecture this crate can compute.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use verve_ops::{Activation, NormKind};

use crate::error::{ModelError, nearest};

/// Which normalisation stands before attention, before the feed-forward layer and before the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// With mean, weight and bias (Ba et al. 2016).
    LayerNorm,
    /// Without mean and bias (Zhang and Sennrich 2019).
    RmsNorm,
}

/// How a token's position enters the model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Positions {
    /// A trained vector for each of the `n_ctx` positions, added to the token's.
    Learned,
    /// Rotation of queries and keys (Su et al. 2021), half-split form over the whole head.
    Rotary {
        /// Base of the wavelengths, 10000 in the paper.
        theta: f64,
    },
}

/// The feed-forward layer's non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FfnActivation {
    /// GELU in its tanh approximation, as GPT-2 has it.
    GeluTanh,
    /// GELU with the error function.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// `silu(gate(x)) * up(x)` (Shazeer 2020): a third matrix, `ffn_gate`.
    #[serde(rename = "swiglu")]
    SwiGlu,
}

impl FfnActivation {
    /// The pointwise function: of the single branch, or of the gate branch.
    pub fn function(self) -> Activation {
        match self {
            Self::GeluTanh => Activation::GeluTanh,
            Self::GeluErf => Activation::GeluErf,
            Self::Relu => Activation::Relu,
            Self::SwiGlu => Activation::Silu,
        }
    }

    /// True when there is a gate branch.
    pub fn is_gated(self) -> bool {
        self == Self::SwiGlu
    }
}

/// Which keys a query sees, layer by layer. Always causal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AttentionPattern {
    /// Every layer sees everything before it.
    Dense,
    /// Layers 0, 2, 4, ... are dense; layers 1, 3, 5, ... see only the last `band` tokens, the query's own included
    /// (GPT-3, in the form GPT-Neo gave it).
    Alternating {
        /// Width of the band in tokens.
        band: usize,
    },
}

/// Factor on the attention scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttnScale {
    /// `1 / sqrt(d_head)`.
    InvSqrtHead,
    /// 1, as in GPT-Neo.
    One,
}

/// Which linear layers have a bias. LayerNorm always has one, RMSNorm never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Biases {
    /// `attn_qkv`.
    pub qkv: bool,
    /// `attn_out`.
    pub attn_out: bool,
    /// `ffn_up`, `ffn_gate` and `ffn_down`.
    pub ffn: bool,
}

impl Biases {
    /// Everywhere.
    pub const ALL: Self = Self { qkv: true, attn_out: true, ffn: true };
    /// Nowhere.
    pub const NONE: Self = Self { qkv: false, attn_out: false, ffn: false };
    /// Everywhere but on queries, keys and values: GPT-Neo.
    pub const ALL_BUT_QKV: Self = Self { qkv: false, attn_out: true, ffn: true };
}

/// The shape of a decoder. `Deserialize` fills in what is left out with GPT-3's choices (only `n_layers`, `d_model`,
/// `n_heads`, `n_ctx` and `n_vocab` have none) and refuses unknown keys; it does not [`ModelConfig::validate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawConfig")]
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
}

/// Bounds that keep every product of sizes inside 64 bits and a hostile file from asking for absurd tables.
pub(crate) const MAX_LAYERS: usize = 1 << 12;
const MAX_WIDTH: usize = 1 << 20;
const MAX_HEADS: usize = 1 << 14;
const MAX_CONTEXT: usize = 1 << 24;
const MAX_VOCAB: usize = 1 << 24;

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
        if let Positions::Rotary { theta } = self.positions {
            if !(theta > 1.0 && theta <= 1e12) {
                return Err(wrong("positions.rotary.theta", theta, "must be above 1; 10000 is usual".to_owned()));
            }
            if !self.d_head.is_multiple_of(2) {
                return Err(wrong("d_head", self.d_head, "must be even for rotary positions".to_owned()));
            }
        }
        if let AttentionPattern::Alternating { band: 0 } = self.attention {
            return Err(wrong("attention.alternating.band", 0, "must be at least 1".to_owned()));
        }
        if !(self.init_std > 0.0 && self.init_std <= 1.0) {
            return Err(wrong("init_std", self.init_std, "must be above 0 and at most 1; 0.02 is usual".to_owned()));
        }
        Ok(())
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
            AttentionPattern::Alternating { band } if layer % 2 == 1 => Some(band),
            _ => None,
        }
    }

    /// Factor on the attention scores.
    pub fn score_scale(&self) -> f32 {
        match self.attn_scale {
            AttnScale::InvSqrtHead => (1.0 / (self.d_head as f64).sqrt()) as f32,
            AttnScale::One => 1.0,
        }
    }

    /// The normalisation in the backend's terms.
    pub fn norm_kind(&self) -> NormKind {
        match self.norm {
            Norm::LayerNorm => NormKind::Layer,
            Norm::RmsNorm => NormKind::Rms,
        }
    }

    /// Number of trained parameters; a tied head counts once.
    pub fn n_params(&self) -> usize {
        crate::params::layout(self).n_params()
    }
}

fn wrong(field: &'static str, found: impl std::fmt::Display, problem: String) -> ModelError {
    ModelError::Config { field, found: found.to_string(), problem }
}

/// [`ModelConfig`] as it stands in a file: most fields optional, unknown keys caught.
#[derive(Deserialize)]
struct RawConfig {
    n_layers: Option<usize>,
    d_model: Option<usize>,
    d_ff: Option<usize>,
    n_heads: Option<usize>,
    n_kv_heads: Option<usize>,
    d_head: Option<usize>,
    n_ctx: Option<usize>,
    n_vocab: Option<usize>,
    norm: Option<Norm>,
    norm_eps: Option<f64>,
    positions: Option<Positions>,
    activation: Option<FfnActivation>,
    attention: Option<AttentionPattern>,
    attn_scale: Option<AttnScale>,
    biases: Option<Biases>,
    tied_head: Option<bool>,
    init_std: Option<f64>,
    #[serde(flatten)]
    unknown: BTreeMap<String, serde::de::IgnoredAny>,
}

/// The keys of [`ModelConfig`], in order.
pub const CONFIG_KEYS: [&str; 17] = [
    "n_layers",
    "d_model",
    "d_ff",
    "n_heads",
    "n_kv_heads",
    "d_head",
    "n_ctx",
    "n_vocab",
    "norm",
    "norm_eps",
    "positions",
    "activation",
    "attention",
    "attn_scale",
    "biases",
    "tied_head",
    "init_std",
];

impl TryFrom<RawConfig> for ModelConfig {
    type Error = String;

    fn try_from(raw: RawConfig) -> Result<Self, String> {
        if let Some(key) = raw.unknown.keys().next() {
            return Err(match nearest(key, CONFIG_KEYS) {
                Some(known) => format!("unknown key `{key}` in the model configuration; did you mean `{known}`?"),
                None => {
                    format!("unknown key `{key}` in the model configuration; there are: {}", CONFIG_KEYS.join(", "))
                }
            });
        }
        let required = |value: Option<usize>, key: &str| {
            value.ok_or_else(|| format!("key `{key}` is missing in the model configuration"))
        };
        let d_model = required(raw.d_model, "d_model")?;
        let n_heads = required(raw.n_heads, "n_heads")?;
        let d_head = match raw.d_head {
            Some(d_head) => d_head,
            None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
            None => return Err(format!("n_heads = {n_heads} does not divide d_model = {d_model}; give d_head")),
        };
        Ok(Self {
            n_layers: required(raw.n_layers, "n_layers")?,
            d_model,
            d_ff: raw.d_ff.unwrap_or(d_model.saturating_mul(4)),
            n_heads,
            n_kv_heads: raw.n_kv_heads.unwrap_or(n_heads),
            d_head,
            n_ctx: required(raw.n_ctx, "n_ctx")?,
            n_vocab: required(raw.n_vocab, "n_vocab")?,
            norm: raw.norm.unwrap_or(Norm::LayerNorm),
            norm_eps: raw.norm_eps.unwrap_or(1e-5),
            positions: raw.positions.unwrap_or(Positions::Learned),
            activation: raw.activation.unwrap_or(FfnActivation::GeluTanh),
            attention: raw.attention.unwrap_or(AttentionPattern::Dense),
            attn_scale: raw.attn_scale.unwrap_or(AttnScale::InvSqrtHead),
            biases: raw.biases.unwrap_or(Biases::ALL),
            tied_head: raw.tied_head.unwrap_or(true),
            init_std: raw.init_std.unwrap_or(0.02),
        })
    }
}

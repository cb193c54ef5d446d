//! The choices a configuration is made of.

use serde::{Deserialize, Serialize};
use verve_ops::Activation;

/// Which normalisation stands before attention, before the feed-forward layer and before the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// With mean, weight and bias (Ba et al. 2016).
    LayerNorm,
    /// Without mean and bias (Zhang and Sennrich 2019).
    RmsNorm,
    /// RMSNorm whose weight is kept less one: it multiplies by `1 + weight` (Gemma).
    RmsNormPlusOne,
}

/// How a token's position enters the model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Positions {
    /// A trained vector for each of the `n_ctx` positions, added to the token's.
    Learned,
    /// Rotation of queries and keys (Su et al. 2021), half-split form.
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
    /// `gelu(gate(x)) * up(x)` with the tanh approximation: the same three matrices.
    #[serde(rename = "geglu")]
    GeGlu,
}

impl FfnActivation {
    /// The pointwise function: of the single branch, or of the gate branch.
    pub fn function(self) -> Activation {
        match self {
            Self::GeluTanh | Self::GeGlu => Activation::GeluTanh,
            Self::GeluErf => Activation::GeluErf,
            Self::Relu => Activation::Relu,
            Self::SwiGlu => Activation::Silu,
        }
    }

    /// True when there is a gate branch.
    pub fn is_gated(self) -> bool {
        matches!(self, Self::SwiGlu | Self::GeGlu)
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
    /// Every layer sees only the last `band` tokens, the query's own included (Mistral's sliding window).
    Windowed {
        /// Width of the band in tokens.
        band: usize,
    },
    /// Every `global_every`-th layer (counted from 1) sees everything before it, the others only the last `band` tokens
    /// (Gemma 3: five of six are local).
    Periodic {
        /// Width of the band in tokens.
        band: usize,
        /// A layer whose number, counted from 1, is a multiple of it is dense.
        global_every: usize,
    },
}

/// What is done to the frequencies of rotary positions so that a model reaches farther than it was trained at first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RotaryScaling {
    /// Nothing.
    None,
    /// All frequencies are divided by `factor`: positions are interpolated (Chen et al. 2023).
    Linear {
        /// How many times farther; at least 1.
        factor: f64,
    },
    /// Llama 3.1: waves longer than `original_context / low_freq_factor` are divided by `factor`, those shorter than
    /// `original_context / high_freq_factor` stay, and between them there is a smooth transition.
    Llama3 {
        /// How many times farther; at least 1.
        factor: f64,
        /// Below `high_freq_factor`.
        low_freq_factor: f64,
        /// Above `low_freq_factor`.
        high_freq_factor: f64,
        /// Context the model was trained with at first, in tokens.
        original_context: usize,
    },
}

/// How the two halves of a block are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residual {
    /// `m = x + attn(norm(x))`, then `m + ffn(norm(m))`.
    Sequential,
    /// `x + attn(norm1(x)) + ffn(norm2(x))` (GPT-NeoX).
    Parallel,
    /// `m = norm(x + attn(x))`, then `norm(m + ffn(m))` (Vaswani et al. 2017; OPT 350M). A norm is named for what reads it:
    /// the one after a block is the next block's `attn_norm` or `final_norm`, and the first block has no `attn_norm`.
    PostNorm,
}

/// Factor on the embedding of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbedScale {
    /// None.
    One,
    /// `sqrt(d_model)`, rounded to the type of the weights (Gemma).
    SqrtWidth,
}

/// Factor on the attention scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AttnScale {
    /// `1 / sqrt(d_head)`.
    InvSqrtHead,
    /// 1, as in GPT-Neo.
    One,
    /// `1 / sqrt(width)`, whatever `d_head` is (Gemma's `query_pre_attn_scalar`).
    InvSqrtOf {
        /// What the root is taken of.
        width: usize,
    },
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
    /// On queries, keys and values only: Qwen2.
    pub const QKV: Self = Self { qkv: true, attn_out: false, ffn: false };
}

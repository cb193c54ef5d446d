//! A configuration as it stands in a file.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::error::nearest;

/// [`ModelConfig`] as it stands in a file: most fields optional, unknown keys caught.
#[derive(Deserialize)]
pub(super) struct RawConfig {
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
    rotary_pct: Option<f64>,
    rotary_scaling: Option<RotaryScaling>,
    rotary_local_theta: Option<f64>,
    residual: Option<Residual>,
    qk_norm: Option<bool>,
    post_norms: Option<bool>,
    embed_scale: Option<EmbedScale>,
    #[serde(flatten)]
    unknown: BTreeMap<String, serde::de::IgnoredAny>,
}

/// The keys of [`ModelConfig`], in order.
pub const CONFIG_KEYS: [&str; 24] = [
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
    "rotary_pct",
    "rotary_scaling",
    "rotary_local_theta",
    "residual",
    "qk_norm",
    "post_norms",
    "embed_scale",
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
            rotary_pct: raw.rotary_pct.unwrap_or(1.0),
            rotary_scaling: raw.rotary_scaling.unwrap_or(RotaryScaling::None),
            rotary_local_theta: raw.rotary_local_theta,
            residual: raw.residual.unwrap_or(Residual::Sequential),
            qk_norm: raw.qk_norm.unwrap_or(false),
            post_norms: raw.post_norms.unwrap_or(false),
            embed_scale: raw.embed_scale.unwrap_or(EmbedScale::One),
        })
    }
}

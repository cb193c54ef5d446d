//! GPT-NeoX and Pythia: LayerNorm, rotation of a part of each head, both halves of a block from the same input.

use serde_json::{Value, json};

use super::gpt::activation;
use super::keys::Keys;
use super::llama::{describe_scaling, rotary_object};
use crate::config::*;
use crate::error::ModelError;

const SHARE: &str = "partial_rotary_factor";

pub(super) fn parse(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
    let (d_model, n_heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
    let attention_bias = keys.flag("attention_bias", true)?;
    // transformers 4 writes `rotary_emb_base`, `rotary_pct` and `rope_scaling`, transformers 5 `rope_parameters`.
    let (mut theta, mut scaling) = (keys.number("rotary_emb_base", 10_000.0)?, RotaryScaling::None);
    let mut rotary_pct = keys.number("rotary_pct", 0.25)?;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(value) = keys.get(key) else { continue };
        (theta, scaling) = rotary_object(keys, key, value, theta)?;
        if let Some(share) = value.get(SHARE).filter(|share| !share.is_null()) {
            rotary_pct = share.as_f64().ok_or_else(|| keys.wrong(key, value, "an object whose share is a number"))?;
        }
    }
    Ok(ModelConfig {
        n_layers: keys.size("num_hidden_layers")?,
        d_model,
        d_ff: keys.size("intermediate_size")?,
        n_heads,
        n_kv_heads: n_heads,
        d_head: keys.even_heads(d_model, n_heads, "num_attention_heads")?,
        n_ctx: keys.size("max_position_embeddings")?,
        n_vocab: keys.size("vocab_size")?,
        norm_eps: keys.number("layer_norm_eps", 1e-5)?,
        positions: Positions::Rotary { theta },
        activation: keys.activation("hidden_act", "gelu")?,
        biases: Biases { qkv: attention_bias, attn_out: attention_bias, ffn: true },
        tied_head: keys.flag("tie_word_embeddings", false)?,
        init_std: keys.number("initializer_range", 0.02)?,
        rotary_pct,
        rotary_scaling: scaling,
        residual: match keys.flag("use_parallel_residual", true)? {
            true => Residual::Parallel,
            false => Residual::Sequential,
        },
        ..GPT_CHOICES
    })
}

/// What keeps these models' files from saying a shape with LayerNorm and rotary positions.
pub(super) fn difference(c: &ModelConfig) -> Option<&'static str> {
    let differences = [
        (c.activation.is_gated(), "its activation is gated"),
        (c.n_kv_heads != c.n_heads, "its heads share keys and values"),
        (c.heads_width() != c.d_model, "its heads do not add up to d_model"),
        (c.attention != AttentionPattern::Dense, "it has banded layers"),
        (c.attn_scale != AttnScale::InvSqrtHead, "its scores are not scaled by 1/sqrt(d_head)"),
        (!c.biases.ffn || c.biases.qkv != c.biases.attn_out, "it lacks biases"),
        (c.rotary_local_theta.is_some(), "its layers rotate differently"),
        (c.qk_norm || c.post_norms, "its heads or branches are normalised"),
        (c.residual == Residual::PostNorm, "its norms come after the halves of a block"),
        (c.embed_scale != EmbedScale::One, "its embedding is scaled"),
    ];
    differences.iter().find(|(differs, _)| *differs).map(|(_, why)| *why)
}

pub(super) fn describe(c: &ModelConfig) -> Value {
    let Positions::Rotary { theta } = c.positions else { panic!("a GPT-NeoX model has rotary positions") };
    let mut parameters = describe_scaling(c.rotary_scaling);
    let old = if c.rotary_scaling == RotaryScaling::None { Value::Null } else { parameters.clone() };
    parameters["rope_theta"] = theta.into();
    parameters[SHARE] = c.rotary_pct.into();
    json!({
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": c.n_vocab,
        "max_position_embeddings": c.n_ctx,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "hidden_act": activation(c),
        "layer_norm_eps": c.norm_eps,
        "initializer_range": c.init_std,
        "attention_bias": c.biases.qkv,
        "use_parallel_residual": c.residual == Residual::Parallel,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "rotary_pct": c.rotary_pct,
        "rotary_emb_base": theta,
        "rope_scaling": old,
        "rope_parameters": parameters,
        "tie_word_embeddings": c.tied_head,
    })
}

//! GPT-2 and GPT-Neo.

use serde_json::{Value, json};

use super::keys::Keys;
use crate::config::*;
use crate::error::ModelError;

pub(super) fn parse_gpt2(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
    keys.must_be("scale_attn_by_inverse_layer_idx", false)?;
    keys.must_be("add_cross_attention", false)?;
    let (d_model, n_heads) = (keys.size("n_embd")?, keys.size("n_head")?);
    let scaled = keys.flag("scale_attn_weights", true)?;
    Ok(ModelConfig {
        n_layers: keys.size("n_layer")?,
        d_model,
        d_ff: keys.opt_size("n_inner")?.unwrap_or(d_model.saturating_mul(4)),
        n_heads,
        n_kv_heads: n_heads,
        d_head: keys.even_heads(d_model, n_heads, "n_head")?,
        n_ctx: keys.size("n_positions")?,
        n_vocab: keys.size("vocab_size")?,
        norm_eps: keys.number("layer_norm_epsilon", 1e-5)?,
        activation: keys.activation("activation_function", "gelu_new")?,
        attn_scale: if scaled { AttnScale::InvSqrtHead } else { AttnScale::One },
        tied_head: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.number("initializer_range", 0.02)?,
        ..GPT_CHOICES
    })
}

pub(super) fn parse_gpt_neo(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
    let (d_model, n_heads) = (keys.size("hidden_size")?, keys.size("num_heads")?);
    let n_layers = keys.size("num_layers")?;
    Ok(ModelConfig {
        n_layers,
        d_model,
        d_ff: keys.opt_size("intermediate_size")?.unwrap_or(d_model.saturating_mul(4)),
        n_heads,
        n_kv_heads: n_heads,
        d_head: keys.even_heads(d_model, n_heads, "num_heads")?,
        n_ctx: keys.size("max_position_embeddings")?,
        n_vocab: keys.size("vocab_size")?,
        norm_eps: keys.number("layer_norm_epsilon", 1e-5)?,
        activation: keys.activation("activation_function", "gelu_new")?,
        attention: gpt_neo_attention(keys, n_layers)?,
        attn_scale: AttnScale::One,
        biases: Biases::ALL_BUT_QKV,
        tied_head: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.number("initializer_range", 0.02)?,
        ..GPT_CHOICES
    })
}

/// `attention_types` is a list of `[pattern, repetitions]`; `attention_layers` is the same written out.
fn gpt_neo_attention(keys: &Keys<'_>, n_layers: usize) -> Result<AttentionPattern, ModelError> {
    const SUPPORTED: &str = "global layers only, or global and local layers in turn, beginning with a global one,";
    let default = json!([[["global", "local"], 12]]);
    let types = keys.get("attention_types").unwrap_or(&default);
    let refuse = || keys.unsupported("attention_types", SUPPORTED);
    if n_layers > MAX_LAYERS {
        return Err(keys.unsupported("num_layers", &format!("a number up to {MAX_LAYERS}")));
    }
    let mut kinds: Vec<&str> = Vec::new();
    for entry in types.as_array().ok_or_else(refuse)? {
        let [Value::Array(pattern), count] = entry.as_array().map(Vec::as_slice).unwrap_or_default() else {
            return Err(refuse());
        };
        let count = count.as_u64().ok_or_else(refuse)?;
        if pattern.is_empty() {
            return Err(refuse());
        }
        // One more than there are layers, so that too long a list is seen.
        for _ in 0..count.min(n_layers as u64 + 1) {
            for kind in pattern {
                kinds.push(kind.as_str().ok_or_else(refuse)?);
            }
            if kinds.len() > n_layers {
                break;
            }
        }
    }
    if kinds.len() != n_layers || kinds.iter().any(|kind| !["global", "local"].contains(kind)) {
        let supported = format!("a pattern of {n_layers} layers (num_layers), each \"global\" or \"local\",");
        return Err(keys.unsupported("attention_types", &supported));
    }
    if kinds.iter().all(|&kind| kind == "global") {
        return Ok(AttentionPattern::Dense);
    }
    let in_turn = kinds.iter().enumerate().all(|(layer, &kind)| (kind == "local") == (layer % 2 == 1));
    if !in_turn {
        return Err(refuse());
    }
    let band = keys.opt_size("window_size")?.unwrap_or(256);
    Ok(AttentionPattern::Alternating { band })
}

/// What transformers calls the activations that have no gate.
pub(super) fn activation(config: &ModelConfig) -> &'static str {
    match config.activation {
        FfnActivation::GeluTanh => "gelu_new",
        FfnActivation::GeluErf => "gelu",
        FfnActivation::Relu => "relu",
        FfnActivation::SwiGlu | FfnActivation::GeGlu => panic!("a GPT model has no gate"),
    }
}

/// GPT-2's keys.
pub(super) fn describe_gpt2(c: &ModelConfig) -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": c.n_vocab,
        "n_positions": c.n_ctx,
        "n_embd": c.d_model,
        "n_layer": c.n_layers,
        "n_head": c.n_heads,
        "n_inner": c.d_ff,
        "activation_function": activation(c),
        "layer_norm_epsilon": c.norm_eps,
        "initializer_range": c.init_std,
        "scale_attn_weights": c.attn_scale == AttnScale::InvSqrtHead,
        "scale_attn_by_inverse_layer_idx": false,
        "reorder_and_upcast_attn": false,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": c.tied_head,
    })
}

/// GPT-Neo's keys.
pub(super) fn describe_gpt_neo(c: &ModelConfig) -> Value {
    let (layers, window) = match c.attention {
        AttentionPattern::Dense => (json!([[["global"], c.n_layers]]), 256),
        AttentionPattern::Alternating { band } => {
            let mut types = Vec::new();
            if c.n_layers >= 2 {
                types.push(json!([["global", "local"], c.n_layers / 2]));
            }
            if c.n_layers % 2 == 1 {
                types.push(json!([["global"], 1]));
            }
            (Value::Array(types), band)
        }
        AttentionPattern::Windowed { .. } | AttentionPattern::Periodic { .. } => {
            panic!("a GPT-Neo model is dense or has a band in every second layer")
        }
    };
    json!({
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "vocab_size": c.n_vocab,
        "max_position_embeddings": c.n_ctx,
        "hidden_size": c.d_model,
        "num_layers": c.n_layers,
        "num_heads": c.n_heads,
        "intermediate_size": c.d_ff,
        "attention_types": layers,
        "window_size": window,
        "activation_function": activation(c),
        "layer_norm_epsilon": c.norm_eps,
        "initializer_range": c.init_std,
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "attention_dropout": 0.0,
        "tie_word_embeddings": c.tied_head,
    })
}

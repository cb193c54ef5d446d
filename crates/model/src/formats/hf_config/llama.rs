//! Llama and its relatives: RMSNorm, rotary positions, a gated feed-forward layer.

use serde_json::{Value, json};

use super::keys::Keys;
use crate::config::*;
use crate::error::ModelError;
use crate::formats::names::Family;

/// Reads the keys of Llama, Mistral, Qwen2 or Qwen3.
pub(super) fn parse(keys: &Keys<'_>, family: Family) -> Result<ModelConfig, ModelError> {
    if keys.get("hidden_act").is_some_and(|value| !["silu", "swish"].contains(&value.as_str().unwrap_or(""))) {
        return Err(keys.unsupported("hidden_act", "silu"));
    }
    keys.must_be("rope_interleaved", false)?;
    if keys.number("partial_rotary_factor", 1.0)? != 1.0 {
        return Err(keys.unsupported("partial_rotary_factor", "1"));
    }
    let (d_model, n_heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
    let n_layers = keys.size("num_hidden_layers")?;
    let d_head = match keys.opt_size("head_dim")? {
        Some(d_head) => d_head,
        None if family == Family::Qwen3 => 128,
        None => keys.even_heads(d_model, n_heads, "num_attention_heads")?,
    };
    let (biases, attention) = match family {
        Family::Mistral => {
            keys.must_be("attention_bias", false)?;
            let window =
                if keys.map.contains_key("sliding_window") { keys.opt_size("sliding_window")? } else { Some(4096) };
            (Biases::NONE, window.map_or(AttentionPattern::Dense, |band| AttentionPattern::Windowed { band }))
        }
        Family::Qwen2 => (Biases::QKV, qwen_attention(keys, n_layers)?),
        Family::Qwen3 => {
            let attention = keys.flag("attention_bias", false)?;
            (Biases { qkv: attention, attn_out: attention, ffn: false }, qwen_attention(keys, n_layers)?)
        }
        _ => {
            let attention = keys.flag("attention_bias", false)?;
            let biases = Biases { qkv: attention, attn_out: attention, ffn: keys.flag("mlp_bias", false)? };
            (biases, AttentionPattern::Dense)
        }
    };
    agrees_with_layer_types(keys, n_layers, attention)?;
    let (theta, rotary_scaling) = rotary(keys)?;
    let kv_heads = if family == Family::Mistral { Some(8) } else { None };
    Ok(ModelConfig {
        n_layers,
        d_model,
        d_ff: keys.size("intermediate_size")?,
        n_heads,
        n_kv_heads: keys.opt_size("num_key_value_heads")?.or(kv_heads).unwrap_or(n_heads),
        d_head,
        n_ctx: keys.opt_size("max_position_embeddings")?.unwrap_or(default_context(family)),
        n_vocab: keys.size("vocab_size")?,
        norm: Norm::RmsNorm,
        norm_eps: keys.number("rms_norm_eps", 1e-6)?,
        positions: Positions::Rotary { theta },
        activation: FfnActivation::SwiGlu,
        attention,
        biases,
        tied_head: keys.flag("tie_word_embeddings", false)?,
        init_std: keys.number("initializer_range", 0.02)?,
        rotary_scaling,
        qk_norm: family == Family::Qwen3,
        ..GPT_CHOICES
    })
}

/// What the families' configuration classes take when the key is missing.
fn default_context(family: Family) -> usize {
    match family {
        Family::Mistral => 1 << 17,
        Family::Qwen2 | Family::Qwen3 => 1 << 15,
        _ => 2048,
    }
}

/// Qwen's layers from `max_window_layers` on have the window, if it is used at all.
fn qwen_attention(keys: &Keys<'_>, n_layers: usize) -> Result<AttentionPattern, ModelError> {
    let window = if keys.map.contains_key("sliding_window") { keys.opt_size("sliding_window")? } else { Some(4096) };
    let (true, Some(band)) = (keys.flag("use_sliding_window", false)?, window) else {
        return Ok(AttentionPattern::Dense);
    };
    let first = keys.opt_size("max_window_layers")?.unwrap_or(28);
    match keys.get("layer_types").and_then(Value::as_array) {
        Some(types) if types.iter().all(|kind| kind == SLIDING) => return Ok(AttentionPattern::Windowed { band }),
        Some(types) if types.iter().all(|kind| kind == FULL) => return Ok(AttentionPattern::Dense),
        _ => {}
    }
    match first {
        0 => Ok(AttentionPattern::Windowed { band }),
        first if first >= n_layers => Ok(AttentionPattern::Dense),
        _ => {
            Err(keys.unsupported("max_window_layers", "0 (all layers have the window) or the number of layers (none)"))
        }
    }
}

pub(super) const SLIDING: &str = "sliding_attention";
pub(super) const FULL: &str = "full_attention";

/// transformers writes out what each layer sees; the list has to say what the other keys say.
fn agrees_with_layer_types(keys: &Keys<'_>, n_layers: usize, attention: AttentionPattern) -> Result<(), ModelError> {
    let Some(value) = keys.get("layer_types") else { return Ok(()) };
    let wanted = match attention {
        AttentionPattern::Dense => FULL,
        _ => SLIDING,
    };
    let types = value.as_array().ok_or_else(|| keys.wrong("layer_types", value, "a list"))?;
    match types.len() == n_layers && types.iter().all(|kind| kind == wanted) {
        true => Ok(()),
        false => Err(keys.unsupported("layer_types", &format!("\"{wanted}\" for each of the {n_layers} layers"))),
    }
}

/// Base and scaling of the rotation. transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5
/// `rope_parameters`.
fn rotary(keys: &Keys<'_>) -> Result<(f64, RotaryScaling), ModelError> {
    let mut found = (keys.number("rope_theta", 10_000.0)?, RotaryScaling::None);
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(value) = keys.get(key) else { continue };
        found = whole_rotation(keys, key, value, found.0)?;
    }
    Ok(found)
}

/// As [`rotary_object`], of models whose heads rotate in all dimensions.
pub(super) fn whole_rotation(
    keys: &Keys<'_>,
    key: &str,
    value: &Value,
    theta: f64,
) -> Result<(f64, RotaryScaling), ModelError> {
    match value.get("partial_rotary_factor") {
        Some(share) if share.as_f64() != Some(1.0) && !share.is_null() => {
            Err(keys.unsupported(key, "\"partial_rotary_factor\" 1"))
        }
        _ => rotary_object(keys, key, value, theta),
    }
}

/// Base and scaling as an object below `key` has them; `theta` is the base where it says none.
pub(super) fn rotary_object(
    keys: &Keys<'_>,
    key: &str,
    value: &Value,
    theta: f64,
) -> Result<(f64, RotaryScaling), ModelError> {
    let Some(map) = value.as_object() else { return Err(keys.wrong(key, value, "an object")) };
    let inner = Keys { path: keys.path, map };
    let refuse = || keys.unsupported(key, "the type \"default\" (no scaling), \"linear\" or \"llama3\"");
    let needed = |name: &str| match inner.get(name) {
        Some(_) => inner.number(name, 0.0),
        None => Err(keys.unsupported(key, &format!("a scaling with `{name}`"))),
    };
    let kind = inner.get("rope_type").or_else(|| inner.get("type"));
    let scaling = match kind.map_or(Some("default"), Value::as_str) {
        Some("default") => RotaryScaling::None,
        Some("linear") => RotaryScaling::Linear { factor: needed("factor")? },
        Some("llama3") => RotaryScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_context: match inner.opt_size("original_max_position_embeddings")? {
                Some(context) => context,
                None => return Err(keys.unsupported(key, "a scaling with `original_max_position_embeddings`")),
            },
        },
        _ => return Err(refuse()),
    };
    Ok((inner.number("rope_theta", theta)?, scaling))
}

/// The keys of Llama, Mistral, Qwen2 or Qwen3.
pub(super) fn describe(family: Family, c: &ModelConfig) -> Value {
    let Positions::Rotary { theta } = c.positions else { panic!("a {family:?} model has rotary positions") };
    let mut parameters = describe_scaling(c.rotary_scaling);
    // What transformers 4 reads.
    let old = if c.rotary_scaling == RotaryScaling::None { Value::Null } else { parameters.clone() };
    parameters["rope_theta"] = theta.into();
    let architecture = match family {
        Family::Mistral => "MistralForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Qwen3 => "Qwen3ForCausalLM",
        _ => "LlamaForCausalLM",
    };
    let mut map = json!({
        "architectures": [architecture],
        "model_type": family.model_type(),
        "vocab_size": c.n_vocab,
        "max_position_embeddings": c.n_ctx,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.d_head,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "initializer_range": c.init_std,
        "attention_dropout": 0.0,
        "rope_theta": theta,
        "rope_scaling": old,
        "rope_parameters": parameters,
        "tie_word_embeddings": c.tied_head,
    });
    let window = match c.attention {
        AttentionPattern::Windowed { band } => Some(band),
        _ => None,
    };
    match family {
        Family::Mistral => map["sliding_window"] = window.into(),
        Family::Qwen2 | Family::Qwen3 => {
            if family == Family::Qwen3 {
                map["attention_bias"] = c.biases.qkv.into();
            }
            map["use_sliding_window"] = window.is_some().into();
            map["sliding_window"] = window.into();
            map["max_window_layers"] = if window.is_some() { 0 } else { c.n_layers }.into();
            map["layer_types"] = vec![if window.is_some() { SLIDING } else { FULL }; c.n_layers].into();
        }
        _ => {
            map["attention_bias"] = c.biases.qkv.into();
            map["mlp_bias"] = c.biases.ffn.into();
        }
    }
    map
}

/// `rope_type` and its numbers.
pub(super) fn describe_scaling(scaling: RotaryScaling) -> Value {
    let (mut parameters, name) = match scaling {
        RotaryScaling::None => (json!({}), "default"),
        RotaryScaling::Linear { factor } => (json!({ "factor": factor }), "linear"),
        RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let parameters = json!({
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_context,
            });
            (parameters, "llama3")
        }
    };
    parameters["rope_type"] = name.into();
    parameters
}

//! `config.json`: what the supported families say there, in both directions.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::names::Family;
use crate::config::*;
use crate::error::ModelError;

/// Token ids that generation needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GenerationIds {
    /// Begins every text, for models that want it.
    pub bos: Option<u32>,
    /// Each of them ends a text.
    pub eos: Vec<u32>,
    /// Fills up rows.
    pub pad: Option<u32>,
}

/// A JSON object with the path it came from, for messages.
pub(super) struct Keys<'a> {
    pub path: &'a Path,
    pub map: &'a Map<String, Value>,
}

impl Keys<'_> {
    /// A key that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> ModelError {
        let problem = format!("`{key}` is {value}, and should be {expected}");
        ModelError::Malformed { path: self.path.to_owned(), problem }
    }

    fn unsupported(&self, key: &str, supported: &str) -> ModelError {
        let found = self.map.get(key).map_or("missing".to_owned(), Value::to_string);
        ModelError::UnsupportedKey {
            path: self.path.to_owned(),
            key: key.to_owned(),
            found,
            supported: supported.to_owned(),
        }
    }

    fn opt_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        let Some(value) = self.get(key) else { return Ok(None) };
        size(value).map(Some).ok_or_else(|| self.wrong(key, value, "a whole number"))
    }

    fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.opt_size(key)?.ok_or_else(|| {
            let problem = format!("`{key}` is missing");
            ModelError::Malformed { path: self.path.to_owned(), problem }
        })
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.wrong(key, value, "a number"))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    /// Refuses a flag that changes what is computed.
    fn must_be(&self, key: &str, wanted: bool) -> Result<(), ModelError> {
        match self.flag(key, wanted)? == wanted {
            true => Ok(()),
            false => Err(self.unsupported(key, if wanted { "true" } else { "false" })),
        }
    }

    fn gpt_activation(&self) -> Result<FfnActivation, ModelError> {
        const KEY: &str = "activation_function";
        match self.get(KEY).unwrap_or(&json!("gelu_new")).as_str() {
            Some("gelu_new" | "gelu_pytorch_tanh") => Ok(FfnActivation::GeluTanh),
            Some("gelu") => Ok(FfnActivation::GeluErf),
            Some("relu") => Ok(FfnActivation::Relu),
            _ => Err(self.unsupported(KEY, "gelu_new, gelu_pytorch_tanh, gelu or relu")),
        }
    }

    /// Heads of equal width that fill the model, as GPT-2 and GPT-Neo have them.
    fn even_heads(&self, d_model: usize, n_heads: usize, key: &str) -> Result<usize, ModelError> {
        if n_heads == 0 || !d_model.is_multiple_of(n_heads) {
            let problem = format!("`{key}` is {n_heads}, which does not divide the model's width {d_model}");
            return Err(ModelError::Malformed { path: self.path.to_owned(), problem });
        }
        Ok(d_model / n_heads)
    }
}

/// Reads the family and the shape.
pub(super) fn parse(keys: &Keys<'_>) -> Result<(Family, ModelConfig), ModelError> {
    if keys.get("quantization_config").is_some() {
        return Err(keys.unsupported("quantization_config", "no quantization"));
    }
    let (family, config) = match keys.get("model_type").and_then(Value::as_str) {
        Some("gpt2") => (Family::Gpt2, parse_gpt2(keys)?),
        Some("gpt_neo") => (Family::GptNeo, parse_gpt_neo(keys)?),
        Some("llama") => (Family::Llama, parse_llama(keys)?),
        Some("verve") => {
            let value = keys.get("verve").cloned().unwrap_or(Value::Null);
            let config = serde_json::from_value(value).map_err(|e| {
                let problem = format!("`verve`: {e}");
                ModelError::Malformed { path: keys.path.to_owned(), problem }
            })?;
            (Family::Verve, config)
        }
        other => {
            let found = other.unwrap_or("(missing)").to_owned();
            return Err(ModelError::UnsupportedModel { path: keys.path.to_owned(), found });
        }
    };
    config.validate()?;
    Ok((family, config))
}

fn parse_gpt2(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
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
        norm: Norm::LayerNorm,
        norm_eps: keys.number("layer_norm_epsilon", 1e-5)?,
        positions: Positions::Learned,
        activation: keys.gpt_activation()?,
        attention: AttentionPattern::Dense,
        attn_scale: if scaled { AttnScale::InvSqrtHead } else { AttnScale::One },
        biases: Biases::ALL,
        tied_head: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.number("initializer_range", 0.02)?,
    })
}

fn parse_gpt_neo(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
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
        norm: Norm::LayerNorm,
        norm_eps: keys.number("layer_norm_epsilon", 1e-5)?,
        positions: Positions::Learned,
        activation: keys.gpt_activation()?,
        attention: gpt_neo_attention(keys, n_layers)?,
        attn_scale: AttnScale::One,
        biases: Biases::ALL_BUT_QKV,
        tied_head: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.number("initializer_range", 0.02)?,
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

fn parse_llama(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
    if keys.get("hidden_act").is_some_and(|value| !["silu", "swish"].contains(&value.as_str().unwrap_or(""))) {
        return Err(keys.unsupported("hidden_act", "silu"));
    }
    keys.must_be("rope_interleaved", false)?;
    if keys.number("partial_rotary_factor", 1.0)? != 1.0 {
        return Err(keys.unsupported("partial_rotary_factor", "1"));
    }
    let (d_model, n_heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
    let d_head = match keys.opt_size("head_dim")? {
        Some(d_head) => d_head,
        None => keys.even_heads(d_model, n_heads, "num_attention_heads")?,
    };
    let attention_bias = keys.flag("attention_bias", false)?;
    Ok(ModelConfig {
        n_layers: keys.size("num_hidden_layers")?,
        d_model,
        d_ff: keys.size("intermediate_size")?,
        n_heads,
        n_kv_heads: keys.opt_size("num_key_value_heads")?.unwrap_or(n_heads),
        d_head,
        n_ctx: keys.opt_size("max_position_embeddings")?.unwrap_or(2048),
        n_vocab: keys.size("vocab_size")?,
        norm: Norm::RmsNorm,
        norm_eps: keys.number("rms_norm_eps", 1e-6)?,
        positions: Positions::Rotary { theta: llama_theta(keys)? },
        activation: FfnActivation::SwiGlu,
        attention: AttentionPattern::Dense,
        attn_scale: AttnScale::InvSqrtHead,
        biases: Biases { qkv: attention_bias, attn_out: attention_bias, ffn: keys.flag("mlp_bias", false)? },
        tied_head: keys.flag("tie_word_embeddings", false)?,
        init_std: keys.number("initializer_range", 0.02)?,
    })
}

/// transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters`.
fn llama_theta(keys: &Keys<'_>) -> Result<f64, ModelError> {
    let mut theta = keys.number("rope_theta", 10_000.0)?;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(value) = keys.get(key) else { continue };
        let Some(map) = value.as_object() else { return Err(keys.wrong(key, value, "an object")) };
        let inner = Keys { path: keys.path, map };
        let kind = inner.get("rope_type").or_else(|| inner.get("type"));
        let plain = kind.is_none_or(|kind| kind == "default") && inner.number("partial_rotary_factor", 1.0)? == 1.0;
        if !plain {
            return Err(keys.unsupported(key, "the type \"default\" (no scaling)"));
        }
        theta = inner.number("rope_theta", theta)?;
    }
    Ok(theta)
}

/// The ids in a `config.json` or `generation_config.json`.
pub(super) fn parse_ids(keys: &Keys<'_>) -> Result<GenerationIds, ModelError> {
    // A negative id, as some files have it for "none", counts as absent.
    let id = |key: &str, value: &Value| match value.as_i64() {
        Some(id) if id < 0 => Ok(None),
        Some(id) => u32::try_from(id).map(Some).map_err(|_| keys.wrong(key, value, "a token id")),
        None => Err(keys.wrong(key, value, "a token id")),
    };
    let one = |key: &str| keys.get(key).map_or(Ok(None), |value| id(key, value));
    let key = "eos_token_id";
    let eos = match keys.get(key) {
        None => Vec::new(),
        Some(Value::Array(list)) => {
            list.iter().map(|value| id(key, value)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()
        }
        Some(value) => id(key, value)?.into_iter().collect(),
    };
    Ok(GenerationIds { bos: one("bos_token_id")?, eos, pad: one("pad_token_id")? })
}

/// Which family represents a shape exactly; for our own, why no other does.
pub(super) fn family_for(config: &ModelConfig) -> (Family, Option<String>) {
    let c = config;
    let dense = c.attention == AttentionPattern::Dense;
    if c.norm == Norm::RmsNorm {
        let differences = [
            (!matches!(c.positions, Positions::Rotary { .. }), "its positions are learned"),
            (!c.activation.is_gated(), "its activation is not SwiGLU"),
            (!dense, "some of its layers are banded"),
            (c.attn_scale == AttnScale::One, "its scores are not scaled"),
            (c.biases.qkv != c.biases.attn_out, "its attention has biases on one side only"),
        ];
        return match differences.iter().find(|(differs, _)| *differs) {
            None => (Family::Llama, None),
            Some((_, why)) => (Family::Verve, Some(format!("it has RMSNorm as Llama has, but {why}"))),
        };
    }
    let gpt_like = [
        (c.positions != Positions::Learned, "its positions are not learned"),
        (c.activation.is_gated(), "its activation is gated"),
        (c.n_kv_heads != c.n_heads, "its heads share keys and values"),
        (c.heads_width() != c.d_model, "its heads do not add up to d_model"),
        (!c.biases.attn_out || !c.biases.ffn, "it lacks biases"),
    ];
    if let Some((_, why)) = gpt_like.iter().find(|(differs, _)| *differs) {
        return (Family::Verve, Some(format!("it has LayerNorm as GPT-2 and GPT-Neo have, but {why}")));
    }
    if c.biases.qkv {
        return match dense {
            true => (Family::Gpt2, None),
            false => {
                let why = "it has banded layers as GPT-Neo has, but biases on queries, keys and values, which GPT-Neo \
                           lacks; set biases.qkv = false to train one that transformers can open";
                (Family::Verve, Some(why.to_owned()))
            }
        };
    }
    match folded_scale(c) {
        Some(_) => (Family::GptNeo, None),
        None => {
            let why = format!(
                "GPT-Neo does not scale scores, and 1/sqrt(d_head) with d_head = {} cannot be folded into the weights \
                 exactly; only d_head = 4, 16, 64 or 256 can",
                c.d_head
            );
            (Family::Verve, Some(why))
        }
    }
}

/// The factor that turns query weights of a GPT-Neo shaped model into those of a GPT-Neo file, which scales no scores:
/// a power of two, so that it changes no digit. `None` if there is no such factor.
pub(super) fn folded_scale(config: &ModelConfig) -> Option<f32> {
    match config.attn_scale {
        AttnScale::One => Some(1.0),
        AttnScale::InvSqrtHead => {
            let root = config.d_head.isqrt();
            (root * root == config.d_head && root.is_power_of_two()).then(|| 1.0 / root as f32)
        }
    }
}

/// The keys of `config.json` that describe the shape in a family's terms.
pub(super) fn describe(family: Family, config: &ModelConfig) -> Map<String, Value> {
    let c = config;
    let activation = match c.activation {
        FfnActivation::GeluTanh => "gelu_new",
        FfnActivation::GeluErf => "gelu",
        FfnActivation::Relu => "relu",
        FfnActivation::SwiGlu => "silu",
    };
    let value = match family {
        Family::Gpt2 => json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": c.n_vocab,
            "n_positions": c.n_ctx,
            "n_embd": c.d_model,
            "n_layer": c.n_layers,
            "n_head": c.n_heads,
            "n_inner": c.d_ff,
            "activation_function": activation,
            "layer_norm_epsilon": c.norm_eps,
            "initializer_range": c.init_std,
            "scale_attn_weights": c.attn_scale == AttnScale::InvSqrtHead,
            "scale_attn_by_inverse_layer_idx": false,
            "reorder_and_upcast_attn": false,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "tie_word_embeddings": c.tied_head,
        }),
        Family::GptNeo => {
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
                "activation_function": activation,
                "layer_norm_epsilon": c.norm_eps,
                "initializer_range": c.init_std,
                "resid_dropout": 0.0,
                "embed_dropout": 0.0,
                "attention_dropout": 0.0,
                "tie_word_embeddings": c.tied_head,
            })
        }
        Family::Llama => {
            let theta = match c.positions {
                Positions::Rotary { theta } => theta,
                Positions::Learned => panic!("a Llama model has rotary positions"),
            };
            json!({
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "vocab_size": c.n_vocab,
                "max_position_embeddings": c.n_ctx,
                "hidden_size": c.d_model,
                "intermediate_size": c.d_ff,
                "num_hidden_layers": c.n_layers,
                "num_attention_heads": c.n_heads,
                "num_key_value_heads": c.n_kv_heads,
                "head_dim": c.d_head,
                "hidden_act": activation,
                "rms_norm_eps": c.norm_eps,
                "initializer_range": c.init_std,
                "attention_bias": c.biases.qkv,
                "mlp_bias": c.biases.ffn,
                "attention_dropout": 0.0,
                "rope_theta": theta,
                "rope_parameters": { "rope_theta": theta, "rope_type": "default" },
                "tie_word_embeddings": c.tied_head,
            })
        }
        Family::Verve => json!({ "model_type": "verve" }),
    };
    let Value::Object(map) = value else { panic!("an object is an object") };
    map
}

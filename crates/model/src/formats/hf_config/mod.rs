//! `config.json`: what the supported families say there, in both directions.

mod gemma;
mod gpt;
mod keys;
mod llama;
mod neox;
mod opt;

use serde_json::{Map, Value, json};

pub(super) use self::keys::Keys;
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

/// Reads the family and the shape.
pub(in crate::formats) fn parse(keys: &Keys<'_>) -> Result<(Family, ModelConfig), ModelError> {
    if keys.get("quantization_config").is_some() {
        return Err(keys.unsupported("quantization_config", "no quantization"));
    }
    let (family, config) = match keys.get("model_type").and_then(Value::as_str) {
        Some("gpt2") => (Family::Gpt2, gpt::parse_gpt2(keys)?),
        Some("gpt_neo") => (Family::GptNeo, gpt::parse_gpt_neo(keys)?),
        Some("gpt_neox") => (Family::GptNeoX, neox::parse(keys)?),
        Some("opt") => (Family::Opt, opt::parse(keys)?),
        Some("llama") => (Family::Llama, llama::parse(keys, Family::Llama)?),
        Some("mistral") => (Family::Mistral, llama::parse(keys, Family::Mistral)?),
        Some("qwen2") => (Family::Qwen2, llama::parse(keys, Family::Qwen2)?),
        Some("qwen3") => (Family::Qwen3, llama::parse(keys, Family::Qwen3)?),
        Some("gemma3_text") => (Family::Gemma3, gemma::parse(keys)?),
        Some("verve") => {
            let value = keys.get("verve").cloned().unwrap_or(Value::Null);
            let config = serde_json::from_value(value).map_err(|e| {
                let problem = format!("`verve`: {e}");
                ModelError::Malformed { path: keys.path.to_owned(), problem }
            })?;
            (Family::Verve, config)
        }
        other => {
            let written = keys.get("model_type").map_or("(missing)".to_owned(), Value::to_string);
            let found = other.map_or(written, str::to_owned);
            return Err(ModelError::UnsupportedModel { path: keys.path.to_owned(), found });
        }
    };
    config.validate()?;
    Ok((family, config))
}

/// The ids in a `config.json` or `generation_config.json`.
pub(in crate::formats) fn parse_ids(keys: &Keys<'_>) -> Result<GenerationIds, ModelError> {
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
pub(in crate::formats) fn family_for(config: &ModelConfig) -> (Family, Option<String>) {
    let c = config;
    let dense = c.attention == AttentionPattern::Dense;
    if c.norm != Norm::LayerNorm {
        return llama_like(c);
    }
    if c.positions != Positions::Learned {
        return match neox::difference(c) {
            None => (Family::GptNeoX, None),
            Some(why) => {
                (Family::Verve, Some(format!("it has LayerNorm and rotary positions as GPT-NeoX has, but {why}")))
            }
        };
    }
    if opt::is_opt(c) {
        return (Family::Opt, None);
    }
    let gpt_like = [
        (c.activation.is_gated(), "its activation is gated"),
        (c.n_kv_heads != c.n_heads, "its heads share keys and values"),
        (c.heads_width() != c.d_model, "its heads do not add up to d_model"),
        (!c.biases.attn_out || !c.biases.ffn, "it lacks biases"),
        (matches!(c.attn_scale, AttnScale::InvSqrtOf { .. }), "it has a factor of its own on scores"),
        (
            !matches!(c.attention, AttentionPattern::Dense | AttentionPattern::Alternating { .. }),
            "its banded layers are not every second one",
        ),
        own_choices(c),
        (c.qk_norm, "its heads are normalised"),
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

/// Choices that GPT-2, GPT-Neo, Llama, Mistral and Qwen2 do not have.
fn own_choices(c: &ModelConfig) -> (bool, &'static str) {
    let plain = c.residual == Residual::Sequential && !c.post_norms && c.embed_scale == EmbedScale::One;
    let plain_rotation = c.rotary_pct == 1.0 && c.rotary_local_theta.is_none();
    (!(plain && plain_rotation), "its blocks, its embedding or its rotation differ")
}

/// [`family_for`] of models with RMSNorm.
fn llama_like(c: &ModelConfig) -> (Family, Option<String>) {
    if gemma::is_gemma(c) {
        return (Family::Gemma3, None);
    }
    let differences = [
        (c.norm != Norm::RmsNorm, "its norm weights are kept less one"),
        (!matches!(c.positions, Positions::Rotary { .. }), "its positions are learned"),
        (c.activation != FfnActivation::SwiGlu, "its activation is not SwiGLU"),
        (
            !matches!(c.attention, AttentionPattern::Dense | AttentionPattern::Windowed { .. }),
            "only some of its layers are banded",
        ),
        (c.attn_scale != AttnScale::InvSqrtHead, "its scores are not scaled by 1/sqrt(d_head)"),
        own_choices(c),
    ];
    let own = |why: &str| (Family::Verve, Some(format!("it has RMSNorm as Llama has, but {why}")));
    if let Some((_, why)) = differences.iter().find(|(differs, _)| *differs) {
        return own(why);
    }
    match c.biases {
        Biases { qkv, attn_out, ffn: false } if c.qk_norm && qkv == attn_out => (Family::Qwen3, None),
        _ if c.qk_norm => own("its heads are normalised, and it has other biases than Qwen3"),
        Biases::QKV => (Family::Qwen2, None),
        Biases { qkv, attn_out, .. } if qkv == attn_out && c.attention == AttentionPattern::Dense => {
            (Family::Llama, None)
        }
        Biases::NONE => (Family::Mistral, None),
        Biases { qkv, attn_out, .. } if qkv != attn_out => own("its attention has biases on one side only"),
        _ => own("it has both banded layers and biases"),
    }
}

/// The factor that turns query weights of a GPT-Neo shaped model into those of a GPT-Neo file, which scales no scores:
/// a power of two, so that it changes no digit. `None` if there is no such factor.
pub(in crate::formats) fn folded_scale(config: &ModelConfig) -> Option<f32> {
    match config.attn_scale {
        AttnScale::One => Some(1.0),
        AttnScale::InvSqrtHead => {
            let root = config.d_head.isqrt();
            (root * root == config.d_head && root.is_power_of_two()).then(|| 1.0 / root as f32)
        }
        AttnScale::InvSqrtOf { .. } => None,
    }
}

/// The keys of `config.json` that describe the shape in a family's terms.
pub(in crate::formats) fn describe(family: Family, config: &ModelConfig) -> Map<String, Value> {
    let value = match family {
        Family::Gpt2 => gpt::describe_gpt2(config),
        Family::GptNeo => gpt::describe_gpt_neo(config),
        Family::GptNeoX => neox::describe(config),
        Family::Opt => opt::describe(config),
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => llama::describe(family, config),
        Family::Gemma3 => gemma::describe(config),
        Family::Verve => json!({ "model_type": "verve" }),
    };
    let Value::Object(map) = value else { panic!("an object is an object") };
    map
}

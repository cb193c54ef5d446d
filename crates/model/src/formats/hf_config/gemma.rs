//! The text models of Gemma 3.

use serde_json::{Value, json};

use super::keys::Keys;
use super::llama::{FULL, SLIDING, describe_scaling, whole_rotation};
use crate::config::*;
use crate::error::ModelError;

pub(super) fn parse(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
    for key in ["hidden_activation", "hidden_act"] {
        if keys.get(key).is_some_and(|value| value != "gelu_pytorch_tanh") {
            return Err(keys.unsupported(key, "gelu_pytorch_tanh"));
        }
    }
    for key in ["final_logit_softcapping", "attn_logit_softcapping"] {
        if keys.get(key).is_some() {
            return Err(keys.unsupported(key, "null (no cap)"));
        }
    }
    keys.must_be("attention_bias", false)?;
    keys.must_be("use_bidirectional_attention", false)?;
    let (mut global, mut local) =
        ((keys.number("rope_theta", 1e6)?, RotaryScaling::None), keys.number("rope_local_base_freq", 1e4)?);
    if let Some(value) = keys.get("rope_scaling") {
        global = whole_rotation(keys, "rope_scaling", value, global.0)?;
    }
    if let Some(value) = keys.get("rope_parameters") {
        let Some(map) = value.as_object() else { return Err(keys.wrong("rope_parameters", value, "an object")) };
        let inner = Keys { path: keys.path, map };
        if let Some(value) = inner.get(FULL) {
            global = whole_rotation(keys, "rope_parameters", value, global.0)?;
        }
        if let Some(value) = inner.get(SLIDING) {
            let (theta, scaling) = whole_rotation(keys, "rope_parameters", value, local)?;
            if scaling != RotaryScaling::None {
                return Err(keys.unsupported("rope_parameters", "no scaling of layers with a window"));
            }
            local = theta;
        }
        if inner.get(FULL).is_none() && inner.get(SLIDING).is_none() {
            return Err(keys.unsupported("rope_parameters", "an object with full_attention and sliding_attention"));
        }
    }
    let n_layers = keys.size("num_hidden_layers")?;
    Ok(ModelConfig {
        n_layers,
        d_model: keys.size("hidden_size")?,
        d_ff: keys.size("intermediate_size")?,
        n_heads: keys.size("num_attention_heads")?,
        n_kv_heads: keys.size("num_key_value_heads")?,
        d_head: keys.opt_size("head_dim")?.unwrap_or(256),
        n_ctx: keys.opt_size("max_position_embeddings")?.unwrap_or(1 << 17),
        n_vocab: keys.size("vocab_size")?,
        norm: Norm::RmsNormPlusOne,
        norm_eps: keys.number("rms_norm_eps", 1e-6)?,
        positions: Positions::Rotary { theta: global.0 },
        activation: FfnActivation::GeGlu,
        attention: attention(keys, n_layers)?,
        attn_scale: AttnScale::InvSqrtOf { width: keys.opt_size("query_pre_attn_scalar")?.unwrap_or(256) },
        biases: Biases::NONE,
        tied_head: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.number("initializer_range", 0.02)?,
        rotary_scaling: global.1,
        rotary_local_theta: Some(local),
        qk_norm: true,
        post_norms: true,
        embed_scale: EmbedScale::SqrtWidth,
        ..GPT_CHOICES
    })
}

/// `layer_types` says what each layer sees; older files have a number, `sliding_window_pattern`.
fn attention(keys: &Keys<'_>, n_layers: usize) -> Result<AttentionPattern, ModelError> {
    let band = if keys.map.contains_key("sliding_window") { keys.opt_size("sliding_window")? } else { Some(4096) };
    let band = band.ok_or_else(|| keys.unsupported("sliding_window", "a number"))?;
    let Some(value) = keys.get("layer_types") else {
        let global_every = keys.opt_size("sliding_window_pattern")?.unwrap_or(6);
        return Ok(AttentionPattern::Periodic { band, global_every });
    };
    let types = value.as_array().ok_or_else(|| keys.wrong("layer_types", value, "a list"))?;
    let global_every = types.iter().position(|kind| kind == FULL).map_or(n_layers.saturating_add(1), |first| first + 1);
    let expected = |layer: usize| if (layer + 1).is_multiple_of(global_every) { FULL } else { SLIDING };
    match types.len() == n_layers && types.iter().enumerate().all(|(layer, kind)| kind == expected(layer)) {
        true if global_every > n_layers => Ok(AttentionPattern::Windowed { band }),
        true => Ok(AttentionPattern::Periodic { band, global_every }),
        false => {
            let supported =
                format!("one of {n_layers} layers, where every n-th is \"{FULL}\" and others \"{SLIDING}\"");
            Err(keys.unsupported("layer_types", &supported))
        }
    }
}

/// True for shapes that these models' files can say.
pub(super) fn is_gemma(c: &ModelConfig) -> bool {
    let attention = matches!(c.attention, AttentionPattern::Periodic { .. } | AttentionPattern::Windowed { .. });
    let rotation = matches!(c.positions, Positions::Rotary { .. }) && c.rotary_pct == 1.0;
    c.norm == Norm::RmsNormPlusOne
        && c.activation == FfnActivation::GeGlu
        && attention
        && rotation
        && c.rotary_local_theta.is_some()
        && c.attn_scale != AttnScale::One
        && c.biases == Biases::NONE
        && c.residual == Residual::Sequential
        && (c.qk_norm, c.post_norms, c.embed_scale) == (true, true, EmbedScale::SqrtWidth)
        // transformers insists on it, though nothing follows from it.
        && c.d_model.is_multiple_of(c.n_heads)
}

pub(super) fn describe(c: &ModelConfig) -> Value {
    let (Positions::Rotary { theta }, Some(local)) = (c.positions, c.rotary_local_theta) else {
        panic!("a Gemma model has two rotary bases")
    };
    let mut global = describe_scaling(c.rotary_scaling);
    // What transformers 4 reads.
    let old = if c.rotary_scaling == RotaryScaling::None { Value::Null } else { global.clone() };
    global["rope_theta"] = theta.into();
    let scalar = match c.attn_scale {
        AttnScale::InvSqrtOf { width } => width,
        _ => c.d_head,
    };
    let (band, global_every) = match c.attention {
        AttentionPattern::Periodic { band, global_every } => (band, global_every),
        AttentionPattern::Windowed { band } => (band, c.n_layers + 1),
        _ => panic!("a Gemma model has layers with a window"),
    };
    let types: Vec<&str> =
        (0..c.n_layers).map(|layer| if c.window(layer).is_some() { SLIDING } else { FULL }).collect();
    json!({
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": c.n_vocab,
        "max_position_embeddings": c.n_ctx,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.d_head,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": c.norm_eps,
        "initializer_range": c.init_std,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "query_pre_attn_scalar": scalar,
        "sliding_window": band,
        "sliding_window_pattern": global_every,
        "layer_types": types,
        "final_logit_softcapping": null,
        "attn_logit_softcapping": null,
        "rope_theta": theta,
        "rope_local_base_freq": local,
        "rope_scaling": old,
        "rope_parameters": {
            FULL: global,
            SLIDING: { "rope_type": "default", "rope_theta": local },
        },
        "tie_word_embeddings": c.tied_head,
    })
}

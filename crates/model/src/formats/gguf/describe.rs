//! Which architecture says a configuration, and what a file's metadata say about it.

use verve_gguf::{TensorType, Value};
use verve_ops::quant::QuantKind;

use super::Architecture;
use super::architecture::{GEMMA_GLOBAL_EVERY, GEMMA_LOCAL_THETA, OWN_CONFIG, as_written, gemma_scale, rotary_share};
use crate::config::*;
use crate::error::ModelError;

/// How a model is said in a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Described {
    pub architecture: Architecture,
    /// The configuration, in the terms of the architecture: what a reader will find.
    pub config: ModelConfig,
    /// What is added to the weights of norms.
    pub norm_shift: f32,
    /// For [`Architecture::Verve`]: why no other says it.
    pub why_own: Option<String>,
}

/// The architecture that says a configuration exactly, or else our own.
pub(super) fn describe(config: &ModelConfig) -> Described {
    let shifted = config.norm == Norm::RmsNormPlusOne;
    let mut stored = config.clone();
    if shifted {
        stored.norm = Norm::RmsNorm;
    }
    match architecture_of(&mut stored) {
        Ok(architecture) => {
            Described { architecture, config: stored, norm_shift: if shifted { 1.0 } else { 0.0 }, why_own: None }
        }
        Err(why) => Described {
            architecture: Architecture::Verve,
            config: config.clone(),
            norm_shift: 0.0,
            why_own: Some(why.to_owned()),
        },
    }
}

/// The architecture of a configuration, in whose terms `c` is put; or why there is none.
fn architecture_of(c: &mut ModelConfig) -> Result<Architecture, &'static str> {
    let refuse_if = |wrong: bool, why: &'static str| if wrong { Err(why) } else { Ok(()) };
    if c.norm == Norm::LayerNorm {
        return gpt(c);
    }
    refuse_if(c.rotary_pct != 1.0, "only a part of each head rotates")?;
    refuse_if(c.residual != Residual::Sequential, "its blocks are parallel")?;
    refuse_if(!matches!(c.positions, Positions::Rotary { .. }), "it has RMSNorm and learned positions")?;
    if c.post_norms || c.activation == FfnActivation::GeGlu {
        return gemma(c);
    }
    refuse_if(c.norm != Norm::RmsNorm, "its norm weights are kept less one")?;
    refuse_if(c.activation != FfnActivation::SwiGlu, "it has RMSNorm as Llama has, but another activation")?;
    refuse_if(!is_dense(c), "its layers see a window only")?;
    refuse_if(c.attn_scale != AttnScale::InvSqrtHead, "its scores are not scaled by 1/sqrt(d_head)")?;
    let plain = c.embed_scale == EmbedScale::One && c.rotary_local_theta.is_none();
    refuse_if(!plain, "its embedding or its rotation is not Llama's")?;
    c.attention = AttentionPattern::Dense;
    let architecture = match (c.qk_norm, c.biases) {
        (true, Biases::NONE) => Architecture::Qwen3,
        (true, _) => return Err("its heads are normalised, and it has biases"),
        (false, Biases::QKV) => Architecture::Qwen2,
        (false, _) => Architecture::Llama,
    };
    let llama3 = matches!(c.rotary_scaling, RotaryScaling::Llama3 { .. });
    refuse_if(llama3 && architecture != Architecture::Llama, "it has Llama 3's rotary scaling and is no Llama")?;
    Ok(architecture)
}

/// GPT-2 and GPT-NeoX.
fn gpt(c: &mut ModelConfig) -> Result<Architecture, &'static str> {
    let refuse_if = |wrong: bool, why: &'static str| if wrong { Err(why) } else { Ok(()) };
    let architecture = match (c.positions, c.activation, c.residual) {
        (Positions::Learned, FfnActivation::GeluTanh, Residual::Sequential) => Architecture::Gpt2,
        (Positions::Rotary { .. }, FfnActivation::GeluErf, Residual::Sequential | Residual::Parallel) => {
            Architecture::GptNeoX
        }
        _ => return Err("it has LayerNorm, but the positions, activation or blocks neither of GPT-2 nor of GPT-NeoX"),
    };
    refuse_if(c.n_kv_heads != c.n_heads, "its heads share keys and values, which GPT-2's and GPT-NeoX's do not")?;
    refuse_if(c.heads_width() != c.d_model, "its heads do not add up to d_model, as GPT-2's and GPT-NeoX's do")?;
    refuse_if(!is_dense(c), "some of its layers are banded, as in GPT-3 and GPT-Neo")?;
    refuse_if(c.attn_scale != AttnScale::InvSqrtHead, "its scores are not scaled by 1/sqrt(d_head)")?;
    refuse_if(c.biases != Biases::ALL, "it lacks biases that GPT-2 and GPT-NeoX have")?;
    let plain = !c.qk_norm && !c.post_norms && c.embed_scale == EmbedScale::One;
    refuse_if(!plain, "its norms or its embedding are not those of GPT-2 and GPT-NeoX")?;
    let rotation = c.rotary_scaling == RotaryScaling::None && c.rotary_local_theta.is_none();
    refuse_if(!rotation, "it scales its rotary frequencies, which GPT-NeoX does not")?;
    c.attention = AttentionPattern::Dense;
    Ok(architecture)
}

fn gemma(c: &mut ModelConfig) -> Result<Architecture, &'static str> {
    let refuse_if = |wrong: bool, why: &'static str| if wrong { Err(why) } else { Ok(()) };
    let whole = c.activation == FfnActivation::GeGlu
        && (c.qk_norm, c.post_norms, c.embed_scale) == (true, true, EmbedScale::SqrtWidth)
        && c.biases == Biases::NONE
        && c.rotary_local_theta == Some(GEMMA_LOCAL_THETA);
    refuse_if(!whole, "it has a part of what Gemma 3 has beyond Llama, not all of it")?;
    refuse_if(matches!(c.rotary_scaling, RotaryScaling::Llama3 { .. }), "it has Llama 3's rotary scaling")?;
    let (AttentionPattern::Periodic { band, .. } | AttentionPattern::Windowed { band }) = c.attention else {
        return Err("its layers do not see a window as Gemma 3's do");
    };
    let usual = AttentionPattern::Periodic { band, global_every: GEMMA_GLOBAL_EVERY };
    let with = ModelConfig { attention: usual, ..c.clone() };
    refuse_if(
        (0..c.n_layers).any(|layer| c.window(layer) != with.window(layer)),
        "its dense layers are others than Gemma 3's, every sixth",
    )?;
    let scale = gemma_scale(c.n_layers, c.d_model, c.n_heads);
    let with = ModelConfig { attn_scale: scale, ..c.clone() };
    refuse_if(c.score_scale() != with.score_scale(), "its scores are not scaled as Gemma 3's are")?;
    (c.attention, c.attn_scale) = (usual, scale);
    Ok(Architecture::Gemma3)
}

/// True when every layer sees all there can be.
fn is_dense(c: &ModelConfig) -> bool {
    (0..c.n_layers).all(|layer| c.window(layer).is_none_or(|window| window >= c.n_ctx))
}

/// What a file without our own key would say about a configuration: its numbers are rounded to `f32`.
pub(super) fn as_read(c: &ModelConfig) -> ModelConfig {
    ModelConfig {
        norm_eps: as_written(c.norm_eps),
        positions: match c.positions {
            Positions::Rotary { theta } => Positions::Rotary { theta: as_written(theta) },
            learned => learned,
        },
        rotary_scaling: match c.rotary_scaling {
            RotaryScaling::Linear { factor } => RotaryScaling::Linear { factor: as_written(factor) },
            other => other,
        },
        rotary_pct: if c.rotary_pct == 1.0 { 1.0 } else { rotary_share(c.d_rot(), c.d_head) },
        init_std: GPT_CHOICES.init_std,
        ..c.clone()
    }
}

/// Numbers of `general.file_type` in llama.cpp: which type most weights have.
fn file_type(weights: TensorType) -> Option<u32> {
    Some(match weights {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::Quant(QuantKind::Q4_0) => 2,
        TensorType::Quant(QuantKind::Q8_0) => 7,
        // With some tensors in q6_k, "medium".
        TensorType::Quant(QuantKind::Q4K) => 15,
        TensorType::Quant(QuantKind::Q6K) => 18,
        TensorType::Bf16 => 32,
        _ => return None,
    })
}

/// The metadata of a file, but for the tokenizer.
pub(super) fn metadata(described: &Described, weights: TensorType) -> Result<Vec<(String, Value)>, ModelError> {
    let (c, name) = (&described.config, described.architecture.name());
    let mut out = vec![("general.architecture".to_owned(), name.into()), ("general.type".to_owned(), "model".into())];
    if let Some(number) = file_type(weights) {
        out.push(("general.file_type".to_owned(), Value::U32(number)));
    }
    if matches!(weights, TensorType::Quant(_)) {
        out.push(("general.quantization_version".to_owned(), Value::U32(2)));
    }
    let mut put = |key: &str, value: Value| out.push((format!("{name}.{key}"), value));
    let mut count = |key: &str, value: usize| put(key, Value::U32(u32::try_from(value).unwrap_or(u32::MAX)));
    count("block_count", c.n_layers);
    count("context_length", c.n_ctx);
    count("embedding_length", c.d_model);
    count("feed_forward_length", c.d_ff);
    count("attention.head_count", c.n_heads);
    count("attention.head_count_kv", c.n_kv_heads);
    count("vocab_size", c.n_vocab);
    if !matches!(described.architecture, Architecture::Gpt2 | Architecture::GptNeoX) {
        count("attention.key_length", c.d_head);
        count("attention.value_length", c.d_head);
    }
    if matches!(c.positions, Positions::Rotary { .. }) {
        count("rope.dimension_count", c.d_rot());
    }
    if let (Architecture::Gemma3, AttentionPattern::Periodic { band, .. }) = (described.architecture, c.attention) {
        count("attention.sliding_window", band);
    }
    let norm = if c.norm == Norm::LayerNorm { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
    put(&format!("attention.{norm}"), Value::F32(c.norm_eps as f32));
    if let Positions::Rotary { theta } = c.positions {
        put("rope.freq_base", Value::F32(theta as f32));
    }
    if let RotaryScaling::Linear { factor } = c.rotary_scaling {
        put("rope.scaling.type", "linear".into());
        put("rope.scaling.factor", Value::F32(factor as f32));
    }
    if described.architecture == Architecture::GptNeoX {
        put("use_parallel_residual", Value::Bool(c.residual == Residual::Parallel));
    }
    let own = serde_json::to_string(c).map_err(|e| ModelError::Config {
        field: "model",
        found: e.to_string(),
        problem: "cannot be written as JSON".to_owned(),
    })?;
    out.push((OWN_CONFIG.to_owned(), own.as_str().into()));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::architecture::GEMMA_27B_LAYERS;
    use super::*;

    #[test]
    fn the_largest_gemma_scales_its_scores_otherwise() {
        let width = |layers| gemma_scale(layers, 5376, 32);
        assert_eq!(width(GEMMA_27B_LAYERS), AttnScale::InvSqrtOf { width: 168 });
        assert_eq!(width(GEMMA_27B_LAYERS - 1), AttnScale::InvSqrtHead);
    }
}

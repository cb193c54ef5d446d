//! OPT, but for the one size (350M) that has a narrower token table.

use serde_json::{Value, json};

use super::gpt::activation;
use super::keys::Keys;
use crate::config::*;
use crate::error::ModelError;

/// PyTorch's default, which no key changes.
const NORM_EPS: f64 = 1e-5;

pub(super) fn parse(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
    let norm_before = keys.flag("do_layer_norm_before", true)?;
    keys.must_be("_remove_final_layer_norm", false)?;
    keys.must_be("layer_norm_elementwise_affine", true)?;
    let (d_model, n_heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
    if keys.opt_size("word_embed_proj_dim")?.is_some_and(|width| width != d_model) {
        let supported = format!("{d_model} (hidden_size: no projection of the token table)");
        return Err(keys.unsupported("word_embed_proj_dim", &supported));
    }
    Ok(ModelConfig {
        n_layers: keys.size("num_hidden_layers")?,
        d_model,
        d_ff: keys.size("ffn_dim")?,
        n_heads,
        n_kv_heads: n_heads,
        d_head: keys.even_heads(d_model, n_heads, "num_attention_heads")?,
        n_ctx: keys.size("max_position_embeddings")?,
        n_vocab: keys.size("vocab_size")?,
        norm_eps: NORM_EPS,
        activation: keys.activation("activation_function", "relu")?,
        biases: if keys.flag("enable_bias", true)? { Biases::ALL } else { Biases::NONE },
        tied_head: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.number("init_std", 0.02)?,
        residual: if norm_before { Residual::Sequential } else { Residual::PostNorm },
        ..GPT_CHOICES
    })
}

/// True for shapes that these models' files can say and GPT-2's cannot, or that OPT has and GPT-2 has not.
pub(super) fn is_opt(c: &ModelConfig) -> bool {
    let own = c.biases == Biases::NONE || c.activation == FfnActivation::Relu || c.residual == Residual::PostNorm;
    c.norm == Norm::LayerNorm
        && c.norm_eps == NORM_EPS
        && c.positions == Positions::Learned
        && !c.activation.is_gated()
        && c.attention == AttentionPattern::Dense
        && c.attn_scale == AttnScale::InvSqrtHead
        && c.n_kv_heads == c.n_heads
        && c.heads_width() == c.d_model
        && c.embed_scale == EmbedScale::One
        && c.residual != Residual::Parallel
        && !c.qk_norm
        && !c.post_norms
        && (c.biases == Biases::NONE || c.biases == Biases::ALL)
        && own
}

pub(super) fn describe(c: &ModelConfig) -> Value {
    json!({
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "vocab_size": c.n_vocab,
        "max_position_embeddings": c.n_ctx,
        "hidden_size": c.d_model,
        "word_embed_proj_dim": c.d_model,
        "ffn_dim": c.d_ff,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "activation_function": activation(c),
        "do_layer_norm_before": c.residual != Residual::PostNorm,
        "_remove_final_layer_norm": false,
        "layer_norm_elementwise_affine": true,
        "enable_bias": c.biases == Biases::ALL,
        "init_std": c.init_std,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
        "tie_word_embeddings": c.tied_head,
    })
}

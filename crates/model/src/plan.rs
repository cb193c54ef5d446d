//! What a model will need, before it is made: memory by purpose and floating-point operations.

use verve_ops::{Backend, LinearShape};

use crate::activations::{ElementSizes, Recompute, activation_bytes, logits_rows};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::forward::{attn_out_shape, ffn_down_shape, ffn_up_shape, qkv_shape};
use crate::params::layout;

/// Bytes for one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanItem {
    /// What for, in a few words.
    pub purpose: &'static str,
    /// How many.
    pub bytes: u64,
}

/// Memory of a training run on one machine, by purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The purposes; none twice.
    pub items: Vec<PlanItem>,
}

impl MemoryPlan {
    /// All bytes together.
    pub fn total(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }
}

/// Whether an exact copy of the weights is kept beside the ones computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterWeights {
    /// The weights are exact already (`Elem` as wide as `Acc`).
    None,
    /// One more copy, in `Acc`.
    Kept,
}

/// The settings of a training run that its memory depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Rows of a micro-batch.
    pub batch: usize,
    /// Tokens in a row.
    pub seq_len: usize,
    /// What the backward computes again.
    pub recompute: Recompute,
    /// Bytes of numbers.
    pub sizes: ElementSizes,
    /// Exact copy of the weights.
    pub master: MasterWeights,
    /// Moments of the optimizer for each parameter: 2 for AdamW.
    pub moments: usize,
}

/// Memory of training, by purpose: everything [`crate::Params::alloc`] and [`crate::Activations::new`] would allocate.
///
/// # Errors
/// Sizes that [`crate::Activations::new`] refuses.
pub fn memory_plan(config: &ModelConfig, options: &MemoryOptions) -> Result<MemoryPlan, ModelError> {
    let MemoryOptions { batch, seq_len, recompute, sizes, master, moments } = *options;
    let n_params = config.n_params() as u64;
    let (elem, acc) = (sizes.elem as u64, sizes.acc as u64);
    let mut items = vec![PlanItem { purpose: "weights", bytes: n_params * elem }];
    if master == MasterWeights::Kept {
        items.push(PlanItem { purpose: "master weights", bytes: n_params * acc });
    }
    items.push(PlanItem { purpose: "gradients", bytes: n_params * acc });
    items.push(PlanItem { purpose: "optimizer moments", bytes: n_params * acc * moments as u64 });
    items.extend(activation_bytes(config, batch, seq_len, recompute, sizes)?);
    Ok(MemoryPlan { items })
}

/// Most memory, bytes, that a machine keeps for itself to train on micro-batches of `rows` tokens.
pub fn train_scratch_bytes<B: Backend>(backend: &B, config: &ModelConfig, rows: usize) -> u64 {
    let head = LinearShape { rows: logits_rows(config, rows), d_in: config.d_model, d_out: config.n_vocab };
    let layers = [qkv_shape, attn_out_shape, ffn_up_shape, ffn_down_shape].map(|shape| shape(config, rows));
    let bytes = layers.into_iter().chain([head]).map(|shape| backend.linear_scratch_bytes(shape));
    bytes.max().unwrap_or(0) as u64
}

/// Floating-point operations of training, for one token of a row of `seq_len`: `6 N + 12 L T H D`.
///
/// `N` is the number of parameters that take part in a product for each token: all but the position table, and the
/// token table only where it is the head (norm weights and biases are counted with them, as is usual; they do not
/// matter). The second term is the attention scores and their use, forward and backward, as if every query saw all `T`
/// keys (Chowdhery et al. 2022, appendix B): half of it is real, so that figures compare with published ones. A banded
/// layer counts in proportion to the pairs it has.
pub fn train_flops_per_token(config: &ModelConfig, seq_len: usize) -> f64 {
    let table = layout(config);
    let looked_up = table.pos_embed.as_ref().map_or(0, |spec| spec.len())
        + if config.tied_head { 0 } else { table.tok_embed.len() };
    let products = (table.n_params() - looked_up) as f64;
    let t = seq_len as f64;
    let keys: f64 = (0..config.n_layers)
        .map(|layer| {
            let w = config.window(layer).map_or(t, |window| (window as f64).min(t));
            2.0 * w - w * w / t
        })
        .sum();
    6.0 * products + 12.0 * keys * config.heads_width() as f64
}

/// Floating-point operations of generating one token after `position` others: 2 for each parameter in a product, and the
/// attention over what is visible.
pub fn decode_flops_per_token(config: &ModelConfig, position: usize) -> f64 {
    let table = layout(config);
    let looked_up = table.pos_embed.as_ref().map_or(0, |spec| spec.len())
        + if config.tied_head { 0 } else { table.tok_embed.len() };
    let keys: usize = (0..config.n_layers)
        .map(|layer| config.window(layer).map_or(position + 1, |window| window.min(position + 1)))
        .sum();
    2.0 * (table.n_params() - looked_up) as f64 + 4.0 * (keys * config.heads_width()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AttentionPattern;

    /// Shape c of the peer's training script: 6 layers, d 384, vocabulary 512, context 256.
    #[test]
    fn flops_are_counted_as_the_peer_counts_them() {
        let mut config = ModelConfig::preset("gpt2", Some(512)).unwrap();
        (config.n_layers, config.d_model, config.d_ff) = (6, 384, 1536);
        (config.n_heads, config.n_kv_heads, config.n_ctx) = (6, 6, 256);
        let blocks = 6 * (12 * 384 * 384 + 13 * 384);
        let products = blocks + 512 * 384 + 2 * 384;
        let expected = 6 * products + 12 * 6 * 256 * 384;
        assert_eq!(train_flops_per_token(&config, 256), expected as f64);
        config.attention = AttentionPattern::Alternating { band: 128 };
        // Half of the layers have 3/4 of the pairs.
        assert_eq!(train_flops_per_token(&config, 256), (6 * products + 12 * 6 * 256 * 384 / 8 * 7) as f64);
        config.attention = AttentionPattern::Dense;
        config.tied_head = false;
        assert_eq!(
            train_flops_per_token(&config, 256),
            expected as f64,
            "a table that is only looked up costs nothing"
        );
        assert_eq!(decode_flops_per_token(&config, 99), (2 * products + 4 * 6 * 100 * 384) as f64);
    }
}

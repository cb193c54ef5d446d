//! The one definition of the decoder, as a sequence of steps. Training and inference carry the steps out on their own
//! buffers; neither says what a block is.

use crate::config::{EmbedScale, ModelConfig, Positions};

/// The steps of a forward pass. `layer` counts from 0. Where norms come after the halves of a block
/// ([`Residual::PostNorm`](crate::config::Residual)), a half is added to what it reads, `n`, in place of `x` or `m`.
pub(crate) trait Forward {
    /// `x = tok_embed[token] + pos_embed[position]`.
    fn embed(&mut self);
    /// `x = x * sqrt(C)`.
    fn scale_embedding(&mut self);
    /// `n = norm(x)`, or `n = x` in a block without this norm.
    fn attn_norm(&mut self, layer: usize);
    /// `qkv = linear(n)`.
    fn attn_qkv(&mut self, layer: usize);
    /// Normalises each query and key head in `qkv`.
    fn qk_norm(&mut self, layer: usize);
    /// Rotates the queries and keys in `qkv`.
    fn rope(&mut self, layer: usize);
    /// `a = attention(qkv)`.
    fn attention(&mut self, layer: usize, window: Option<usize>);
    /// `m = x + linear(a)`.
    fn attn_out(&mut self, layer: usize);
    /// `m = x + norm(linear(a))`.
    fn attn_out_normed(&mut self, layer: usize);
    /// `n = norm(m)`, or of `x` where the halves of a block are parallel.
    fn ffn_norm(&mut self, layer: usize);
    /// `h = activation(linear(n))`.
    fn ffn_up_activate(&mut self, layer: usize);
    /// `h = activation(linear_gate(n)) * linear_up(n)`.
    fn ffn_up_gated(&mut self, layer: usize);
    /// `x = m + linear(h)`.
    fn ffn_down(&mut self, layer: usize);
    /// `x = m + norm(linear(h))`.
    fn ffn_down_normed(&mut self, layer: usize);
    /// `n = norm(x)`: what the head reads.
    fn final_norm(&mut self);
}

/// Everything of a block that its backward needs: all but the last product, unless that one is normalised.
pub(crate) fn block_body(config: &ModelConfig, f: &mut impl Forward, layer: usize) {
    f.attn_norm(layer);
    f.attn_qkv(layer);
    if config.qk_norm {
        f.qk_norm(layer);
    }
    if matches!(config.positions, Positions::Rotary { .. }) {
        f.rope(layer);
    }
    f.attention(layer, config.window(layer));
    if config.post_norms {
        f.attn_out_normed(layer);
    } else {
        f.attn_out(layer);
    }
    f.ffn_norm(layer);
    if config.activation.is_gated() {
        f.ffn_up_gated(layer);
    } else {
        f.ffn_up_activate(layer);
    }
    if config.post_norms {
        f.ffn_down_normed(layer);
    }
}

/// The whole decoder up to the head.
pub(crate) fn forward(config: &ModelConfig, f: &mut impl Forward) {
    f.embed();
    if config.embed_scale != EmbedScale::One {
        f.scale_embedding();
    }
    for layer in 0..config.n_layers {
        block_body(config, f, layer);
        if !config.post_norms {
            f.ffn_down(layer);
        }
    }
    f.final_norm();
}

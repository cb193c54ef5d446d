//! The one definition of the decoder, as a sequence of steps. Training and inference carry the steps out on their own
//! buffers; neither says what a block is.

use crate::config::{ModelConfig, Positions};

/// The steps of a forward pass. `layer` counts from 0.
pub(crate) trait Forward {
    /// `x = tok_embed[token] + pos_embed[position]`.
    fn embed(&mut self);
    /// `n = norm(x)`.
    fn attn_norm(&mut self, layer: usize);
    /// `qkv = linear(n)`.
    fn attn_qkv(&mut self, layer: usize);
    /// Rotates the queries and keys in `qkv`.
    fn rope(&mut self, layer: usize);
    /// `a = attention(qkv)`.
    fn attention(&mut self, layer: usize, window: Option<usize>);
    /// `m = x + linear(a)`.
    fn attn_out(&mut self, layer: usize);
    /// `n = norm(m)`.
    fn ffn_norm(&mut self, layer: usize);
    /// `h = activation(linear(n))`.
    fn ffn_up_activate(&mut self, layer: usize);
    /// `h = activation(linear_gate(n)) * linear_up(n)`.
    fn ffn_up_gated(&mut self, layer: usize);
    /// `x = m + linear(h)`.
    fn ffn_down(&mut self, layer: usize);
    /// `n = norm(x)`: what the head reads.
    fn final_norm(&mut self);
}

/// Everything of a block but its last product: what the backward needs of it.
pub(crate) fn block_body(config: &ModelConfig, f: &mut impl Forward, layer: usize) {
    f.attn_norm(layer);
    f.attn_qkv(layer);
    if matches!(config.positions, Positions::Rotary { .. }) {
        f.rope(layer);
    }
    f.attention(layer, config.window(layer));
    f.attn_out(layer);
    f.ffn_norm(layer);
    if config.activation.is_gated() {
        f.ffn_up_gated(layer);
    } else {
        f.ffn_up_activate(layer);
    }
}

/// The whole decoder up to the head.
pub(crate) fn forward(config: &ModelConfig, f: &mut impl Forward) {
    f.embed();
    for layer in 0..config.n_layers {
        block_body(config, f, layer);
        f.ffn_down(layer);
    }
    f.final_norm();
}

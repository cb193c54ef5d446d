//! The forward pass of training and evaluation.

use verve_ops::args::*;
use verve_ops::{
    AttnShape, Backend, EmbedShape, HeadNormShape, HeadShape, IGNORE_TARGET, LinearShape, NormShape, Real,
};

use crate::activations::Activations;
use crate::config::{ModelConfig, Positions, Residual};
use crate::error::ModelError;
use crate::network::{self, Forward};
use crate::params::{LinearParams, NormParams, Weights};
use crate::rope::rope_shape;

/// A model on a machine.
pub struct Network<'a, B: Backend> {
    /// The machine.
    pub backend: &'a B,
    /// The shape.
    pub config: &'a ModelConfig,
    /// The weights.
    pub weights: &'a Weights<B>,
}

impl<B: Backend> Clone for Network<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Network<'_, B> {}

/// Rows to train on or to evaluate, `[batch, seq_len]` each, rows side by side.
#[derive(Debug, Clone, Copy)]
pub struct TrainBatch<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// The id that follows each token, or [`IGNORE_TARGET`].
    pub targets: &'a [u32],
}

/// Loss of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSum {
    /// Sum over the targets, nats, added in row order in `f64`.
    pub sum: f64,
    /// Number of targets that count.
    pub targets: usize,
}

impl LossSum {
    /// Nats per token; not a number when there are no targets.
    pub fn mean(&self) -> f64 {
        self.sum / self.targets as f64
    }
}

/// Which buffers a forward pass writes: each layer its own, for a backward, or those of layer 0 over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    EachLayer,
    Nothing,
}

/// The forward pass on the buffers of a training step.
pub(crate) struct TrainForward<'a, B: Backend> {
    pub net: Network<'a, B>,
    pub acts: &'a mut Activations<B>,
    pub keep: Keep,
}

impl<B: Backend> TrainForward<'_, B> {
    fn slot(&self, layer: usize) -> usize {
        match self.keep {
            Keep::EachLayer => layer,
            Keep::Nothing => 0,
        }
    }

    /// Slot of the residual stream before `layer`; the one after it is the next.
    fn residual(&self, layer: usize) -> usize {
        match self.keep {
            Keep::EachLayer => layer,
            Keep::Nothing => layer % 2,
        }
    }
}

impl<B: Backend> Activations<B> {
    pub(crate) fn rows(&self) -> usize {
        self.batch * self.seq_len
    }
}

pub(crate) fn embed_shape(config: &ModelConfig, rows: usize) -> EmbedShape {
    let n_positions = if config.positions == Positions::Learned { config.n_ctx } else { 0 };
    EmbedShape { rows, d_model: config.d_model, n_vocab: config.n_vocab, n_positions }
}

pub(crate) fn norm_shape(config: &ModelConfig, rows: usize) -> NormShape {
    NormShape { rows, cols: config.d_model, kind: config.norm_kind(), eps: config.norm_eps as f32 }
}

pub(crate) fn head_norm_shape(config: &ModelConfig, rows: usize) -> HeadNormShape {
    HeadNormShape {
        rows,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        d_head: config.d_head,
        kind: config.norm_kind(),
        eps: config.norm_eps as f32,
    }
}

pub(crate) fn head_shape(config: &ModelConfig, rows: usize) -> HeadShape {
    HeadShape { rows, d_model: config.d_model, n_vocab: config.n_vocab }
}

/// Shapes of a block's linear layers.
pub(crate) fn qkv_shape(config: &ModelConfig, rows: usize) -> LinearShape {
    LinearShape { rows, d_in: config.d_model, d_out: config.qkv_width() }
}

pub(crate) fn attn_out_shape(config: &ModelConfig, rows: usize) -> LinearShape {
    LinearShape { rows, d_in: config.heads_width(), d_out: config.d_model }
}

pub(crate) fn ffn_up_shape(config: &ModelConfig, rows: usize) -> LinearShape {
    LinearShape { rows, d_in: config.d_model, d_out: config.d_ff }
}

pub(crate) fn ffn_down_shape(config: &ModelConfig, rows: usize) -> LinearShape {
    LinearShape { rows, d_in: config.d_ff, d_out: config.d_model }
}

pub(crate) fn attn_shape<B: Backend>(config: &ModelConfig, acts: &Activations<B>, window: Option<usize>) -> AttnShape {
    AttnShape {
        batch: acts.batch,
        seq_len: acts.seq_len,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        d_head: config.d_head,
        window,
        scale: config.score_scale(),
    }
}

type Elems<B> = <B as Backend>::Buf<<B as Backend>::Elem>;
type Accs<B> = <B as Backend>::Buf<<B as Backend>::Acc>;

fn norm<B: Backend>(
    net: Network<'_, B>,
    params: &NormParams<Elems<B>>,
    inp: &Elems<B>,
    out: &mut Elems<B>,
    stats: &mut Accs<B>,
    rows: usize,
) {
    let shape = norm_shape(net.config, rows);
    net.backend.norm(Norm { inp, weight: &params.weight, bias: params.bias.as_ref(), out, stats, shape });
}

fn linear<B: Backend>(
    net: Network<'_, B>,
    params: &LinearParams<Elems<B>>,
    inp: &Elems<B>,
    out: &mut Elems<B>,
    epilogue: Epilogue<'_, B>,
    shape: LinearShape,
) {
    net.backend.linear(Linear { inp, weight: &params.weight, bias: params.bias.as_ref(), out, epilogue, shape });
}

impl<B: Backend> Forward for TrainForward<'_, B> {
    fn embed(&mut self) {
        let shape = embed_shape(self.net.config, self.acts.rows());
        let t = &mut self.acts.table;
        self.net.backend.embed(Embed {
            tokens: &t.tokens,
            positions: &t.positions,
            table: &self.net.weights.tok_embed,
            pos_table: self.net.weights.pos_embed.as_ref(),
            out: t.residual.at_mut(0),
            shape,
        });
    }

    fn scale_embedding(&mut self) {
        let Some(factor) = self.net.config.embed_factor::<B::Elem>() else { return };
        let len = self.acts.rows() * self.net.config.d_model;
        let x = self.acts.table.residual.at_mut(0);
        self.net.backend.scaled_sum(ScaledSum { x, factor, y: None, len });
    }

    fn attn_norm(&mut self, layer: usize) {
        let (slot, residual, rows) = (self.slot(layer), self.residual(layer), self.acts.rows());
        let t = &mut self.acts.table;
        let (out, stats) = (t.attn_norm_out.at_mut(slot), t.attn_norm_stats.at_mut(slot));
        match &self.net.weights.layers[layer].attn_norm {
            Some(params) => norm(self.net, params, t.residual.at(residual), out, stats, rows),
            None => self.net.backend.copy(t.residual.at(residual), out),
        }
    }

    fn attn_qkv(&mut self, layer: usize) {
        let (slot, shape) = (self.slot(layer), qkv_shape(self.net.config, self.acts.rows()));
        let t = &mut self.acts.table;
        let params = &self.net.weights.layers[layer].attn_qkv;
        let out = match &mut t.qkv_plain {
            Some(plain) => plain.at_mut(slot),
            None => t.qkv.at_mut(slot),
        };
        linear(self.net, params, t.attn_norm_out.at(slot), out, Epilogue::Store, shape);
    }

    fn qk_norm(&mut self, layer: usize) {
        let (slot, shape) = (self.slot(layer), head_norm_shape(self.net.config, self.acts.rows()));
        let t = &mut self.acts.table;
        let params = &self.net.weights.layers[layer];
        let (Some(q_weight), Some(k_weight), Some(plain)) = (&params.q_norm, &params.k_norm, &t.qkv_plain) else {
            panic!("weights or buffers of another model: no norm of heads");
        };
        let out = t.qkv.at_mut(slot);
        self.net.backend.head_norm(HeadNorm { inp: plain.at(slot), q_weight, k_weight, out, shape });
    }

    fn rope(&mut self, layer: usize) {
        let (slot, shape) = (self.slot(layer), rope_shape(self.net.config, self.acts.rows(), self.acts.seq_len));
        let Some(tables) = &self.acts.rope_tables else { panic!("buffers of another model: no rotary table") };
        let table = tables.of(self.net.config.window(layer));
        let t = &mut self.acts.table;
        self.net.backend.rope(Rope { x: t.qkv.at_mut(slot), table, positions: &t.positions, shape });
    }

    fn attention(&mut self, layer: usize, window: Option<usize>) {
        let (slot, shape) = (self.slot(layer), attn_shape(self.net.config, self.acts, window));
        let t = &mut self.acts.table;
        let (out, lse) = (t.heads.at_mut(slot), t.lse.at_mut(slot));
        self.net.backend.attention(Attention { qkv: t.qkv.at(slot), out, lse, shape });
    }

    fn attn_out(&mut self, layer: usize) {
        let (slot, residual) = (self.slot(layer), self.residual(layer));
        let shape = attn_out_shape(self.net.config, self.acts.rows());
        let t = &mut self.acts.table;
        let params = &self.net.weights.layers[layer].attn_out;
        let epilogue = Epilogue::Residual(match self.net.config.residual {
            Residual::PostNorm => t.attn_norm_out.at(slot),
            Residual::Sequential | Residual::Parallel => t.residual.at(residual),
        });
        linear(self.net, params, t.heads.at(slot), t.residual_mid.at_mut(slot), epilogue, shape);
    }

    fn attn_out_normed(&mut self, layer: usize) {
        let (slot, residual) = (self.slot(layer), self.residual(layer));
        let shape = attn_out_shape(self.net.config, self.acts.rows());
        let t = &mut self.acts.table;
        let params = &self.net.weights.layers[layer];
        let (branches, stats) = (t.branches.as_mut(), t.branch_stats.as_mut());
        let (Some([branch, _]), Some([stats, _]), Some(post)) = (branches, stats, &params.attn_post_norm) else {
            panic!("weights or buffers of another model: no norm of branches");
        };
        linear(self.net, &params.attn_out, t.heads.at(slot), branch.at_mut(slot), Epilogue::Store, shape);
        let out = t.residual_mid.at_mut(slot);
        norm(self.net, post, branch.at(slot), out, stats.at_mut(slot), shape.rows);
        let (y, len) = (Some(t.residual.at(residual)), shape.rows * shape.d_out);
        self.net.backend.scaled_sum(ScaledSum { x: out, factor: 1.0, y, len });
    }

    fn ffn_norm(&mut self, layer: usize) {
        let (slot, rows, residual) = (self.slot(layer), self.acts.rows(), self.residual(layer));
        let t = &mut self.acts.table;
        let (out, stats) = (t.ffn_norm_out.at_mut(slot), t.ffn_norm_stats.at_mut(slot));
        let inp = match self.net.config.residual {
            Residual::Sequential | Residual::PostNorm => t.residual_mid.at(slot),
            Residual::Parallel => t.residual.at(residual),
        };
        norm(self.net, &self.net.weights.layers[layer].ffn_norm, inp, out, stats, rows);
    }

    fn ffn_up_activate(&mut self, layer: usize) {
        let (slot, shape) = (self.slot(layer), ffn_up_shape(self.net.config, self.acts.rows()));
        let t = &mut self.acts.table;
        let params = &self.net.weights.layers[layer].ffn_up;
        let activation = self.net.config.activation.function();
        let epilogue = Epilogue::Activate { activation, pre: t.ffn_up.at_mut(slot) };
        linear(self.net, params, t.ffn_norm_out.at(slot), t.ffn_act.at_mut(slot), epilogue, shape);
    }

    fn ffn_up_gated(&mut self, layer: usize) {
        let (slot, shape) = (self.slot(layer), ffn_up_shape(self.net.config, self.acts.rows()));
        let t = &mut self.acts.table;
        let params = &self.net.weights.layers[layer];
        let inp = t.ffn_norm_out.at(slot);
        let (Some(gate_params), Some(gate)) = (&params.ffn_gate, &mut t.ffn_gate) else {
            panic!("weights or buffers of another model: no gate");
        };
        linear(self.net, gate_params, inp, gate.at_mut(slot), Epilogue::Store, shape);
        linear(self.net, &params.ffn_up, inp, t.ffn_up.at_mut(slot), Epilogue::Store, shape);
        self.net.backend.gate(Gate {
            gate: gate.at(slot),
            up: t.ffn_up.at(slot),
            out: t.ffn_act.at_mut(slot),
            len: shape.rows * shape.d_out,
            activation: self.net.config.activation.function(),
        });
    }

    fn ffn_down(&mut self, layer: usize) {
        let (slot, shape) = (self.slot(layer), ffn_down_shape(self.net.config, self.acts.rows()));
        let next = self.residual(layer + 1);
        let t = &mut self.acts.table;
        let params = &self.net.weights.layers[layer].ffn_down;
        let epilogue = Epilogue::Residual(match self.net.config.residual {
            Residual::PostNorm => t.ffn_norm_out.at(slot),
            Residual::Sequential | Residual::Parallel => t.residual_mid.at(slot),
        });
        linear(self.net, params, t.ffn_act.at(slot), t.residual.at_mut(next), epilogue, shape);
    }

    fn ffn_down_normed(&mut self, layer: usize) {
        let (slot, shape) = (self.slot(layer), ffn_down_shape(self.net.config, self.acts.rows()));
        let next = self.residual(layer + 1);
        let t = &mut self.acts.table;
        let params = &self.net.weights.layers[layer];
        let (branches, stats) = (t.branches.as_mut(), t.branch_stats.as_mut());
        let (Some([_, branch]), Some([_, stats]), Some(post)) = (branches, stats, &params.ffn_post_norm) else {
            panic!("weights or buffers of another model: no norm of branches");
        };
        linear(self.net, &params.ffn_down, t.ffn_act.at(slot), branch.at_mut(slot), Epilogue::Store, shape);
        let out = t.residual.at_mut(next);
        norm(self.net, post, branch.at(slot), out, stats.at_mut(slot), shape.rows);
        let (y, len) = (Some(t.residual_mid.at(slot)), shape.rows * shape.d_out);
        self.net.backend.scaled_sum(ScaledSum { x: out, factor: 1.0, y, len });
    }

    fn final_norm(&mut self) {
        let (last, rows) = (self.residual(self.net.config.n_layers), self.acts.rows());
        let t = &mut self.acts.table;
        let (out, stats) = (&mut t.final_norm_out, &mut t.final_norm_stats);
        norm(self.net, &self.net.weights.final_norm, t.residual.at(last), out, stats, rows);
    }
}

/// Checks a batch and puts it into the buffers; returns the number of targets that count.
pub(crate) fn upload<B: Backend>(
    net: Network<'_, B>,
    acts: &mut Activations<B>,
    batch: TrainBatch<'_>,
) -> Result<usize, ModelError> {
    let (rows, limit) = (acts.rows(), net.config.n_vocab);
    for (what, ids) in [("tokens", batch.tokens), ("targets", batch.targets)] {
        if ids.len() != rows {
            let what = if what == "tokens" { "tokens of a batch" } else { "targets of a batch" };
            return Err(ModelError::BatchSize { what, found: ids.len(), limit: rows });
        }
        let ignored = |id: u32| what == "targets" && id == IGNORE_TARGET;
        if let Some(index) = ids.iter().position(|&id| id as usize >= limit && !ignored(id)) {
            return Err(ModelError::TokenId { what, index, found: ids[index], limit });
        }
    }
    net.backend.upload(batch.tokens, &mut acts.table.tokens);
    net.backend.upload(batch.targets, &mut acts.table.targets);
    Ok(batch.targets.iter().filter(|&&id| id != IGNORE_TARGET).count())
}

/// Fetches the losses and adds them up in row order.
pub(crate) fn fetch_loss<B: Backend>(
    net: Network<'_, B>,
    acts: &mut Activations<B>,
    targets: usize,
) -> Result<LossSum, ModelError> {
    net.backend.download(&acts.table.losses, &mut acts.host_losses)?;
    Ok(LossSum { sum: acts.host_losses.iter().map(|loss| loss.to_f64()).sum(), targets })
}

/// Loss of a batch, without gradients. Uses the buffers of one layer only.
///
/// # Errors
/// A batch of another size than `acts`, an id outside the vocabulary, a failed device.
pub fn forward_loss<B: Backend>(
    net: Network<'_, B>,
    acts: &mut Activations<B>,
    batch: TrainBatch<'_>,
) -> Result<LossSum, ModelError> {
    let targets = upload(net, acts, batch)?;
    network::forward(net.config, &mut TrainForward { net, acts, keep: Keep::Nothing });
    let shape = head_shape(net.config, acts.rows());
    let t = &mut acts.table;
    net.backend.head_loss(HeadLoss {
        inp: &t.final_norm_out,
        weight: net.weights.lm_head.as_ref().unwrap_or(&net.weights.tok_embed),
        targets: &t.targets,
        losses: &mut t.losses,
        logits: &mut t.logits,
        shape,
    });
    fetch_loss(net, acts, targets)
}

//! The backward pass: gradients of every parameter, added to what is there.

use verve_ops::args::*;
use verve_ops::{Backend, LinearShape};

use crate::activations::{Activations, Recompute, Table};
use crate::config::Residual;
use crate::error::ModelError;
use crate::forward::*;
use crate::network::{self, Forward};
use crate::params::{Grads, LinearParams, NormParams};
use crate::rope::rope_shape;

type Elems<B> = <B as Backend>::Buf<<B as Backend>::Elem>;
type Accs<B> = <B as Backend>::Buf<<B as Backend>::Acc>;

/// Loss of a batch, and the gradients of `grad_scale * (sum of the losses)` added to `grads`: several micro-batches
/// accumulate by calling this several times.
///
/// # Errors
/// A batch of another size than `acts`, an id outside the vocabulary, a failed device.
pub fn forward_backward<B: Backend>(
    net: Network<'_, B>,
    acts: &mut Activations<B>,
    grads: &mut Grads<B>,
    batch: TrainBatch<'_>,
    grad_scale: f32,
) -> Result<LossSum, ModelError> {
    let targets = upload(net, acts, batch)?;
    network::forward(net.config, &mut TrainForward { net, acts, keep: Keep::EachLayer });
    head(net, acts, grads, grad_scale);
    for layer in (0..net.config.n_layers).rev() {
        recompute(net, acts, layer);
        ffn(net, acts, grads, layer);
        attention(net, acts, grads, layer);
    }
    embed(net, acts, grads);
    fetch_loss(net, acts, targets)
}

/// Loss, head and last norm; begins the gradient of the residual stream.
fn head<B: Backend>(net: Network<'_, B>, acts: &mut Activations<B>, grads: &mut Grads<B>, grad_scale: f32) {
    let rows = acts.rows();
    let t = &mut acts.table;
    net.backend.head_loss_backward(HeadLossBackward {
        inp: &t.final_norm_out,
        weight: net.weights.lm_head.as_ref().unwrap_or(&net.weights.tok_embed),
        targets: &t.targets,
        losses: &mut t.losses,
        logits: &mut t.logits,
        d_inp: &mut t.d_norm_out,
        d_weight: grads.lm_head.as_mut().unwrap_or(&mut grads.tok_embed),
        grad_scale,
        shape: head_shape(net.config, rows),
    });
    net.backend.fill_zero(&mut t.d_residual);
    norm_backward(NormStep {
        net,
        params: &net.weights.final_norm,
        grads: &mut grads.final_norm,
        d_out: &t.d_norm_out,
        inp: t.residual.at(net.config.n_layers),
        stats: &t.final_norm_stats,
        d_inp: &mut t.d_residual,
        rows,
    });
}

/// Brings back what the forward has not kept of `layer`, with the forward's own steps: the same bits.
fn recompute<B: Backend>(net: Network<'_, B>, acts: &mut Activations<B>, layer: usize) {
    let level = acts.recompute;
    if level == Recompute::Blocks {
        network::block_body(net.config, &mut TrainForward { net, acts, keep: Keep::EachLayer }, layer);
        return;
    }
    if level >= Recompute::ActivationsAndNorms {
        let mut forward = TrainForward { net, acts, keep: Keep::EachLayer };
        forward.attn_norm(layer);
        forward.ffn_norm(layer);
    }
    if level >= Recompute::Activations {
        let t = &mut acts.table;
        let activation = net.config.activation.function();
        let (up, out) = (t.ffn_up.at(layer), t.ffn_act.at_mut(layer));
        match &t.ffn_gate {
            Some(gate) => {
                let len = acts.batch * acts.seq_len * net.config.d_ff;
                net.backend.gate(Gate { gate: gate.at(layer), up, out, len, activation });
            }
            None => net.backend.activate(Activate { inp: up, out, activation }),
        }
    }
}

/// The feed-forward half of a block. `d_residual` is the gradient of the block's output before, and of `residual_mid`
/// after
/// unless the halves are parallel: then the half's own gradient waits in `branch`.
fn ffn<B: Backend>(net: Network<'_, B>, acts: &mut Activations<B>, grads: &mut Grads<B>, layer: usize) {
    let rows = acts.rows();
    let (params, grads) = (&net.weights.layers[layer], &mut grads.layers[layer]);
    let (up_shape, down_shape) = (ffn_up_shape(net.config, rows), ffn_down_shape(net.config, rows));
    let activation = net.config.activation.function();
    let t = &mut acts.table;
    let norm_out = t.ffn_norm_out.at(layer);
    let parallel = net.config.residual == Residual::Parallel;

    let d_branch = match (&params.ffn_post_norm, &mut grads.ffn_post_norm, &t.branches, &t.branch_stats, &mut t.branch)
    {
        (Some(params), Some(grads), Some([_, inp]), Some([_, stats]), Some(d_inp)) => {
            let (d_out, inp, stats) = (&t.d_residual, inp.at(layer), stats.at(layer));
            net.backend.fill_zero(d_inp);
            norm_backward(NormStep { net, params, grads, d_out, inp, stats, d_inp, rows });
            &*d_inp
        }
        _ => &t.d_residual,
    };
    weight_grad(net, &mut grads.ffn_down, d_branch, t.ffn_act.at(layer), down_shape);
    match (&params.ffn_gate, &mut grads.ffn_gate, &t.ffn_gate, &mut t.d_ffn_gate) {
        (Some(gate_params), Some(gate_grads), Some(gate), Some(d_gate)) => {
            // What `ffn_down` read has served its purpose; its buffer takes its own gradient.
            let d_act = t.ffn_act.at_mut(layer);
            input_grad(net, &params.ffn_down, d_branch, d_act, InputGrad::Set, down_shape);
            net.backend.gate_backward(GateBackward {
                d_out: d_act,
                gate: gate.at(layer),
                up: t.ffn_up.at(layer),
                d_gate,
                d_up: &mut t.d_ffn_up,
                activation,
            });
            weight_grad(net, gate_grads, d_gate, norm_out, up_shape);
            input_grad(net, gate_params, d_gate, &mut t.d_norm_out, InputGrad::Set, up_shape);
            weight_grad(net, &mut grads.ffn_up, &t.d_ffn_up, norm_out, up_shape);
            input_grad(net, &params.ffn_up, &t.d_ffn_up, &mut t.d_norm_out, InputGrad::Add, up_shape);
        }
        _ => {
            let write = InputGrad::ThroughActivation { activation, pre: t.ffn_up.at(layer) };
            input_grad(net, &params.ffn_down, d_branch, &mut t.d_ffn_up, write, down_shape);
            weight_grad(net, &mut grads.ffn_up, &t.d_ffn_up, norm_out, up_shape);
            input_grad(net, &params.ffn_up, &t.d_ffn_up, &mut t.d_norm_out, InputGrad::Set, up_shape);
        }
    }
    add_skipped(net, t, rows);
    norm_backward(NormStep {
        net,
        params: &params.ffn_norm,
        grads: &mut grads.ffn_norm,
        d_out: &t.d_norm_out,
        inp: if parallel { t.residual.at(layer) } else { t.residual_mid.at(layer) },
        stats: t.ffn_norm_stats.at(layer),
        d_inp: match &mut t.branch {
            Some(d_inp) if parallel => {
                // The attention half needs the gradient of the block's output first.
                net.backend.fill_zero(d_inp);
                d_inp
            }
            _ => &mut t.d_residual,
        },
        rows,
    });
}

/// The attention half of a block. `d_residual` is the gradient of `residual_mid` before, and of the block's input after.
fn attention<B: Backend>(net: Network<'_, B>, acts: &mut Activations<B>, grads: &mut Grads<B>, layer: usize) {
    let rows = acts.rows();
    let shape = attn_shape(net.config, acts, net.config.window(layer));
    let (params, grads) = (&net.weights.layers[layer], &mut grads.layers[layer]);
    let (qkv_shape, out_shape) = (qkv_shape(net.config, rows), attn_out_shape(net.config, rows));
    let t = &mut acts.table;

    let d_branch =
        match (&params.attn_post_norm, &mut grads.attn_post_norm, &t.branches, &t.branch_stats, &mut t.branch) {
            (Some(params), Some(grads), Some([inp, _]), Some([stats, _]), Some(d_inp)) => {
                let (d_out, inp, stats) = (&t.d_residual, inp.at(layer), stats.at(layer));
                net.backend.fill_zero(d_inp);
                norm_backward(NormStep { net, params, grads, d_out, inp, stats, d_inp, rows });
                &*d_inp
            }
            _ => &t.d_residual,
        };
    weight_grad(net, &mut grads.attn_out, d_branch, t.heads.at(layer), out_shape);
    input_grad(net, &params.attn_out, d_branch, &mut t.d_heads, InputGrad::Set, out_shape);
    net.backend.attention_backward(AttentionBackward {
        qkv: t.qkv.at(layer),
        out: t.heads.at(layer),
        lse: t.lse.at(layer),
        d_out: &t.d_heads,
        d_qkv: &mut t.d_qkv,
        shape,
    });
    if let Some(tables) = &acts.rope_tables {
        let table = tables.of(net.config.window(layer));
        let shape = rope_shape(net.config, rows, acts.seq_len);
        net.backend.rope_backward(Rope { x: &mut t.d_qkv, table, positions: &t.positions, shape });
    }
    if let (Some(q_weight), Some(k_weight), Some(d_q_weight), Some(d_k_weight), Some(inp)) =
        (&params.q_norm, &params.k_norm, &mut grads.q_norm, &mut grads.k_norm, &t.qkv_plain)
    {
        let (inp, d_rows, shape) = (inp.at(layer), &mut t.d_qkv, head_norm_shape(net.config, rows));
        net.backend.head_norm_backward(HeadNormBackward {
            inp,
            q_weight,
            k_weight,
            d_rows,
            d_q_weight,
            d_k_weight,
            shape,
        });
    }
    weight_grad(net, &mut grads.attn_qkv, &t.d_qkv, t.attn_norm_out.at(layer), qkv_shape);
    input_grad(net, &params.attn_qkv, &t.d_qkv, &mut t.d_norm_out, InputGrad::Set, qkv_shape);
    add_skipped(net, t, rows);
    match (&params.attn_norm, &mut grads.attn_norm) {
        (Some(params), Some(grads)) => norm_backward(NormStep {
            net,
            params,
            grads,
            d_out: &t.d_norm_out,
            inp: t.residual.at(layer),
            stats: t.attn_norm_stats.at(layer),
            d_inp: &mut t.d_residual,
            rows,
        }),
        _ => net.backend.copy(&t.d_norm_out, &mut t.d_residual),
    }
    if let (Residual::Parallel, Some(d_ffn)) = (net.config.residual, &t.branch) {
        let len = rows * net.config.d_model;
        net.backend.scaled_sum(ScaledSum { x: &mut t.d_residual, factor: 1.0, y: Some(d_ffn), len });
    }
}

/// Where norms come after the halves of a block, the residual stream goes around a half from behind its norm: the stream's
/// gradient goes on through the norm with the half's own.
fn add_skipped<B: Backend>(net: Network<'_, B>, t: &mut Table<B>, rows: usize) {
    if net.config.residual == Residual::PostNorm {
        let len = rows * net.config.d_model;
        net.backend.scaled_sum(ScaledSum { x: &mut t.d_norm_out, factor: 1.0, y: Some(&t.d_residual), len });
        net.backend.fill_zero(&mut t.d_residual);
    }
}

fn embed<B: Backend>(net: Network<'_, B>, acts: &mut Activations<B>, grads: &mut Grads<B>) {
    let shape = embed_shape(net.config, acts.rows());
    let t = &mut acts.table;
    if let Some(factor) = net.config.embed_factor::<B::Elem>() {
        let len = shape.rows * shape.d_model;
        net.backend.scaled_sum(ScaledSum { x: &mut t.d_residual, factor, y: None, len });
    }
    net.backend.embed_backward(EmbedBackward {
        tokens: &t.tokens,
        positions: &t.positions,
        d_out: &t.d_residual,
        d_table: &mut grads.tok_embed,
        d_pos_table: grads.pos_embed.as_mut(),
        shape,
    });
}

fn weight_grad<B: Backend>(
    net: Network<'_, B>,
    grads: &mut LinearParams<Accs<B>>,
    d_out: &Elems<B>,
    inp: &Elems<B>,
    shape: LinearShape,
) {
    let (d_weight, d_bias) = (&mut grads.weight, grads.bias.as_mut());
    net.backend.linear_backward_weight(LinearBackwardWeight { d_out, inp, d_weight, d_bias, shape });
}

fn input_grad<B: Backend>(
    net: Network<'_, B>,
    params: &LinearParams<Elems<B>>,
    d_out: &Elems<B>,
    d_inp: &mut Elems<B>,
    write: InputGrad<'_, B>,
    shape: LinearShape,
) {
    net.backend.linear_backward_input(LinearBackwardInput { d_out, weight: &params.weight, d_inp, write, shape });
}

struct NormStep<'a, B: Backend> {
    net: Network<'a, B>,
    params: &'a NormParams<Elems<B>>,
    grads: &'a mut NormParams<Accs<B>>,
    d_out: &'a Elems<B>,
    inp: &'a Elems<B>,
    stats: &'a Accs<B>,
    d_inp: &'a mut Elems<B>,
    rows: usize,
}

fn norm_backward<B: Backend>(step: NormStep<'_, B>) {
    step.net.backend.norm_backward(NormBackward {
        d_out: step.d_out,
        inp: step.inp,
        weight: &step.params.weight,
        stats: step.stats,
        d_inp: step.d_inp,
        d_weight: &mut step.grads.weight,
        d_bias: step.grads.bias.as_mut(),
        shape: norm_shape(step.net.config, step.rows),
    });
}

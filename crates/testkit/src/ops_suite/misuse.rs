//! Misuse must panic before a kernel runs: wrong sizes on every backend, ids out of range where the backend can see them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use verve_ops::args::*;
use verve_ops::quant::{ActivationPrecision, QuantKind, QuantPart};
use verve_ops::*;

use crate::Host;

/// Asserts that the call panics with a message that holds `expected`.
fn panics(what: &str, expected: &str, call: impl FnOnce()) {
    let Err(payload) = catch_unwind(AssertUnwindSafe(call)) else { panic!("{what}: did not panic") };
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("no text");
    assert!(text.contains(expected), "{what}: panicked with `{text}`, which does not hold `{expected}`");
}

const EMBED: EmbedShape = EmbedShape { rows: 3, d_model: 4, n_vocab: 5, n_positions: 6 };
const NORM: NormShape = NormShape { rows: 3, cols: 4, kind: NormKind::Layer, eps: 1e-5 };
const LINEAR: LinearShape = LinearShape { rows: 3, d_in: 4, d_out: 5 };
const ROPE: RopeShape = RopeShape { rows: 3, row_width: 16, n_heads: 2, d_head: 8, d_rot: 8, n_positions: 6 };
const ATTN: AttnShape =
    AttnShape { batch: 1, seq_len: 3, n_heads: 2, n_kv_heads: 1, d_head: 8, window: None, scale: 0.3 };
const HEAD: HeadShape = HeadShape { rows: 3, d_model: 4, n_vocab: 5 };
const KV: KvShape = KvShape { n_blocks: 2, n_kv_heads: 1, d_head: 8 };

/// Sizes that do not fit, one for each operation.
pub fn sizes<B: InferBackend>(backend: &B) {
    training_sizes(backend);
    let host = Host(backend);
    let elems = |len: usize| host.elems(&vec![0.5; len]);
    let ids = |len: usize| host.buffer(&vec![0u32; len]);
    let weight = backend.prepare(&elems(20), 5, 4).unwrap_or_else(|e| panic!("prepare: {e}"));
    panics("prepare", "", || drop(backend.prepare(&elems(19), 5, 4)));
    let part = |rows, blocks| QuantPart { kind: QuantKind::Q8_0, blocks, rows };
    let blocks = [0; 34 * 4];
    panics("prepare_quantized, too many rows", "prepare_quantized: part 1", || {
        drop(backend.prepare_quantized(&[part(4, &blocks), part(5, &blocks)], 32, ActivationPrecision::Exact));
    });
    panics("prepare_quantized, half a block", "prepare_quantized: part 0", || {
        drop(backend.prepare_quantized(&[part(8, &blocks)], 16, ActivationPrecision::Int8));
    });
    let quantized = backend
        .prepare_quantized(&[part(4, &blocks)], 32, ActivationPrecision::Exact)
        .unwrap_or_else(|e| panic!("{e}"));
    for (d_in, d_out) in [(32, 5), (64, 4)] {
        panics("linear_prepared with another quantised weight", "", || {
            backend.linear_prepared(LinearPrepared {
                inp: &elems(64),
                weight: &quantized,
                bias: None,
                out: &mut elems(5),
                epilogue: InferEpilogue::Store,
                shape: LinearShape { rows: 1, d_in, d_out },
            });
        });
    }
    panics("embed_prepared", "embed_prepared: out", || {
        let (tokens, out) = (ids(3), &mut elems(11));
        backend.embed_prepared(EmbedPrepared {
            tokens: &tokens,
            positions: &tokens,
            table: &weight,
            pos_table: None,
            out,
            shape: EMBED,
        });
    });
    let linear = |shape: LinearShape, out_len: usize| {
        let (inp, out) = (elems(100), &mut elems(out_len));
        let epilogue = InferEpilogue::Store;
        backend.linear_prepared(LinearPrepared { inp: &inp, weight: &weight, bias: None, out, epilogue, shape });
    };
    panics("linear_prepared", "linear_prepared: out", || linear(LINEAR, 14));
    // The sizes of the weight are not in the arguments: the backend itself has to look.
    panics("linear_prepared with another weight", "", || linear(LinearShape { d_in: 5, d_out: 4, ..LINEAR }, 100));
    panics("logits with another weight", "", || {
        let (inp, out) = (elems(100), &mut host.unset(100));
        backend.logits(Logits { inp: &inp, weight: &weight, out, shape: HeadShape { n_vocab: 6, ..HEAD } });
    });
    panics("logits", "logits: out", || {
        backend.logits(Logits { inp: &elems(12), weight: &weight, out: &mut host.unset(14), shape: HEAD });
    });
    panics("gather_rows", "gather_rows: out", || {
        backend.gather_rows(GatherRows { inp: &elems(12), rows: &ids(3), n_rows: 3, out: &mut elems(11), cols: 4 });
    });
    panics("kv_write", "kv_write: keys", || {
        let cache = &mut KvLayer::Elem { keys: elems(KV.len() - 1), values: elems(KV.len()) };
        backend.kv_write(KvWrite { qkv: &elems(96), n_heads: 2, rows: 3, slots: &ids(3), cache, shape: KV });
    });
    panics("attention_cached", "attention_cached: out", || attend(backend, 47, 0, 0, 0));
}

/// Attention of three rows over a cache, all rows with the same sequence, position and block.
fn attend<B: InferBackend>(backend: &B, out_len: usize, sequence: u32, position: u32, block: u32) {
    let host = Host(backend);
    let elems = || host.elems(&vec![0.5; KV.len()]);
    let cache = KvLayer::Elem { keys: elems(), values: elems() };
    let batch = RaggedBatch {
        rows: 3,
        sequences: &host.buffer(&[sequence; 3]),
        positions: &host.buffer(&[position; 3]),
        block_table: &host.buffer(&[block; 4]),
        max_blocks: 2,
    };
    let (qkv, mut out) = (host.elems(&[0.5; 96]), host.unset(out_len));
    backend.attention_cached(AttentionCached {
        qkv: &qkv,
        cache: &cache,
        out: &mut out,
        batch,
        n_heads: 2,
        window: None,
        scale: 0.3,
        shape: KV,
    });
}

fn training_sizes<B: Backend>(backend: &B) {
    let host = Host(backend);
    let elems = |len: usize| host.elems(&vec![0.5; len]);
    let accs = |len: usize| host.accs(&vec![0.5; len]);
    let ids = |len: usize| host.buffer(&vec![0u32; len]);
    panics("upload", "", || backend.upload(&[1u32, 2], &mut ids(3)));
    panics("download", "", || drop(backend.download(&ids(3), &mut [0u32; 2])));
    panics("copy", "", || backend.copy(&ids(3), &mut ids(2)));
    panics("round", "", || backend.round(&accs(3), &mut elems(2)));
    panics("embed", "embed: out", || {
        let (tokens, table, out) = (ids(3), elems(20), &mut elems(11));
        backend.embed(Embed { tokens: &tokens, positions: &tokens, table: &table, pos_table: None, out, shape: EMBED });
    });
    panics("embed_backward", "embed_backward: d_table", || {
        let (tokens, d_out, d_table) = (ids(3), elems(12), &mut accs(19));
        let positions = &tokens;
        backend.embed_backward(EmbedBackward {
            tokens: &tokens,
            positions,
            d_out: &d_out,
            d_table,
            d_pos_table: None,
            shape: EMBED,
        });
    });
    panics("norm", "norm: weight", || {
        let (inp, weight, out, stats) = (elems(12), elems(5), &mut elems(12), &mut accs(6));
        backend.norm(Norm { inp: &inp, weight: &weight, bias: None, out, stats, shape: NORM });
    });
    panics("norm_backward", "norm_backward: d_weight", || {
        backend.norm_backward(NormBackward {
            d_out: &elems(12),
            inp: &elems(12),
            weight: &elems(4),
            stats: &accs(6),
            d_inp: &mut elems(12),
            d_weight: &mut accs(3),
            d_bias: None,
            shape: NORM,
        });
    });
    panics("linear", "linear: weight", || {
        let (inp, weight, out) = (elems(12), elems(21), &mut elems(15));
        backend.linear(Linear {
            inp: &inp,
            weight: &weight,
            bias: None,
            out,
            epilogue: Epilogue::Store,
            shape: LINEAR,
        });
    });
    panics("linear_backward_input", "linear_backward_input: d_inp", || {
        let (d_out, weight, d_inp) = (elems(15), elems(20), &mut elems(13));
        backend.linear_backward_input(LinearBackwardInput {
            d_out: &d_out,
            weight: &weight,
            d_inp,
            write: InputGrad::Set,
            shape: LINEAR,
        });
    });
    panics("linear_backward_weight", "linear_backward_weight: d_weight", || {
        let (d_out, inp, d_weight) = (elems(15), elems(12), &mut accs(19));
        backend.linear_backward_weight(LinearBackwardWeight {
            d_out: &d_out,
            inp: &inp,
            d_weight,
            d_bias: None,
            shape: LINEAR,
        });
    });
    let activation = Activation::Relu;
    panics("activate", "activate: out", || {
        backend.activate(Activate { inp: &elems(3), out: &mut elems(2), activation })
    });
    panics("activate_backward", "activate_backward: d_inp", || {
        backend.activate_backward(ActivateBackward {
            d_out: &elems(3),
            inp: &elems(3),
            d_inp: &mut elems(2),
            activation,
        });
    });
    panics("gate", "gate: out", || {
        backend.gate(Gate { gate: &elems(3), up: &elems(3), out: &mut elems(2), len: 3, activation });
    });
    panics("gate_backward", "gate_backward: d_up", || {
        let (d_gate, d_up) = (&mut elems(3), &mut elems(2));
        backend.gate_backward(GateBackward {
            d_out: &elems(3),
            gate: &elems(3),
            up: &elems(3),
            d_gate,
            d_up,
            activation,
        });
    });
    panics("rope", "rope: x", || {
        backend.rope(Rope { x: &mut elems(47), table: &accs(48), positions: &ids(3), shape: ROPE });
    });
    panics("rope_backward", "rope: d_rot", || {
        let shape = RopeShape { d_rot: 3, ..ROPE };
        backend.rope_backward(Rope { x: &mut elems(48), table: &accs(18), positions: &ids(3), shape });
    });
    panics("attention", "attention: lse", || {
        backend.attention(Attention { qkv: &elems(96), out: &mut elems(48), lse: &mut accs(5), shape: ATTN });
    });
    panics("attention", "2 query heads cannot share 3", || {
        let shape = AttnShape { n_kv_heads: 3, ..ATTN };
        backend.attention(Attention { qkv: &elems(192), out: &mut elems(48), lse: &mut accs(6), shape });
    });
    panics("attention_backward", "attention_backward: d_qkv", || {
        let (qkv, out, lse, d_out, d_qkv) = (elems(96), elems(48), accs(6), elems(48), &mut elems(95));
        backend.attention_backward(AttentionBackward {
            qkv: &qkv,
            out: &out,
            lse: &lse,
            d_out: &d_out,
            d_qkv,
            shape: ATTN,
        });
    });
    panics("head_loss", "head_loss: logits", || {
        let (inp, weight, targets, losses, logits) = (elems(12), elems(20), ids(3), &mut accs(3), &mut accs(4));
        backend.head_loss(HeadLoss { inp: &inp, weight: &weight, targets: &targets, losses, logits, shape: HEAD });
    });
    panics("head_loss_backward", "head_loss_backward: d_inp", || loss_backward(backend, 11, 0));
    panics("adamw", "adamw: v", || {
        let step = AdamWStep {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            bias_correction1: 1.0,
            bias_correction2: 1.0,
            grad_scale: 1.0,
        };
        let (weight, grad, m, v) = (&mut elems(3), accs(3), &mut accs(3), &mut accs(2));
        backend.adamw(AdamW { weight, master: None, grad: &grad, m, v, step });
    });
    panics("sum_squares", "", || drop(backend.sum_squares([accs(3), accs(2)].iter(), &mut [0.0])));
}

fn loss_backward<B: Backend>(backend: &B, d_inp_len: usize, target: u32) {
    let host = Host(backend);
    backend.head_loss_backward(HeadLossBackward {
        inp: &host.elems(&[0.5; 12]),
        weight: &host.elems(&[0.5; 20]),
        targets: &host.buffer(&[0, target, 1]),
        losses: &mut host.unset(3),
        logits: &mut host.unset(10),
        d_inp: &mut host.unset(d_inp_len),
        d_weight: &mut host.accs(&[0.5; 20]),
        grad_scale: 1.0,
        shape: HEAD,
    });
}

/// Tokens, positions, targets, slots and blocks out of range. For backends whose memory the host can read.
pub fn ids_out_of_range<B: InferBackend>(backend: &B) {
    let host = Host(backend);
    let elems = |len: usize| host.elems(&vec![0.5; len]);
    let weight = backend.prepare(&elems(20), 5, 4).unwrap_or_else(|e| panic!("prepare: {e}"));
    for (what, tokens, positions) in [("token", [0, 5, 1], [0, 1, 2]), ("position", [0, 4, 1], [0, 6, 2])] {
        let (tokens, positions) = (host.buffer(&tokens), host.buffer(&positions));
        let (tokens, positions) = (&tokens, &positions);
        let (table, pos_table) = (elems(20), elems(24));
        panics(&format!("embed of a {what}"), what, || {
            let (pos_table, out) = (Some(&pos_table), &mut elems(12));
            backend.embed(Embed { tokens, positions, table: &table, pos_table, out, shape: EMBED });
        });
        panics(&format!("embed_prepared of a {what}"), what, || {
            let (pos_table, out) = (Some(&pos_table), &mut elems(12));
            backend.embed_prepared(EmbedPrepared { tokens, positions, table: &weight, pos_table, out, shape: EMBED });
        });
        panics(&format!("embed_backward of a {what}"), what, || {
            let (d_out, d_table, d_pos_table) = (elems(12), &mut host.accs(&[0.5; 20]), &mut host.accs(&[0.5; 24]));
            let d_pos_table = Some(d_pos_table);
            backend.embed_backward(EmbedBackward {
                tokens,
                positions,
                d_out: &d_out,
                d_table,
                d_pos_table,
                shape: EMBED,
            });
        });
    }
    panics("rope of a position", "position", || {
        let (x, table) = (&mut elems(48), host.accs(&[0.5; 48]));
        backend.rope(Rope { x, table: &table, positions: &host.buffer(&[0, 6, 1]), shape: ROPE });
    });
    panics("head_loss of a target", "target", || {
        backend.head_loss(HeadLoss {
            inp: &elems(12),
            weight: &elems(20),
            targets: &host.buffer(&[0, 5, 1]),
            losses: &mut host.unset(3),
            logits: &mut host.unset(10),
            shape: HEAD,
        });
    });
    panics("head_loss_backward of a target", "target", || loss_backward(backend, 12, 5));
    panics("gather_rows", "rows", || {
        backend.gather_rows(GatherRows {
            inp: &elems(12),
            rows: &host.buffer(&[0, 3]),
            n_rows: 2,
            out: &mut elems(8),
            cols: 4,
        });
    });
    panics("kv_write of a slot", "slot", || {
        let cache = &mut KvLayer::Elem { keys: elems(KV.len()), values: elems(KV.len()) };
        let slots = host.buffer(&[0, 128, 1]);
        backend.kv_write(KvWrite { qkv: &elems(96), n_heads: 2, rows: 3, slots: &slots, cache, shape: KV });
    });
    panics("attention_cached of a sequence", "sequence", || attend(backend, 48, 2, 0, 0));
    panics("attention_cached of a position", "position", || attend(backend, 48, 0, 128, 0));
    panics("attention_cached of a block", "block", || attend(backend, 48, 0, 0, 2));
}

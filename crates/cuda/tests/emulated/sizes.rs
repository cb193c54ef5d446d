//! Sizes beyond those of the table of operations, at which the kernels of this crate take other ways: wide heads, contexts of
//! several chunks, sums of many parts, many rows of rounded activations.

use verve_cuda::{CudaBackend, CudaElem};
use verve_ops::args::*;
use verve_ops::quant::{ActivationPrecision, QuantKind};
use verve_ops::reference::Reference;
use verve_ops::{AttnShape, Backend, InferBackend, KV_BLOCK, KvLayer, KvShape, LinearShape};
use verve_testkit::quant::QuantWeight;
use verve_testkit::tolerance::{Class, Stored, bound};
use verve_testkit::{Data, Host, assert_bits, assert_close, rounded};

use crate::table::backend;

/// Output, log-sum-exp and gradient of attention.
fn attention<B: Backend>(
    host: Host<'_, B>,
    shape: AttnShape,
    qkv: &[f64],
    d_out: &[f64],
    saved: Option<&(Vec<f64>, Vec<f64>)>,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (qkv, d_out) = (host.elems(qkv), host.elems(d_out));
    let (mut out, mut lse) = (host.unset(shape.rows() * shape.out_width()), host.unset(shape.rows() * shape.n_heads));
    host.0.attention(Attention { qkv: &qkv, out: &mut out, lse: &mut lse, shape });
    let results = (host.read(&out), host.read(&lse));
    let (saved_out, saved_lse) = saved.unwrap_or(&results);
    let mut d_qkv = host.unset(shape.rows() * shape.qkv_width());
    host.0.attention_backward(AttentionBackward {
        qkv: &qkv,
        out: &host.elems(saved_out),
        lse: &host.accs(saved_lse),
        d_out: &d_out,
        d_qkv: &mut d_qkv,
        shape,
    });
    (results.0, results.1, host.read(&d_qkv))
}

fn wide_heads<E: CudaElem>() {
    let Some(backend) = backend::<E>() else { return };
    for (i, (d_head, seq_len, window)) in
        [(256, 70, None), (160, 40, Some(9)), (250, 35, None), (129, 67, Some(40))].into_iter().enumerate()
    {
        let scale = 1.0 / (d_head as f32).sqrt();
        let shape = AttnShape { batch: 2, seq_len, n_heads: 2, n_kv_heads: 1, d_head, window, scale };
        let mut data = Data::new(3100 + i as u64);
        let qkv = rounded::<E>(data.normal(shape.rows() * shape.qkv_width()));
        let d_out = rounded::<E>(data.normal(shape.rows() * shape.out_width()));
        let expected = attention(Host(&Reference::<f64>::new()), shape, &qkv, &d_out, None);
        let saved = (rounded::<E>(expected.0.clone()), expected.1.clone());
        let found = attention(Host(&backend), shape, &qkv, &d_out, Some(&saved));
        let n = seq_len + d_head;
        let close = |what: &str, found: &[f64], expected: &[f64], class, stored| {
            let mut bound = bound::<E, f32>(class, stored, 1.0);
            // More numbers than in the cases of the table: the worst of them is further off.
            bound.of_rms *= 1.5;
            assert_close(&format!("{what}, {shape:?}"), found, expected, bound);
        };
        close("out", &found.0, &expected.0, Class::Softmax(n), Stored::Elem);
        close("lse", &found.1, &expected.1, Class::LogSumExp(n), Stored::Acc);
        close("d_qkv", &found.2, &expected.2, Class::RoundedSoftmaxBackward(n), Stored::Elem);
    }
}

#[test]
fn wide_heads_f32() {
    wide_heads::<f32>();
}

#[test]
fn wide_heads_bf16() {
    wide_heads::<half::bf16>();
}

/// Rows `range` of one sequence whose keys and values are all in the cache, in blocks from the last to the first.
fn cached<E: CudaElem>(
    host: Host<'_, CudaBackend<E>>,
    shape: AttnShape,
    qkv: &[f64],
    range: std::ops::Range<usize>,
) -> Vec<f64> {
    let blocks = shape.seq_len.div_ceil(KV_BLOCK);
    let kv = KvShape { n_blocks: blocks, n_kv_heads: shape.n_kv_heads, d_head: shape.d_head };
    let slot = |position: usize| ((blocks - 1 - position / KV_BLOCK) * KV_BLOCK + position % KV_BLOCK) as u32;
    let mut cache = KvLayer::Elem { keys: host.unset(kv.len()), values: host.unset(kv.len()) };
    let all = host.elems(qkv);
    let slots: Vec<u32> = (0..shape.seq_len).map(slot).collect();
    host.0.kv_write(KvWrite {
        qkv: &all,
        n_heads: shape.n_heads,
        rows: shape.seq_len,
        slots: &host.buffer(&slots),
        cache: &mut cache,
        shape: kv,
    });
    let width = shape.qkv_width();
    let block_table: Vec<u32> = (0..blocks as u32).rev().collect();
    let positions: Vec<u32> = range.clone().map(|position| position as u32).collect();
    let mut out = host.unset(range.len() * shape.out_width());
    host.0.attention_cached(AttentionCached {
        qkv: &host.elems(&qkv[range.start * width..range.end * width]),
        cache: &cache,
        out: &mut out,
        batch: RaggedBatch {
            rows: range.len(),
            sequences: &host.buffer(&vec![0; range.len()]),
            positions: &host.buffer(&positions),
            block_table: &host.buffer(&block_table),
            max_blocks: blocks,
        },
        n_heads: shape.n_heads,
        window: shape.window,
        scale: shape.scale,
        shape: kv,
    });
    host.read(&out)
}

/// A long context: rows alone, a few together and all at once give the same bits, near those of plain attention.
fn long_context<E: CudaElem>() {
    let Some(backend) = backend::<E>() else { return };
    let host = Host(&backend);
    for (i, (d_head, heads, window)) in
        [(64, (3, 1), None), (256, (2, 2), None), (32, (4, 2), Some(300))].into_iter().enumerate()
    {
        let shape = AttnShape {
            batch: 1,
            seq_len: 600,
            n_heads: heads.0,
            n_kv_heads: heads.1,
            d_head,
            window,
            scale: 1.0 / (d_head as f32).sqrt(),
        };
        let qkv = rounded::<E>(Data::new(3200 + i as u64).normal(shape.rows() * shape.qkv_width()));
        // The last rows in one call: their chunks one after the other.
        let (first, rows) = (588, 12);
        let together = cached(host, shape, &qkv, first..first + rows);
        for (from, count) in [(0, 1), (11, 1), (3, 3), (2, 4), (6, 5)] {
            let found = cached(host, shape, &qkv, first + from..first + from + count);
            let expected = &together[from * shape.out_width()..(from + count) * shape.out_width()];
            assert_bits(&format!("{count} rows from {from}, {shape:?}"), &found, expected);
        }
        let exact = Reference::<f64>::new();
        let exact = Host(&exact);
        let (mut out, mut lse) = (exact.unset(600 * shape.out_width()), exact.unset(600 * shape.n_heads));
        exact.0.attention(Attention { qkv: &exact.elems(&qkv), out: &mut out, lse: &mut lse, shape });
        let expected = &exact.read(&out)[first * shape.out_width()..];
        let bound = bound::<E, f32>(Class::Softmax(600 + d_head), Stored::Elem, 1.0);
        assert_close(&format!("{shape:?}"), &together, expected, bound);
    }
}

#[test]
fn long_context_f32() {
    long_context::<f32>();
}

#[test]
fn long_context_bf16() {
    long_context::<half::bf16>();
}

/// Sums of so many terms that they are cut in eight parts: few rows and many give the same bits.
#[test]
fn sums_of_many_parts() {
    let Some(backend) = backend::<half::bf16>() else { return };
    let host = Host(&backend);
    for (d_in, d_out) in [(2312, 40), (2305, 17), (600, 130)] {
        let mut data = Data::new(3300);
        let inp = rounded::<half::bf16>(data.normal(70 * d_in));
        let weight = rounded::<half::bf16>(data.normal(d_out * d_in));
        let prepared = backend.prepare(&host.elems(&weight), d_out, d_in).unwrap();
        let product = |rows: std::ops::Range<usize>| {
            let mut out = host.unset(rows.len() * d_out);
            backend.linear_prepared(LinearPrepared {
                inp: &host.elems(&inp[rows.start * d_in..rows.end * d_in]),
                weight: &prepared,
                bias: None,
                out: &mut out,
                epilogue: InferEpilogue::Store,
                shape: LinearShape { rows: rows.len(), d_in, d_out },
            });
            host.read(&out)
        };
        let all = product(0..70);
        for (first, count) in [(0, 1), (69, 1), (5, 8), (9, 9), (20, 16), (1, 17), (38, 32), (2, 33)] {
            let expected = &all[first * d_out..(first + count) * d_out];
            assert_bits(&format!("{count} rows of {d_in}"), &product(first..first + count), expected);
        }
        let exact: Vec<f64> = (0..70 * d_out)
            .map(|at| {
                let (x, w) = (&inp[at / d_out * d_in..][..d_in], &weight[at % d_out * d_in..][..d_in]);
                x.iter().zip(w).map(|(x, w)| x * w).sum()
            })
            .collect();
        let bound = bound::<half::bf16, f32>(Class::Product(d_in), Stored::Elem, 1.0);
        assert_close(&format!("products of {d_in}"), &all, &exact, bound);
    }
}

/// Weights as large as those of small models, in every format and precision: the bits of the reference.
#[test]
fn quantised_weights_of_several_panels() {
    let Some(backend) = backend::<f32>() else { return };
    for (i, kind) in QuantKind::ALL.into_iter().enumerate() {
        let mut data = Data::new(3400 + i as u64);
        let (d_in, d_out) = (1280, 161);
        let weight = QuantWeight::random(&mut data, &[(kind, d_out)], d_in);
        let rows = [1, 4, 33][i % 3];
        let inp = rounded::<f32>(data.normal(rows * d_in));
        let precision = [ActivationPrecision::Int16, ActivationPrecision::Int8][i % 2];
        let found = linear(Host(&backend), &weight, &inp, precision, rows);
        let expected = linear(Host(&Reference::<f32>::new()), &weight, &inp, precision, rows);
        assert_bits(&format!("{kind}, {rows} rows"), &found, &expected);
    }
}

fn linear<B: InferBackend>(
    host: Host<'_, B>,
    weight: &QuantWeight,
    inp: &[f64],
    precision: ActivationPrecision,
    rows: usize,
) -> Vec<f64> {
    let (d_in, d_out) = (weight.d_in, weight.d_out());
    let prepared = host.0.prepare_quantized(&weight.parts(), d_in, precision).unwrap();
    let mut out = host.unset(rows * d_out);
    host.0.linear_prepared(LinearPrepared {
        inp: &host.elems(inp),
        weight: &prepared,
        bias: None,
        out: &mut out,
        epilogue: InferEpilogue::Store,
        shape: LinearShape { rows, d_in, d_out },
    });
    host.read(&out)
}

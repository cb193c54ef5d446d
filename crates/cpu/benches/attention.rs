//! Attention of training and of decode, at the best instruction set of the host and all its threads.
//!
//! Throughput of training is in floating-point operations (a multiply-add counts two) of the products over the visible
//! pairs of query and key: two products forward, five backward. Throughput of decode is in bytes of the cache that is read.

#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use verve_cpu::{CpuBackend, CpuElem, Isa};
use verve_ops::args::{Attention, AttentionBackward, AttentionCached, KvWrite, RaggedBatch};
use verve_ops::{AttnShape, Backend, Element, InferBackend, KV_BLOCK, KvLayer, KvShape};

fn backend<E: CpuElem>() -> CpuBackend<E> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    CpuBackend::new(threads, Isa::from_env().unwrap()).unwrap()
}

fn buffer<E: CpuElem, T: Element>(
    backend: &CpuBackend<E>,
    len: usize,
    element: impl Fn(usize) -> T,
) -> verve_cpu::CpuBuf<T> {
    let mut buf = backend.alloc(len).unwrap();
    backend.upload(&(0..len).map(element).collect::<Vec<_>>(), &mut buf);
    buf
}

/// Numbers in -1..=1 that look random.
fn noise<E: CpuElem>(i: usize) -> E {
    E::from_f32((i.wrapping_mul(2_654_435_761) >> 7 & 0xffff) as f32 / 32768.0 - 1.0)
}

/// `(batch, T, heads)` with heads of 64.
const TRAINING: [(usize, usize, usize); 3] = [(8, 256, 6), (4, 512, 12), (1, 2048, 12)];

fn training<E: CpuElem>(c: &mut Criterion) {
    let backend = backend::<E>();
    for (batch, seq_len, n_heads) in TRAINING {
        let shape = AttnShape { batch, seq_len, n_heads, n_kv_heads: n_heads, d_head: 64, window: None, scale: 0.125 };
        let qkv = buffer(&backend, shape.rows() * shape.qkv_width(), noise::<E>);
        let mut out = buffer(&backend, shape.rows() * shape.out_width(), noise::<E>);
        let mut lse = buffer(&backend, shape.rows() * n_heads, |_| 0.0f32);
        let pairs = batch * n_heads * seq_len * (seq_len + 1) / 2;
        let product = (2 * shape.d_head * pairs) as u64;
        let id = format!("{batch}x{seq_len}x{n_heads}");
        let mut group = c.benchmark_group(format!("attention {}", E::NAME));
        group.throughput(Throughput::Elements(2 * product));
        group.bench_function(BenchmarkId::new("forward", &id), |b| {
            b.iter(|| backend.attention(Attention { qkv: &qkv, out: &mut out, lse: &mut lse, shape }));
        });
        let d_out = buffer(&backend, out.len(), noise::<E>);
        let mut d_qkv = buffer(&backend, qkv.len(), noise::<E>);
        group.throughput(Throughput::Elements(5 * product));
        group.bench_function(BenchmarkId::new("backward", &id), |b| {
            b.iter(|| {
                backend.attention_backward(AttentionBackward {
                    qkv: &qkv,
                    out: &out,
                    lse: &lse,
                    d_out: &d_out,
                    d_qkv: &mut d_qkv,
                    shape,
                });
            });
        });
        group.finish();
    }
}

/// `(sequences, length, query heads, key/value heads)` with heads of 64. The caches are larger than second-level caches.
const DECODE: [(usize, usize, usize, usize); 2] = [(16, 2048, 12, 12), (16, 2048, 9, 3)];

fn decode<E: CpuElem>(c: &mut Criterion) {
    let backend = backend::<E>();
    for (n, length, n_heads, n_kv_heads) in DECODE {
        let max_blocks = length / KV_BLOCK;
        let shape = KvShape { n_blocks: n * max_blocks, n_kv_heads, d_head: 64 };
        let qkv = buffer(&backend, n * (n_heads + 2 * n_kv_heads) * 64, noise::<E>);
        let cache = || buffer(&backend, shape.len(), noise::<E>);
        let mut cache = KvLayer::Elem { keys: cache(), values: cache() };
        let mut out = buffer(&backend, n * n_heads * 64, noise::<E>);
        let sequences = buffer(&backend, n, |i| i as u32);
        let positions = buffer(&backend, n, |_| length as u32 - 1);
        let block_table = buffer(&backend, n * max_blocks, |i| i as u32);
        let slots = buffer(&backend, n, |i| ((i + 1) * length - 1) as u32);
        let id = format!("{n}x{length}x{n_heads}/{n_kv_heads}");
        let mut group = c.benchmark_group(format!("decode {}", E::NAME));
        group.throughput(Throughput::Bytes((2 * shape.len() * size_of::<E>()) as u64));
        group.bench_function(BenchmarkId::new("attention_cached", &id), |b| {
            b.iter(|| {
                backend.attention_cached(AttentionCached {
                    qkv: &qkv,
                    cache: &cache,
                    out: &mut out,
                    batch: RaggedBatch {
                        rows: n,
                        sequences: &sequences,
                        positions: &positions,
                        block_table: &block_table,
                        max_blocks,
                    },
                    n_heads,
                    window: None,
                    scale: 0.125,
                    shape,
                });
            });
        });
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new("kv_write", &id), |b| {
            b.iter(|| {
                let cache = &mut cache;
                backend.kv_write(KvWrite { qkv: &qkv, n_heads, rows: n, slots: &slots, cache, shape });
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = training::<f32>, training::<bf16>, decode::<f32>, decode::<bf16>
}
criterion_main!(benches);

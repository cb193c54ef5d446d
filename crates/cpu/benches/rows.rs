//! What stands around the products: normalisation, activations, rotation, embedding, the optimizer. All of them are bound by
//! memory, so throughput is in bytes of the buffers that must be read or written once. Best instruction set, all threads.

#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use verve_cpu::{CpuBackend, CpuBuf, CpuElem, Isa};
use verve_ops::args::*;
use verve_ops::{Activation, AdamWStep, Backend, Element, EmbedShape, NormKind, NormShape, RopeShape};

/// Rows of a micro-batch, and widths of the presets.
const ROWS: usize = 2048;
const WIDTHS: [usize; 2] = [384, 768];

fn backend<E: CpuElem>() -> CpuBackend<E> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    CpuBackend::new(threads, Isa::from_env().unwrap()).unwrap()
}

fn buffer<E: CpuElem, T: Element>(backend: &CpuBackend<E>, len: usize, element: impl Fn(usize) -> T) -> CpuBuf<T> {
    let mut buf = backend.alloc(len).unwrap();
    backend.upload(&(0..len).map(element).collect::<Vec<_>>(), &mut buf);
    buf
}

/// Numbers in -1..=1 that look random.
fn noise<E: CpuElem>(i: usize) -> E {
    E::from_f32((i.wrapping_mul(2_654_435_761) >> 7 & 0xffff) as f32 / 32768.0 - 1.0)
}

fn rows<E: CpuElem>(c: &mut Criterion) {
    let backend = backend::<E>();
    let mut group = c.benchmark_group(format!("rows {}", E::NAME));
    let bytes = |elems: usize| Throughput::Bytes((elems * size_of::<E>()) as u64);
    for cols in WIDTHS {
        let (n, id) = (ROWS * cols, format!("{ROWS}x{cols}"));
        let (inp, d_out) = (buffer(&backend, n, noise::<E>), buffer(&backend, n, |i| noise::<E>(i + 3)));
        let (weight, bias) = (buffer(&backend, cols, noise::<E>), buffer(&backend, cols, noise::<E>));
        let (mut out, mut stats) = (buffer(&backend, n, noise::<E>), buffer(&backend, 2 * ROWS, |_| 0.0f32));
        let (mut d_weight, mut d_bias) = (buffer(&backend, cols, |_| 0.0f32), buffer(&backend, cols, |_| 0.0f32));
        let shape = NormShape { rows: ROWS, cols, kind: NormKind::Layer, eps: 1e-5 };
        group.throughput(bytes(2 * n));
        group.bench_function(BenchmarkId::new("layer norm", &id), |b| {
            b.iter(|| {
                let (out, stats) = (&mut out, &mut stats);
                backend.norm(Norm { inp: &inp, weight: &weight, bias: Some(&bias), out, stats, shape });
            });
        });
        group.throughput(bytes(4 * n));
        group.bench_function(BenchmarkId::new("layer norm backward", &id), |b| {
            b.iter(|| {
                backend.norm_backward(NormBackward {
                    d_out: &d_out,
                    inp: &inp,
                    weight: &weight,
                    stats: &stats,
                    d_inp: &mut out,
                    d_weight: &mut d_weight,
                    d_bias: Some(&mut d_bias),
                    shape,
                });
            });
        });
        group.throughput(bytes(2 * n));
        group.bench_function(BenchmarkId::new("gelu", &id), |b| {
            let activation = Activation::GeluTanh;
            b.iter(|| backend.activate(Activate { inp: &inp, out: &mut out, activation }));
        });
        group.throughput(bytes(3 * n));
        group.bench_function(BenchmarkId::new("silu gate", &id), |b| {
            let activation = Activation::Silu;
            b.iter(|| backend.gate(Gate { gate: &inp, up: &d_out, out: &mut out, len: n, activation }));
        });
        let tokens = buffer(&backend, ROWS, |i| (i * 7919 % 4096) as u32);
        let positions = buffer(&backend, ROWS, |i| (i % 512) as u32);
        let table = buffer(&backend, 4096 * cols, noise::<E>);
        let shape = EmbedShape { rows: ROWS, d_model: cols, n_vocab: 4096, n_positions: 0 };
        group.throughput(bytes(2 * n));
        group.bench_function(BenchmarkId::new("embed", &id), |b| {
            let (tokens, positions, table) = (&tokens, &positions, &table);
            b.iter(|| backend.embed(Embed { tokens, positions, table, pos_table: None, out: &mut out, shape }));
        });
        let mut x = buffer(&backend, 3 * n, noise::<E>);
        let rotations = buffer(&backend, 512 * 64, noise::<f32>);
        let shape = RopeShape {
            rows: ROWS,
            row_width: 3 * cols,
            n_heads: 2 * cols / 64,
            d_head: 64,
            d_rot: 64,
            n_positions: 512,
        };
        group.throughput(bytes(4 * n));
        group.bench_function(BenchmarkId::new("rotary", &id), |b| {
            b.iter(|| backend.rope(Rope { x: &mut x, table: &rotations, positions: &positions, shape }));
        });
    }
    group.finish();
}

fn optimizer<E: CpuElem>(c: &mut Criterion) {
    let backend = backend::<E>();
    let len = 4 << 20;
    let mut weight = buffer(&backend, len, noise::<E>);
    let mut master = (size_of::<E>() < 4).then(|| buffer(&backend, len, noise::<f32>));
    let grad = buffer(&backend, len, noise::<f32>);
    let (mut m, mut v) = (buffer(&backend, len, |_| 0.0f32), buffer(&backend, len, |_| 0.0f32));
    let step = AdamWStep {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        bias_correction1: 0.1,
        bias_correction2: 0.05,
        grad_scale: 1.0,
    };
    // Gradient read; moments and exact weights read and written; rounded weights written.
    let exact = 4 * (1 + 2 * 3);
    let rounded = if master.is_some() { size_of::<E>() } else { 0 };
    let mut group = c.benchmark_group(format!("optimizer {}", E::NAME));
    group.throughput(Throughput::Bytes((len * (exact + rounded)) as u64));
    group.bench_function("adamw", |b| {
        b.iter(|| {
            let (weight, master, m, v) = (&mut weight, master.as_mut(), &mut m, &mut v);
            backend.adamw(AdamW { weight, master, grad: &grad, m, v, step });
        });
    });
    group.throughput(Throughput::Bytes((len * 4) as u64));
    group.bench_function("sum of squares", |b| {
        b.iter(|| backend.sum_squares([&grad].into_iter(), &mut [0.0]).unwrap());
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = rows::<f32>, rows::<bf16>, optimizer::<f32>, optimizer::<bf16>
}
criterion_main!(benches);

//! Matrix products on the shapes of training (a step of 4096 rows at width 384, 2048 rows at width 768), the output head,
//! and prepared weights with few rows. Products give FLOP/s, few rows bytes of weight a second.
//!
//! What the machine can do at most is measured first and printed in the same units. Environment: `VERVE_SIMD` forces an
//! instruction set; benchmark names end in the number of threads, 1 and all.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use half::bf16;
use verve_cpu::simd::ceilings::Ceilings;
use verve_cpu::{CpuBackend, CpuBuf, CpuElem, Isa};
use verve_ops::args::*;
use verve_ops::{Activation, Backend, HeadShape, InferBackend, LinearShape};

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

/// Evenly distributed in `-scale..scale`.
fn random<E: CpuElem>(len: usize, scale: f32) -> CpuBuf<E> {
    let mut buf = zeros(len);
    let mut state = 1u32;
    for x in buf.iter_mut() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *x = E::from_f32(((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale);
    }
    buf
}

fn zeros<T: verve_ops::Element>(len: usize) -> CpuBuf<T> {
    match CpuBuf::zeroed(len) {
        Ok(buf) => buf,
        Err(error) => panic!("{error}"),
    }
}

fn flops(group: &mut Group<'_>, shape: (usize, usize, usize), times: usize) {
    group.throughput(Throughput::Elements((2 * shape.0 * shape.1 * shape.2 * times) as u64));
}

/// The products of one layer: forward, gradient of the input, gradient of the weight.
fn layer<E: CpuElem>(group: &mut Group<'_>, backend: &CpuBackend<E>, rows: usize, d_in: usize, d_out: usize) {
    let shape = LinearShape { rows, d_in, d_out };
    let name = |what: &str| format!("{what}/{rows}x{d_in}x{d_out}/{}/{}", E::NAME, backend.pool().n_threads());
    flops(group, (rows, d_in, d_out), 1);
    // Of a size that gives outputs of variance 1, as in a network.
    let (inp, weight) = (random::<E>(rows * d_in, 1.0), random::<E>(d_out * d_in, (9.0 / d_in as f32).sqrt()));
    let (bias, d_out_buf) = (random::<E>(d_out, 1.0), random::<E>(rows * d_out, 1.0));
    let (mut out, mut pre) = (zeros::<E>(rows * d_out), zeros::<E>(rows * d_out));
    let up = d_out > d_in;
    group.bench_function(name(if up { "forward_gelu" } else { "forward_residual" }), |b| {
        b.iter(|| {
            let epilogue = if up {
                Epilogue::Activate { activation: Activation::GeluTanh, pre: &mut pre }
            } else {
                Epilogue::Residual(&d_out_buf)
            };
            backend.linear(Linear { inp: &inp, weight: &weight, bias: Some(&bias), out: &mut out, epilogue, shape });
        });
    });
    group.bench_function(name("forward"), |b| {
        b.iter(|| {
            let epilogue = Epilogue::Store;
            backend.linear(Linear { inp: &inp, weight: &weight, bias: Some(&bias), out: &mut out, epilogue, shape });
        });
    });
    let mut d_inp = zeros::<E>(rows * d_in);
    group.bench_function(name("backward_input"), |b| {
        b.iter(|| {
            let (d_out, weight, d_inp, write) = (&d_out_buf, &weight, &mut d_inp, InputGrad::Set);
            backend.linear_backward_input(LinearBackwardInput { d_out, weight, d_inp, write, shape });
        });
    });
    let (mut d_weight, mut d_bias) = (zeros::<f32>(d_out * d_in), zeros::<f32>(d_out));
    group.bench_function(name("backward_weight"), |b| {
        b.iter(|| {
            let (d_out, inp, d_weight, d_bias) = (&d_out_buf, &inp, &mut d_weight, Some(&mut d_bias));
            backend.linear_backward_weight(LinearBackwardWeight { d_out, inp, d_weight, d_bias, shape });
        });
    });
    black_box((&out, &pre, &d_inp, &d_weight));
}

/// The output head with its loss, 256 rows of logits at a time for a large vocabulary.
fn head<E: CpuElem>(group: &mut Group<'_>, backend: &CpuBackend<E>, rows: usize, n_vocab: usize) {
    let d_model = 384;
    let shape = HeadShape { rows, d_model, n_vocab };
    let name = |what: &str| format!("{what}/{rows}x{d_model}x{n_vocab}/{}/{}", E::NAME, backend.pool().n_threads());
    let (inp, weight) = (random::<E>(rows * d_model, 1.0), random::<E>(n_vocab * d_model, 0.05));
    let mut targets = zeros::<u32>(rows);
    targets.iter_mut().enumerate().for_each(|(i, target)| *target = (i * 7919 % n_vocab) as u32);
    let (mut losses, mut logits) = (zeros::<f32>(rows), zeros::<f32>(n_vocab * rows.min(256)));
    flops(group, (rows, d_model, n_vocab), 1);
    group.bench_function(name("head_loss"), |b| {
        b.iter(|| {
            let (inp, weight, targets, losses, logits) = (&inp, &weight, &targets, &mut losses, &mut logits);
            backend.head_loss(HeadLoss { inp, weight, targets, losses, logits, shape });
        });
    });
    let (mut d_inp, mut d_weight) = (zeros::<E>(rows * d_model), zeros::<f32>(n_vocab * d_model));
    flops(group, (rows, d_model, n_vocab), 3);
    group.bench_function(name("head_loss_backward"), |b| {
        b.iter(|| {
            backend.head_loss_backward(HeadLossBackward {
                inp: &inp,
                weight: &weight,
                targets: &targets,
                losses: &mut losses,
                logits: &mut logits,
                d_inp: &mut d_inp,
                d_weight: &mut d_weight,
                grad_scale: 1e-3,
                shape,
            });
        });
    });
}

/// Few rows times prepared weights, many of them in turn so that they come from main memory.
fn prepared<E: CpuElem>(group: &mut Group<'_>, backend: &CpuBackend<E>) {
    let (d_in, d_out) = (768, 3072);
    let weight = random::<E>(d_out * d_in, 0.1);
    let prepare = |_| match backend.prepare(&weight, d_out, d_in) {
        Ok(weight) => weight,
        Err(error) => panic!("{error}"),
    };
    let weights: Vec<_> = (0..(256 << 20) / (d_out * d_in * size_of::<E>())).map(prepare).collect();
    group.throughput(Throughput::Bytes((weights.len() * d_out * d_in * size_of::<E>()) as u64));
    for rows in [1, 8, 32] {
        let shape = LinearShape { rows, d_in, d_out };
        let (inp, mut out) = (random::<E>(rows * d_in, 1.0), zeros::<E>(rows * d_out));
        let name = format!("prepared/{rows}x{d_in}x{d_out}/{}/{}", E::NAME, backend.pool().n_threads());
        group.bench_function(name, |b| {
            b.iter(|| {
                for weight in &weights {
                    let (inp, out, bias, epilogue) = (&inp, &mut out, None, InferEpilogue::Store);
                    backend.linear_prepared(LinearPrepared { inp, weight, bias, out, epilogue, shape });
                }
            });
        });
    }
}

fn all<E: CpuElem>(c: &mut Criterion, isa: Isa, threads: usize) {
    let backend = match CpuBackend::<E>::new(threads, isa) {
        Ok(backend) => backend,
        Err(error) => panic!("{error}"),
    };
    match Ceilings::measure(backend.pool(), isa) {
        Ok(peak) => println!(
            "{}: at most {:.1} Gelem/s in products, {:.1} GB/s read",
            backend.describe(),
            peak.product_gflops(size_of::<E>()),
            peak.read_gb_s
        ),
        Err(error) => println!("{}: {error}", backend.describe()),
    }
    let mut group = c.benchmark_group("gemm");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
    layer(&mut group, &backend, 4096, 384, 1536);
    layer(&mut group, &backend, 4096, 1536, 384);
    layer(&mut group, &backend, 2048, 768, 3072);
    layer(&mut group, &backend, 2048, 3072, 768);
    head(&mut group, &backend, 4096, 512);
    head(&mut group, &backend, 512, 50_257);
    prepared(&mut group, &backend);
    group.finish();
}

fn gemm(c: &mut Criterion) {
    let isa = match Isa::from_env() {
        Ok(isa) => isa,
        Err(error) => panic!("{error}"),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for threads in if cores == 1 { vec![1] } else { vec![1, cores] } {
        all::<f32>(c, isa, threads);
        all::<bf16>(c, isa, threads);
    }
}

criterion_group!(benches, gemm);
criterion_main!(benches);

//! Quantised weights: few rows in bytes of prepared weight a second, many rows in FLOP/s (elements a second, two for each
//! multiply-add). Weights are used in turn so that they come from main memory.
//!
//! What the machine can do at most is measured first. Environment: `VERVE_SIMD` forces an instruction set; benchmark names
//! end in the number of threads, 1 and all.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use half::bf16;
use verve_cpu::simd::ceilings::Ceilings;
use verve_cpu::{CpuBackend, CpuBuf, CpuElem, Isa};
use verve_ops::args::{InferEpilogue, LinearPrepared};
use verve_ops::quant::{ActivationPrecision, QuantKind};
use verve_ops::{Backend, BackendError, InferBackend, LinearShape};
use verve_testkit::Data;
use verve_testkit::quant::QuantWeight;

/// The feed-forward layer of a model of a few hundred million weights.
const D_IN: usize = 1024;
const D_OUT: usize = 3072;
/// Bytes of all weights together.
const TOTAL: usize = 512 << 20;

fn inputs<E: CpuElem>(rows: usize) -> Result<(CpuBuf<E>, CpuBuf<E>), BackendError> {
    let mut inp = CpuBuf::<E>::zeroed(rows * D_IN)?;
    for (x, value) in inp.iter_mut().zip(Data::new(1).normal(rows * D_IN)) {
        *x = E::from_f64(value);
    }
    Ok((inp, CpuBuf::zeroed(rows * D_OUT)?))
}

fn kind<E: CpuElem>(c: &mut Criterion, backend: &CpuBackend<E>, kind: QuantKind) -> Result<(), BackendError> {
    let weight = QuantWeight::random(&mut Data::new(2), &[(kind, D_OUT)], D_IN);
    let bytes = backend.prepared_quantized_bytes(&weight.sizes(), D_IN);
    let weights: Vec<_> = (0..TOTAL / bytes)
        .map(|_| backend.prepare_quantized(&weight.parts(), D_IN, ActivationPrecision::Exact))
        .collect::<Result<_, _>>()?;
    let mut group = c.benchmark_group("quant");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
    for rows in [1, 2, 4, 8, 16, 32, 256] {
        let (inp, mut out) = inputs::<E>(rows)?;
        // Fewer weights where each takes long.
        let weights = &weights[..weights.len() / rows.min(32)];
        let shape = LinearShape { rows, d_in: D_IN, d_out: D_OUT };
        group.throughput(if rows == 1 {
            Throughput::Bytes((weights.len() * bytes) as u64)
        } else {
            Throughput::Elements((weights.len() * 2 * rows * D_IN * D_OUT) as u64)
        });
        let name = format!("{kind}/{rows}x{D_IN}x{D_OUT}/{}/{}", E::NAME, backend.pool().n_threads());
        group.bench_function(name, |b| {
            b.iter(|| {
                for weight in weights {
                    let (inp, out, bias, epilogue) = (&inp, &mut out, None, InferEpilogue::Store);
                    backend.linear_prepared(LinearPrepared { inp, weight, bias, out, epilogue, shape });
                }
            });
        });
        black_box(&out);
    }
    group.finish();
    Ok(())
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
            peak.product_gflops(size_of::<f32>()),
            peak.read_gb_s
        ),
        Err(error) => println!("{}: {error}", backend.describe()),
    }
    for format in QuantKind::ALL {
        if let Err(error) = kind(c, &backend, format) {
            panic!("{format}: {error}");
        }
    }
}

fn quant(c: &mut Criterion) {
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

criterion_group!(benches, quant);
criterion_main!(benches);

//! Quantised weights in the shapes of a model of 135 million parameters, with 8-bit and with exact activations: one row in
//! bytes of prepared weight a second, several rows in operations a second (elements; two for each multiply-add). Weights are
//! used in turn so that they come from main memory.
//!
//! What the machine can do at most is measured first. Environment: `VERVE_SIMD` forces an instruction set; benchmark names
//! are `format/rows x d_in x d_out/precision/elements/threads`, with 1 thread and all.

use std::cell::OnceCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use half::bf16;
use verve_cpu::simd::ceilings::Ceilings;
use verve_cpu::{CpuBackend, CpuBuf, CpuElem, Isa, PackedWeight};
use verve_ops::args::{InferEpilogue, LinearPrepared};
use verve_ops::quant::{ActivationPrecision, QuantKind};
use verve_ops::{Backend, BackendError, InferBackend, LinearShape};
use verve_testkit::Data;
use verve_testkit::quant::QuantWeight;

const KINDS: [QuantKind; 4] = [QuantKind::Q4_0, QuantKind::Q4_1, QuantKind::Q4K, QuantKind::Q8_0];
/// `d_in` and `d_out`: query, key and value; attention output; gate and up; down; head.
const SHAPES: [(usize, usize); 5] = [(576, 960), (576, 576), (576, 3072), (1536, 576), (576, 49152)];
const ROWS: [usize; 5] = [1, 4, 16, 64, 512];
/// Bytes of all weights of one shape together.
const TOTAL: usize = 128 << 20;
/// Multiply-adds of one iteration, at most, if that is not less than one product.
const MOST_WORK: usize = 2 << 30;

/// Copies of one weight.
struct Weights<'a, E: CpuElem> {
    backend: &'a CpuBackend<E>,
    kind: QuantKind,
    precision: ActivationPrecision,
    d_in: usize,
    d_out: usize,
    copies: OnceCell<Vec<PackedWeight<E>>>,
}

impl<E: CpuElem> Weights<'_, E> {
    fn bytes(&self) -> usize {
        self.backend.prepared_quantized_bytes(&[(self.kind, self.d_out)], self.d_in)
    }

    fn prepare(&self) -> Result<Vec<PackedWeight<E>>, BackendError> {
        let weight = QuantWeight::random(&mut Data::new(2), &[(self.kind, self.d_out)], self.d_in);
        let copy = |_| self.backend.prepare_quantized(&weight.parts(), self.d_in, self.precision);
        (0..(TOTAL / self.bytes()).max(1)).map(copy).collect()
    }

    /// Prepared at the first use: not for benchmarks that have been filtered out.
    fn copies(&self) -> &[PackedWeight<E>] {
        self.copies.get_or_init(|| self.prepare().unwrap_or_else(|error| panic!("{error}")))
    }
}

fn elems<E: CpuElem>(len: usize) -> CpuBuf<E> {
    let mut buf = CpuBuf::<E>::zeroed(len).unwrap_or_else(|error| panic!("{error}"));
    for (x, value) in buf.iter_mut().zip(Data::new(1).normal(len)) {
        *x = E::from_f64(value);
    }
    buf
}

fn products<E: CpuElem>(c: &mut Criterion, weights: &Weights<'_, E>) {
    let &Weights { backend, kind, precision, d_in, d_out, .. } = weights;
    let mut group = c.benchmark_group("quant");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
    for rows in ROWS {
        let shape = LinearShape { rows, d_in, d_out };
        let work = rows * d_in * d_out;
        let used = (MOST_WORK / work).clamp(1, (TOTAL / weights.bytes()).max(1));
        group.throughput(if rows == 1 {
            Throughput::Bytes((used * weights.bytes()) as u64)
        } else {
            Throughput::Elements((used * 2 * work) as u64)
        });
        let name = match precision {
            ActivationPrecision::Exact => "exact",
            ActivationPrecision::Int8 => "int8",
            ActivationPrecision::Int16 => "int16",
        };
        let threads = backend.pool().n_threads();
        group.bench_function(format!("{kind}/{rows}x{d_in}x{d_out}/{name}/{}/{threads}", E::NAME), |b| {
            let (inp, mut out) = (elems::<E>(rows * d_in), elems::<E>(rows * d_out));
            b.iter(|| {
                for weight in &weights.copies()[..used] {
                    let (inp, out, bias, epilogue) = (&inp, &mut out, None, InferEpilogue::Store);
                    backend.linear_prepared(LinearPrepared { inp, weight, bias, out, epilogue, shape });
                }
            });
            black_box(&out);
        });
    }
    group.finish();
}

fn all<E: CpuElem>(c: &mut Criterion, isa: Isa, threads: usize) {
    let backend = match CpuBackend::<E>::new(threads, isa) {
        Ok(backend) => backend,
        Err(error) => panic!("{error}"),
    };
    match Ceilings::measure(backend.pool(), isa) {
        Ok(peak) => println!(
            "{}: at most {:.1} Gelem/s in f32, {:.1} in 8 bits, {:.1} GB/s read",
            backend.describe(),
            peak.f32_gflops,
            peak.int8_gops.unwrap_or_default(),
            peak.read_gb_s
        ),
        Err(error) => println!("{}: {error}", backend.describe()),
    }
    for kind in KINDS {
        for (d_in, d_out) in SHAPES.into_iter().filter(|(d_in, _)| d_in.is_multiple_of(kind.block_len())) {
            for precision in [ActivationPrecision::Int8, ActivationPrecision::Int16, ActivationPrecision::Exact] {
                let copies = OnceCell::new();
                products(c, &Weights { backend: &backend, kind, precision, d_in, d_out, copies });
            }
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

//! What the machine can do at most: peak arithmetic of each kind and read bandwidth. A share of the peak means nothing
//! without the peak of the same minutes, so these are measured beside every benchmark.

use std::hint::black_box;
use std::time::Instant;

use verve_ops::BackendError;

use crate::buffer::CpuBuf;
use crate::isa::{Isa, SimdLevel};
use crate::pool::Pool;
use crate::simd::{Kernel, LINE_BYTES, Simd, prefetch};

/// Independent accumulator chains, enough to hide an instruction's latency on two ports.
const CHAINS: usize = 12;
/// Repeats of each measurement; the best counts.
const ROUNDS: usize = 5;
/// Bytes read by the bandwidth measurement, far more than any cache holds.
const READ_BYTES: usize = 1 << 30;

/// Peaks of this machine at one instruction set and thread count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// f32 multiply-adds, GFLOP/s (a multiply-add counts two).
    pub f32_gflops: f64,
    /// bf16 dot products, GFLOP/s; `None` without AVX512-BF16, where bf16 runs on the f32 units.
    pub bf16_gflops: Option<f64>,
    /// 8-bit dot products, Gop/s; `None` without AVX512-VNNI.
    pub int8_gops: Option<f64>,
    /// Reading from memory, GB/s.
    pub read_gb_s: f64,
}

impl Ceilings {
    /// Measures for about two seconds with all threads of `pool`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn measure(pool: &Pool, isa: Isa) -> Result<Ceilings, BackendError> {
        let features = isa.features();
        Ok(Ceilings {
            f32_gflops: arithmetic(pool, &|n| peak_f32(isa, n)),
            bf16_gflops: features.bf16_dot.then(|| arithmetic(pool, &|n| peak_bf16(isa, n))),
            int8_gops: features.vnni.then(|| arithmetic(pool, &|n| peak_int8(isa, n))),
            read_gb_s: bandwidth(pool, isa)?,
        })
    }

    /// The peak of matrix products alone, GFLOP/s, for elements of `elem_bytes` bytes; takes half a second and no memory.
    pub fn measure_product(pool: &Pool, isa: Isa, elem_bytes: usize) -> f64 {
        if elem_bytes == 2 && isa.features().bf16_dot {
            arithmetic(pool, &|n| peak_bf16(isa, n))
        } else {
            arithmetic(pool, &|n| peak_f32(isa, n))
        }
    }

    /// The peak that matrix products in a type of `elem_bytes` bytes can reach at most, GFLOP/s.
    pub fn product_gflops(&self, elem_bytes: usize) -> f64 {
        if elem_bytes == 2 { self.bf16_gflops.unwrap_or(self.f32_gflops) } else { self.f32_gflops }
    }
}

/// The best round: a ceiling is what can be reached, and whatever else runs only takes away from it.
fn best(values: [f64; ROUNDS]) -> f64 {
    values.into_iter().fold(0.0, f64::max)
}

/// Runs `kernel(iterations) -> operations` on every thread at once; giga-operations a second.
fn arithmetic(pool: &Pool, kernel: &(dyn Fn(u64) -> f64 + Sync)) -> f64 {
    let threads = pool.n_threads();
    let timed = |iterations: u64| {
        let start = Instant::now();
        pool.run(threads, &|_, _| {
            black_box(kernel(iterations));
        });
        start.elapsed().as_secs_f64()
    };
    // Long enough that starting and ending the job does not matter.
    let mut iterations = 1 << 16;
    while timed(iterations) < 0.05 {
        iterations *= 2;
    }
    let mut rates = [0.0; ROUNDS];
    for rate in &mut rates {
        *rate = kernel(1) * iterations as f64 * threads as f64 / timed(iterations) / 1e9;
    }
    best(rates)
}

fn bandwidth(pool: &Pool, isa: Isa) -> Result<f64, BackendError> {
    let mut buf = CpuBuf::<f32>::zeroed(READ_BYTES / 4)?;
    let threads = pool.n_threads();
    let part = buf.len() / threads;
    // Touched by the threads that will read it, so that the pages are theirs and not the shared zero page.
    pool.for_each(crate::pool::ChunksMut::new(&mut buf, part.max(1)), |_, _, chunk: &mut [f32]| chunk.fill(1.0));
    let mut rates = [0.0; ROUNDS];
    for rate in &mut rates {
        let start = Instant::now();
        pool.run(threads, &|index, _| {
            black_box(isa.dispatch(Read(&buf[index * part..(index + 1) * part])));
        });
        *rate = (part * threads * 4) as f64 / start.elapsed().as_secs_f64() / 1e9;
    }
    Ok(best(rates))
}

/// Reads everything once, in order, and asks for what comes next ahead of time.
struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        /// Sums at once, so that none waits for the one before.
        const SUMS: usize = 8;
        /// Elements that are asked for ahead: 64 cache lines.
        const AHEAD: usize = 64 * LINE_BYTES / 4;
        let mut sums = [s.splat(0.0); SUMS];
        for block in self.0.chunks_exact(SUMS * S::LANES) {
            for line in block.chunks_exact(LINE_BYTES / 4) {
                prefetch(line.as_ptr().wrapping_add(AHEAD));
            }
            for (sum, x) in sums.iter_mut().zip(block.chunks_exact(S::LANES)) {
                *sum = s.add(*sum, s.load(x));
            }
        }
        sums.into_iter().map(|sum| s.sum(sum)).sum()
    }
}

/// Operations of `iterations` rounds of multiply-adds; with 1 round, what one round counts.
fn peak_f32(isa: Isa, iterations: u64) -> f64 {
    let lanes = match isa.level() {
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 => {
            // SAFETY: an `Isa` of this level exists only on hosts that have its instructions.
            unsafe { x86::fma_512(iterations) };
            16
        }
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 => {
            // SAFETY: as above.
            unsafe { x86::fma_256(iterations) };
            8
        }
        _ => {
            fma_portable(iterations);
            8
        }
    };
    (CHAINS * lanes * 2) as f64
}

fn peak_bf16(isa: Isa, iterations: u64) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if isa.features().bf16_dot {
        // SAFETY: the feature is set only on hosts that have the instruction.
        unsafe { x86::dot_bf16(iterations) };
    }
    let _ = (isa, iterations);
    (CHAINS * 16 * 4) as f64
}

fn peak_int8(isa: Isa, iterations: u64) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if isa.features().vnni {
        // SAFETY: the feature is set only on hosts that have the instruction.
        unsafe { x86::dot_int8(iterations) };
    }
    let _ = (isa, iterations);
    (CHAINS * 16 * 8) as f64
}

/// Multiply and add as the portable kernels do it: without fused instructions unless the build target has them.
fn fma_portable(iterations: u64) {
    let mut acc = [[0f32; 8]; CHAINS];
    let (a, b) = (black_box([0.999f32; 8]), black_box([1e-3f32; 8]));
    for _ in 0..iterations {
        for chain in &mut acc {
            for lane in 0..8 {
                chain[lane] = chain[lane] * a[lane] + b[lane];
            }
        }
    }
    black_box(acc);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::CHAINS;

    #[target_feature(enable = "avx2,fma")]
    pub fn fma_256(iterations: u64) {
        let mut acc = [_mm256_setzero_ps(); CHAINS];
        let (a, b) = (black_box(_mm256_set1_ps(0.999)), black_box(_mm256_set1_ps(1e-3)));
        for _ in 0..iterations {
            for chain in &mut acc {
                *chain = _mm256_fmadd_ps(*chain, a, b);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f")]
    pub fn fma_512(iterations: u64) {
        let mut acc = [_mm512_setzero_ps(); CHAINS];
        let (a, b) = (black_box(_mm512_set1_ps(0.999)), black_box(_mm512_set1_ps(1e-3)));
        for _ in 0..iterations {
            for chain in &mut acc {
                *chain = _mm512_fmadd_ps(*chain, a, b);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn dot_bf16(iterations: u64) {
        let mut acc = [_mm512_setzero_ps(); CHAINS];
        let half = _mm512_cvtneps_pbh(_mm512_set1_ps(1e-3));
        let lines = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(as_integers(half)), as_integers(half));
        let a = black_box(lines);
        for _ in 0..iterations {
            for chain in &mut acc {
                *chain = _mm512_dpbf16_ps(*chain, as_bf16(a), as_bf16(a));
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn dot_int8(iterations: u64) {
        let mut acc = [_mm512_setzero_si512(); CHAINS];
        let (a, b) = (black_box(_mm512_set1_epi8(1)), black_box(_mm512_set1_epi8(2)));
        for _ in 0..iterations {
            for chain in &mut acc {
                *chain = _mm512_dpbusd_epi32(*chain, a, b);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f")]
    fn as_integers(x: __m256bh) -> __m256i {
        // SAFETY: both are 32 plain bytes.
        unsafe { std::mem::transmute(x) }
    }

    #[target_feature(enable = "avx512f")]
    fn as_bf16(x: __m512i) -> __m512bh {
        // SAFETY: both are 64 plain bytes.
        unsafe { std::mem::transmute(x) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_has_positive_peaks() {
        let pool = Pool::new(1).unwrap();
        for isa in Isa::available() {
            let f32_gflops = arithmetic(&pool, &|n| peak_f32(isa, n));
            assert!(f32_gflops > 0.0, "{isa}");
        }
    }
}

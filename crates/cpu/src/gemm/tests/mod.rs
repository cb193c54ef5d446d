//! Products against the chain of the order rule, element by element and bit by bit, at every level.

mod layers;
mod products;
mod quantized;

use half::bf16;
use verve_ops::{Backend, Real};

use super::view::Unit;
use crate::{CpuBackend, CpuBuf, CpuElem, Isa, SimdLevel};

/// Sizes around the edges of tiles, panels, vectors and blocks.
const SIZES: [usize; 8] = [1, 3, 17, 63, 64, 65, 129, 257];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// In `-1..1`, with all bits of an `f32` in use.
    fn real(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn vec<E: Real>(&mut self, len: usize) -> Vec<E> {
        (0..len).map(|_| E::from_f32(self.real())).collect()
    }

    fn buf<E: Real>(&mut self, len: usize) -> CpuBuf<E> {
        buf(&self.vec::<E>(len))
    }
}

fn buf<E: Real>(values: &[E]) -> CpuBuf<E> {
    let mut buf = CpuBuf::zeroed(values.len()).unwrap();
    buf.copy_from_slice(values);
    buf
}

/// One link of a chain.
fn link(isa: Isa, sum: f32, a: f32, b: f32) -> f32 {
    let fused = isa.level() != SimdLevel::Portable || cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    if fused { a.mul_add(b, sum) } else { sum + a * b }
}

/// The chain from `start` over `k` elements.
fn chain(isa: Isa, unit: Unit, start: f32, k: usize, a: impl Fn(usize) -> f32, b: impl Fn(usize) -> f32) -> f32 {
    // The dot-product instruction knows no denormals.
    let flush = |x: f32| if x.abs() < f32::MIN_POSITIVE { 0f32.copysign(x) } else { x };
    let half = |x: f32| flush(bf16::from_f32(x).to_f32());
    let mut sum = start;
    match unit {
        Unit::F32 => (0..k).for_each(|k| sum = link(isa, sum, a(k), b(k))),
        Unit::Pair => {
            for first in (0..k).step_by(2) {
                sum = flush(sum);
                if first + 1 < k {
                    sum = flush(link(isa, sum, half(a(first + 1)), half(b(first + 1))));
                } else {
                    sum = link(isa, sum, 0.0, 0.0);
                }
                sum = flush(link(isa, sum, half(a(first)), half(b(first))));
            }
        }
    }
    sum
}

/// Fails at the first element whose bits differ.
#[track_caller]
fn assert_bits<E: Real>(found: &[E], expected: &[E], what: &dyn std::fmt::Debug) {
    assert_eq!(found.len(), expected.len(), "{what:?}");
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!(x.to_f64().to_bits() == y.to_f64().to_bits(), "{what:?}: element {i} is {x:?}, not {y:?}");
    }
}

fn backends<E: CpuElem>() -> Vec<CpuBackend<E>> {
    Isa::available().into_iter().map(|isa| CpuBackend::new(2, isa).unwrap()).collect()
}

/// What an operation gives on 1, 2, 3 and 8 threads; they must be equal. Returns the result.
fn over_threads<E: CpuElem, R: Real>(isa: Isa, run: impl Fn(&CpuBackend<E>) -> Vec<R>) -> Vec<R> {
    let expected = run(&CpuBackend::new(1, isa).unwrap());
    for threads in [2, 3, 8] {
        let backend = CpuBackend::new(threads, isa).unwrap();
        assert_bits(&run(&backend), &expected, &backend.describe());
    }
    expected
}

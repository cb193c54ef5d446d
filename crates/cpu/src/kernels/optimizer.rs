//! AdamW and the gradient norm.

use verve_ops::AdamWStep;
use verve_ops::args::AdamW;

use crate::pool::ChunksMut;
use crate::simd::{Kernel, Simd};
use crate::{CpuBackend, CpuBuf, CpuElem};

/// Elements of one task.
const TASK: usize = 16 * 1024;

struct AdamWChunk<'a, E> {
    weight: &'a mut [E],
    master: Option<&'a mut [f32]>,
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    step: AdamWStep,
}

impl<E: CpuElem> Kernel for AdamWChunk<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { weight, master, grad, m, v, step } = self;
        let factors = Factors {
            scale: s.splat(step.grad_scale),
            beta1: s.splat(step.beta1),
            beta2: s.splat(step.beta2),
            rest1: s.splat(1.0 - step.beta1),
            rest2: s.splat(1.0 - step.beta2),
            inv_correction2: s.splat(1.0 / step.bias_correction2),
            eps: s.splat(step.eps),
            keep: s.splat(1.0 - step.lr * step.weight_decay),
            rate: s.splat(step.lr / step.bias_correction1),
        };
        let len = weight.len();
        assert!(grad.len() == len && m.len() == len && v.len() == len);
        let mut i = 0;
        match master {
            Some(master) => {
                assert_eq!(master.len(), len);
                while i < len {
                    let w = factors.update(s, s.load(&master[i..]), &grad[i..], &mut m[i..], &mut v[i..]);
                    s.store(w, &mut master[i..]);
                    E::store(s, w, &mut weight[i..]);
                    i += S::LANES;
                }
            }
            None => {
                while i < len {
                    let w = factors.update(s, E::load(s, &weight[i..]), &grad[i..], &mut m[i..], &mut v[i..]);
                    E::store(s, w, &mut weight[i..]);
                    i += S::LANES;
                }
            }
        }
    }
}

/// The numbers of a step, in all lanes.
struct Factors<F> {
    scale: F,
    beta1: F,
    beta2: F,
    rest1: F,
    rest2: F,
    inv_correction2: F,
    eps: F,
    keep: F,
    rate: F,
}

impl<F: Copy> Factors<F> {
    /// Moves the moments on and returns the new weight. The slices begin with the elements at hand.
    #[inline(always)]
    fn update<S: Simd<F = F>>(&self, s: S, w: F, grad: &[f32], m: &mut [f32], v: &mut [f32]) -> F {
        let g = s.mul(s.load(grad), self.scale);
        let m_new = s.fma(self.beta1, s.load(m), s.mul(self.rest1, g));
        let v_new = s.fma(self.beta2, s.load(v), s.mul(self.rest2, s.mul(g, g)));
        s.store(m_new, m);
        s.store(v_new, v);
        let root = s.sqrt(s.mul(v_new, self.inv_correction2));
        let update = s.div(m_new, s.add(root, self.eps));
        s.fnma(self.rate, update, s.mul(w, self.keep))
    }
}

pub(crate) fn adamw<E: CpuElem>(backend: &CpuBackend<E>, args: AdamW<'_, CpuBackend<E>>) {
    let AdamW { weight, master, grad, m, v, step } = args;
    let master = master.map(|master| ChunksMut::new(master, TASK));
    let parts = (ChunksMut::new(weight, TASK), master, ChunksMut::new(m, TASK), ChunksMut::new(v, TASK));
    backend.pool().for_each(parts, |task, _, (weight, master, m, v)| {
        let grad = &grad[task * TASK..][..weight.len()];
        backend.isa().dispatch(AdamWChunk { weight, master, grad, m, v, step });
    });
}

/// Sum of squares of one chunk, in `f64`: sixteen running sums, then one. Squares of `f32` are exact in `f64`.
struct SumSquares<'a>(&'a [f32]);

impl Kernel for SumSquares<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, _s: S) -> f64 {
        const N: usize = 16;
        let mut sums = [0.0f64; N];
        let (body, tail) = self.0.as_chunks::<N>();
        for chunk in body {
            for i in 0..N {
                let x = f64::from(chunk[i]);
                sums[i] += x * x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(tail) {
            let x = f64::from(*x);
            *sum += x * x;
        }
        sums.iter().sum()
    }
}

pub(crate) fn sum_squares<'a, E: CpuElem>(
    backend: &CpuBackend<E>,
    bufs: impl Iterator<Item = &'a CpuBuf<f32>>,
    out: &mut [f64],
) {
    let mut written = 0;
    for (at, buf) in bufs.enumerate() {
        assert!(at < out.len(), "sum_squares: more buffers than the {} places of out", out.len());
        let buf: &[f32] = buf;
        out[at] = backend.scratch().shared(buf.len().div_ceil(TASK), |partial: &mut [f64]| {
            backend.pool().for_each(ChunksMut::new(partial, 1), |task, _, partial| {
                let end = buf.len().min((task + 1) * TASK);
                partial[0] = backend.isa().dispatch(SumSquares(&buf[task * TASK..end]));
            });
            partial.iter().sum()
        });
        written = at + 1;
    }
    assert!(written == out.len(), "sum_squares: {written} buffers for {} places of out", out.len());
}

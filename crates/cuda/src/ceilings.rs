//! What a card reaches at most: matrix products and copies, measured now.

use std::time::Instant;

use verve_ops::args::{Epilogue, Linear};
use verve_ops::{Backend, BackendError, LinearShape, Real};

use crate::backend::{CudaBackend, CudaElem};

/// Bytes of each of the two buffers of a copy, beyond every cache.
const COPY_BYTES: usize = 512 << 20;

/// Runs that are timed together, so that starting one does not count.
const RUNS: usize = 20;

/// Rows, columns and depth of the product.
const SIZE: usize = 4096;

/// Numbers between -1 and 1 that look random: zeros would run faster than anything real.
fn numbers<E: Real>(len: usize) -> Vec<E> {
    let mut state = 0x9e37_79b9_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        E::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..len).map(next).collect()
}

impl<E: CudaElem> CudaBackend<E> {
    /// Matrix products as training computes them, GFLOP/s (a multiply-add counts two).
    ///
    /// # Errors
    /// Out of memory, or what the device says.
    pub fn measure_products(&self) -> Result<f64, BackendError> {
        let operand = || -> Result<_, BackendError> {
            let mut buf = self.alloc::<E>(SIZE * SIZE)?;
            self.upload(&numbers(SIZE * SIZE), &mut buf);
            Ok(buf)
        };
        let (inp, weight, mut out) = (operand()?, operand()?, self.alloc::<E>(SIZE * SIZE)?);
        let shape = LinearShape { rows: SIZE, d_in: SIZE, d_out: SIZE };
        let mut run = || {
            let out = &mut out;
            self.linear(Linear { inp: &inp, weight: &weight, bias: None, out, epilogue: Epilogue::Store, shape });
        };
        run();
        self.synchronize()?;
        let start = Instant::now();
        (0..RUNS).for_each(|_| run());
        self.synchronize()?;
        Ok(2e-9 * (SIZE * SIZE * SIZE * RUNS) as f64 / start.elapsed().as_secs_f64())
    }

    /// Copies from memory to memory, GB/s; bytes read and bytes written both count.
    ///
    /// # Errors
    /// Out of memory, or what the device says.
    pub fn measure_copy(&self) -> Result<f64, BackendError> {
        let (src, mut dst) = (self.alloc::<u8>(COPY_BYTES)?, self.alloc::<u8>(COPY_BYTES)?);
        self.copy(&src, &mut dst);
        self.synchronize()?;
        let start = Instant::now();
        (0..RUNS).for_each(|_| self.copy(&src, &mut dst));
        self.synchronize()?;
        Ok(2e-9 * (COPY_BYTES * RUNS) as f64 / start.elapsed().as_secs_f64())
    }
}

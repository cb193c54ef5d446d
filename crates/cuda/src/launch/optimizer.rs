//! AdamW and the gradient norm.

use verve_ops::Buffer;
use verve_ops::args::AdamW;

use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::buffer::CudaBuf;
use crate::device::Grid;
use crate::kernels::{MEMORY, POINTWISE};

/// Elements that one block squares and adds; `SQUARES` in the source.
const SQUARES: usize = 8192;

/// One step.
pub fn adamw<E: CudaElem>(backend: &CudaBackend<E>, args: AdamW<'_, CudaBackend<E>>) {
    let AdamW { weight, master, grad, m, v, step } = args;
    let n = weight.len();
    let args = Args::new()
        .buf(weight)
        .optional(master.as_deref())
        .buf(grad)
        .buf(m)
        .buf(v)
        .u64(n)
        .f32(step.lr)
        .f32(step.beta1)
        .f32(step.beta2)
        .f32(step.eps)
        .f32(step.weight_decay)
        .f32(step.bias_correction1)
        .f32(step.bias_correction2)
        .f32(step.grad_scale);
    backend.launch(&POINTWISE, "adamw", Grid::items(n), args);
}

/// `out[b] = sum_i bufs[b][i]^2`, in `f64`; NaN where the device fails, which is remembered.
pub fn sum_squares<'a, E: CudaElem>(
    backend: &CudaBackend<E>,
    bufs: impl Iterator<Item = &'a CudaBuf<f32>>,
    out: &mut [f64],
) {
    out.fill(f64::NAN);
    let bufs: Vec<&CudaBuf<f32>> = bufs.collect();
    assert!(bufs.len() == out.len(), "sum_squares: {} buffers for {} places of out", bufs.len(), out.len());
    let parts = |buf: &CudaBuf<f32>| buf.len().div_ceil(SQUARES);
    let most_parts = bufs.iter().map(|buf| parts(buf)).max().unwrap_or(0);
    let Some(scratch) = backend.scratch((out.len() + most_parts) * size_of::<f64>()) else { return };
    let of_parts = scratch.address() + size_of_val(out) as u64;
    for (place, buf) in bufs.iter().enumerate() {
        let args = Args::new().buf(buf).address(of_parts).u64(buf.len());
        backend.launch(&MEMORY, "sum_squares_parts", Grid::blocks(parts(buf), 256), args);
        let result = scratch.address() + (place * size_of::<f64>()) as u64;
        let args = Args::new().address(of_parts).address(result).u32(parts(buf));
        backend.launch(&MEMORY, "sum_parts", Grid::blocks(1, 256), args);
    }
    if !out.is_empty() {
        backend.note(backend.device().download(scratch.address(), bytemuck::cast_slice_mut(out)));
    }
}

//! Rotary positions.

use verve_ops::args::Rope;

use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::device::Grid;
use crate::kernels::POINTWISE;

/// Rotates each pair by the angle of its position.
pub fn forward<E: CudaElem>(backend: &CudaBackend<E>, args: Rope<'_, CudaBackend<E>>) {
    rotate(backend, args, 1.0);
}

/// Rotates each pair back.
pub fn backward<E: CudaElem>(backend: &CudaBackend<E>, args: Rope<'_, CudaBackend<E>>) {
    rotate(backend, args, -1.0);
}

fn rotate<E: CudaElem>(backend: &CudaBackend<E>, args: Rope<'_, CudaBackend<E>>, sign: f32) {
    let Rope { x, table, positions, shape } = args;
    let pairs = shape.rows * shape.n_heads * (shape.d_rot / 2);
    let args = Args::new()
        .buf(x)
        .buf(table)
        .buf(positions)
        .u64(pairs)
        .u32(shape.n_heads)
        .u32(shape.row_width)
        .u32(shape.d_head)
        .u32(shape.d_rot)
        .u32(shape.n_positions)
        .f32(sign);
    backend.launch(&POINTWISE, "rope", Grid::items(pairs), args);
}

//! LayerNorm and RMSNorm and their gradients.

use verve_ops::NormKind;
use verve_ops::args::{Norm, NormBackward};

use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::device::Grid;
use crate::kernels::NORM;
use crate::launch::memory::{add_columns, row_threads};

/// Rows whose weight gradients one block adds; `CHUNK_ROWS` in the source.
const CHUNK_ROWS: usize = 128;

/// The number of a kind in the sources.
pub fn code(kind: NormKind) -> usize {
    match kind {
        NormKind::Layer => 0,
        NormKind::Rms => 1,
        NormKind::RmsPlusOne => 2,
    }
}

/// Normalises each row.
pub fn forward<E: CudaElem>(backend: &CudaBackend<E>, args: Norm<'_, CudaBackend<E>>) {
    let Norm { inp, weight, bias, out, stats, shape } = args;
    let args = Args::new()
        .buf(inp)
        .buf(weight)
        .optional(bias)
        .buf(out)
        .buf(stats)
        .u32(shape.cols)
        .u32(code(shape.kind))
        .f32(shape.eps);
    backend.launch(&NORM, "norm_forward", Grid::blocks(shape.rows, row_threads(shape.cols)), args);
}

/// Adds the gradients.
pub fn backward<E: CudaElem>(backend: &CudaBackend<E>, args: NormBackward<'_, CudaBackend<E>>) {
    let NormBackward { d_out, inp, weight, stats, d_inp, d_weight, d_bias, shape } = args;
    let (rows, cols) = (shape.rows, shape.cols);
    let args = Args::new().buf(d_out).buf(inp).buf(weight).buf(stats).buf(d_inp).u32(cols).u32(code(shape.kind));
    backend.launch(&NORM, "norm_backward", Grid::blocks(rows, row_threads(cols)), args);

    let chunks = rows.div_ceil(CHUNK_ROWS);
    let part_bytes = chunks * cols * size_of::<f32>();
    let Some(scratch) = backend.scratch(2 * part_bytes) else { return };
    let (weight_parts, bias_parts) = (scratch.address(), scratch.address() + part_bytes as u64);
    let grid = Grid { blocks: [cols.div_ceil(32), chunks, 1], threads: [32, 8, 1], shared_bytes: 0 };
    let args = Args::new().buf(d_out).buf(inp).buf(stats).address(weight_parts).address(bias_parts).u32(rows).u32(cols);
    backend.launch(&NORM, "norm_backward_weight", grid, args);
    add_columns(backend, weight_parts, d_weight.address(), chunks, cols);
    if let Some(d_bias) = d_bias {
        add_columns(backend, bias_parts, d_bias.address(), chunks, cols);
    }
}

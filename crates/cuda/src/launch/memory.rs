//! Rounding, gathering rows, sums over rows.

use verve_ops::Buffer;
use verve_ops::args::GatherRows;

use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::buffer::CudaBuf;
use crate::device::{DevicePtr, Grid};
use crate::kernels::MEMORY;

/// Rows that one block of `column_sums` adds; `COLUMN_ROWS` in the source.
const COLUMN_ROWS: usize = 128;

/// `dst = src`, rounded.
pub fn round<E: CudaElem>(backend: &CudaBackend<E>, src: &CudaBuf<f32>, dst: &mut CudaBuf<E>) {
    let args = Args::new().buf(src).buf(dst).u64(src.len());
    backend.launch(&MEMORY, "round_elems", Grid::items(src.len()), args);
}

/// `out[i] = inp[rows[i]]`.
pub fn gather_rows<E: CudaElem>(backend: &CudaBackend<E>, args: GatherRows<'_, CudaBackend<E>>) {
    let GatherRows { inp, rows, n_rows, out, cols } = args;
    let available = inp.len().checked_div(cols).unwrap_or(0);
    let args = Args::new().buf(inp).buf(rows).buf(out).u32(cols).u32(available);
    backend.launch(&MEMORY, "gather_rows", Grid::blocks(n_rows, row_threads(cols)), args);
}

/// Threads for one row of `cols` elements: depends on nothing else, so that sums over a row keep their order.
pub fn row_threads(cols: usize) -> usize {
    (cols.div_ceil(4).next_multiple_of(32)).clamp(32, 1024)
}

/// `out[c] += sum over rows of parts[row][c]`, in order.
pub fn add_columns<E: CudaElem>(backend: &CudaBackend<E>, parts: DevicePtr, out: DevicePtr, rows: usize, cols: usize) {
    let args = Args::new().address(parts).address(out).u32(rows).u32(cols);
    backend.launch(&MEMORY, "add_columns", Grid::items(cols), args);
}

/// Bytes of scratch memory that [`add_column_sums`] takes.
pub fn column_sums_bytes(rows: usize, cols: usize) -> usize {
    rows.div_ceil(COLUMN_ROWS) * cols * size_of::<f32>()
}

/// `out[c] += sum over rows of src[row][c]`: the gradient of a bias.
pub fn add_column_sums<E: CudaElem>(
    backend: &CudaBackend<E>,
    src: &CudaBuf<E>,
    out: &mut CudaBuf<f32>,
    rows: usize,
    cols: usize,
) {
    let Some(scratch) = backend.scratch(column_sums_bytes(rows, cols)) else { return };
    let chunks = rows.div_ceil(COLUMN_ROWS);
    let grid = Grid { blocks: [cols.div_ceil(32), chunks, 1], threads: [32, 8, 1], shared_bytes: 0 };
    let args = Args::new().buf(src).address(scratch.address()).u32(rows).u32(cols);
    backend.launch(&MEMORY, "column_sums", grid, args);
    add_columns(backend, scratch.address(), out.address(), chunks, cols);
}

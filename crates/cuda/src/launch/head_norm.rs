//! RMSNorm of heads and its gradient; the scaled sum.

use verve_ops::args::{HeadNorm, HeadNormBackward, ScaledSum};

use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::device::Grid;
use crate::kernels::HEAD_NORM;
use crate::launch::memory::add_columns;
use crate::launch::norm::code;

/// Rows whose weight gradients one block adds; `CHUNK_ROWS` in the source.
const CHUNK_ROWS: usize = 32;

/// Heads, one warp each, in one block.
const HEADS_PER_BLOCK: usize = 8;

fn warps(heads: usize) -> Grid {
    Grid::blocks(heads.div_ceil(HEADS_PER_BLOCK), HEADS_PER_BLOCK * 32)
}

/// Normalises query and key heads, copies value heads.
pub fn forward<E: CudaElem>(backend: &CudaBackend<E>, args: HeadNorm<'_, CudaBackend<E>>) {
    let HeadNorm { inp, q_weight, k_weight, out, shape } = args;
    let heads = shape.rows * (shape.n_heads + 2 * shape.n_kv_heads);
    let args = Args::new()
        .buf(inp)
        .buf(q_weight)
        .buf(k_weight)
        .buf(out)
        .u64(heads)
        .u32(shape.n_heads)
        .u32(shape.n_kv_heads)
        .u32(shape.d_head)
        .u32(code(shape.kind))
        .f32(shape.eps);
    backend.launch(&HEAD_NORM, "head_norm", warps(heads), args);
}

/// Gradient in place; weights' gradients are added.
pub fn backward<E: CudaElem>(backend: &CudaBackend<E>, args: HeadNormBackward<'_, CudaBackend<E>>) {
    let HeadNormBackward { inp, q_weight, k_weight, d_rows, d_q_weight, d_k_weight, shape } = args;
    let (n_normed, n_all) = (shape.n_heads + shape.n_kv_heads, shape.n_heads + 2 * shape.n_kv_heads);
    let heads = shape.rows * n_normed;
    let chunks = shape.rows.div_ceil(CHUNK_ROWS);
    let root_bytes = (heads * size_of::<f32>()).next_multiple_of(256);
    let Some(scratch) = backend.scratch(root_bytes + chunks * shape.d_head * size_of::<f32>()) else { return };
    let (rstd, parts) = (scratch.address(), scratch.address() + root_bytes as u64);
    let args = Args::new().buf(inp).address(rstd).u64(heads).u32(n_normed).u32(n_all).u32(shape.d_head).f32(shape.eps);
    backend.launch(&HEAD_NORM, "head_norm_roots", warps(heads), args);

    // The weights first: they need the gradient of the output, which the last kernel overwrites.
    let of_queries = (d_q_weight.address(), 0, shape.n_heads);
    let of_keys = (d_k_weight.address(), shape.n_heads, shape.n_kv_heads);
    for (d_weight, first_head, heads) in [of_queries, of_keys] {
        let args = Args::new()
            .buf(inp)
            .buf(d_rows)
            .address(rstd)
            .address(parts)
            .u32(shape.rows)
            .u32(first_head)
            .u32(heads)
            .u32(n_normed)
            .u32(n_all)
            .u32(shape.d_head);
        let grid = Grid::blocks(chunks, shape.d_head.next_multiple_of(32).clamp(32, 256));
        backend.launch(&HEAD_NORM, "head_norm_backward_weight", grid, args);
        add_columns(backend, parts, d_weight, chunks, shape.d_head);
    }

    let args = Args::new()
        .buf(inp)
        .buf(q_weight)
        .buf(k_weight)
        .address(rstd)
        .buf(d_rows)
        .u64(heads)
        .u32(shape.n_heads)
        .u32(n_normed)
        .u32(n_all)
        .u32(shape.d_head)
        .u32(code(shape.kind));
    backend.launch(&HEAD_NORM, "head_norm_backward", warps(heads), args);
}

/// `x = factor x + y`.
pub fn scaled_sum<E: CudaElem>(backend: &CudaBackend<E>, args: ScaledSum<'_, CudaBackend<E>>) {
    let ScaledSum { x, factor, y, len } = args;
    let args = Args::new().buf(x).optional(y).f32(factor).u64(len);
    backend.launch(&HEAD_NORM, "scaled_sum", Grid::items(len), args);
}

//! The paged KV cache: writing to it, and attention over it.

use verve_ops::args::{AttentionCached, KvWrite};
use verve_ops::{Buffer, KV_BLOCK, KvFormat, KvLayer};

use super::attention::{Width, aligned};
use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::buffer::CudaBuf;
use crate::device::{ElemKind, Grid};
use crate::error::DeviceError;
use crate::kernels;

/// Blocks of the cache in a chunk of context, whose sums stand alone: 256 positions, as in `paged_attention.cu`.
const CHUNK_BLOCKS: usize = 4;
/// Most memory for the sums of chunks. Where they would take more, there are so many rows that the card is full without
/// splitting their contexts.
const MAX_PARTIAL_BYTES: usize = 64 << 20;
/// Warps for each multiprocessor that are wanted.
const WARPS: usize = 16;
/// Pairs of a row and a query head in a block of the kernel for many rows.
const PAIRS: usize = 64;

/// Up to this many rows of a sequence are computed row by row; so are all in a call of no more.
const SHORT_RUN: usize = 4;

/// Keys and values as activations are. The kernels know no other format: where the cache has one, that is remembered as the
/// device's failure.
fn plain<'a, E: CudaElem>(
    backend: &CudaBackend<E>,
    cache: &'a KvLayer<CudaBackend<E>>,
) -> Option<(&'a CudaBuf<E>, &'a CudaBuf<E>)> {
    let format = match cache {
        KvLayer::Elem { keys, values } => return Some((keys, values)),
        KvLayer::F16 { .. } => KvFormat::F16,
        KvLayer::Int8 { .. } => KvFormat::Int8,
    };
    backend.remember(DeviceError::KvFormat { format: format.name() });
    None
}

/// Writes the keys and values of new tokens.
pub fn write<E: CudaElem>(backend: &CudaBackend<E>, args: KvWrite<'_, CudaBackend<E>>) {
    let KvWrite { qkv, n_heads, rows, slots, cache, shape } = args;
    let Some((keys, values)) = plain(backend, cache) else { return };
    let args = Args::new()
        .buf(qkv)
        .buf(slots)
        .buf(keys)
        .buf(values)
        .u32(rows)
        .u32(n_heads)
        .u32(shape.n_kv_heads)
        .u32(shape.d_head)
        .u32(shape.n_blocks * KV_BLOCK);
    let elements = rows * shape.n_kv_heads * shape.d_head;
    backend.launch(&kernels::PAGED_ATTENTION, "kv_write", Grid::items(elements), args);
}

/// Names of the kernels for a width: for many rows of a sequence, and for few.
fn kernel_names(width: Width) -> (&'static str, &'static str) {
    match width {
        Width::D32 => ("paged_many_32", "paged_few_32"),
        Width::D64 => ("paged_many_64", "paged_few_64"),
        Width::D96 => ("paged_many_96", "paged_few_96"),
        Width::D128 => ("paged_many_128", "paged_few_128"),
        Width::D256 => ("paged_many_256", "paged_few_256"),
    }
}

/// Attention of new tokens over everything cached for their sequence. Which rows belong to which sequence is only known on
/// the device: both kernels look, and each computes the rows that are its own.
pub fn attention<E: CudaElem>(backend: &CudaBackend<E>, args: AttentionCached<'_, CudaBackend<E>>) {
    let AttentionCached { qkv, cache, out, batch, n_heads, window, scale, shape } = args;
    let Some((keys, values)) = plain(backend, cache) else { return };
    let (rows, n_kv_heads, d_head) = (batch.rows, shape.n_kv_heads, shape.d_head);
    if rows == 0 || d_head == 0 {
        return;
    }
    let Some(width) = Width::of(backend, d_head) else { return };
    let program = &kernels::PAGED_ATTENTION;
    let n_chunks = batch.max_blocks.div_ceil(CHUNK_BLOCKS).max(1);
    let aligned = aligned(&[qkv.address(), keys.address(), values.address(), out.address()], d_head, E::KIND);
    let context = batch.max_blocks * KV_BLOCK;
    let args = |partial| {
        Args::new()
            .buf(qkv)
            .buf(keys)
            .buf(values)
            .buf(out)
            .buf(batch.sequences)
            .buf(batch.positions)
            .buf(batch.block_table)
            .address(partial)
            .u32(rows)
            .u32(n_heads)
            .u32(n_kv_heads)
            .u32(d_head)
            .u32(batch.block_table.len().checked_div(batch.max_blocks).unwrap_or(0))
            .u32(batch.max_blocks)
            .u32(shape.n_blocks)
            .u32(n_chunks)
            .u32(window.map_or(0, |window| window.min(context)))
            .f32(scale)
            .u32(usize::from(aligned))
            .u32(0)
    };
    if E::KIND == ElemKind::F32 {
        let grid = Grid { blocks: [rows, n_heads, 1], threads: [32, 1, 1], shared_bytes: 0 };
        return backend.launch(program, "paged_row", grid, args(0));
    }

    let (many, few) = kernel_names(width);
    // Half a head's output at a time of the widest heads, see `Walk` in the source.
    let (keys, halves) = if width == Width::D256 { (32, 2) } else { (64, 1) };
    let shared = |queries: usize| (queries + 2 * 2 * keys) * width.line(E::KIND);
    let group = n_heads / n_kv_heads;
    if rows > SHORT_RUN {
        let blocks = [(rows * group).div_ceil(PAIRS), n_kv_heads * halves, 1];
        let grid = Grid { blocks, threads: [128, 1, 1], shared_bytes: shared(64) };
        backend.launch(program, many, grid, args(0));
    }

    let heads = n_kv_heads * group.div_ceil(16) * halves;
    let wanted = WARPS * backend.device().info().multiprocessors as usize;
    let partial_bytes = rows * n_heads * n_chunks * (d_head + 2) * size_of::<f32>();
    let splits = if partial_bytes <= MAX_PARTIAL_BYTES { n_chunks.min(wanted.div_ceil(rows * heads)) } else { 1 };
    let grid = Grid { blocks: [splits, heads, rows], threads: [32, 1, 1], shared_bytes: shared(16) };
    if splits == 1 {
        return backend.launch(program, few, grid, args(0));
    }
    let Some(partial) = backend.scratch(partial_bytes) else { return };
    backend.launch(program, few, grid, args(partial.address()));
    let grid = Grid { blocks: [rows, n_heads, 1], threads: [64, 1, 1], shared_bytes: 0 };
    backend.launch(program, "paged_join", grid, args(partial.address()));
}

//! Attention of whole sequences.

use verve_ops::AttnShape;
use verve_ops::args::Attention;

use super::{Block, KEYS, QueryTile, first_visible, padded, take, widen_rows};
use crate::pool::{GridMut, Tile};
use crate::simd::product::Transpose;
use crate::simd::{Kernel, Simd};
use crate::{CpuBackend, CpuElem};

/// Tasks for each thread that are wanted, to balance the load.
const TASKS_PER_THREAD: usize = 4;

/// The fewest queries for which the keys and values before them are brought in once more.
const LEAST_QUERIES: usize = 96;

/// Some queries in a row of one head of one sequence.
struct Queries<'a, 't, E> {
    /// Rows of the sequence.
    qkv: &'a [E],
    shape: AttnShape,
    head: usize,
    /// Position of the first query.
    first: usize,
    out: Tile<'t, E>,
    lse: Tile<'t, f32>,
    memory: &'a mut [f32],
}

/// Working memory for queries that see `keys` keys.
fn memory_len(keys: usize, width: usize) -> usize {
    (2 * keys.next_multiple_of(KEYS) + KEYS) * width + QueryTile::len(width)
}

impl<E: CpuElem> Kernel for Queries<'_, '_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { qkv, shape, head, first, mut out, mut lse, mut memory } = self;
        let (stride, d_head) = (shape.qkv_width(), shape.d_head);
        let width = padded(d_head);
        let kv_head = head / (shape.n_heads / shape.n_kv_heads);
        let key_column = (shape.n_heads + kv_head) * d_head;
        let value_column = key_column + shape.n_kv_heads * d_head;

        let first_block = first_visible(first, shape.window) / KEYS;
        let n_keys = first + out.rows() - first_block * KEYS;
        let block_len = KEYS * width;
        let keys = take(&mut memory, n_keys.div_ceil(KEYS) * block_len);
        let values = take(&mut memory, n_keys.div_ceil(KEYS) * block_len);
        let rows = take(&mut memory, block_len);
        for (i, (keys, values)) in keys.chunks_exact_mut(block_len).zip(values.chunks_exact_mut(block_len)).enumerate()
        {
            let block = &qkv[(first_block + i) * KEYS * stride..];
            let size = (KEYS.min(n_keys - i * KEYS), d_head);
            widen_rows(s, &block[key_column..], stride, size, rows, width);
            s.call(Transpose { src: rows, dst: keys, rows: KEYS, cols: width });
            widen_rows(s, &block[value_column..], stride, size, values, width);
        }

        let mut tile = QueryTile::new(take(&mut memory, QueryTile::len(width)), d_head, width);
        let mut done = 0;
        while done < out.rows() {
            tile.clear();
            while !tile.is_full() && done + tile.rows() < out.rows() {
                let position = first + done + tile.rows();
                let query = &qkv[position * stride + head * d_head..][..d_head];
                tile.push(s, query, shape.scale, first_visible(position, shape.window)..position + 1);
            }
            for block in tile.blocks() {
                let at = (block - first_block) * block_len;
                let (keys, values) = (&keys[at..][..block_len], &values[at..][..block_len]);
                tile.absorb(s, &Block { number: block, keys, values, value_width: width, scales: None, ahead: &[] });
            }
            for row in 0..tile.rows() {
                lse.row(done + row)[0] = tile.finish(s, row, out.row(done + row));
            }
            done += tile.rows();
        }
    }
}

pub(crate) fn forward<E: CpuElem>(backend: &CpuBackend<E>, args: Attention<'_, CpuBackend<E>>) {
    let Attention { qkv, out, lse, shape } = args;
    if out.is_empty() {
        return;
    }
    let seq_len = shape.seq_len;
    let units = shape.batch * shape.n_heads;
    let splits = (TASKS_PER_THREAD * backend.pool().n_threads()).div_ceil(units);
    let queries = seq_len.div_ceil(splits).max(LEAST_QUERIES).min(seq_len);
    let parts = (
        GridMut::new(out, shape.out_width()).tiles(seq_len, queries, shape.d_head),
        GridMut::new(lse, shape.n_heads).tiles(seq_len, queries, 1),
    );
    let memory = memory_len(seq_len, padded(shape.d_head));
    backend.pool().for_each(parts, |task, worker, (out, lse)| {
        let (sequence, first) = (out.first_row() / seq_len, out.first_row() % seq_len);
        let qkv = &qkv[sequence * seq_len * shape.qkv_width()..][..seq_len * shape.qkv_width()];
        backend.scratch().with(worker, memory, |memory| {
            let head = task % shape.n_heads;
            backend.isa().dispatch(Queries { qkv, shape, head, first, out, lse, memory });
        });
    });
}

//! Attention over the cache.

use verve_ops::args::AttentionCached;
use verve_ops::{KV_BLOCK, KvLayer, KvShape};

use crate::kernels::attention::{Block, KEYS, QueryTile, Scales, fetch, first_visible, padded, widen_rows};
use crate::kernels::check_ids;
use crate::pool::{GridMut, Tile};
use crate::simd::{Kernel, Simd, Stored};
use crate::{CpuBackend, CpuElem};

/// Tasks for each thread that are wanted, to balance the load.
const TASKS_PER_THREAD: usize = 4;

/// The most rows of a task.
const MAX_ROWS: usize = 48;

/// From this many queries on it pays to widen a block once instead of at every use.
const WIDEN_QUERIES: usize = 16;

/// Up to this many queries the next block is asked for ahead of time. With more there is enough to calculate meanwhile.
const FETCH_QUERIES: usize = 2;

/// What is in the cache, in blocks of heads, with its scales if it has any.
#[derive(Clone, Copy)]
struct Cached<'a, K> {
    keys: &'a [K],
    values: &'a [K],
    scales: Option<[&'a [f32]; 2]>,
}

/// What all tasks of a call read.
#[derive(Clone, Copy)]
struct Call<'a, E, K> {
    qkv: &'a [E],
    cached: Cached<'a, K>,
    sequences: &'a [u32],
    positions: &'a [u32],
    block_table: &'a [u32],
    max_blocks: usize,
    n_heads: usize,
    window: Option<usize>,
    scale: f32,
    shape: KvShape,
}

impl<E, K> Call<'_, E, K> {
    /// End of the run of rows of one sequence, in order of their positions, that begins at `row`.
    #[inline(always)]
    fn run_end(&self, row: usize, rows: usize) -> usize {
        let mut end = row + 1;
        while end < rows && self.sequences[end] == self.sequences[row] && self.positions[end] >= self.positions[end - 1]
        {
            end += 1;
        }
        end
    }

    /// Panics unless everything that is read through ids is there.
    fn check_ids(&self) {
        let op = "attention_cached";
        let (n_sequences, n_positions) =
            (self.block_table.len().checked_div(self.max_blocks).unwrap_or(0), self.max_blocks * KV_BLOCK);
        check_ids(op, "sequences", self.sequences, n_sequences);
        check_ids(op, "positions", self.positions, n_positions);
        let mut row = 0;
        while row < self.sequences.len() {
            let end = self.run_end(row, self.sequences.len());
            let first = first_visible(self.positions[row] as usize, self.window) / KV_BLOCK;
            let last = self.positions[end - 1] as usize / KV_BLOCK;
            let sequence = self.sequences[row] as usize * self.max_blocks;
            for place in sequence + first..=sequence + last {
                let block = self.block_table[place];
                let n_blocks = self.shape.n_blocks;
                assert!(
                    (block as usize) < n_blocks,
                    "{op}: block_table[{place}] is {block}, but must be below {n_blocks}"
                );
            }
            row = end;
        }
    }
}

/// Some rows and the query heads of one key/value head.
struct Rows<'a, 't, E, K> {
    call: Call<'a, E, K>,
    kv_head: usize,
    out: Tile<'t, E>,
    memory: &'a mut [f32],
}

/// Working memory of a task.
fn memory_len(d_head: usize) -> usize {
    let width = padded(d_head);
    QueryTile::len(width) + KEYS * (d_head + width)
}

impl<E: CpuElem, K: Stored> Kernel for Rows<'_, '_, E, K> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { call, kv_head, mut out, memory } = self;
        let (first, rows, d_head) = (out.first_row(), out.rows(), call.shape.d_head);
        let group = call.n_heads / call.shape.n_kv_heads;
        let row_width = (call.n_heads + 2 * call.shape.n_kv_heads) * d_head;
        let (tile_memory, memory) = memory.split_at_mut(QueryTile::len(padded(d_head)));
        let mut tile = QueryTile::new(tile_memory, d_head, padded(d_head));
        let mut row = first;
        while row < first + rows {
            let end = call.run_end(row, first + rows);
            let blocks = &call.block_table[call.sequences[row] as usize * call.max_blocks..][..call.max_blocks];
            // The queries of a run: row by row, the heads of the group inside.
            let queries = (end - row) * group;
            let mut done = 0;
            while done < queries {
                tile.clear();
                while !tile.is_full() && done + tile.rows() < queries {
                    let (n, member) = (row + (done + tile.rows()) / group, (done + tile.rows()) % group);
                    let query = &call.qkv[n * row_width + (kv_head * group + member) * d_head..][..d_head];
                    let position = call.positions[n] as usize;
                    tile.push(s, query, call.scale, first_visible(position, call.window)..position + 1);
                }
                attend(s, &call, &mut tile, blocks, kv_head, memory);
                for i in 0..tile.rows() {
                    let (n, member) = (row + (done + i) / group, (done + i) % group);
                    tile.finish(s, i, &mut out.row(n - first)[member * d_head..][..d_head]);
                }
                done += tile.rows();
            }
            row = end;
        }
    }
}

/// Brings a tile of queries of one sequence together with all the blocks that they see.
#[inline(always)]
fn attend<S: Simd, E: CpuElem, K: Stored>(
    s: S,
    call: &Call<'_, E, K>,
    tile: &mut QueryTile<'_>,
    blocks: &[u32],
    kv_head: usize,
    memory: &mut [f32],
) {
    let d_head = call.shape.d_head;
    let head_len = KEYS * d_head;
    let width = padded(d_head);
    let (wide_keys, wide_values) = memory.split_at_mut(head_len);
    let widen = size_of::<K>() < size_of::<f32>() && tile.rows() >= WIDEN_QUERIES;
    let fetches = tile.rows() <= FETCH_QUERIES;
    let head = |block: usize| blocks[block] as usize * call.shape.n_kv_heads + kv_head;
    let part = |head: usize| head * head_len..(head + 1) * head_len;
    let range = tile.blocks();
    for number in range.clone() {
        let at = head(number);
        let Cached { keys, values, scales } = call.cached;
        let (keys, values) = (&keys[part(at)], &values[part(at)]);
        let scales = scales.map(|scales| {
            let [(keys, _), (values, _)] = scales.map(|scales| scales.as_chunks::<KEYS>());
            Scales { keys: &keys[at], values: &values[at] }
        });
        let mut ahead: &[K] = &[];
        if fetches {
            fetch(values);
            if number + 1 < range.end {
                ahead = &call.cached.keys[part(head(number + 1))];
            }
        }
        if !widen && width == d_head {
            tile.absorb(s, &Block { number, keys, values, value_width: width, scales, ahead });
            continue;
        }
        // Behind the last position that is seen there may be anything.
        let seen = KEYS.min(tile.end() - number * KEYS);
        widen_rows(s, values, d_head, (seen, d_head), wide_values, width);
        let values: &[f32] = wide_values;
        if widen {
            widen_rows(s, keys, head_len, (1, head_len), wide_keys, head_len);
            let keys: &[f32] = wide_keys;
            tile.absorb(s, &Block { number, keys, values, value_width: width, scales, ahead: &[] });
        } else {
            tile.absorb(s, &Block { number, keys, values, value_width: width, scales, ahead });
        }
    }
}

pub(crate) fn attention<E: CpuElem>(backend: &CpuBackend<E>, args: AttentionCached<'_, CpuBackend<E>>) {
    match args.cache {
        KvLayer::Elem { keys, values } => attention_over(backend, Cached { keys, values, scales: None }, args),
        KvLayer::F16 { keys, values } => attention_over(backend, Cached { keys, values, scales: None }, args),
        KvLayer::Int8 { keys, values, key_scales, value_scales } => {
            attention_over(backend, Cached { keys, values, scales: Some([key_scales, value_scales]) }, args);
        }
    }
}

fn attention_over<E: CpuElem, K: Stored>(
    backend: &CpuBackend<E>,
    cached: Cached<'_, K>,
    args: AttentionCached<'_, CpuBackend<E>>,
) {
    let AttentionCached { qkv, out, batch, n_heads, window, scale, shape, .. } = args;
    let rows = batch.rows;
    let call = Call {
        qkv,
        cached,
        sequences: &batch.sequences[..rows],
        positions: &batch.positions[..rows],
        block_table: batch.block_table,
        max_blocks: batch.max_blocks,
        n_heads,
        window,
        scale,
        shape,
    };
    call.check_ids();
    let out_width = n_heads * shape.d_head;
    if rows == 0 || out_width == 0 {
        return;
    }
    let task_rows = rows * shape.n_kv_heads / (TASKS_PER_THREAD * backend.pool().n_threads());
    let task_rows = task_rows.clamp(1, MAX_ROWS);
    let parts =
        GridMut::new(&mut out[..rows * out_width], out_width).tiles(rows, task_rows, out_width / shape.n_kv_heads);
    backend.pool().for_each(parts, |task, worker, out| {
        backend.scratch().with(worker, memory_len(shape.d_head), |memory| {
            backend.isa().dispatch(Rows { call, kv_head: task % shape.n_kv_heads, out, memory });
        });
    });
}

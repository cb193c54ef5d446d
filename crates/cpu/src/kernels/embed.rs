//! Token and position embedding.

use verve_ops::args::{Embed, EmbedBackward};

use super::check_ids;
use crate::pool::{ChunksMut, GridMut, Tile};
use crate::simd::{Kernel, Simd};
use crate::{CpuBackend, CpuElem};

/// Elements of the rows of one task of the forward, about.
const TASK: usize = 16 * 1024;

/// Columns of one task of the backward: whole cache lines, and enough tasks for many threads.
const TASK_COLS: usize = 64;

struct AddRows<'a, E> {
    a: &'a [E],
    b: &'a [E],
    out: &'a mut [E],
}

impl<E: CpuElem> Kernel for AddRows<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { a, b, out } = self;
        assert!(a.len() == out.len() && b.len() == out.len());
        let mut i = 0;
        while i < out.len() {
            E::store(s, s.add(E::load(s, &a[i..]), E::load(s, &b[i..])), &mut out[i..]);
            i += S::LANES;
        }
    }
}

pub(crate) fn forward<E: CpuElem>(backend: &CpuBackend<E>, args: Embed<'_, CpuBackend<E>>) {
    let Embed { tokens, positions, table, pos_table, out, shape } = args;
    let (tokens, positions) = (&tokens[..shape.rows], &positions[..shape.rows]);
    check_ids("embed", "tokens", tokens, shape.n_vocab);
    if pos_table.is_some() {
        check_ids("embed", "positions", positions, shape.n_positions);
    }
    let cols = shape.d_model;
    if cols == 0 {
        return;
    }
    let task_rows = (TASK / cols).max(1);
    let out = &mut out[..shape.rows * cols];
    backend.pool().for_each(ChunksMut::new(out, task_rows * cols), |task, _, out| {
        for (i, out) in out.chunks_exact_mut(cols).enumerate() {
            let n = task * task_rows + i;
            let row = &table[tokens[n] as usize * cols..][..cols];
            match pos_table {
                None => out.copy_from_slice(row),
                Some(pos) => {
                    let b = &pos[positions[n] as usize * cols..][..cols];
                    backend.isa().dispatch(AddRows { a: row, b, out });
                }
            }
        }
    });
}

/// `d_table[ids[n]][columns] += d_out[n][columns]` for all `n` in increasing order.
struct ScatterAdd<'a, 't, E> {
    ids: &'a [u32],
    d_out: &'a [E],
    /// Width of `d_out`.
    width: usize,
    /// First column.
    from: usize,
    d_table: Tile<'t, f32>,
}

impl<E: CpuElem> Kernel for ScatterAdd<'_, '_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { ids, d_out, width, from, mut d_table } = self;
        let cols = d_table.cols();
        for (id, row) in ids.iter().zip(d_out.chunks_exact(width)) {
            let row = &row[from..][..cols];
            let sum = d_table.row(*id as usize);
            let mut i = 0;
            while i < cols {
                let y = s.add(s.load(&sum[i..]), E::load(s, &row[i..]));
                s.store(y, &mut sum[i..]);
                i += S::LANES;
            }
        }
    }
}

/// The split is over columns, so that each element is summed by one task in increasing `n`.
fn scatter_add<E: CpuElem>(backend: &CpuBackend<E>, ids: &[u32], d_out: &[E], d_table: &mut [f32], cols: usize) {
    let whole = cols / TASK_COLS * TASK_COLS;
    let (body, tail) = GridMut::new(d_table, cols).split_columns(whole);
    let add = |from, d_table| backend.isa().dispatch(ScatterAdd { ids, d_out, width: cols, from, d_table });
    if whole > 0 {
        let rows = body.rows();
        let body = body.tiles(rows, rows, TASK_COLS);
        backend.pool().for_each(body, |task, _, d_table| add(task * TASK_COLS, d_table));
    }
    if whole < cols {
        backend.pool().for_each(tail, |_, _, d_table| add(whole, d_table));
    }
}

pub(crate) fn backward<E: CpuElem>(backend: &CpuBackend<E>, args: EmbedBackward<'_, CpuBackend<E>>) {
    let EmbedBackward { tokens, positions, d_out, d_table, d_pos_table, shape } = args;
    check_ids("embed_backward", "tokens", tokens, shape.n_vocab);
    if d_pos_table.is_some() {
        check_ids("embed_backward", "positions", positions, shape.n_positions);
    }
    if shape.d_model == 0 || shape.rows == 0 {
        return;
    }
    scatter_add(backend, tokens, d_out, d_table, shape.d_model);
    if let Some(d_pos_table) = d_pos_table {
        scatter_add(backend, positions, d_out, d_pos_table, shape.d_model);
    }
}

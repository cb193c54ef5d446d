//! The blocked driver of all products: cuts `[rows, k] . [cols, k]^T` in blocks that fit the caches, packs them, hands
//! tiles to the pool and finishes the sums.
//!
//! The column operand is packed once per call (in chunks of at most [`CHUNK_UNITS`]) by all workers; then every task takes
//! some row tiles and some panels. Inside a task `k` runs in blocks; a panel's block stays in the near caches while the row
//! tiles of the task pass by, and meanwhile the next panel is asked for. Each sum continues from block to block by loading
//! what the last block stored, so that it is one chain in increasing `k` however the product is cut.
//!
//! A task packs its own rows if they need it, except in gradients of weights: there rows run across memory, and pieces of
//! the width of one task would be read at a fraction of the memory's speed. All workers pack all rows of a block of `k`.

use std::ops::Range;

use super::finish::{Finish, Sums};
use super::pack::{self, Block};
use super::plan::{BLOCK_UNITS, Plan, ROW_PADDING, TASK_SUMS, TASK_TILES, Way};
use super::quant::{self, Panels};
use super::tile::{LINE, Rows, TileArgs, TileSet};
use super::view::{Order, Unit, View};
use crate::isa::Isa;
use crate::pool::{Pool, Scratch, SharedMut};
use crate::simd::prefetch;

/// Tasks for each worker, so that a late one does not leave the others idle for long.
const TASKS_PER_WORKER: usize = 4;
/// Row tiles that one packing task writes, at most: as many as fit side by side in the L1 cache.
const PACK_TILES: usize = 32;
/// Units that one packing task writes.
const PACK_UNITS: usize = 1 << 15;

/// What a product runs on.
#[derive(Clone, Copy)]
pub(super) struct Machine<'a> {
    pub(super) isa: Isa,
    pub(super) pool: &'a Pool,
    pub(super) scratch: &'a Scratch,
}

/// The operand whose index runs along the columns of the result.
#[derive(Clone, Copy)]
pub(super) enum Columns<'a> {
    /// `[cols, k]` in memory.
    View(View<'a>),
    /// Panels of the product's units, `[panel][unit of k][nr]`.
    Panels(&'a [u32]),
    /// The same with pairs, for a product in `f32`.
    PairPanels(&'a [u32]),
    /// Quantised, for a product in `f32`.
    Quantised(&'a Panels),
}

/// `[rows, cols] = a [rows, k] . b [cols, k]^T`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) k: usize,
    pub(super) unit: Unit,
    pub(super) a: View<'a>,
    pub(super) b: Columns<'a>,
}

/// Where the sums go.
pub(super) enum Target<'a, F> {
    /// Every chain starts at zero and is finished once.
    Finish(F),
    /// Every chain starts at the old value of `out[row * width + col]` and ends there.
    Accumulate {
        out: SharedMut<'a, f32>,
        width: usize,
        /// `row_sums[row] += sum over k of a(row, k)`, in the same order.
        row_sums: Option<SharedMut<'a, f32>>,
    },
}

/// Runs a product.
///
/// # Panics
/// If an operand does not hold what its sizes say.
pub(super) fn multiply<F: Finish>(machine: Machine<'_>, product: &Product<'_>, target: &Target<'_, F>) {
    let &Product { rows, cols, k, unit, a, b } = product;
    if rows == 0 || cols == 0 {
        return;
    }
    let tiles = TileSet::of(machine.isa, unit);
    let units = unit.count(k);
    a.check(rows, k);
    match b {
        Columns::View(view) => view.check(cols, k),
        Columns::Panels(panels) => assert_eq!(panels.len(), cols.div_ceil(tiles.nr) * tiles.nr * units, "panels"),
        Columns::PairPanels(panels) => {
            assert_eq!(panels.len(), cols.div_ceil(tiles.nr) * tiles.nr * Unit::Pair.count(k), "panels of pairs");
        }
        Columns::Quantised(panels) => {
            assert!(unit == Unit::F32 && panels.rows == cols && panels.d_in == k, "quantised panels");
        }
    }
    if let Target::Accumulate { out, width, row_sums } = target {
        assert!(cols <= *width && (rows - 1) * width + cols <= out.len(), "product: output too small");
        if let Some(sums) = row_sums {
            assert!(sums.len() >= rows, "product: row sums too small");
            assert_eq!(a.order, Order::KOuter, "product: row sums are those of rows across memory");
        }
    }
    let plan = match (b, target) {
        (Columns::Panels(_), _) => Plan::panels(rows, cols, units, tiles),
        (_, Target::Finish(_)) => Plan::cut(rows, cols, units, tiles, Way::Finish),
        (_, Target::Accumulate { .. }) if a.order == Order::KOuter => {
            Plan::cut(rows, cols, units, tiles, Way::Gradient)
        }
        (_, Target::Accumulate { .. }) => Plan::cut(rows, cols, units, tiles, Way::Accumulate),
    };
    machine.scratch.shared(plan.shared_units(), |shared: &mut [u32]| {
        let (packed, partial) = shared.split_at_mut(plan.column_units + plan.row_units);
        let (packed, packed_rows) = packed.split_at_mut(plan.column_units);
        let partial = bytemuck::cast_slice_mut(partial);
        let run = Run { machine, product, tiles, target, plan };
        for first_col in (0..cols).step_by(plan.chunk_cols) {
            let cols = first_col..cols.min(first_col + plan.chunk_cols);
            for first_row in (0..rows).step_by(plan.chunk_rows) {
                let rows = first_row..rows.min(first_row + plan.chunk_rows);
                // An empty sum is still a sum: one chunk of nothing.
                for first_unit in (0..units.max(1)).step_by(plan.chunk_units) {
                    let units = first_unit..units.min(first_unit + plan.chunk_units);
                    let chunk = Chunk { rows: rows.clone(), cols: cols.clone(), units };
                    run.chunk(chunk, packed, packed_rows, partial);
                }
            }
        }
    });
}

/// A part of the product that is computed between two packings of the column operand.
struct Chunk {
    rows: Range<usize>,
    cols: Range<usize>,
    units: Range<usize>,
}

/// The packed operands of a chunk.
#[derive(Clone, Copy)]
struct Packed<'a> {
    panels: &'a [u32],
    /// If the plan says so.
    rows: &'a [u32],
}

/// A part of a chunk: row tiles and panels, counted inside the chunk.
struct Task {
    tiles: Range<usize>,
    panels: Range<usize>,
}

struct Run<'a, 'b, F> {
    machine: Machine<'a>,
    product: &'a Product<'a>,
    tiles: &'static TileSet,
    target: &'a Target<'b, F>,
    plan: Plan,
}

impl<F: Finish> Run<'_, '_, F> {
    fn chunk(&self, chunk: Chunk, packed: &mut [u32], packed_rows: &mut [u32], partial: &mut [f32]) {
        let (mr, nr) = (self.tiles.mr, self.tiles.nr);
        self.pack(&chunk, packed, packed_rows);
        let panels = match self.product.b {
            Columns::Panels(panels) => panels,
            Columns::View(_) | Columns::PairPanels(_) | Columns::Quantised(_) => packed,
        };
        let operands = Packed { panels, rows: packed_rows };
        let n_tiles = chunk.rows.len().div_ceil(mr);
        let n_panels = chunk.cols.len().div_ceil(nr);
        let workers = self.machine.pool.n_threads();
        let wanted = if workers == 1 { 1 } else { workers * TASKS_PER_WORKER };
        let row_tasks = n_tiles.div_ceil(TASK_TILES);
        // Few rows: the columns are cut as well.
        let one_block = chunk.units.len() <= BLOCK_UNITS;
        let most_panels = if one_block { n_panels } else { (TASK_SUMS / (TASK_TILES * mr * nr)).max(1) };
        let col_tasks = wanted.div_ceil(row_tasks).max(n_panels.div_ceil(most_panels)).min(n_panels);
        let row_tasks = if col_tasks == 1 { row_tasks.next_multiple_of(workers).min(n_tiles) } else { row_tasks };
        let partial = SharedMut::new(partial);
        let part = |n: usize, parts: usize, index: usize| n * index / parts..n * (index + 1) / parts;
        self.machine.pool.run(row_tasks * col_tasks, &|index, worker| {
            let task = Task {
                tiles: part(n_tiles, row_tasks, index / col_tasks),
                panels: part(n_panels, col_tasks, index % col_tasks),
            };
            self.task(&chunk, &task, operands, &partial, worker);
        });
    }

    /// Packs the chunk's columns, and its rows if all workers do that together.
    fn pack(&self, chunk: &Chunk, packed: &mut [u32], packed_rows: &mut [u32]) {
        let (mr, nr) = (self.tiles.mr, self.tiles.nr);
        let units = chunk.units.len();
        if units == 0 {
            return;
        }
        let is_packed = matches!(self.product.b, Columns::Panels(_));
        let n_panels = if is_packed { 0 } else { chunk.cols.len().div_ceil(nr) };
        let n_tiles = if self.plan.packs_rows { chunk.rows.len().div_ceil(mr) } else { 0 };
        let per_task = (PACK_UNITS / (nr * units)).max(1);
        let col_tasks = n_panels.div_ceil(per_task);
        let workers = self.machine.pool.n_threads();
        let tiles_per_task = n_tiles.div_ceil(workers).clamp(1, PACK_TILES);
        let (packed, packed_rows) = (SharedMut::new(packed), SharedMut::new(packed_rows));
        self.machine.pool.run(col_tasks + n_tiles.div_ceil(tiles_per_task), &|index, _| {
            if index < col_tasks {
                let panels = index * per_task..n_panels.min((index + 1) * per_task);
                // SAFETY: each task has panels of its own.
                let dst = unsafe { packed.range_mut(panels.start * nr * units..panels.end * nr * units) };
                self.pack_panels(chunk, panels, dst);
            } else {
                let first = (index - col_tasks) * tiles_per_task;
                let tiles = first..n_tiles.min(first + tiles_per_task);
                // SAFETY: each task has tiles of its own.
                let dst = unsafe { packed_rows.range_mut(tiles.start * mr * units..tiles.end * mr * units) };
                let rows = chunk.rows.start + tiles.start * mr..chunk.rows.end.min(chunk.rows.start + tiles.end * mr);
                self.pack_row_panels(&chunk.units, &rows, chunk.cols.start == 0, dst);
            }
        });
    }

    /// Packs some panels of the chunk's columns.
    fn pack_panels(&self, chunk: &Chunk, panels: Range<usize>, dst: &mut [u32]) {
        let (nr, units) = (self.tiles.nr, chunk.units.len());
        match self.product.b {
            Columns::View(view) => {
                let first = chunk.cols.start + panels.start * nr;
                let items = first..chunk.cols.end.min(chunk.cols.start + panels.end * nr);
                let k = self.elements(&chunk.units);
                pack::panels(self.machine.isa, &Block { view, unit: self.product.unit, items, k }, nr, dst);
            }
            Columns::PairPanels(pairs) => {
                let all = Unit::Pair.count(self.product.k);
                for (panel, dst) in panels.zip(dst.chunks_exact_mut(nr * units)) {
                    let panel = chunk.cols.start / nr + panel;
                    let first = (panel * all + chunk.units.start / 2) * nr;
                    let src = &pairs[first..][..units.div_ceil(2) * nr];
                    pack::widen_pairs(self.machine.isa, src, nr, dst);
                }
            }
            Columns::Quantised(all) => {
                for (panel, dst) in panels.zip(dst.chunks_exact_mut(nr * units)) {
                    quant::widen(self.machine.isa, all, chunk.cols.start / nr + panel, chunk.units.clone(), dst);
                }
            }
            Columns::Panels(_) => {}
        }
    }

    /// Packs some rows that run across memory, and adds them to the row sums if asked to.
    fn pack_row_panels(&self, units: &Range<usize>, rows: &Range<usize>, sums_too: bool, dst: &mut [u32]) {
        let (mr, unit, isa) = (self.tiles.mr, self.product.unit, self.machine.isa);
        let block = Block { view: self.product.a, unit, items: rows.clone(), k: self.elements(units) };
        pack::panels(isa, &block, mr, dst);
        if let Target::Accumulate { row_sums: Some(sums), .. } = self.target
            && sums_too
            && !units.is_empty()
        {
            // SAFETY: only the one task with these rows and the first columns comes here.
            let sums = unsafe { sums.range_mut(rows.clone()) };
            for (panel, sums) in dst.chunks_exact(mr * units.len()).zip(sums.chunks_mut(mr)) {
                pack::add_panel_sums(isa, unit, panel, mr, sums);
            }
        }
    }

    /// The elements along `k` that some units hold.
    fn elements(&self, units: &Range<usize>) -> Range<usize> {
        let per_unit = self.product.unit.elements();
        (units.start * per_unit).min(self.product.k)..(units.end * per_unit).min(self.product.k)
    }

    fn task(&self, chunk: &Chunk, task: &Task, packed: Packed<'_>, partial: &SharedMut<'_, f32>, worker: usize) {
        let (mr, nr) = (self.tiles.mr, self.tiles.nr);
        let rows = chunk.rows.start + task.tiles.start * mr..chunk.rows.end.min(chunk.rows.start + task.tiles.end * mr);
        let n_blocks = chunk.units.len().div_ceil(BLOCK_UNITS).max(1);
        let block_units = chunk.units.len().div_ceil(n_blocks);
        let direct = self.product.a.direct(self.product.unit, self.product.k);
        let a_len = if direct.is_some() || self.plan.packs_rows {
            0
        } else {
            task.tiles.len() * mr * (block_units + ROW_PADDING)
        };
        let keeps_sums = n_blocks > 1 && self.whole_k(chunk) && matches!(self.target, Target::Finish(_));
        let sums_len = if keeps_sums { task.tiles.len() * mr * task.panels.len() * nr } else { 0 };
        self.machine.scratch.with(worker, a_len + sums_len + mr * nr, |memory: &mut [u32]| {
            // In this order all begin at cache lines.
            let (sums, a_block) = memory.split_at_mut(mr * nr + sums_len);
            let (edge, sums) = bytemuck::cast_slice_mut(sums).split_at_mut(mr * nr);
            // Partial sums between blocks of `k`: the task's own, or those that wait for the next chunk.
            let kept = if self.whole_k(chunk) {
                Kept {
                    sums: sums.as_mut_ptr(),
                    row: task.tiles.start * mr,
                    col: task.panels.start * nr,
                    pitch: task.panels.len() * nr,
                }
            } else {
                Kept { sums: partial.as_mut_ptr(), row: 0, col: 0, pitch: self.plan.chunk_cols }
            };
            for block in 0..n_blocks {
                let first = chunk.units.start + block * block_units;
                let units = first..chunk.units.end.min(first + block_units);
                let a = match direct {
                    Some((a, a_row)) => RowUnits {
                        layout: Rows::Strided,
                        // SAFETY: `View::check` has found all rows inside the operand.
                        first: unsafe { a.add(rows.start * a_row + units.start) },
                        pitch: a_row,
                    },
                    None if self.plan.packs_rows => RowUnits {
                        layout: Rows::Panel,
                        first: packed.rows[task.tiles.start * mr * units.len()..].as_ptr(),
                        pitch: 0,
                    },
                    None => self.pack_rows(&rows, &units, a_block),
                };
                self.block(&Step { chunk, task, rows: &rows, units, a, kept }, packed.panels, edge);
            }
        });
    }

    /// True if the chunk holds all of `k`.
    fn whole_k(&self, chunk: &Chunk) -> bool {
        chunk.units.len() == self.product.unit.count(self.product.k)
    }

    /// Packs a task's rows for one block of `k`.
    fn pack_rows(&self, rows: &Range<usize>, units: &Range<usize>, dst: &mut [u32]) -> RowUnits {
        let (view, unit) = (self.product.a, self.product.unit);
        if view.order == Order::KInner {
            let pitch = units.len() + ROW_PADDING;
            let block = Block { view, unit, items: rows.clone(), k: self.elements(units) };
            pack::rows(self.machine.isa, &block, pitch, dst);
            return RowUnits { layout: Rows::Strided, first: dst.as_ptr(), pitch };
        }
        self.pack_row_panels(units, rows, false, dst);
        RowUnits { layout: Rows::Panel, first: dst.as_ptr(), pitch: 0 }
    }

    /// All tiles of a task over one block of `k`: panel by panel, the row tiles inside.
    fn block(&self, step: &Step<'_>, panels: &[u32], edge: &mut [f32]) {
        let (mr, nr) = (self.tiles.mr, self.tiles.nr);
        let Step { chunk, task, rows, units, a, kept } = step;
        let panel_len = nr * chunk.units.len();
        let is_first = units.start == 0;
        let is_last = units.end == self.product.unit.count(self.product.k);
        for panel in task.panels.clone() {
            let b = &panels[panel * panel_len..][(units.start - chunk.units.start) * nr..][..units.len() * nr];
            let col = chunk.cols.start + panel * nr;
            let cols = nr.min(chunk.cols.end - col);
            let next = if panel + 1 < task.panels.end { b.as_ptr().wrapping_add(panel_len) } else { b.as_ptr() };
            for (index, row) in (rows.start..rows.end).step_by(mr).enumerate() {
                let tile_rows = mr.min(rows.end - row);
                let (tile, tile_cols) = self.tiles.tile(a.layout, tile_rows, cols);
                let a_offset = match a.layout {
                    Rows::Strided => index * mr * a.pitch,
                    Rows::Panel => index * mr * units.len(),
                };
                let mut args = TileArgs {
                    k: units.len(),
                    // SAFETY: the tile's first row lies inside the operand (`View::check`) or the packed block.
                    a: unsafe { a.first.add(a_offset) },
                    a_row: a.pitch,
                    b: b.as_ptr(),
                    c_in: std::ptr::null(),
                    c_in_row: 0,
                    c_out: std::ptr::null_mut(),
                    c_out_row: nr,
                    // The first tiles bring the next panel from far caches.
                    ahead: if index < nr.div_ceil(LINE) { next.wrapping_add(index * units.len() * LINE) } else { next },
                };
                match self.target {
                    Target::Accumulate { out, width, .. } => {
                        let at = row * width + col;
                        for row in row + mr..rows.end.min(row + 2 * mr) {
                            for c in (0..cols).step_by(LINE) {
                                prefetch(out.as_mut_ptr().wrapping_add(row * width + col + c));
                            }
                        }
                        if tile_cols == cols {
                            // SAFETY: `multiply` has checked the output against the product's sizes.
                            args.c_out = unsafe { out.as_mut_ptr().add(at) };
                            args.c_out_row = *width;
                        } else {
                            for r in 0..tile_rows {
                                // SAFETY: this task's own rows and columns.
                                let old = unsafe { out.range_mut(at + r * width..at + r * width + cols) };
                                edge[r * nr..][..cols].copy_from_slice(old);
                            }
                            args.c_out = edge.as_mut_ptr();
                        }
                        args.c_in = args.c_out;
                        args.c_in_row = args.c_out_row;
                        // SAFETY: the set belongs to this `Isa`; `a`, `b` hold the block (checked by `View::check`, by
                        // the slicing of `b`, by the packing), the sums are inside the output or the edge buffer, and
                        // no other task has these rows and columns.
                        unsafe { tile(&args) };
                        if tile_cols != cols {
                            for r in 0..tile_rows {
                                // SAFETY: as above.
                                let new = unsafe { out.range_mut(at + r * width..at + r * width + cols) };
                                new.copy_from_slice(&edge[r * nr..][..cols]);
                            }
                        }
                    }
                    Target::Finish(finish) => {
                        let tile_row = task.tiles.start * mr + index * mr;
                        let at = (tile_row - kept.row) * kept.pitch + panel * nr - kept.col;
                        if !is_first {
                            // SAFETY: partial sums have room for all row tiles and panels of the task or chunk.
                            args.c_in = unsafe { kept.sums.add(at) };
                            args.c_in_row = kept.pitch;
                        }
                        if is_last {
                            finish.prefetch(row..row + tile_rows, col..col + cols);
                            args.c_out = edge.as_mut_ptr();
                        } else {
                            // SAFETY: as above.
                            args.c_out = unsafe { kept.sums.add(at) };
                            args.c_out_row = kept.pitch;
                        }
                        // SAFETY: as for the accumulating target.
                        unsafe { tile(&args) };
                        if is_last {
                            let sums = Sums { values: edge, pitch: nr, row, rows: tile_rows, col, cols };
                            // SAFETY: no other task has these rows and columns.
                            unsafe { finish.finish(self.machine.isa, &sums) };
                        }
                    }
                }
            }
        }
    }
}

/// A task's rows as units, for one block of `k`.
#[derive(Clone, Copy)]
struct RowUnits {
    layout: Rows,
    first: *const u32,
    /// Units between rows, if they are strided.
    pitch: usize,
}

/// Partial sums between blocks of `k`; the first is that of tile row `row` and column `col` of the chunk.
#[derive(Clone, Copy)]
struct Kept {
    sums: *mut f32,
    row: usize,
    col: usize,
    pitch: usize,
}

/// One block of `k` of a task.
struct Step<'a> {
    chunk: &'a Chunk,
    task: &'a Task,
    rows: &'a Range<usize>,
    units: Range<usize>,
    a: RowUnits,
    kept: Kept,
}

//! How a product is cut in chunks, and the memory that takes.

use super::quant::STEP;
use super::tile::TileSet;

/// Most units of the column operand packed at once: 4 MiB, shared by all workers, in the L2 or L3 cache.
const CHUNK_UNITS: usize = 1 << 20;
/// Columns that a chunk has at least before `k` is cut as well.
const CHUNK_COLS: usize = 256;
/// Most partial sums that wait for the next chunk of `k`: 2 MiB.
const PARTIAL_SUMS: usize = 1 << 19;
/// Most units of `k` in one block: a panel of them is about an L1 cache. It need not stay there, as the next lines of it
/// are known long before they are needed; longer blocks make fewer partial sums.
pub(super) const BLOCK_UNITS: usize = 384;
/// Row tiles of one task, at most.
pub(super) const TASK_TILES: usize = 9;
/// Most partial sums of one task between blocks of `k`: 256 KiB, in the L2 cache.
pub(super) const TASK_SUMS: usize = 1 << 16;
/// Most units of packed rows at once, in gradients of weights: 8 MiB.
const CHUNK_ROW_UNITS: usize = 1 << 21;
/// Between the rows of a block of rows, so that they do not fall on the same cache sets.
pub(super) const ROW_PADDING: usize = 16;

/// What happens to the sums of a product, as far as cutting it depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// They are finished once all of `k` has been added.
    Finish,
    /// They start at old values and are stored after each part of `k`.
    Accumulate,
    /// As [`Way::Accumulate`], with rows that run across memory: they are packed before the tasks, by all workers.
    Gradient,
}

/// How a product is cut in chunks. Has no influence on the result.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) chunk_rows: usize,
    pub(super) chunk_cols: usize,
    pub(super) chunk_units: usize,
    /// Whether the rows of a chunk are packed before its tasks, by all workers.
    pub(super) packs_rows: bool,
    /// Room for the packed columns of a chunk, for its packed rows, and for sums that wait for the next chunk.
    pub(super) column_units: usize,
    pub(super) row_units: usize,
    partial_sums: usize,
}

impl Plan {
    /// Columns that are packed already.
    pub(super) fn panels(rows: usize, cols: usize, units: usize, tiles: &TileSet) -> Plan {
        Plan {
            chunk_rows: rows,
            chunk_cols: cols.next_multiple_of(tiles.nr),
            chunk_units: units.max(1),
            packs_rows: false,
            column_units: 0,
            row_units: 0,
            partial_sums: 0,
        }
    }

    /// Columns that have to be packed.
    pub(super) fn cut(rows: usize, cols: usize, units: usize, tiles: &TileSet, way: Way) -> Plan {
        let units = units.max(1);
        let all_cols = cols.next_multiple_of(tiles.nr);
        let round = |cols: usize| (cols / tiles.nr * tiles.nr).max(tiles.nr);
        // Equal parts. Whole steps of quantised panels, and so even: widened pairs are not cut.
        let part = |most: usize| units.div_ceil(units.div_ceil(most)).next_multiple_of(STEP);
        let packs_rows = way == Way::Gradient;
        let (least_cols, most_units) = if packs_rows { (0, part(BLOCK_UNITS)) } else { (CHUNK_COLS, units) };
        let chunk_cols = round(CHUNK_UNITS / most_units).max(round(least_cols)).min(all_cols);
        let chunk_cols = all_cols.div_ceil(all_cols.div_ceil(chunk_cols)).next_multiple_of(tiles.nr);
        let round = |rows: usize| (rows / tiles.mr * tiles.mr).max(tiles.mr);
        let chunk_units = if packs_rows { most_units } else { part((CHUNK_UNITS / chunk_cols).max(BLOCK_UNITS)) };
        let waits = chunk_units < units && way == Way::Finish;
        let chunk_rows = match (packs_rows, waits) {
            (true, _) => round(CHUNK_ROW_UNITS / most_units).min(rows),
            (_, true) => round(PARTIAL_SUMS / chunk_cols),
            _ => rows,
        };
        Plan {
            chunk_rows,
            chunk_cols,
            chunk_units,
            packs_rows,
            column_units: chunk_cols * chunk_units,
            row_units: if packs_rows { chunk_rows.next_multiple_of(tiles.mr) * chunk_units } else { 0 },
            partial_sums: if waits { chunk_rows.min(rows) * chunk_cols } else { 0 },
        }
    }

    /// Words of memory that all workers share.
    pub(super) fn shared_units(&self) -> usize {
        self.column_units + self.row_units + self.partial_sums
    }
}

/// Most words of memory that a worker takes for a task: a packed block of rows, sums between blocks, an edge tile.
pub(super) fn task_units(tiles: &TileSet) -> usize {
    TASK_TILES * tiles.mr * (BLOCK_UNITS + ROW_PADDING) + TASK_SUMS + tiles.mr * tiles.nr
}

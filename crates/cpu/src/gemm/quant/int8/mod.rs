//! Products of quantised weights with 8-bit activations, as [`verve_ops::quant::int8`] defines them.
//!
//! Activations are rounded once for all panels ([`rows`]). Then each panel is read once: tiles of rows go past it while it is
//! in the cache ([`kernel`], [`dot`]). There is no other way for many rows: where several tiles need a panel, its codes are
//! first brought into bytes. Every output is computed in the same order by every kernel, so that results depend neither on
//! the number of rows nor on threads nor on the level.

mod dot;
mod kernel;
mod rows;

use std::ops::Range;

use verve_ops::quant::ACTIVATION_BLOCK;

use self::kernel::{Args, KernelSet, MOST_ROWS, Wide, wide_words};
use self::rows::{BLOCK_WORDS, Correction, QuantizeRows};
use super::panels::STEP;
use super::{Panels, Quantised, panel_width};
use crate::gemm::finish::{Finish, Sums};
use crate::pool::{ChunksMut, Pool};
use crate::simd::{Kernel, LINE_BYTES, Simd};
use crate::{CpuBackend, CpuElem};

/// Values of activations that are rounded in one task, at most and about; fewer are rounded by the caller alone.
const ROUND_TASK: usize = 1 << 12;
/// Bytes of panels in one task, at least, and tasks for each worker, at most.
const TASK_BYTES: usize = 12 << 10;
const TASKS_PER_WORKER: usize = 12;
/// Tiles of rows in one task, at least, where rows are divided as well.
const TASK_TILES: usize = 8;

/// Formats of a weight, at most, for planning: the three tensors of query, key and value.
const FORMATS: usize = 3;

/// Most words of memory that a product takes: shared by all workers, and of each.
pub(super) fn scratch_words(rows: usize, d_in: usize, nr: usize) -> (usize, usize) {
    (FORMATS * 2 * rows * (d_in / ACTIVATION_BLOCK * BLOCK_WORDS), MOST_ROWS * nr + wide_words(nr, d_in))
}

/// What the formats of a weight need to know of the activations, see [`Correction`]; all differ.
pub(super) struct Corrections(Vec<Correction>);

impl Corrections {
    /// Those of some parts.
    pub(super) fn of(parts: &[Panels]) -> Corrections {
        let mut all = Vec::new();
        for correction in parts.iter().map(|part| Correction::new(&part.form)) {
            if !all.contains(&correction) {
                all.push(correction);
            }
        }
        Corrections(all)
    }

    fn index(&self, panels: &Panels) -> usize {
        let correction = Correction::new(&panels.form);
        self.0.iter().position(|known| *known == correction).unwrap_or_default()
    }
}

/// In how many parts activations are rounded: each is a row for the kernels, and the outputs of a row's parts are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parts {
    /// 8 bits.
    One,
    /// 16 bits: high part and low part.
    Two,
}

impl Parts {
    fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// `out = finish(inp . weight^T)`.
pub(super) fn product<E: CpuElem, F: Finish>(
    backend: &CpuBackend<E>,
    inp: &[E],
    weight: &Quantised,
    (corrections, in_parts): (&Corrections, Parts),
    rows: usize,
    finish: F,
) {
    let d_in = weight.d_in;
    let inp = &inp[..rows * d_in];
    let row_words = d_in / ACTIVATION_BLOCK * BLOCK_WORDS;
    let all_words = rows * in_parts.count() * row_words;
    backend.scratch().shared(corrections.0.len() * all_words, |blocks: &mut [u32]| {
        for (i, &correction) in corrections.0.iter().enumerate() {
            let rows =
                QuantizeRows { rows: inp, d_in, correction, in_parts, out: &mut blocks[i * all_words..][..all_words] };
            round(backend, rows);
        }
        let blocks = &*blocks;
        Int8 { backend, weight, corrections, in_parts, blocks, row_words, rows, finish }.run();
    });
}

/// Rounds rows to blocks.
fn round<E: CpuElem>(backend: &CpuBackend<E>, all: QuantizeRows<'_, E>) {
    let isa = backend.isa();
    let QuantizeRows { rows: inp, d_in, correction, in_parts, out } = all;
    if inp.len() <= ROUND_TASK {
        return isa.dispatch(QuantizeRows { rows: inp, d_in, correction, in_parts, out });
    }
    // Tasks of the same size.
    let rows = inp.len() / d_in;
    let chunk = rows.div_ceil(inp.len().div_ceil(ROUND_TASK)).max(1) * d_in;
    let words = chunk / ACTIVATION_BLOCK * BLOCK_WORDS * in_parts.count();
    backend.pool().for_each(ChunksMut::new(out, words), |task, _, out| {
        let rows = &inp[task * chunk..inp.len().min((task + 1) * chunk)];
        isa.dispatch(QuantizeRows { rows, d_in, correction, in_parts, out });
    });
}

/// A product whose activations have been rounded.
struct Int8<'a, E: CpuElem, F> {
    backend: &'a CpuBackend<E>,
    weight: &'a Quantised,
    corrections: &'a Corrections,
    in_parts: Parts,
    /// All rows, part by part, for each of the corrections.
    blocks: &'a [u32],
    row_words: usize,
    rows: usize,
    finish: F,
}

/// How a product is divided into tasks: ranges of panels times ranges of rows.
struct Division {
    panels: usize,
    rows: usize,
}

impl Division {
    fn new(pool: &Pool, parts: &[Panels], n_panels: usize, rows: usize, tile: usize) -> Division {
        let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
        let wanted = pool.n_threads() * TASKS_PER_WORKER;
        // With several tiles of rows a panel is work enough.
        let most = if rows <= tile { bytes.div_ceil(TASK_BYTES).min(n_panels) } else { n_panels };
        let panels = most.min(wanted).max(1);
        let rows = (wanted / panels).min(rows / (TASK_TILES * tile)).max(1);
        Division { panels, rows }
    }
}

impl<E: CpuElem, F: Finish> Int8<'_, E, F> {
    fn run(&self) {
        let pool = self.backend.pool();
        let parts = &self.weight.parts;
        let n_panels: usize = parts.iter().map(Panels::n_panels).sum();
        let Some(part) = parts.first() else { return };
        let most_rows = KernelSet::of(self.backend.isa(), part.form.kind).packed.len() / self.in_parts.count();
        let tasks = Division::new(pool, parts, n_panels, self.rows, most_rows);
        pool.run(tasks.panels * tasks.rows, &|task, worker| {
            let (panels, rows) = (task / tasks.rows, task % tasks.rows);
            let panels = n_panels * panels / tasks.panels..n_panels * (panels + 1) / tasks.panels;
            let rows = self.rows * rows / tasks.rows..self.rows * (rows + 1) / tasks.rows;
            // The panels of all parts are counted on; a task may have those of several.
            let (mut first, mut col) = (0, 0);
            for part in parts {
                let end = first + part.n_panels();
                let panels = panels.start.clamp(first, end) - first..panels.end.clamp(first, end) - first;
                if !panels.is_empty() {
                    self.part(part, panels, rows.clone(), col, worker);
                }
                (first, col) = (end, col + part.rows);
            }
        });
    }

    /// Some rows times some panels of a part that begins at output `col`.
    fn part(&self, part: &Panels, panels: Range<usize>, rows: Range<usize>, col: usize, worker: usize) {
        let isa = self.backend.isa();
        let set = KernelSet::of(isa, part.form.kind);
        let (nr, d_in, panel_bytes) = (part.form.nr, part.d_in, part.panel_bytes());
        // Row tiles of about equal size.
        let n_parts = self.in_parts.count();
        let n_tiles = rows.len().div_ceil(set.packed.len() / n_parts);
        let widen = set.widen.filter(|_| n_tiles > 1);
        let kernels = if widen.is_some() { set.wide } else { set.packed };
        let all_words = self.rows * n_parts * self.row_words;
        let blocks = &self.blocks[self.corrections.index(part) * all_words..];
        assert!(
            panels.end * panel_bytes <= part.bytes.len() && d_in == self.weight.d_in && nr == panel_width(isa),
            "8-bit product: panels"
        );
        assert!(rows.end <= self.rows && all_words <= blocks.len(), "8-bit product: rows");
        let sums_len = set.packed.len() * nr;
        let wide_len = if widen.is_some() { wide_words(nr, d_in) } else { 0 };
        self.backend.scratch().with(worker, sums_len + wide_len, |scratch: &mut [f32]| {
            let (sums, wide) = scratch.split_at_mut(sums_len);
            let n_codes = if widen.is_some() { nr * (d_in / 4) } else { 0 };
            let (codes, scales) = wide.split_at_mut(n_codes);
            let (scales, offsets) = scales.split_at_mut(scales.len() / 2);
            let wide =
                Wide { codes: codes.as_mut_ptr().cast(), scales: scales.as_mut_ptr(), offsets: offsets.as_mut_ptr() };
            let steps = d_in / STEP;
            // All tiles together ask for the next panel.
            let ahead_bytes = panel_bytes.div_ceil((n_tiles * steps).max(1)).next_multiple_of(LINE_BYTES);
            for panel in panels {
                let bytes = part.bytes[panel * panel_bytes..].as_ptr();
                let args = |tile: usize, rows: &Range<usize>, sums: &mut [f32]| Args {
                    panel: bytes,
                    wide,
                    ahead: bytes.wrapping_add(panel_bytes + tile * steps * ahead_bytes),
                    ahead_bytes: if tile * steps * ahead_bytes < panel_bytes { ahead_bytes } else { 0 },
                    steps,
                    rows: blocks[rows.start * n_parts * self.row_words..].as_ptr(),
                    row_words: self.row_words,
                    out: sums.as_mut_ptr(),
                    out_row: nr,
                };
                if let Some(widen) = widen {
                    // SAFETY: the set belongs to this `Isa` and form, whose width is that of the instruction set; the panel
                    // is there by the checks above, and there is room for `wide_words`.
                    unsafe { widen(&args(0, &rows, sums)) };
                }
                for tile in 0..n_tiles {
                    let first = rows.start + rows.len() * tile / n_tiles;
                    let rows = first..rows.start + rows.len() * (tile + 1) / n_tiles;
                    let cols = nr.min(part.rows - panel * nr);
                    let col = col + panel * nr;
                    self.finish.prefetch(rows.clone(), col..col + cols);
                    // SAFETY: as above; the rows are there by the checks above, and the sums have room for a tile.
                    unsafe { kernels[rows.len() * n_parts - 1](&args(tile, &rows, sums)) };
                    if self.in_parts == Parts::Two {
                        isa.dispatch(AddParts { sums: &mut sums[..rows.len() * 2 * nr], nr });
                    }
                    let sums = Sums { values: sums, pitch: nr, row: rows.start, rows: rows.len(), col, cols };
                    // SAFETY: no other task has this panel and these rows.
                    unsafe { self.finish.finish(isa, &sums) };
                }
            }
        });
    }
}

/// Adds the sums of the low part of each row to those of its high part, and puts the rows one behind the other.
struct AddParts<'a> {
    sums: &'a mut [f32],
    nr: usize,
}

impl Kernel for AddParts<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { sums, nr } = self;
        for row in 0..sums.len() / (2 * nr) {
            // What a row becomes lies before its parts, but for the first, which becomes its own high part.
            let (done, parts) = sums.split_at_mut(2 * row * nr);
            let (high, low) = parts[..2 * nr].split_at_mut(nr);
            high.iter_mut().zip(low).for_each(|(high, low)| *high += *low);
            if row > 0 {
                done[row * nr..][..nr].copy_from_slice(high);
            }
        }
    }
}

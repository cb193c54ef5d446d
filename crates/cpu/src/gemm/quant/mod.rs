//! Products with quantised weights.
//!
//! They are, by definition, the products of the activations, widened to `f32`, with the dequantised weights in `f32`, and
//! follow the order rule of [`gemm`](super): few rows and many give the same bits. [`panels`] repacks blocks, [`kernel`]
//! reads the panels. Few rows are multiplied with weights that exist in registers only; for many rows the blocked product
//! packs its columns as ever, by widening codes.
//!
//! [`int8`] has the products with 8-bit activations, from the same panels.

mod int8;
mod kernel;
mod panels;
mod vector;

use std::ops::Range;

use verve_ops::quant::{ActivationPrecision, QuantKind, QuantPart};
use verve_ops::{BackendError, LinearShape};

use self::kernel::{Args, KernelSet};
use self::panels::{Form, panels_bytes};
use super::finish::{Finish, Sums};
use super::machine;
use super::pack::{self, Block};
use super::plan::{Plan, Way, task_units};
use super::product::{Columns, Product, Target, multiply};
use super::tile::TileSet;
use super::view::{Order, Unit, View};
use crate::isa::Isa;
use crate::{CpuBackend, CpuElem};

pub(super) use self::panels::{Panels, STEP};

/// Up to here rows are taken a few at a time past each panel while it is in the cache; more are a blocked product.
const FEW_ROWS: usize = 24;
/// Tasks for each worker in a product of few rows.
const TASKS_PER_WORKER: usize = 4;

/// Outputs of a panel.
fn panel_width(isa: Isa) -> usize {
    TileSet::of(isa, Unit::F32).nr
}

/// Bytes of a weight of these formats and rows in panels.
pub(super) fn prepared_bytes(isa: Isa, parts: &[(QuantKind, usize)], d_in: usize) -> usize {
    parts.iter().map(|&(kind, rows)| panels_bytes(&Form::new(kind, panel_width(isa)), rows, d_in)).sum()
}

/// A quantised weight: parts one below the other.
pub(super) struct Quantised {
    pub(super) parts: Vec<Panels>,
    pub(super) d_in: usize,
    precision: Precision,
}

/// How products are computed.
enum Precision {
    Exact,
    /// With activations of 8 bits, in one part or two.
    Int8(int8::Corrections, int8::Parts),
}

impl Quantised {
    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Calls `store` with each value of a row and its index.
    pub(super) fn row(&self, mut row: usize, store: impl FnMut(usize, f32)) {
        for part in &self.parts {
            if row < part.rows {
                return part.row(row, store);
            }
            row -= part.rows;
        }
    }
}

/// Repacks parts whose sizes have been checked.
pub(super) fn prepare<E: CpuElem>(
    backend: &CpuBackend<E>,
    parts: &[QuantPart<'_>],
    d_in: usize,
    precision: ActivationPrecision,
) -> Result<Quantised, BackendError> {
    let nr = panel_width(backend.isa());
    let panels = |part| Panels::new(backend.pool(), nr, part, d_in);
    let parts = parts.iter().map(panels).collect::<Result<Vec<_>, _>>()?;
    let precision = match precision {
        ActivationPrecision::Exact => Precision::Exact,
        ActivationPrecision::Int8 => Precision::Int8(int8::Corrections::of(&parts), int8::Parts::One),
        ActivationPrecision::Int16 => Precision::Int8(int8::Corrections::of(&parts), int8::Parts::Two),
    };
    Ok(Quantised { parts, d_in, precision })
}

/// Stores values `k` of a panel as `f32`, `(k - k.start) * nr + o`.
///
/// # Panics
/// If there are no such values, or `dst` has no room for them.
pub(super) fn widen(isa: Isa, panels: &Panels, panel: usize, k: Range<usize>, dst: &mut [u32]) {
    let nr = panels.form.nr;
    assert!(panel < panels.n_panels() && k.end <= panels.d_in, "widen: no such values");
    assert!(k.start.is_multiple_of(STEP) && k.end.is_multiple_of(STEP), "widen: parts of steps");
    assert!(k.len() * nr <= dst.len() && nr == panel_width(isa), "widen: no room");
    let args = Args {
        form: &panels.form,
        panel: panels.bytes[panel * panels.panel_bytes()..].as_ptr(),
        panel_bytes: panels.panel_bytes(),
        first: k.start,
        last: k.end,
        a: std::ptr::null(),
        a_row: 0,
        out: dst.as_mut_ptr().cast(),
        out_row: 0,
    };
    // SAFETY: the set belongs to this `Isa` and form, whose width is that of the instruction set; the values are in the
    // panel and `dst` has room for them, by the checks above.
    unsafe { (KernelSet::of(isa, &panels.form).widen)(&args) }
}

/// `out = finish(inp . weight^T)` for a weight of parts one below the other.
pub(super) fn product<E: CpuElem, F: Finish>(
    backend: &CpuBackend<E>,
    inp: &[E],
    weight: &Quantised,
    rows: usize,
    finish: F,
) {
    let Quantised { parts, d_in, precision } = weight;
    let (parts, d_in) = (&parts[..], *d_in);
    if rows == 0 {
        return;
    }
    if let Precision::Int8(corrections, in_parts) = precision {
        int8::product(backend, inp, weight, (corrections, *in_parts), rows, finish);
        return;
    }
    let a = View::new::<E>(inp, d_in, Order::KInner);
    a.check(rows, d_in);
    if rows > FEW_ROWS {
        let mut col = 0;
        for panels in parts {
            let b = Columns::Quantised(panels);
            let product = Product { rows, cols: panels.rows, k: d_in, unit: Unit::F32, a, b };
            multiply(machine(backend), &product, &Target::Finish(FromColumn { finish: &finish, col }));
            col += panels.rows;
        }
        return;
    }
    let few = Few { backend, parts, d_in, rows, finish };
    match a.direct(Unit::F32, d_in) {
        Some((first, pitch)) => few.run(Rows { first: first.cast(), pitch }),
        None => backend.scratch().shared(rows * d_in, |wide: &mut [u32]| {
            if d_in > 0 {
                let block = Block { view: a, unit: Unit::F32, items: 0..rows, k: 0..d_in };
                pack::rows(backend.isa(), &block, d_in, wide);
            }
            few.run(Rows { first: wide.as_ptr().cast(), pitch: d_in });
        }),
    }
}

/// Most words of memory that products take, in either precision, all workers together.
pub(super) fn scratch_words(isa: Isa, threads: usize, shape: LinearShape) -> usize {
    let LinearShape { rows, d_in, d_out } = shape;
    let tiles = TileSet::of(isa, Unit::F32);
    let exact =
        if rows > FEW_ROWS { Plan::cut(rows, d_out, d_in, tiles, Way::Finish).shared_units() } else { rows * d_in };
    let (shared, worker) = int8::scratch_words(rows, d_in, tiles.nr);
    exact.max(shared) + threads * task_units(tiles).max(worker)
}

/// The finish of a product whose first column is column `col` of the output.
struct FromColumn<'a, F> {
    finish: &'a F,
    col: usize,
}

impl<F: Finish> Finish for FromColumn<'_, F> {
    unsafe fn finish(&self, isa: Isa, sums: &Sums<'_>) {
        // SAFETY: the caller's promise for the same elements.
        unsafe { self.finish.finish(isa, &Sums { col: sums.col + self.col, ..*sums }) }
    }

    fn prefetch(&self, rows: Range<usize>, cols: Range<usize>) {
        self.finish.prefetch(rows, cols.start + self.col..cols.end + self.col);
    }
}

/// Rows in `f32`. The pointer is valid until the run ends.
#[derive(Clone, Copy)]
struct Rows {
    first: *const f32,
    pitch: usize,
}

// SAFETY: a shared borrow of the rows, for as long as the run that reads it.
unsafe impl Sync for Rows {}

/// A product of few rows, which streams the panels once.
struct Few<'a, E: CpuElem, F> {
    backend: &'a CpuBackend<E>,
    parts: &'a [Panels],
    d_in: usize,
    rows: usize,
    finish: F,
}

impl<E: CpuElem, F: Finish> Few<'_, E, F> {
    fn run(&self, a: Rows) {
        let a = &a;
        let pool = self.backend.pool();
        let n_panels: usize = self.parts.iter().map(Panels::n_panels).sum();
        let n_tasks = (pool.n_threads() * TASKS_PER_WORKER).min(n_panels);
        pool.run(n_tasks, &|task, worker| {
            let mine = n_panels * task / n_tasks..n_panels * (task + 1) / n_tasks;
            // The panels of all parts are counted on; a task may have those of several.
            let (mut first, mut col) = (0, 0);
            for part in self.parts {
                let end = first + part.n_panels();
                let panels = mine.start.clamp(first, end) - first..mine.end.clamp(first, end) - first;
                self.part(a, part, panels, col, worker);
                (first, col) = (end, col + part.rows);
            }
        });
    }

    /// All rows times some panels of a part that begins at output `col`.
    fn part(&self, a: &Rows, part: &Panels, panels: Range<usize>, col: usize, worker: usize) {
        let set = KernelSet::of(self.backend.isa(), &part.form);
        let nr = part.form.nr;
        // Row tiles of about equal size.
        let n_tiles = self.rows.div_ceil(set.rows.len());
        let most_rows = self.rows.div_ceil(n_tiles);
        let group = set.rows[most_rows - 1].panels;
        self.backend.scratch().with(worker, most_rows * group * nr, |sums: &mut [f32]| {
            for first in panels.clone().step_by(group) {
                let group = first..panels.end.min(first + group);
                for tile in 0..n_tiles {
                    let rows = self.rows * tile / n_tiles..self.rows * (tile + 1) / n_tiles;
                    self.tile(a, part, rows, group.clone(), col, sums);
                }
            }
        });
    }

    /// Some rows times some panels.
    fn tile(&self, a: &Rows, part: &Panels, rows: Range<usize>, panels: Range<usize>, col: usize, sums: &mut [f32]) {
        let isa = self.backend.isa();
        let kernels = &KernelSet::of(isa, &part.form).rows[rows.len() - 1];
        let (nr, panel_bytes) = (part.form.nr, part.panel_bytes());
        let pitch = panels.len() * nr;
        assert!(
            panels.end * panel_bytes <= part.bytes.len() && part.d_in == self.d_in && nr == panel_width(isa),
            "few rows: panels"
        );
        assert!(rows.end <= self.rows && rows.len() * pitch <= sums.len(), "few rows: sums");
        let args = |panel: usize, sums: &mut [f32]| Args {
            form: &part.form,
            panel: part.bytes[panel * panel_bytes..].as_ptr(),
            panel_bytes,
            first: 0,
            last: self.d_in,
            // SAFETY: `product` has checked that all rows are there.
            a: unsafe { a.first.add(rows.start * a.pitch) },
            a_row: a.pitch,
            out: sums.as_mut_ptr(),
            out_row: pitch,
        };
        if panels.len() == kernels.panels {
            // SAFETY: the set belongs to this `Isa` and form; rows, panels and sums are there by the checks above.
            unsafe { (kernels.several)(&args(panels.start, sums)) };
        } else {
            for panel in panels.clone() {
                // SAFETY: as above.
                unsafe { (kernels.one)(&args(panel, &mut sums[(panel - panels.start) * nr..])) };
            }
        }
        let first = panels.start * nr;
        let cols = pitch.min(part.rows - first);
        let sums = Sums { values: sums, pitch, row: rows.start, rows: rows.len(), col: col + first, cols };
        // SAFETY: no other task has these panels.
        unsafe { self.finish.finish(isa, &sums) };
    }
}

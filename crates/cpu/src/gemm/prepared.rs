//! Weights prepared for inference: panels of outputs side by side, so that one row and many rows read them in order.

use std::marker::PhantomData;
use std::ops::Range;

use verve_ops::BackendError;
use verve_ops::args::{EmbedPrepared, InferEpilogue, LinearPrepared, Logits};
use verve_ops::quant::{ActivationPrecision, QuantKind, QuantPart, check_parts};

use super::finish::{Finish, FinishForward, Forward, Sums};
use super::machine;
use super::pack::{self, Block};
use super::product::{Columns, Product, Target, multiply};
use super::quant;
use super::tile::{StreamArgs, StreamTile, TileSet};
use super::view::{Order, Unit, View};
use crate::pool::{ChunksMut, SharedMut};
use crate::{CpuBackend, CpuBuf, CpuElem};

/// Up to here rows are taken a few at a time past each panel while it is in the cache; more are a blocked product.
const FEW_ROWS: usize = 64;
/// Tasks for each worker in a product of few rows.
const TASKS_PER_WORKER: usize = 4;
/// Elements of one task of the embedding, about.
const EMBED_TASK: usize = 1 << 13;

/// A weight `[d_out, d_in]` in panels of as many outputs as a register tile has columns. Belongs to the instruction set that
/// prepared it.
pub struct PackedWeight<E: CpuElem> {
    d_out: usize,
    d_in: usize,
    panels: Panels<E>,
}

enum Panels<E: CpuElem> {
    Dense(DensePanels<E>),
    Quantised(quant::Quantised),
}

/// Unit `(k, o)` of panel `p` is at `(p * units + k) * nr + o`. A unit is an `f32` or two neighbours in `d_in` as `bf16`;
/// what fills up the last panel and an odd last pair is zero.
struct DensePanels<E: CpuElem> {
    units: CpuBuf<u32>,
    d_out: usize,
    d_in: usize,
    nr: usize,
    elem: PhantomData<fn(E) -> E>,
}

impl<E: CpuElem> PackedWeight<E> {
    /// Width of the output.
    pub fn d_out(&self) -> usize {
        self.d_out
    }

    /// Width of the input.
    pub fn d_in(&self) -> usize {
        self.d_in
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::Dense(dense) => dense.units.len() * size_of::<u32>(),
            Panels::Quantised(weight) => weight.bytes(),
        }
    }

    /// Calls `store` with each element of a row, in `f32`, and its index.
    fn row(&self, row: usize, mut store: impl FnMut(usize, f32)) {
        match &self.panels {
            Panels::Dense(dense) => (0..self.d_in).for_each(|col| store(col, dense.get(row, col))),
            Panels::Quantised(weight) => weight.row(row, store),
        }
    }
}

impl<E: CpuElem> DensePanels<E> {
    /// What is stored, whatever the products run on.
    fn unit() -> Unit {
        if size_of::<E>() == size_of::<f32>() { Unit::F32 } else { Unit::Pair }
    }

    fn get(&self, row: usize, col: usize) -> f32 {
        let unit = Self::unit();
        let units = unit.count(self.d_in);
        let value = self.units[(row / self.nr * units + col / unit.elements()) * self.nr + row % self.nr];
        let bits = match unit {
            Unit::F32 => value,
            Unit::Pair if col.is_multiple_of(2) => value << 16,
            Unit::Pair => value & 0xffff_0000,
        };
        f32::from_bits(bits)
    }
}

fn tiles<E: CpuElem>(backend: &CpuBackend<E>) -> &'static TileSet {
    TileSet::of(backend.isa(), Unit::of::<E>(backend.isa()))
}

/// Units of a prepared weight.
fn packed_len<E: CpuElem>(backend: &CpuBackend<E>, d_out: usize, d_in: usize) -> usize {
    d_out.next_multiple_of(tiles(backend).nr) * DensePanels::<E>::unit().count(d_in)
}

/// Bytes of a prepared weight `[d_out, d_in]`.
pub(crate) fn prepared_bytes<E: CpuElem>(backend: &CpuBackend<E>, d_out: usize, d_in: usize) -> usize {
    packed_len(backend, d_out, d_in) * size_of::<u32>()
}

/// Repacks a weight `[d_out, d_in]`.
pub(crate) fn prepare<E: CpuElem>(
    backend: &CpuBackend<E>,
    weight: &CpuBuf<E>,
    d_out: usize,
    d_in: usize,
) -> Result<PackedWeight<E>, BackendError> {
    let view = View::new::<E>(weight, d_in, Order::KInner);
    view.check(d_out, d_in);
    let nr = tiles(backend).nr;
    let unit = DensePanels::<E>::unit();
    let mut units = CpuBuf::zeroed(packed_len(backend, d_out, d_in))?;
    let panel_len = unit.count(d_in) * nr;
    if panel_len > 0 {
        backend.pool().for_each(ChunksMut::new(&mut units, panel_len), |panel, _, dst| {
            let items = panel * nr..d_out.min((panel + 1) * nr);
            pack::panels(backend.isa(), &Block { view, unit, items, k: 0..d_in }, nr, dst);
        });
    }
    let panels = Panels::Dense(DensePanels { units, d_out, d_in, nr, elem: PhantomData });
    Ok(PackedWeight { d_out, d_in, panels })
}

/// Bytes of a quantised weight once prepared.
pub(crate) fn prepared_quantized_bytes<E: CpuElem>(
    backend: &CpuBackend<E>,
    parts: &[(QuantKind, usize)],
    d_in: usize,
) -> usize {
    quant::prepared_bytes(backend.isa(), parts, d_in)
}

/// Repacks a quantised weight.
pub(crate) fn prepare_quantized<E: CpuElem>(
    backend: &CpuBackend<E>,
    parts: &[QuantPart<'_>],
    d_in: usize,
    precision: ActivationPrecision,
) -> Result<PackedWeight<E>, BackendError> {
    let d_out = check_parts(parts, d_in);
    Ok(PackedWeight { d_out, d_in, panels: Panels::Quantised(quant::prepare(backend, parts, d_in, precision)?) })
}

/// `out[n] = table[tokens[n]] + pos_table[positions[n]]`.
pub(crate) fn embed_prepared<E: CpuElem>(backend: &CpuBackend<E>, args: EmbedPrepared<'_, CpuBackend<E>>) {
    let EmbedPrepared { tokens, positions, table, pos_table, out, shape } = args;
    check_weight("embed_prepared", table, shape.n_vocab, shape.d_model);
    let cols = shape.d_model;
    if cols == 0 {
        return;
    }
    let (tokens, positions) = (&tokens[..shape.rows], &positions[..shape.rows]);
    let n_rows = (EMBED_TASK / cols).max(1);
    let out = &mut out[..shape.rows * cols];
    backend.pool().for_each(ChunksMut::new(out, n_rows * cols), |task, _, out| {
        for (i, out) in out.chunks_exact_mut(cols).enumerate() {
            let n = task * n_rows + i;
            let token = tokens[n] as usize;
            assert!(token < shape.n_vocab, "embed_prepared: tokens[{n}] is {token}, {shape:?}");
            match pos_table {
                None => table.row(token, |c, x| out[c] = E::from_f32(x)),
                Some(pos) => {
                    let position = positions[n] as usize;
                    assert!(position < shape.n_positions, "embed_prepared: positions[{n}] is {position}, {shape:?}");
                    let pos = &pos[position * cols..][..cols];
                    table.row(token, |c, x| out[c] = E::from_f32(x + pos[c].to_f32()));
                }
            }
        }
    });
}

/// `out = epilogue(inp . weight^T + bias)`, the same bits as the plain layer.
pub(crate) fn linear_prepared<E: CpuElem>(backend: &CpuBackend<E>, args: LinearPrepared<'_, CpuBackend<E>>) {
    let LinearPrepared { inp, weight, bias, out, epilogue, shape } = args;
    check_weight("linear_prepared", weight, shape.d_out, shape.d_in);
    let end = match epilogue {
        InferEpilogue::Store => Forward::Store,
        InferEpilogue::Residual(residual) => Forward::Residual(residual),
        InferEpilogue::Activate(activation) => Forward::Activate(activation, None),
    };
    let finish = FinishForward { out: SharedMut::new(out), width: shape.d_out, bias: bias.map(|bias| &**bias), end };
    product(backend, inp, weight, shape.rows, finish);
}

/// `out = inp . weight^T` in `f32`.
pub(crate) fn logits<E: CpuElem>(backend: &CpuBackend<E>, args: Logits<'_, CpuBackend<E>>) {
    let Logits { inp, weight, out, shape } = args;
    check_weight("logits", weight, shape.n_vocab, shape.d_model);
    let finish =
        FinishForward::<f32> { out: SharedMut::new(out), width: shape.n_vocab, bias: None, end: Forward::Store };
    product(backend, inp, weight, shape.rows, finish);
}

#[track_caller]
fn check_weight<E: CpuElem>(op: &str, weight: &PackedWeight<E>, d_out: usize, d_in: usize) {
    assert!(
        weight.d_out == d_out && weight.d_in == d_in,
        "{op}: weight prepared as [{}, {}], used as [{d_out}, {d_in}]",
        weight.d_out,
        weight.d_in
    );
}

fn product<E: CpuElem, F: Finish>(
    backend: &CpuBackend<E>,
    inp: &[E],
    weight: &PackedWeight<E>,
    rows: usize,
    finish: F,
) {
    match &weight.panels {
        Panels::Dense(dense) => dense_product(backend, inp, dense, rows, finish),
        Panels::Quantised(weight) => quant::product(backend, inp, weight, rows, finish),
    }
}

fn dense_product<E: CpuElem, F: Finish>(
    backend: &CpuBackend<E>,
    inp: &[E],
    weight: &DensePanels<E>,
    rows: usize,
    finish: F,
) {
    if rows == 0 || weight.d_out == 0 {
        return;
    }
    let a = View::new::<E>(inp, weight.d_in, Order::KInner);
    let unit = Unit::of::<E>(backend.isa());
    if rows > FEW_ROWS {
        let same = unit == DensePanels::<E>::unit();
        let b = if same { Columns::Panels(&weight.units) } else { Columns::PairPanels(&weight.units) };
        let product = Product { rows, cols: weight.d_out, k: weight.d_in, unit, a, b };
        multiply(machine(backend), &product, &Target::Finish(finish));
        return;
    }
    a.check(rows, weight.d_in);
    let few = Few { backend, weight, rows, tiles: tiles(backend), finish };
    match a.direct(unit, weight.d_in) {
        Some((first, pitch)) => few.run(first, pitch),
        None => {
            // Converted once for all panels.
            let pitch = unit.count(weight.d_in);
            backend.scratch().shared(rows * pitch, |units: &mut [u32]| {
                if pitch > 0 {
                    pack::rows(
                        backend.isa(),
                        &Block { view: a, unit, items: 0..rows, k: 0..weight.d_in },
                        pitch,
                        units,
                    );
                }
                few.run(units.as_ptr(), pitch);
            });
        }
    }
}

/// A product of few rows, which streams the panels once.
struct Few<'a, E: CpuElem, F> {
    backend: &'a CpuBackend<E>,
    weight: &'a DensePanels<E>,
    rows: usize,
    tiles: &'static TileSet,
    finish: F,
}

/// Units of the rows of a [`Few`]. The pointer is valid until the run ends.
#[derive(Clone, Copy)]
struct RowUnits {
    first: *const u32,
    pitch: usize,
}

// SAFETY: a shared borrow of the units, for as long as the run that reads it.
unsafe impl Sync for RowUnits {}

impl<E: CpuElem, F: Finish> Few<'_, E, F> {
    fn run(&self, first: *const u32, pitch: usize) {
        let a = RowUnits { first, pitch };
        let a = &a;
        let backend = self.backend;
        let n_panels = self.weight.d_out.div_ceil(self.weight.nr);
        // Row tiles of about equal size.
        let n_tiles = self.rows.div_ceil(self.tiles.stream.len());
        let group = self.stream_tile(self.rows.div_ceil(n_tiles)).panels;
        let n_groups = n_panels.div_ceil(group);
        let n_tasks = (backend.pool().n_threads() * TASKS_PER_WORKER).min(n_groups);
        backend.pool().run(n_tasks, &|task, worker| {
            let groups = n_groups * task / n_tasks..n_groups * (task + 1) / n_tasks;
            let len = self.tiles.stream.len() * group * self.weight.nr;
            backend.scratch().with(worker, len, |sums: &mut [f32]| {
                for g in groups {
                    let panels = g * group..n_panels.min((g + 1) * group);
                    for tile in 0..n_tiles {
                        let rows = self.rows * tile / n_tiles..self.rows * (tile + 1) / n_tiles;
                        self.tile(a, rows, panels.clone(), sums);
                    }
                }
            });
        });
    }

    fn widens(&self) -> bool {
        Unit::of::<E>(self.backend.isa()) != DensePanels::<E>::unit()
    }

    fn stream_tile(&self, rows: usize) -> &StreamTile {
        let tiles = if self.widens() { self.tiles.widen } else { self.tiles.stream };
        &tiles[rows - 1]
    }

    /// Some rows times some panels.
    fn tile(&self, a: &RowUnits, rows: Range<usize>, panels: Range<usize>, sums: &mut [f32]) {
        let (nr, k) = (self.weight.nr, DensePanels::<E>::unit().count(self.weight.d_in));
        let tile = self.stream_tile(rows.len());
        let pitch = panels.len() * nr;
        let args = |panel: usize, sums: &mut [f32]| StreamArgs {
            k,
            odd: !self.weight.d_in.is_multiple_of(2),
            // SAFETY: `product` has checked that all rows are there.
            a: unsafe { a.first.add(rows.start * a.pitch) },
            a_row: a.pitch,
            b: self.weight.units[panel * k * nr..].as_ptr(),
            c_out: sums.as_mut_ptr(),
            c_out_row: pitch,
        };
        assert!(panels.end * k * nr <= self.weight.units.len() && rows.len() * pitch <= sums.len(), "few rows");
        if panels.len() == tile.panels {
            // SAFETY: the set belongs to this `Isa`; rows, panels and sums are there by the checks above.
            unsafe { (tile.several)(&args(panels.start, sums)) };
        } else {
            for panel in panels.clone() {
                // SAFETY: as above.
                unsafe { (tile.one)(&args(panel, &mut sums[(panel - panels.start) * nr..])) };
            }
        }
        let col = panels.start * nr;
        let cols = pitch.min(self.weight.d_out - col);
        let sums = Sums { values: sums, pitch, row: rows.start, rows: rows.len(), col, cols };
        // SAFETY: no other task has these panels.
        unsafe { self.finish.finish(self.backend.isa(), &sums) };
    }
}

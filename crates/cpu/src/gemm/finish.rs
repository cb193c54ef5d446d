//! What happens to the sums of a product on their way to the output, fused behind the last step along `k`.

use std::ops::Range;

use verve_ops::Activation;

use crate::CpuElem;
use crate::isa::Isa;
use crate::pool::SharedMut;
use crate::simd::{Kernel, LINE_BYTES, Simd, math, prefetch};

/// Finished sums of a tile: row `r` of the tile, at `r * pitch`, belongs to row `row + r`, columns from `col` on, of the
/// output.
pub(super) struct Sums<'a> {
    pub(super) values: &'a [f32],
    pub(super) pitch: usize,
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) col: usize,
    pub(super) cols: usize,
}

/// Turns sums into outputs.
pub(super) trait Finish: Sync {
    /// Writes one tile.
    ///
    /// # Safety
    /// No other thread writes elements of this tile at the same time, and nothing else borrows them.
    unsafe fn finish(&self, isa: Isa, sums: &Sums<'_>);

    /// Asks for the memory of a tile of `rows` and `cols` that will be finished soon: pieces of rows are too short for the
    /// processor to see them coming.
    fn prefetch(&self, rows: Range<usize>, cols: Range<usize>);
}

/// Asks for elements `cols` of some rows of `[_, width]`.
fn prefetch_tile<T>(first: *const T, width: usize, rows: Range<usize>, cols: Range<usize>) {
    for row in rows {
        for col in cols.clone().step_by(LINE_BYTES / size_of::<T>()) {
            prefetch(first.wrapping_add(row * width + col));
        }
    }
}

/// Ends of the forward product; `sum = product + bias`.
pub(super) enum Forward<'a, E> {
    /// `out = sum`.
    Store,
    /// `out = residual + sum`.
    Residual(&'a [E]),
    /// `pre = round(sum)`, `out = activation(pre)`.
    Activate(Activation, Option<SharedMut<'a, E>>),
}

/// [`Finish`] of the forward product, output `[_, width]`.
pub(super) struct FinishForward<'a, E> {
    pub(super) out: SharedMut<'a, E>,
    pub(super) width: usize,
    pub(super) bias: Option<&'a [E]>,
    pub(super) end: Forward<'a, E>,
}

impl<E: CpuElem> Finish for FinishForward<'_, E> {
    unsafe fn finish(&self, isa: Isa, sums: &Sums<'_>) {
        isa.dispatch(ForwardTile { to: self, sums });
    }

    fn prefetch(&self, rows: Range<usize>, cols: Range<usize>) {
        prefetch_tile(self.out.as_mut_ptr(), self.width, rows.clone(), cols.clone());
        match &self.end {
            Forward::Store | Forward::Activate(_, None) => {}
            Forward::Residual(residual) => prefetch_tile(residual.as_ptr(), self.width, rows, cols),
            Forward::Activate(_, Some(pre)) => prefetch_tile(pre.as_mut_ptr(), self.width, rows, cols),
        }
    }
}

struct ForwardTile<'a, 'b, E> {
    to: &'a FinishForward<'b, E>,
    sums: &'a Sums<'a>,
}

impl<E: CpuElem> Kernel for ForwardTile<'_, '_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ForwardTile { to, sums } = self;
        let cols = sums.cols;
        let bias = to.bias.map(|bias| &bias[sums.col..][..cols]);
        for r in 0..sums.rows {
            let values = &sums.values[r * sums.pitch..][..cols];
            let at = (sums.row + r) * to.width + sums.col;
            // SAFETY: this tile's own elements, by the promise to `Finish::finish`.
            let out = unsafe { to.out.range_mut(at..at + cols) };
            match &to.end {
                Forward::Store => {
                    let mut i = 0;
                    while i < cols {
                        let mut sum = s.load(&values[i..]);
                        if let Some(bias) = bias {
                            sum = s.add(sum, E::load(s, &bias[i..]));
                        }
                        E::store(s, sum, &mut out[i..]);
                        i += S::LANES;
                    }
                }
                Forward::Residual(residual) => {
                    let residual = &residual[at..][..cols];
                    let mut i = 0;
                    while i < cols {
                        let mut sum = s.load(&values[i..]);
                        if let Some(bias) = bias {
                            sum = s.add(sum, E::load(s, &bias[i..]));
                        }
                        sum = s.add(E::load(s, &residual[i..]), sum);
                        E::store(s, sum, &mut out[i..]);
                        i += S::LANES;
                    }
                }
                Forward::Activate(activation, pre) => {
                    // SAFETY: as for `out`.
                    let mut pre = pre.as_ref().map(|pre| unsafe { pre.range_mut(at..at + cols) });
                    let mut i = 0;
                    while i < cols {
                        let mut sum = s.load(&values[i..]);
                        if let Some(bias) = bias {
                            sum = s.add(sum, E::load(s, &bias[i..]));
                        }
                        // Through memory, so that the activation sees what a later recomputation will load.
                        E::store(s, sum, &mut out[i..]);
                        if let Some(pre) = &mut pre {
                            E::store(s, sum, &mut pre[i..]);
                        }
                        let rounded = E::load(s, &out[i..]);
                        E::store(s, math::activation(s, *activation, rounded), &mut out[i..]);
                        i += S::LANES;
                    }
                }
            }
        }
    }
}

/// Ends of the product that gives the gradient of an input.
pub(super) enum Backward<'a, E> {
    /// `d_inp = product`.
    Set,
    /// `d_inp += product`.
    Add,
    /// `d_inp = product * activation'(pre)`.
    Through(Activation, &'a [E]),
}

/// [`Finish`] of the input gradient, output `[_, width]`.
pub(super) struct FinishBackward<'a, E> {
    pub(super) d_inp: SharedMut<'a, E>,
    pub(super) width: usize,
    pub(super) end: Backward<'a, E>,
}

impl<E: CpuElem> Finish for FinishBackward<'_, E> {
    unsafe fn finish(&self, isa: Isa, sums: &Sums<'_>) {
        isa.dispatch(BackwardTile { to: self, sums });
    }

    fn prefetch(&self, rows: Range<usize>, cols: Range<usize>) {
        prefetch_tile(self.d_inp.as_mut_ptr(), self.width, rows.clone(), cols.clone());
        if let Backward::Through(_, pre) = &self.end {
            prefetch_tile(pre.as_ptr(), self.width, rows, cols);
        }
    }
}

struct BackwardTile<'a, 'b, E> {
    to: &'a FinishBackward<'b, E>,
    sums: &'a Sums<'a>,
}

impl<E: CpuElem> Kernel for BackwardTile<'_, '_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let BackwardTile { to, sums } = self;
        let cols = sums.cols;
        for r in 0..sums.rows {
            let values = &sums.values[r * sums.pitch..][..cols];
            let at = (sums.row + r) * to.width + sums.col;
            // SAFETY: this tile's own elements, by the promise to `Finish::finish`.
            let d_inp = unsafe { to.d_inp.range_mut(at..at + cols) };
            let mut i = 0;
            match &to.end {
                Backward::Set => {
                    while i < cols {
                        E::store(s, s.load(&values[i..]), &mut d_inp[i..]);
                        i += S::LANES;
                    }
                }
                Backward::Add => {
                    while i < cols {
                        let sum = s.add(E::load(s, &d_inp[i..]), s.load(&values[i..]));
                        E::store(s, sum, &mut d_inp[i..]);
                        i += S::LANES;
                    }
                }
                Backward::Through(activation, pre) => {
                    let pre = &pre[at..][..cols];
                    while i < cols {
                        let slope = math::activation_derivative(s, *activation, E::load(s, &pre[i..]));
                        E::store(s, s.mul(s.load(&values[i..]), slope), &mut d_inp[i..]);
                        i += S::LANES;
                    }
                }
            }
        }
    }
}

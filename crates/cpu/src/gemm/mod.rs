//! All matrix products of the backend.
//!
//! **The order rule.** Every element of a result is one chain of multiply-adds in `f32` over increasing `k`, starting at
//! zero (or, where a gradient is added to, at its old value), whatever the blocking, the number of threads and the number
//! of rows. Bias, residual, activation and rounding come after the chain. So few rows and many, prepared weights and plain
//! ones give the same bits. With AVX512-BF16 a link of the chain is the instruction's dot product of two neighbours in
//! `k`; an odd `k` is filled up with a zero. Without it, `bf16` operands are widened and the chain is that of `f32`.
//!
//! [`plan`] cuts a product in blocks, [`product`] runs them, [`pack`] brings blocks into panels, [`tile`] has the innermost loops, [`finish`]
//! what is fused behind them; [`head`] is the output head with its loss, [`prepared`] the weights of inference,
//! [`quant`] those that are quantised.

mod finish;
mod head;
mod pack;
mod plan;
mod prepared;
mod product;
mod quant;
#[cfg(test)]
mod tests;
mod tile;
mod view;

use verve_ops::LinearShape;
use verve_ops::args::*;

use self::finish::{Backward, FinishBackward, FinishForward, Forward};
use self::plan::{Plan, Way, task_units};
use self::product::{Columns, Machine, Product, Target, multiply};
use self::tile::TileSet;
use self::view::{Order, Unit, View};
use crate::pool::SharedMut;
use crate::{CpuBackend, CpuElem};

pub(crate) use self::head::{head_loss, head_loss_backward};
pub use self::prepared::PackedWeight;
pub(crate) use self::prepared::{
    embed_prepared, linear_prepared, logits, prepare, prepare_quantized, prepared_bytes, prepared_quantized_bytes,
};

fn machine<E: CpuElem>(backend: &CpuBackend<E>) -> Machine<'_> {
    Machine { isa: backend.isa(), pool: backend.pool(), scratch: backend.scratch() }
}

/// `out = epilogue(inp . weight^T + bias)`.
pub(crate) fn linear<E: CpuElem>(backend: &CpuBackend<E>, args: Linear<'_, CpuBackend<E>>) {
    let Linear { inp, weight, bias, out, epilogue, shape } = args;
    let product = Product {
        rows: shape.rows,
        cols: shape.d_out,
        k: shape.d_in,
        unit: Unit::of::<E>(backend.isa()),
        a: View::new::<E>(inp, shape.d_in, Order::KInner),
        b: Columns::View(View::new::<E>(weight, shape.d_in, Order::KInner)),
    };
    let end = match epilogue {
        Epilogue::Store => Forward::Store,
        Epilogue::Residual(residual) => Forward::Residual(residual),
        Epilogue::Activate { activation, pre } => Forward::Activate(activation, Some(SharedMut::new(pre))),
    };
    let finish = FinishForward { out: SharedMut::new(out), width: shape.d_out, bias: bias.map(|bias| &**bias), end };
    multiply(machine(backend), &product, &Target::Finish(finish));
}

/// `d_inp = d_out . weight`, then what `write` says.
pub(crate) fn linear_backward_input<E: CpuElem>(backend: &CpuBackend<E>, args: LinearBackwardInput<'_, CpuBackend<E>>) {
    let LinearBackwardInput { d_out, weight, d_inp, write, shape } = args;
    let product = Product {
        rows: shape.rows,
        cols: shape.d_in,
        k: shape.d_out,
        unit: Unit::of::<E>(backend.isa()),
        a: View::new::<E>(d_out, shape.d_out, Order::KInner),
        b: Columns::View(View::new::<E>(weight, shape.d_in, Order::KOuter)),
    };
    let end = match write {
        InputGrad::Set => Backward::Set,
        InputGrad::Add => Backward::Add,
        InputGrad::ThroughActivation { activation, pre } => Backward::Through(activation, pre),
    };
    let finish = FinishBackward { d_inp: SharedMut::new(d_inp), width: shape.d_in, end };
    multiply(machine(backend), &product, &Target::Finish(finish));
}

/// `d_weight += d_out^T . inp`, `d_bias += column sums of d_out`. The chains start at the old values, so that two
/// micro-batches one after the other give the same bits as one call with the rows of both.
pub(crate) fn linear_backward_weight<E: CpuElem>(
    backend: &CpuBackend<E>,
    args: LinearBackwardWeight<'_, CpuBackend<E>>,
) {
    let LinearBackwardWeight { d_out, inp, d_weight, d_bias, shape } = args;
    let product = Product {
        rows: shape.d_out,
        cols: shape.d_in,
        k: shape.rows,
        unit: Unit::of::<E>(backend.isa()),
        a: View::new::<E>(d_out, shape.d_out, Order::KOuter),
        b: Columns::View(View::new::<E>(inp, shape.d_in, Order::KOuter)),
    };
    let row_sums = d_bias.map(|bias| SharedMut::new(&mut bias[..]));
    let out = SharedMut::new(&mut d_weight[..]);
    accumulate(machine(backend), &product, &Target::Accumulate { out, width: shape.d_in, row_sums });
}

/// Most scratch that the three products of a linear layer take, all workers together.
pub(crate) fn linear_scratch_bytes<E: CpuElem>(backend: &CpuBackend<E>, shape: LinearShape) -> usize {
    let LinearShape { rows, d_in, d_out } = shape;
    let unit = Unit::of::<E>(backend.isa());
    let tiles = TileSet::of(backend.isa(), unit);
    let layer =
        [(rows, d_out, d_in, Way::Finish), (rows, d_in, d_out, Way::Finish), (d_out, d_in, rows, Way::Gradient)];
    let shared = layer.map(|(rows, cols, k, way)| Plan::cut(rows, cols, unit.count(k), tiles, way).shared_units());
    let units = shared.into_iter().max().unwrap_or(0) + backend.pool().n_threads() * task_units(tiles);
    units * size_of::<u32>()
}

/// Most scratch that products with a quantised weight take, all workers together.
pub(crate) fn quantized_scratch_bytes<E: CpuElem>(backend: &CpuBackend<E>, shape: LinearShape) -> usize {
    quant::scratch_words(backend.isa(), backend.pool().n_threads(), shape) * size_of::<u32>()
}

/// [`multiply`] with a target that finishes nothing.
fn accumulate(machine: Machine<'_>, product: &Product<'_>, target: &Target<'_, FinishBackward<'_, f32>>) {
    multiply(machine, product, target);
}

//! Output head and cross-entropy, as many rows at a time as the workspace holds.

use verve_ops::args::{HeadLoss, HeadLossBackward};
use verve_ops::{Buffer, HeadShape, LinearShape};

use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::device::{DevicePtr, Grid};
use crate::kernels::LOSS;
use crate::launch::library;
use crate::launch::matmul::Rows;
use crate::launch::memory::row_threads;

/// Runs of rows as `(first, shape of the product that gives their logits)`.
fn chunks(shape: HeadShape, workspace: usize) -> impl Iterator<Item = (usize, LinearShape)> {
    let rows_at_a_time = (workspace / shape.n_vocab.max(1)).clamp(1, shape.rows.max(1));
    (0..shape.rows).step_by(rows_at_a_time).map(move |first| {
        let rows = rows_at_a_time.min(shape.rows - first);
        (first, LinearShape { rows, d_in: shape.d_model, d_out: shape.n_vocab })
    })
}

fn at(address: DevicePtr, index: usize, size: usize) -> DevicePtr {
    address + (index * size) as u64
}

/// `losses[n] = logsumexp(logits) - logits[target]`.
pub fn forward<E: CudaElem>(backend: &CudaBackend<E>, args: HeadLoss<'_, CudaBackend<E>>) {
    let HeadLoss { inp, weight, targets, losses, logits, shape } = args;
    for (first, product) in chunks(shape, logits.len()) {
        let inp = at(inp.address(), first * shape.d_model, size_of::<E>());
        library::product_acc(backend, inp, weight.address(), logits.address(), product);
        let args = Args::new()
            .buf(logits)
            .address(at(targets.address(), first, size_of::<u32>()))
            .address(at(losses.address(), first, size_of::<f32>()))
            .u32(shape.n_vocab);
        backend.launch(&LOSS, "loss", Grid::blocks(product.rows, row_threads(shape.n_vocab)), args);
    }
}

/// The same and its gradients. The logits' gradients take the logits' place, rounded to the element type, so that the
/// products with them are those of any layer.
pub fn backward<E: CudaElem>(backend: &CudaBackend<E>, args: HeadLossBackward<'_, CudaBackend<E>>) {
    let HeadLossBackward { inp, weight, targets, losses, logits, d_inp, d_weight, grad_scale, shape } = args;
    let d_logits = Rows { address: logits.address(), stride: shape.n_vocab * size_of::<f32>() / size_of::<E>() };
    for (first, product) in chunks(shape, logits.len()) {
        let inp = at(inp.address(), first * shape.d_model, size_of::<E>());
        let d_inp = at(d_inp.address(), first * shape.d_model, size_of::<E>());
        library::product_acc(backend, inp, weight.address(), logits.address(), product);
        let args = Args::new()
            .buf(logits)
            .address(at(targets.address(), first, size_of::<u32>()))
            .address(at(losses.address(), first, size_of::<f32>()))
            .u32(shape.n_vocab)
            .f32(grad_scale);
        backend.launch(&LOSS, "loss_backward", Grid::blocks(product.rows, row_threads(shape.n_vocab)), args);
        library::product_backward_input(backend, d_logits, weight.address(), d_inp, product);
        library::product_backward_weight(backend, d_logits, inp, d_weight.address(), product);
    }
}

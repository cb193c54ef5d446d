//! Matrix products by the kernels of this crate: `matmul.cu` says in which order they add.

use verve_ops::args::{
    Epilogue, InferEpilogue, InputGrad, Linear, LinearBackwardInput, LinearBackwardWeight, LinearPrepared, Logits,
};
use verve_ops::{Activation, LinearShape};

use super::pointwise::code;
use super::quantized;
use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::buffer::CudaBuf;
use crate::device::{DevicePtr, ElemKind, Grid};
use crate::error::DeviceError;
use crate::kernels;
use crate::weight::{CudaWeight, Storage};

/// Most parts in which the terms of a forward product are cut; each is the work of one warp where there are few rows.
const PARTS: usize = 8;
/// Least terms of a part: shorter ones are read faster than they are set up.
const MIN_PART: usize = 256;
/// Terms that a kernel takes at once; parts are whole steps.
const STEP: usize = 64;
/// Up to here the kernels for few rows are used.
const FEW_ROWS: usize = 32;

/// A matrix of elements in the device's memory whose rows may lie apart.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// First element.
    pub address: DevicePtr,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl Rows {
    fn of(address: DevicePtr, stride: usize) -> Self {
        Self { address, stride }
    }

    /// Whether every row begins at a multiple of 16 bytes and its elements are whole chunks of 16 bytes.
    fn aligned(self, kind: ElemKind, elements: usize) -> bool {
        let whole = |elements: usize| (elements * kind.bytes()).is_multiple_of(16);
        self.address.is_multiple_of(16) && whole(self.stride) && whole(elements)
    }
}

/// Which index of the operands lies side by side in memory, see `matmul.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Forward,
    Input,
    Weight,
}

/// What happens to a sum: `End` in `matmul.cu`.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Store,
    /// Added to the matrix at this address.
    Residual(DevicePtr),
    /// The rounded sum goes to this address, if it is not 0.
    Activate(Activation, DevicePtr),
    Add,
    Through(Activation, DevicePtr),
    Acc,
    AddAcc,
}

impl End {
    /// For the kernels: the number, the matrix that is read, the one that is written besides, the activation.
    pub(super) fn parameters(self) -> (usize, DevicePtr, DevicePtr, usize) {
        match self {
            End::Store => (0, 0, 0, 0),
            End::Residual(aux) => (1, aux, 0, 0),
            End::Activate(activation, pre) => (2, 0, pre, code(activation)),
            End::Add => (3, 0, 0, 0),
            End::Through(activation, pre) => (4, pre, 0, code(activation)),
            End::Acc => (5, 0, 0, 0),
            End::AddAcc => (6, 0, 0, 0),
        }
    }

    pub(super) fn of_prepared<E: CudaElem>(epilogue: &InferEpilogue<'_, CudaBackend<E>>) -> Self {
        match epilogue {
            InferEpilogue::Store => End::Store,
            InferEpilogue::Residual(residual) => End::Residual(residual.address()),
            InferEpilogue::Activate(activation) => End::Activate(*activation, 0),
        }
    }
}

/// One product: `out[q, p] = end(sum over k of P[p, k] Q[q, k])`.
struct Product {
    form: Form,
    p: Rows,
    q: Rows,
    out: Rows,
    /// Sizes of the three indices.
    n: [usize; 3],
    /// `[p]`, or 0.
    bias: DevicePtr,
    end: End,
}

fn launch<E: CudaElem>(backend: &CudaBackend<E>, product: Product) {
    let Product { form, p, q, out, n: [np, nq, nk], bias, end } = product;
    let parts = match form {
        Form::Forward => MIN_PART.max(nk.div_ceil(PARTS).next_multiple_of(STEP)),
        Form::Input | Form::Weight => nk.next_multiple_of(STEP).max(STEP),
    };
    let few = form == Form::Forward && E::KIND == ElemKind::Bf16 && nq <= FEW_ROWS;
    let large_tiles = np.div_ceil(128) * nq.div_ceil(128);
    let large = E::KIND == ElemKind::Bf16 && large_tiles >= backend.device().info().multiprocessors as usize;
    let tiles = |tile: usize, threads| Grid {
        blocks: [np.div_ceil(tile), nq.div_ceil(tile), 1],
        threads: [threads, 1, 1],
        // Three stages of both operands; at the end the sums, which are smaller.
        shared_bytes: if E::KIND == ElemKind::Bf16 { 3 * 2 * tile * STEP * 2 } else { 0 },
    };
    let (kernel, grid) = if few {
        let kernel = match nq {
            0..=8 => "matmul_few_8",
            9..=16 => "matmul_few_16",
            _ => "matmul_few_32",
        };
        let warps = nk.div_ceil(parts).max(1);
        (kernel, Grid::blocks(if nq == 0 { 0 } else { np.div_ceil(16) }, warps * 32).shared(warps * 12 * 1024))
    } else if large {
        let kernel = match form {
            Form::Forward => "matmul_forward_128",
            Form::Input => "matmul_input_128",
            Form::Weight => "matmul_weight_128",
        };
        (kernel, tiles(128, 256))
    } else {
        let kernel = match form {
            Form::Forward => "matmul_forward_64",
            Form::Input => "matmul_input_64",
            Form::Weight => "matmul_weight_64",
        };
        (kernel, tiles(64, if E::KIND == ElemKind::Bf16 { 128 } else { 256 }))
    };
    let (end, aux, aux_out, function) = end.parameters();
    let (p_inside, q_inside) = match form {
        Form::Forward => (nk, nk),
        Form::Input => (np, nk),
        Form::Weight => (np, nq),
    };
    // Four outputs side by side: 16 bytes as f32.
    let whole = np.is_multiple_of(4)
        && out.stride.is_multiple_of(4)
        && [out.address, bias, aux, aux_out].iter().all(|address| address.is_multiple_of(16));
    let aligned = usize::from(p.aligned(E::KIND, p_inside))
        | usize::from(q.aligned(E::KIND, q_inside)) << 1
        | usize::from(whole) << 2;
    let args = Args::new()
        .address(p.address)
        .address(q.address)
        .address(out.address)
        .address(bias)
        .address(aux)
        .address(aux_out)
        .u32(np)
        .u32(nq)
        .u32(nk)
        .u32(p.stride)
        .u32(q.stride)
        .u32(out.stride)
        .u32(parts)
        .u32(end)
        .u32(function)
        .u32(aligned);
    backend.launch(&kernels::MATMUL, kernel, grid, args);
}

fn forward<E: CudaElem>(
    backend: &CudaBackend<E>,
    inp: DevicePtr,
    weight: DevicePtr,
    out: DevicePtr,
    (bias, end): (DevicePtr, End),
    shape: LinearShape,
) {
    let LinearShape { rows, d_in, d_out } = shape;
    let (p, q, out) = (Rows::of(weight, d_in), Rows::of(inp, d_in), Rows::of(out, d_out));
    launch(backend, Product { form: Form::Forward, p, q, out, n: [d_out, rows, d_in], bias, end });
}

/// `out = epilogue(inp . weight^T + bias)`.
pub fn linear<E: CudaElem>(backend: &CudaBackend<E>, args: Linear<'_, CudaBackend<E>>) {
    let Linear { inp, weight, bias, out, epilogue, shape } = args;
    let end = match epilogue {
        Epilogue::Store => End::Store,
        Epilogue::Residual(residual) => End::Residual(residual.address()),
        Epilogue::Activate { activation, pre } => End::Activate(activation, pre.address()),
    };
    let bias = bias.map_or(0, CudaBuf::address);
    forward(backend, inp.address(), weight.address(), out.address(), (bias, end), shape);
}

fn backward_input<E: CudaElem>(
    backend: &CudaBackend<E>,
    d_out: Rows,
    weight: DevicePtr,
    d_inp: DevicePtr,
    end: End,
    shape: LinearShape,
) {
    let LinearShape { rows, d_in, d_out: width } = shape;
    let (p, out) = (Rows::of(weight, d_in), Rows::of(d_inp, d_in));
    launch(backend, Product { form: Form::Input, p, q: d_out, out, n: [d_in, rows, width], bias: 0, end });
}

/// Gradient of [`linear`] to its input.
pub fn linear_backward_input<E: CudaElem>(backend: &CudaBackend<E>, args: LinearBackwardInput<'_, CudaBackend<E>>) {
    let LinearBackwardInput { d_out, weight, d_inp, write, shape } = args;
    let end = match write {
        InputGrad::Set => End::Store,
        InputGrad::Add => End::Add,
        InputGrad::ThroughActivation { activation, pre } => End::Through(activation, pre.address()),
    };
    let d_out = Rows::of(d_out.address(), shape.d_out);
    backward_input(backend, d_out, weight.address(), d_inp.address(), end, shape);
}

/// Gradient of [`linear`] to its weight and bias.
pub fn linear_backward_weight<E: CudaElem>(backend: &CudaBackend<E>, args: LinearBackwardWeight<'_, CudaBackend<E>>) {
    let LinearBackwardWeight { d_out, inp, d_weight, d_bias, shape } = args;
    let rows = Rows::of(d_out.address(), shape.d_out);
    product_backward_weight(backend, rows, inp.address(), d_weight.address(), shape);
    if let Some(d_bias) = d_bias {
        bias_gradient(backend, d_out, d_bias, shape);
    }
}

/// `d_bias += sum over the rows of d_out`.
pub fn bias_gradient<E: CudaElem>(
    backend: &CudaBackend<E>,
    d_out: &CudaBuf<E>,
    d_bias: &CudaBuf<f32>,
    shape: LinearShape,
) {
    let args = Args::new().buf(d_out).buf(d_bias).u32(shape.rows).u32(shape.d_out);
    backend.launch(&kernels::MATMUL, "column_sums", Grid::blocks(shape.d_out.div_ceil(32), 512), args);
}

/// `out[rows, d_out] = inp . weight^T` stored as `f32`, for the logits of the loss.
pub fn product_acc<E: CudaElem>(
    backend: &CudaBackend<E>,
    inp: DevicePtr,
    weight: DevicePtr,
    out: DevicePtr,
    shape: LinearShape,
) {
    forward(backend, inp, weight, out, (0, End::Acc), shape);
}

/// `d_inp[rows, d_in] = d_out . weight`, for the head.
pub fn product_backward_input<E: CudaElem>(
    backend: &CudaBackend<E>,
    d_out: Rows,
    weight: DevicePtr,
    d_inp: DevicePtr,
    shape: LinearShape,
) {
    backward_input(backend, d_out, weight, d_inp, End::Store, shape);
}

/// `d_weight[d_out, d_in] += d_out^T . inp`, for the head.
pub fn product_backward_weight<E: CudaElem>(
    backend: &CudaBackend<E>,
    d_out: Rows,
    inp: DevicePtr,
    d_weight: DevicePtr,
    shape: LinearShape,
) {
    let LinearShape { rows, d_in, d_out: width } = shape;
    let (p, out) = (Rows::of(inp, d_in), Rows::of(d_weight, d_in));
    let product = Product { form: Form::Weight, p, q: d_out, out, n: [d_in, width, rows], bias: 0, end: End::AddAcc };
    launch(backend, product);
}

/// Most bytes of [`CudaBackend::scratch`] that the products of these sizes take: none, sums stay in registers.
pub fn scratch_bytes<E: CudaElem>(_backend: &CudaBackend<E>, _shape: LinearShape) -> usize {
    0
}

/// A copy of the weight in the layout that generation reads, which is that of training: rows of whole cache lines are read
/// through shared memory at the card's full speed.
pub fn prepare<E: CudaElem>(
    backend: &CudaBackend<E>,
    weight: &CudaBuf<E>,
    d_out: usize,
    d_in: usize,
) -> Result<CudaWeight<E>, DeviceError> {
    let copy = CudaBuf::zeroed(backend.device(), d_out * d_in)?;
    if copy.bytes() > 0 {
        backend.device().copy(weight.address(), copy.address(), copy.bytes())?;
    }
    Ok(CudaWeight { d_out, d_in, storage: Storage::Dense(copy) })
}

/// Bytes of a prepared weight.
pub fn prepared_bytes<E: CudaElem>(d_out: usize, d_in: usize) -> usize {
    d_out * d_in * size_of::<E>()
}

/// [`linear`] with a prepared weight, plain or quantised.
pub fn linear_prepared<E: CudaElem>(backend: &CudaBackend<E>, args: LinearPrepared<'_, CudaBackend<E>>) {
    let LinearPrepared { inp, weight, bias, out, epilogue, shape } = args;
    let (end, bias) = (End::of_prepared(&epilogue), bias.map_or(0, CudaBuf::address));
    match &weight.storage {
        Storage::Dense(weight) => {
            forward(backend, inp.address(), weight.address(), out.address(), (bias, end), shape);
        }
        Storage::Quantized(weight) => {
            quantized::product(backend, inp.address(), weight, out.address(), (bias, end), shape);
        }
    }
}

/// `out = inp . weight^T` in `f32`, with a prepared weight, plain or quantised.
pub fn logits<E: CudaElem>(backend: &CudaBackend<E>, args: Logits<'_, CudaBackend<E>>) {
    let Logits { inp, weight, out, shape } = args;
    let shape = LinearShape { rows: shape.rows, d_in: shape.d_model, d_out: shape.n_vocab };
    match &weight.storage {
        Storage::Dense(weight) => {
            forward(backend, inp.address(), weight.address(), out.address(), (0, End::Acc), shape);
        }
        Storage::Quantized(weight) => {
            quantized::product(backend, inp.address(), weight, out.address(), (0, End::Acc), shape);
        }
    }
}

//! Matrix products of training by the vendor's library, where it is used; else by the kernels of this crate.
//!
//! Biases and the derivative of GELU are fused into the product, a residual is its addend. An activation behind the product
//! is not fused: the library would take it of the unrounded sum, and recomputing it from the stored one would give other bits.

use verve_ops::args::{Activate, Epilogue, InputGrad, Linear, LinearBackwardInput, LinearBackwardWeight};
use verve_ops::{Activation, LinearShape};

use crate::backend::{CudaBackend, CudaElem};
use crate::device::{DevicePtr, ElemKind, MatrixProduct, Op, ProductEpilogue};
use crate::launch::matmul::{self, Rows};
use crate::launch::{memory, pointwise};

/// `inp[rows, d_in] . weight[d_out, d_in]^T`.
fn forward<E: CudaElem>(inp: DevicePtr, weight: DevicePtr, out: DevicePtr, shape: LinearShape) -> MatrixProduct {
    MatrixProduct {
        elem: E::KIND,
        out_elem: E::KIND,
        rows: shape.rows,
        cols: shape.d_out,
        depth: shape.d_in,
        a: (inp, Op::Plain),
        a_stride: shape.d_in,
        b: (weight, Op::Transposed),
        c: 0,
        out,
        epilogue: ProductEpilogue::Store,
    }
}

/// `d_out[rows, d_out] . weight[d_out, d_in]`.
fn backward_input<E: CudaElem>(d_out: Rows, weight: DevicePtr, d_inp: DevicePtr, shape: LinearShape) -> MatrixProduct {
    MatrixProduct {
        elem: E::KIND,
        out_elem: E::KIND,
        rows: shape.rows,
        cols: shape.d_in,
        depth: shape.d_out,
        a: (d_out.address, Op::Plain),
        a_stride: d_out.stride,
        b: (weight, Op::Plain),
        c: 0,
        out: d_inp,
        epilogue: ProductEpilogue::Store,
    }
}

/// `d_weight[d_out, d_in] += d_out[rows, d_out]^T . inp[rows, d_in]`.
fn backward_weight<E: CudaElem>(d_out: Rows, inp: DevicePtr, d_weight: DevicePtr, shape: LinearShape) -> MatrixProduct {
    MatrixProduct {
        elem: E::KIND,
        out_elem: ElemKind::F32,
        rows: shape.d_out,
        cols: shape.d_in,
        depth: shape.rows,
        a: (d_out.address, Op::Transposed),
        a_stride: d_out.stride,
        b: (inp, Op::Plain),
        c: d_weight,
        out: d_weight,
        epilogue: ProductEpilogue::Store,
    }
}

/// `out = epilogue(inp . weight^T + bias)`.
pub fn linear<E: CudaElem>(backend: &CudaBackend<E>, args: Linear<'_, CudaBackend<E>>) {
    let stored = match &args.epilogue {
        Epilogue::Activate { pre, .. } => pre.address(),
        Epilogue::Store | Epilogue::Residual(_) => args.out.address(),
    };
    let mut product = forward::<E>(args.inp.address(), args.weight.address(), stored, args.shape);
    if let Some(bias) = args.bias {
        product.epilogue = ProductEpilogue::Bias(bias.address());
    }
    if let Epilogue::Residual(residual) = &args.epilogue {
        product.c = residual.address();
    }
    if !backend.library_product(&product) {
        return matmul::linear(backend, args);
    }
    if let Epilogue::Activate { activation, pre } = args.epilogue {
        pointwise::activate(backend, Activate { inp: pre, out: args.out, activation });
    }
}

/// Gradient of [`linear`] to its input.
pub fn linear_backward_input<E: CudaElem>(backend: &CudaBackend<E>, args: LinearBackwardInput<'_, CudaBackend<E>>) {
    let d_out = Rows { address: args.d_out.address(), stride: args.shape.d_out };
    let mut product = backward_input::<E>(d_out, args.weight.address(), args.d_inp.address(), args.shape);
    match &args.write {
        InputGrad::Set => {}
        InputGrad::Add => product.c = product.out,
        InputGrad::ThroughActivation { activation: Activation::GeluTanh, pre } => {
            product.epilogue = ProductEpilogue::GeluBackward(pre.address());
        }
        // Not in the library, and a second pass would round twice.
        InputGrad::ThroughActivation { .. } => return matmul::linear_backward_input(backend, args),
    }
    if !backend.library_product(&product) {
        matmul::linear_backward_input(backend, args);
    }
}

/// Gradient of [`linear`] to its weight and bias.
pub fn linear_backward_weight<E: CudaElem>(backend: &CudaBackend<E>, args: LinearBackwardWeight<'_, CudaBackend<E>>) {
    let LinearShape { rows, d_out: cols, .. } = args.shape;
    let d_out = Rows { address: args.d_out.address(), stride: cols };
    let product = backward_weight::<E>(d_out, args.inp.address(), args.d_weight.address(), args.shape);
    if !backend.library_product(&product) {
        return matmul::linear_backward_weight(backend, args);
    }
    if let Some(d_bias) = args.d_bias {
        memory::add_column_sums(backend, args.d_out, d_bias, rows, cols);
    }
}

/// `out[rows, d_out] = inp . weight^T` stored as `f32`.
pub fn product_acc<E: CudaElem>(
    backend: &CudaBackend<E>,
    inp: DevicePtr,
    weight: DevicePtr,
    out: DevicePtr,
    shape: LinearShape,
) {
    let product = MatrixProduct { out_elem: ElemKind::F32, ..forward::<E>(inp, weight, out, shape) };
    if !backend.library_product(&product) {
        matmul::product_acc(backend, inp, weight, out, shape);
    }
}

/// `d_inp = d_out . weight`.
pub fn product_backward_input<E: CudaElem>(
    backend: &CudaBackend<E>,
    d_out: Rows,
    weight: DevicePtr,
    d_inp: DevicePtr,
    shape: LinearShape,
) {
    if !backend.library_product(&backward_input::<E>(d_out, weight, d_inp, shape)) {
        matmul::product_backward_input(backend, d_out, weight, d_inp, shape);
    }
}

/// `d_weight += d_out^T . inp`.
pub fn product_backward_weight<E: CudaElem>(
    backend: &CudaBackend<E>,
    d_out: Rows,
    inp: DevicePtr,
    d_weight: DevicePtr,
    shape: LinearShape,
) {
    if !backend.library_product(&backward_weight::<E>(d_out, inp, d_weight, shape)) {
        matmul::product_backward_weight(backend, d_out, inp, d_weight, shape);
    }
}

//! Activations and gates.

use verve_ops::args::{Activate, ActivateBackward, Gate, GateBackward};
use verve_ops::{Activation, Buffer};

use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::device::Grid;
use crate::kernels::POINTWISE;

/// The number of a function in the sources.
pub fn code(activation: Activation) -> usize {
    match activation {
        Activation::GeluTanh => 0,
        Activation::GeluErf => 1,
        Activation::Relu => 2,
        Activation::Silu => 3,
    }
}

/// `out = activation(inp)`.
pub fn activate<E: CudaElem>(backend: &CudaBackend<E>, args: Activate<'_, CudaBackend<E>>) {
    let Activate { inp, out, activation } = args;
    let args = Args::new().buf(inp).buf(out).u32(code(activation)).u64(inp.len());
    backend.launch(&POINTWISE, "activate", Grid::items(inp.len()), args);
}

/// `d_inp = d_out * activation'(inp)`.
pub fn activate_backward<E: CudaElem>(backend: &CudaBackend<E>, args: ActivateBackward<'_, CudaBackend<E>>) {
    let ActivateBackward { d_out, inp, d_inp, activation } = args;
    let args = Args::new().buf(d_out).buf(inp).buf(d_inp).u32(code(activation)).u64(inp.len());
    backend.launch(&POINTWISE, "activate_backward", Grid::items(inp.len()), args);
}

/// `out = activation(gate) * up`.
pub fn gate<E: CudaElem>(backend: &CudaBackend<E>, args: Gate<'_, CudaBackend<E>>) {
    let Gate { gate, up, out, len, activation } = args;
    let args = Args::new().buf(gate).buf(up).buf(out).u32(code(activation)).u64(len);
    backend.launch(&POINTWISE, "gate", Grid::items(len), args);
}

/// Gradients of both branches.
pub fn gate_backward<E: CudaElem>(backend: &CudaBackend<E>, args: GateBackward<'_, CudaBackend<E>>) {
    let GateBackward { d_out, gate, up, d_gate, d_up, activation } = args;
    let args = Args::new().buf(d_out).buf(gate).buf(up).buf(d_gate).buf(d_up).u32(code(activation)).u64(gate.len());
    backend.launch(&POINTWISE, "gate_backward", Grid::items(gate.len()), args);
}

//! Activation functions and gated activations.

use verve_ops::Activation;
use verve_ops::args::{Activate, ActivateBackward, Gate, GateBackward};

use crate::pool::ChunksMut;
use crate::simd::math::{activation, activation_derivative};
use crate::simd::{Kernel, Simd};
use crate::{CpuBackend, CpuElem};

/// Elements of one task.
const TASK: usize = 16 * 1024;

struct ActivateChunk<'a, E> {
    inp: &'a [E],
    out: &'a mut [E],
    kind: Activation,
}

impl<E: CpuElem> Kernel for ActivateChunk<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { inp, out, kind } = self;
        assert_eq!(inp.len(), out.len());
        let mut i = 0;
        while i < inp.len() {
            E::store(s, activation(s, kind, E::load(s, &inp[i..])), &mut out[i..]);
            i += S::LANES;
        }
    }
}

pub(crate) fn activate<E: CpuElem>(backend: &CpuBackend<E>, args: Activate<'_, CpuBackend<E>>) {
    let Activate { inp, out, activation } = args;
    backend.pool().for_each(ChunksMut::new(out, TASK), |task, _, out| {
        let inp = &inp[task * TASK..][..out.len()];
        backend.isa().dispatch(ActivateChunk { inp, out, kind: activation });
    });
}

struct ActivateBackwardChunk<'a, E> {
    d_out: &'a [E],
    inp: &'a [E],
    d_inp: &'a mut [E],
    kind: Activation,
}

impl<E: CpuElem> Kernel for ActivateBackwardChunk<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { d_out, inp, d_inp, kind } = self;
        assert!(d_out.len() == inp.len() && d_inp.len() == inp.len());
        let mut i = 0;
        while i < inp.len() {
            let slope = activation_derivative(s, kind, E::load(s, &inp[i..]));
            E::store(s, s.mul(E::load(s, &d_out[i..]), slope), &mut d_inp[i..]);
            i += S::LANES;
        }
    }
}

pub(crate) fn activate_backward<E: CpuElem>(backend: &CpuBackend<E>, args: ActivateBackward<'_, CpuBackend<E>>) {
    let ActivateBackward { d_out, inp, d_inp, activation } = args;
    backend.pool().for_each(ChunksMut::new(d_inp, TASK), |task, _, d_inp| {
        let (start, len) = (task * TASK, d_inp.len());
        let (d_out, inp) = (&d_out[start..][..len], &inp[start..][..len]);
        backend.isa().dispatch(ActivateBackwardChunk { d_out, inp, d_inp, kind: activation });
    });
}

struct GateChunk<'a, E> {
    gate: &'a [E],
    up: &'a [E],
    out: &'a mut [E],
    kind: Activation,
}

impl<E: CpuElem> Kernel for GateChunk<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gate, up, out, kind } = self;
        assert!(up.len() == gate.len() && out.len() == gate.len());
        let mut i = 0;
        while i < gate.len() {
            let opened = activation(s, kind, E::load(s, &gate[i..]));
            E::store(s, s.mul(opened, E::load(s, &up[i..])), &mut out[i..]);
            i += S::LANES;
        }
    }
}

pub(crate) fn gate<E: CpuElem>(backend: &CpuBackend<E>, args: Gate<'_, CpuBackend<E>>) {
    let Gate { gate, up, out, len, activation } = args;
    backend.pool().for_each(ChunksMut::new(&mut out[..len], TASK), |task, _, out| {
        let (start, len) = (task * TASK, out.len());
        let (gate, up) = (&gate[start..][..len], &up[start..][..len]);
        backend.isa().dispatch(GateChunk { gate, up, out, kind: activation });
    });
}

struct GateBackwardChunk<'a, E> {
    d_out: &'a [E],
    gate: &'a [E],
    up: &'a [E],
    d_gate: &'a mut [E],
    d_up: &'a mut [E],
    kind: Activation,
}

impl<E: CpuElem> Kernel for GateBackwardChunk<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { d_out, gate, up, d_gate, d_up, kind } = self;
        let len = gate.len();
        assert!(d_out.len() == len && up.len() == len && d_gate.len() == len && d_up.len() == len);
        let mut i = 0;
        while i < len {
            let (d, g, u) = (E::load(s, &d_out[i..]), E::load(s, &gate[i..]), E::load(s, &up[i..]));
            let slope = activation_derivative(s, kind, g);
            E::store(s, s.mul(s.mul(d, u), slope), &mut d_gate[i..]);
            E::store(s, s.mul(d, activation(s, kind, g)), &mut d_up[i..]);
            i += S::LANES;
        }
    }
}

pub(crate) fn gate_backward<E: CpuElem>(backend: &CpuBackend<E>, args: GateBackward<'_, CpuBackend<E>>) {
    let GateBackward { d_out, gate, up, d_gate, d_up, activation } = args;
    let parts = (ChunksMut::new(d_gate, TASK), ChunksMut::new(d_up, TASK));
    backend.pool().for_each(parts, |task, _, (d_gate, d_up)| {
        let (start, len) = (task * TASK, d_gate.len());
        let (d_out, gate, up) = (&d_out[start..][..len], &gate[start..][..len], &up[start..][..len]);
        backend.isa().dispatch(GateBackwardChunk { d_out, gate, up, d_gate, d_up, kind: activation });
    });
}

use verve_ops::args::*;

use crate::{CpuBackend, CpuElem};

pub(crate) fn activate<E: CpuElem>(_backend: &CpuBackend<E>, _args: Activate<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn activate_backward<E: CpuElem>(_backend: &CpuBackend<E>, _args: ActivateBackward<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn gate<E: CpuElem>(_backend: &CpuBackend<E>, _args: Gate<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn gate_backward<E: CpuElem>(_backend: &CpuBackend<E>, _args: GateBackward<'_, CpuBackend<E>>) {
    unimplemented!()
}

use verve_ops::args::*;

use crate::{CpuBackend, CpuElem};

pub(crate) fn forward<E: CpuElem>(_backend: &CpuBackend<E>, _args: Norm<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn backward<E: CpuElem>(_backend: &CpuBackend<E>, _args: NormBackward<'_, CpuBackend<E>>) {
    unimplemented!()
}

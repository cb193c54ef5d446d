use verve_ops::args::*;

use crate::{CpuBackend, CpuElem};

pub(crate) fn forward<E: CpuElem>(_backend: &CpuBackend<E>, _args: Attention<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn backward<E: CpuElem>(_backend: &CpuBackend<E>, _args: AttentionBackward<'_, CpuBackend<E>>) {
    unimplemented!()
}

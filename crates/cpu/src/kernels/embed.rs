use verve_ops::args::*;

use crate::{CpuBackend, CpuElem};

pub(crate) fn forward<E: CpuElem>(_backend: &CpuBackend<E>, _args: Embed<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn backward<E: CpuElem>(_backend: &CpuBackend<E>, _args: EmbedBackward<'_, CpuBackend<E>>) {
    unimplemented!()
}

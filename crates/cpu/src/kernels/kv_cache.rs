use verve_ops::args::*;

use crate::{CpuBackend, CpuElem};

pub(crate) fn write<E: CpuElem>(_backend: &CpuBackend<E>, _args: KvWrite<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn attention<E: CpuElem>(_backend: &CpuBackend<E>, _args: AttentionCached<'_, CpuBackend<E>>) {
    unimplemented!()
}

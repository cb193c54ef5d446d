//! Matrix products.

use verve_ops::BackendError;
use verve_ops::args::*;

use crate::{CpuBackend, CpuBuf, CpuElem};

/// A prepared weight.
pub struct PackedWeight<E: CpuElem>(std::marker::PhantomData<E>);

pub(crate) fn linear<E: CpuElem>(_backend: &CpuBackend<E>, _args: Linear<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn linear_backward_input<E: CpuElem>(
    _backend: &CpuBackend<E>,
    _args: LinearBackwardInput<'_, CpuBackend<E>>,
) {
    unimplemented!()
}

pub(crate) fn linear_backward_weight<E: CpuElem>(
    _backend: &CpuBackend<E>,
    _args: LinearBackwardWeight<'_, CpuBackend<E>>,
) {
    unimplemented!()
}

pub(crate) fn head_loss<E: CpuElem>(_backend: &CpuBackend<E>, _args: HeadLoss<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn head_loss_backward<E: CpuElem>(_backend: &CpuBackend<E>, _args: HeadLossBackward<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn embed_prepared<E: CpuElem>(_backend: &CpuBackend<E>, _args: EmbedPrepared<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn linear_prepared<E: CpuElem>(_backend: &CpuBackend<E>, _args: LinearPrepared<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn logits<E: CpuElem>(_backend: &CpuBackend<E>, _args: Logits<'_, CpuBackend<E>>) {
    unimplemented!()
}

pub(crate) fn prepare<E: CpuElem>(
    _backend: &CpuBackend<E>,
    _weight: &CpuBuf<E>,
    _d_out: usize,
    _d_in: usize,
) -> Result<PackedWeight<E>, BackendError> {
    unimplemented!()
}

pub(crate) fn prepared_bytes<E: CpuElem>(_backend: &CpuBackend<E>, _d_out: usize, _d_in: usize) -> usize {
    unimplemented!()
}

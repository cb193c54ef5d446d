//! Quantised weights: preparing, products, look-ups.

use verve_ops::LinearShape;
use verve_ops::quant::{ActivationPrecision, QuantKind, QuantPart, check_parts};

use crate::backend::{CudaBackend, CudaElem};
use crate::error::DeviceError;
use crate::launch::matmul::End;
use crate::weight::CudaWeight;

/// A quantised weight in the device's memory.
pub struct Quantized(std::convert::Infallible);

/// `out = end(inp . weight^T + bias)`.
pub(super) fn product<E: CudaElem>(
    _backend: &CudaBackend<E>,
    _inp: crate::DevicePtr,
    weight: &Quantized,
    _out: crate::DevicePtr,
    _end: (crate::DevicePtr, End),
    _shape: LinearShape,
) {
    match weight.0 {}
}

/// `out[n] = weight[tokens[n]] + pos_table[positions[n]]`, added in `f32` and rounded once; `(positions, pos_table)` with a
/// table of 0 for none. Ids out of range give NaN.
pub(super) fn embed<E: CudaElem>(
    _backend: &CudaBackend<E>,
    _tokens: crate::DevicePtr,
    weight: &Quantized,
    (_positions, _pos_table): (crate::DevicePtr, crate::DevicePtr),
    _out: crate::DevicePtr,
    _shape: verve_ops::EmbedShape,
) {
    match weight.0 {}
}

/// Puts quantised blocks into the layout that the kernels read.
pub fn prepare<E: CudaElem>(
    _backend: &CudaBackend<E>,
    parts: &[QuantPart<'_>],
    d_in: usize,
    _precision: ActivationPrecision,
) -> Result<CudaWeight<E>, DeviceError> {
    check_parts(parts, d_in);
    Err(DeviceError::Call { call: "prepare_quantized", detail: "this operation is not built yet".to_owned() })
}

/// Bytes of a prepared weight of such parts.
pub fn prepared_bytes(parts: &[(QuantKind, usize)], d_in: usize) -> usize {
    parts.iter().map(|(kind, rows)| kind.bytes(d_in) * rows).sum()
}

/// Most bytes of [`CudaBackend::scratch`] that products of these sizes take.
pub fn scratch_bytes(_shape: LinearShape) -> usize {
    0
}

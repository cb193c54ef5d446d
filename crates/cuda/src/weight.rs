//! Weights as generation reads them.

use crate::backend::CudaElem;
use crate::buffer::CudaBuf;
use crate::launch::quantized::Quantized;

/// A prepared weight matrix `[d_out, d_in]`.
pub struct CudaWeight<E: CudaElem> {
    /// Rows.
    pub(crate) d_out: usize,
    /// Elements of a row.
    pub(crate) d_in: usize,
    /// The numbers.
    pub(crate) storage: Storage<E>,
}

/// How a weight is stored.
pub(crate) enum Storage<E: CudaElem> {
    /// Row by row, as [`verve_ops::Backend::linear`] reads it.
    Dense(CudaBuf<E>),
    /// Blocks of quantised numbers.
    Quantized(Quantized),
}

impl<E: CudaElem> CudaWeight<E> {
    /// Panics unless the weight has these sizes.
    #[track_caller]
    pub(crate) fn check(&self, op: &str, d_out: usize, d_in: usize) {
        assert!(
            (self.d_out, self.d_in) == (d_out, d_in),
            "{op}: weight is [{}, {}], the shape implies [{d_out}, {d_in}]",
            self.d_out,
            self.d_in
        );
    }
}

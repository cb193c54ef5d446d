//! [`CpuBackend`]: the operations of the contract, each checked and handed to its kernel.

use std::marker::PhantomData;

use verve_ops::args::*;
use verve_ops::quant::{ActivationPrecision, QuantKind, QuantPart};
use verve_ops::{Backend, BackendError, Element, InferBackend, LinearShape};

use crate::buffer::CpuBuf;
use crate::gemm::{self, PackedWeight};
use crate::pool::{Pool, Scratch};
use crate::{CpuElem, CpuError, Isa, kernels};

/// The machine's own processor, with weights and activations of type `E` (`f32` or `bf16`).
pub struct CpuBackend<E: CpuElem> {
    pool: Pool,
    isa: Isa,
    scratch: Scratch,
    elem: PhantomData<fn(E) -> E>,
}

impl<E: CpuElem> CpuBackend<E> {
    /// A backend with `n_threads` workers of its own, using the instructions of `isa` (see [`Isa::from_env`]).
    ///
    /// # Errors
    /// [`CpuError::ThreadCount`], [`CpuError::Spawn`].
    pub fn new(n_threads: usize, isa: Isa) -> Result<Self, CpuError> {
        let pool = Pool::new(n_threads)?;
        let scratch = Scratch::new(pool.n_threads());
        Ok(CpuBackend { pool, isa, scratch, elem: PhantomData })
    }

    /// The workers.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The instructions in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Working memory of the workers. It grows to the largest need of the kernels in the first step and then stays.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}

impl<E: CpuElem> Backend for CpuBackend<E> {
    type Elem = E;
    type Acc = f32;
    type Buf<T: Element> = CpuBuf<T>;

    fn describe(&self) -> String {
        let threads = self.pool.n_threads();
        format!("cpu ({}, {}, {} thread{})", E::NAME, self.isa, threads, if threads == 1 { "" } else { "s" })
    }

    fn alloc<T: Element>(&self, len: usize) -> Result<CpuBuf<T>, BackendError> {
        CpuBuf::zeroed(len)
    }

    fn upload<T: Element>(&self, src: &[T], dst: &mut CpuBuf<T>) {
        kernels::memory::copy(self, src, dst);
    }

    fn download<T: Element>(&self, src: &CpuBuf<T>, dst: &mut [T]) -> Result<(), BackendError> {
        kernels::memory::copy(self, src, dst);
        Ok(())
    }

    fn copy<T: Element>(&self, src: &CpuBuf<T>, dst: &mut CpuBuf<T>) {
        kernels::memory::copy(self, src, dst);
    }

    fn fill_zero<T: Element>(&self, dst: &mut CpuBuf<T>) {
        kernels::memory::fill_zero(self, dst);
    }

    fn round(&self, src: &CpuBuf<f32>, dst: &mut CpuBuf<E>) {
        kernels::memory::round(self, src, dst);
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn embed(&self, args: Embed<'_, Self>) {
        args.check();
        kernels::embed::forward(self, args);
    }

    fn embed_backward(&self, args: EmbedBackward<'_, Self>) {
        args.check();
        kernels::embed::backward(self, args);
    }

    fn norm(&self, args: Norm<'_, Self>) {
        args.check();
        kernels::norm::forward(self, args);
    }

    fn norm_backward(&self, args: NormBackward<'_, Self>) {
        args.check();
        kernels::norm::backward(self, args);
    }

    fn head_norm(&self, args: HeadNorm<'_, Self>) {
        args.check();
        kernels::head_norm::forward(self, args);
    }

    fn head_norm_backward(&self, args: HeadNormBackward<'_, Self>) {
        args.check();
        kernels::head_norm::backward(self, args);
    }

    fn scaled_sum(&self, args: ScaledSum<'_, Self>) {
        args.check();
        kernels::head_norm::scaled_sum(self, args);
    }

    fn linear(&self, args: Linear<'_, Self>) {
        args.check();
        gemm::linear(self, args);
    }

    fn linear_backward_input(&self, args: LinearBackwardInput<'_, Self>) {
        args.check();
        gemm::linear_backward_input(self, args);
    }

    fn linear_backward_weight(&self, args: LinearBackwardWeight<'_, Self>) {
        args.check();
        gemm::linear_backward_weight(self, args);
    }

    fn linear_scratch_bytes(&self, shape: LinearShape) -> usize {
        gemm::linear_scratch_bytes(self, shape)
    }

    fn activate(&self, args: Activate<'_, Self>) {
        args.check();
        kernels::pointwise::activate(self, args);
    }

    fn activate_backward(&self, args: ActivateBackward<'_, Self>) {
        args.check();
        kernels::pointwise::activate_backward(self, args);
    }

    fn gate(&self, args: Gate<'_, Self>) {
        args.check();
        kernels::pointwise::gate(self, args);
    }

    fn gate_backward(&self, args: GateBackward<'_, Self>) {
        args.check();
        kernels::pointwise::gate_backward(self, args);
    }

    fn rope(&self, args: Rope<'_, Self>) {
        args.check();
        kernels::rope::forward(self, args);
    }

    fn rope_backward(&self, args: Rope<'_, Self>) {
        args.check();
        kernels::rope::backward(self, args);
    }

    fn attention(&self, args: Attention<'_, Self>) {
        args.check();
        kernels::attention::forward(self, args);
    }

    fn attention_backward(&self, args: AttentionBackward<'_, Self>) {
        args.check();
        kernels::attention::backward(self, args);
    }

    fn head_loss(&self, args: HeadLoss<'_, Self>) {
        args.check();
        gemm::head_loss(self, args);
    }

    fn head_loss_backward(&self, args: HeadLossBackward<'_, Self>) {
        args.check();
        gemm::head_loss_backward(self, args);
    }

    fn adamw(&self, args: AdamW<'_, Self>) {
        args.check();
        kernels::optimizer::adamw(self, args);
    }

    fn sum_squares<'a>(
        &self,
        bufs: impl Iterator<Item = &'a CpuBuf<f32>>,
        out: &mut [f64],
    ) -> Result<(), BackendError> {
        kernels::optimizer::sum_squares(self, bufs, out);
        Ok(())
    }
}

impl<E: CpuElem> InferBackend for CpuBackend<E> {
    type Weight = PackedWeight<E>;

    fn prepare(&self, weight: &CpuBuf<E>, d_out: usize, d_in: usize) -> Result<PackedWeight<E>, BackendError> {
        gemm::prepare(self, weight, d_out, d_in)
    }

    fn prepared_bytes(&self, d_out: usize, d_in: usize) -> usize {
        gemm::prepared_bytes(self, d_out, d_in)
    }

    fn prepare_quantized(
        &self,
        parts: &[QuantPart<'_>],
        d_in: usize,
        precision: ActivationPrecision,
    ) -> Result<PackedWeight<E>, BackendError> {
        gemm::prepare_quantized(self, parts, d_in, precision)
    }

    fn prepared_quantized_bytes(&self, parts: &[(QuantKind, usize)], d_in: usize) -> usize {
        gemm::prepared_quantized_bytes(self, parts, d_in)
    }

    fn quantized_scratch_bytes(&self, shape: LinearShape) -> usize {
        gemm::quantized_scratch_bytes(self, shape)
    }

    fn embed_prepared(&self, args: EmbedPrepared<'_, Self>) {
        args.check();
        gemm::embed_prepared(self, args);
    }

    fn linear_prepared(&self, args: LinearPrepared<'_, Self>) {
        args.check();
        gemm::linear_prepared(self, args);
    }

    fn logits(&self, args: Logits<'_, Self>) {
        args.check();
        gemm::logits(self, args);
    }

    fn gather_rows(&self, args: GatherRows<'_, Self>) {
        args.check();
        kernels::memory::gather_rows(self, args);
    }

    fn kv_write(&self, args: KvWrite<'_, Self>) {
        args.check();
        kernels::kv_cache::write(self, args);
    }

    fn attention_cached(&self, args: AttentionCached<'_, Self>) {
        args.check();
        kernels::kv_cache::attention(self, args);
    }
}

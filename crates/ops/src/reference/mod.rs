//! The reference backend: plain loops that read like the formulas. It is the oracle of every other backend's tests (in
//! `f64`), the subject of the gradient checks, and slow.
//!
//! All arithmetic is in the element type, but for products with 8-bit activations, which [`crate::quant::int8`] defines in
//! `f32`. Every sum is taken in index order. What [`crate::args`] cannot check, the
//! values of ids and positions, is checked here and panics.

mod activation;
mod attention;
mod embed;
mod head_norm;
mod infer;
mod linear;
mod loss;
mod norm;
mod optimizer;
mod rope;
mod scalar;

use std::marker::PhantomData;

pub use infer::PlainWeight;
pub use scalar::Scalar;

use crate::args::*;
use crate::quant::{ActivationPrecision, QuantKind, QuantPart};
use crate::{Backend, BackendError, Buffer, Element, InferBackend};

/// The reference backend, computing and storing everything in `R`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference<R: Scalar>(PhantomData<R>);

impl<R: Scalar> Reference<R> {
    /// A reference backend; it holds nothing.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

/// Memory of the reference backend: a vector.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostBuf<T>(Vec<T>);

impl<T> HostBuf<T> {
    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// The elements, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.0
    }

    /// The vector inside.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T> From<Vec<T>> for HostBuf<T> {
    fn from(elements: Vec<T>) -> Self {
        Self(elements)
    }
}

impl<T: Element> Buffer<T> for HostBuf<T> {
    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Panics unless an id or position is one of `0..limit`.
#[track_caller]
fn check_index(op: &str, what: &str, place: usize, found: u32, limit: usize) -> usize {
    let index = found as usize;
    assert!(index < limit, "{op}: {what}[{place}] is {found}, must be below {limit}");
    index
}

impl<R: Scalar> Backend for Reference<R> {
    type Elem = R;
    type Acc = R;
    type Buf<T: Element> = HostBuf<T>;

    fn describe(&self) -> String {
        format!("reference ({})", R::NAME)
    }

    fn alloc<T: Element>(&self, len: usize) -> Result<HostBuf<T>, BackendError> {
        let mut elements = Vec::new();
        elements.try_reserve_exact(len).map_err(|_| BackendError::OutOfMemory {
            bytes: len.saturating_mul(size_of::<T>()),
            device: self.describe(),
        })?;
        elements.resize(len, T::default());
        Ok(HostBuf(elements))
    }

    fn upload<T: Element>(&self, src: &[T], dst: &mut HostBuf<T>) {
        same_len("upload", src.len(), dst.0.len());
        dst.0.copy_from_slice(src);
    }

    fn download<T: Element>(&self, src: &HostBuf<T>, dst: &mut [T]) -> Result<(), BackendError> {
        same_len("download", src.0.len(), dst.len());
        dst.copy_from_slice(&src.0);
        Ok(())
    }

    fn copy<T: Element>(&self, src: &HostBuf<T>, dst: &mut HostBuf<T>) {
        same_len("copy", src.0.len(), dst.0.len());
        dst.0.copy_from_slice(&src.0);
    }

    fn fill_zero<T: Element>(&self, dst: &mut HostBuf<T>) {
        dst.0.fill(T::default());
    }

    fn round(&self, src: &HostBuf<R>, dst: &mut HostBuf<R>) {
        same_len("round", src.0.len(), dst.0.len());
        dst.0.copy_from_slice(&src.0);
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn embed(&self, args: Embed<'_, Self>) {
        embed::embed(args);
    }

    fn embed_backward(&self, args: EmbedBackward<'_, Self>) {
        embed::embed_backward(args);
    }

    fn norm(&self, args: Norm<'_, Self>) {
        norm::norm(args);
    }

    fn norm_backward(&self, args: NormBackward<'_, Self>) {
        norm::norm_backward(args);
    }

    fn head_norm(&self, args: HeadNorm<'_, Self>) {
        head_norm::head_norm(args);
    }

    fn head_norm_backward(&self, args: HeadNormBackward<'_, Self>) {
        head_norm::head_norm_backward(args);
    }

    fn scaled_sum(&self, args: ScaledSum<'_, Self>) {
        args.check();
        let ScaledSum { x, factor, y, len } = args;
        let factor = R::from_f32(factor);
        for (i, x) in x.as_mut_slice()[..len].iter_mut().enumerate() {
            *x = factor * *x + y.map_or(R::ZERO, |y| y.as_slice()[i]);
        }
    }

    fn linear(&self, args: Linear<'_, Self>) {
        linear::linear(args);
    }

    fn linear_backward_input(&self, args: LinearBackwardInput<'_, Self>) {
        linear::linear_backward_input(args);
    }

    fn linear_backward_weight(&self, args: LinearBackwardWeight<'_, Self>) {
        linear::linear_backward_weight(args);
    }

    fn linear_scratch_bytes(&self, _: crate::LinearShape) -> usize {
        0
    }

    fn activate(&self, args: Activate<'_, Self>) {
        activation::activate(args);
    }

    fn activate_backward(&self, args: ActivateBackward<'_, Self>) {
        activation::activate_backward(args);
    }

    fn gate(&self, args: Gate<'_, Self>) {
        activation::gate(args);
    }

    fn gate_backward(&self, args: GateBackward<'_, Self>) {
        activation::gate_backward(args);
    }

    fn rope(&self, args: Rope<'_, Self>) {
        rope::rope(args);
    }

    fn rope_backward(&self, args: Rope<'_, Self>) {
        rope::rope_backward(args);
    }

    fn attention(&self, args: Attention<'_, Self>) {
        attention::attention(args);
    }

    fn attention_backward(&self, args: AttentionBackward<'_, Self>) {
        attention::attention_backward(args);
    }

    fn head_loss(&self, args: HeadLoss<'_, Self>) {
        loss::head_loss(args);
    }

    fn head_loss_backward(&self, args: HeadLossBackward<'_, Self>) {
        loss::head_loss_backward(args);
    }

    fn adamw(&self, args: AdamW<'_, Self>) {
        optimizer::adamw(args);
    }

    fn sum_squares<'a>(&self, bufs: impl Iterator<Item = &'a HostBuf<R>>, out: &mut [f64]) -> Result<(), BackendError> {
        optimizer::sum_squares(bufs, out);
        Ok(())
    }
}

impl<R: Scalar> InferBackend for Reference<R> {
    type Weight = PlainWeight<R>;

    fn prepare(&self, weight: &HostBuf<R>, d_out: usize, d_in: usize) -> Result<PlainWeight<R>, BackendError> {
        Ok(PlainWeight::new(weight, d_out, d_in))
    }

    fn prepared_bytes(&self, d_out: usize, d_in: usize) -> usize {
        d_out * d_in * size_of::<R>()
    }

    fn prepare_quantized(
        &self,
        parts: &[QuantPart<'_>],
        d_in: usize,
        precision: ActivationPrecision,
    ) -> Result<PlainWeight<R>, BackendError> {
        Ok(PlainWeight::quantized(parts, d_in, precision))
    }

    fn prepared_quantized_bytes(&self, parts: &[(QuantKind, usize)], d_in: usize) -> usize {
        parts.iter().map(|(_, rows)| rows * d_in * size_of::<R>()).sum()
    }

    fn quantized_scratch_bytes(&self, _: crate::LinearShape) -> usize {
        0
    }

    fn embed_prepared(&self, args: EmbedPrepared<'_, Self>) {
        infer::embed_prepared(args);
    }

    fn linear_prepared(&self, args: LinearPrepared<'_, Self>) {
        infer::linear_prepared(args);
    }

    fn logits(&self, args: Logits<'_, Self>) {
        infer::logits(args);
    }

    fn gather_rows(&self, args: GatherRows<'_, Self>) {
        infer::gather_rows(args);
    }

    fn kv_write(&self, args: KvWrite<'_, Self>) {
        infer::kv_write(args);
    }

    fn attention_cached(&self, args: AttentionCached<'_, Self>) {
        infer::attention_cached(args);
    }
}

#[track_caller]
fn same_len(op: &str, src: usize, dst: usize) {
    assert!(src == dst, "{op}: source has {src} elements, destination {dst}");
}

//! The closed list of operations a machine must offer to train a model: as coarse as whole kernels, no tensor algebra.
//!
//! Contracts that hold for every operation:
//!
//! - The caller owns all buffers; an operation allocates nothing a caller could see.
//! - Every operation first calls `check()` of its arguments, which panics with both sizes on misuse (a bug). Kernels
//!   behind it rely on the sizes.
//! - Outputs are overwritten unless the field's documentation says *added to*.
//! - A sum is taken in one fixed order for each output element, whatever the number of threads, so that results are
//!   bit-equal over thread counts.
//! - Operations return nothing: a device that fails remembers it, and the next [`Backend::download`],
//!   [`Backend::sum_squares`] or [`Backend::synchronize`] returns the error.

use crate::args::*;
use crate::quant::{ActivationPrecision, QuantKind, QuantPart};
use crate::{BackendError, Element, LinearShape, Real};

/// A linear array of elements in a backend's memory.
pub trait Buffer<T: Element>: Send + Sync + 'static {
    /// Number of elements.
    fn len(&self) -> usize;

    /// True when there are no elements.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A machine that can train: forward and backward of each operation are both required, side by side.
pub trait Backend: Sized + Send + Sync + 'static {
    /// Type of weights and activations.
    type Elem: Real;
    /// Type of statistics, losses, weight gradients, master weights and moments. At least as wide as `Elem`.
    type Acc: Real;
    /// Memory of this backend.
    type Buf<T: Element>: Buffer<T>;

    /// Name for people, for example `cpu (avx512, 2 threads)`.
    fn describe(&self) -> String;

    /// A new buffer of zeros.
    fn alloc<T: Element>(&self, len: usize) -> Result<Self::Buf<T>, BackendError>;
    /// Host to device; lengths must be equal.
    fn upload<T: Element>(&self, src: &[T], dst: &mut Self::Buf<T>);
    /// Device to host; lengths must be equal. Waits for all work before it.
    fn download<T: Element>(&self, src: &Self::Buf<T>, dst: &mut [T]) -> Result<(), BackendError>;
    /// `dst = src`; lengths must be equal.
    fn copy<T: Element>(&self, src: &Self::Buf<T>, dst: &mut Self::Buf<T>);
    /// `dst = 0`.
    fn fill_zero<T: Element>(&self, dst: &mut Self::Buf<T>);
    /// `dst = src`, rounded to nearest even.
    fn round(&self, src: &Self::Buf<Self::Acc>, dst: &mut Self::Buf<Self::Elem>);
    /// Waits for all work and reports a device failure.
    fn synchronize(&self) -> Result<(), BackendError>;

    /// Token and position embedding.
    fn embed(&self, args: Embed<'_, Self>);
    /// Gradient of [`Backend::embed`].
    fn embed_backward(&self, args: EmbedBackward<'_, Self>);

    /// LayerNorm or RMSNorm of each row.
    fn norm(&self, args: Norm<'_, Self>);
    /// Gradient of [`Backend::norm`].
    fn norm_backward(&self, args: NormBackward<'_, Self>);

    /// RMSNorm of each query head and each key head.
    fn head_norm(&self, args: HeadNorm<'_, Self>);
    /// Gradient of [`Backend::head_norm`], in place.
    fn head_norm_backward(&self, args: HeadNormBackward<'_, Self>);

    /// `x = factor x + y`, computed in `Acc` and rounded once. Its gradient to `x` is itself with the gradient of the
    /// result for `x` and nothing for `y`; that to `y` is the gradient of the result.
    fn scaled_sum(&self, args: ScaledSum<'_, Self>);

    /// `out = epilogue(inp . weight^T + bias)`.
    fn linear(&self, args: Linear<'_, Self>);
    /// Gradient of [`Backend::linear`] to its input.
    fn linear_backward_input(&self, args: LinearBackwardInput<'_, Self>);
    /// Gradient of [`Backend::linear`] to its weight and bias.
    fn linear_backward_weight(&self, args: LinearBackwardWeight<'_, Self>);
    /// Most memory, bytes, that this machine keeps for itself for [`Backend::linear`] and its gradients at these sizes:
    /// packed operands and partial sums. It is kept between calls, and calls of other sizes use the same.
    fn linear_scratch_bytes(&self, shape: LinearShape) -> usize;

    /// Pointwise activation.
    fn activate(&self, args: Activate<'_, Self>);
    /// Gradient of [`Backend::activate`].
    fn activate_backward(&self, args: ActivateBackward<'_, Self>);

    /// Gated activation: `out = activation(gate) * up`.
    fn gate(&self, args: Gate<'_, Self>);
    /// Gradient of [`Backend::gate`].
    fn gate_backward(&self, args: GateBackward<'_, Self>);

    /// Rotates query and key heads in place.
    fn rope(&self, args: Rope<'_, Self>);
    /// Gradient of [`Backend::rope`]: the inverse rotation, in place.
    fn rope_backward(&self, args: Rope<'_, Self>);

    /// Causal attention, without a stored T x T matrix.
    fn attention(&self, args: Attention<'_, Self>);
    /// Gradient of [`Backend::attention`], from the saved log-sum-exp.
    fn attention_backward(&self, args: AttentionBackward<'_, Self>);

    /// Output head and cross-entropy, without a stored N x V matrix.
    fn head_loss(&self, args: HeadLoss<'_, Self>);
    /// [`Backend::head_loss`] and its gradients in one pass.
    fn head_loss_backward(&self, args: HeadLossBackward<'_, Self>);

    /// One AdamW step of one tensor.
    fn adamw(&self, args: AdamW<'_, Self>);
    /// Sum of squares of each buffer, added in `f64` in a fixed order; not finite if any element is not.
    fn sum_squares<'a>(
        &self,
        bufs: impl Iterator<Item = &'a Self::Buf<Self::Acc>>,
        out: &mut [f64],
    ) -> Result<(), BackendError>;
}

/// What generation needs beyond [`Backend`]: weights prepared once in the machine's own layout, and attention over a
/// paged KV cache for a ragged batch of prefill and decode rows.
///
/// A row's result never depends on which other rows are in the call.
pub trait InferBackend: Backend {
    /// A weight matrix `[d_out, d_in]` in the layout this machine reads fastest.
    type Weight: Send + Sync + 'static;

    /// Repacks a weight `[d_out, d_in]`.
    fn prepare(&self, weight: &Self::Buf<Self::Elem>, d_out: usize, d_in: usize) -> Result<Self::Weight, BackendError>;
    /// Bytes that a prepared weight `[d_out, d_in]` takes.
    fn prepared_bytes(&self, d_out: usize, d_in: usize) -> usize;
    /// Repacks a quantised weight: the rows of all parts one below the other, `d_in` values each. Products with it compute
    /// as `precision` says, in `f32` whatever `Elem` is; look-ups give the dequantised weights.
    ///
    /// # Panics
    /// As [`check_parts`](crate::quant::check_parts): files are checked before.
    fn prepare_quantized(
        &self,
        parts: &[QuantPart<'_>],
        d_in: usize,
        precision: ActivationPrecision,
    ) -> Result<Self::Weight, BackendError>;
    /// Bytes that a weight of such parts (format and rows) takes once prepared.
    fn prepared_quantized_bytes(&self, parts: &[(QuantKind, usize)], d_in: usize) -> usize;
    /// Most memory, bytes, that this machine keeps for itself for products of these sizes with a quantised weight of up to
    /// three formats, in either precision. It is kept between calls, and calls of other sizes use the same.
    fn quantized_scratch_bytes(&self, shape: LinearShape) -> usize;

    /// [`Backend::embed`] from a prepared token table.
    fn embed_prepared(&self, args: EmbedPrepared<'_, Self>);
    /// [`Backend::linear`] with a prepared weight; the same bits as [`Backend::linear`] gives.
    fn linear_prepared(&self, args: LinearPrepared<'_, Self>);
    /// `out[rows, n_vocab] = inp . weight^T`, not rounded to `Elem`.
    fn logits(&self, args: Logits<'_, Self>);
    /// `out[i] = inp[rows[i]]`, rows of `cols` elements.
    fn gather_rows(&self, args: GatherRows<'_, Self>);

    /// Writes the keys and values of new tokens into the cache. The layout inside a block is the backend's own.
    fn kv_write(&self, args: KvWrite<'_, Self>);
    /// Attention of new tokens over everything cached for their sequence, themselves included.
    fn attention_cached(&self, args: AttentionCached<'_, Self>);
}

//! A model as generation needs to know it.

use verve_model::{StepBatch, StepLimits};
use verve_ops::Real;

use crate::error::EngineError;

/// A model with a KV cache, as far as generation needs to know it.
pub trait StepModel {
    /// Type of its logits.
    type Logit: Real;
    /// Longest sequence in tokens.
    fn n_ctx(&self) -> usize;
    /// Logits of a row.
    fn n_vocab(&self) -> usize;
    /// Blocks of its KV cache.
    fn n_blocks(&self) -> usize;
    /// What a step may be asked for.
    fn limits(&self) -> StepLimits;
    /// Computes the rows of a batch and returns the logits of its output rows, `[n_outputs, n_vocab]`. A row's result
    /// depends only on the tokens of its own sequence up to it.
    ///
    /// # Errors
    /// What concerns all requests: a failed machine.
    fn step(&mut self, batch: &StepBatch<'_>) -> Result<&[Self::Logit], EngineError>;
    /// Hidden states behind the last norm of some rows of the last step, `[n_rows, d_model]`.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn hidden(&mut self, rows: &[u32]) -> Result<&[f32], EngineError>;
}

impl<M: StepModel + ?Sized> StepModel for &mut M {
    type Logit = M::Logit;

    fn n_ctx(&self) -> usize {
        (**self).n_ctx()
    }

    fn n_vocab(&self) -> usize {
        (**self).n_vocab()
    }

    fn n_blocks(&self) -> usize {
        (**self).n_blocks()
    }

    fn limits(&self) -> StepLimits {
        (**self).limits()
    }

    fn step(&mut self, batch: &StepBatch<'_>) -> Result<&[Self::Logit], EngineError> {
        (**self).step(batch)
    }

    fn hidden(&mut self, rows: &[u32]) -> Result<&[f32], EngineError> {
        (**self).hidden(rows)
    }
}

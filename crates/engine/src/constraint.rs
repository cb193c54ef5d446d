//! What an answer must look like, token by token.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::EngineError;

/// A grammar's state in one answer. Everything it does is a pure function of the tokens accepted so far.
pub trait Constraint: Send {
    /// Writes which tokens may come next: bit `id % 32` of word `id / 32`. `n_left` tokens may still come, the next one
    /// included: the constraint sees to it that it can be fulfilled within them.
    ///
    /// # Errors
    /// Why the answer cannot go on. It ends the request and nothing else.
    fn allow(&mut self, n_left: usize, allowed: &mut [u32]) -> Result<(), String>;

    /// Takes note of the next token, one of those allowed. False if it cannot come after all, which takes looking closer:
    /// then nothing has changed but that [`Self::allow`] does not allow it any more, and another is chosen.
    ///
    /// # Errors
    /// As [`Self::allow`].
    fn accept(&mut self, id: u32) -> Result<bool, String>;

    /// Whether it is fulfilled and nothing can follow.
    fn is_complete(&self) -> bool;

    /// A copy that goes on by itself, for beam search.
    fn fork(&self) -> Box<dyn Constraint>;
}

/// What an answer must look like, ready to be followed by any number of answers.
pub trait ConstraintSource: Send + Sync + fmt::Debug {
    /// The beginning of an answer of at most `n_left` tokens.
    ///
    /// # Errors
    /// Why there can be no such answer.
    fn start(&self, n_left: usize) -> Result<Box<dyn Constraint>, String>;
}

/// Calls a constraint; a panic in it is a failure of its request.
pub(crate) fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, EngineError> {
    let result = catch_unwind(AssertUnwindSafe(call));
    let result = result.unwrap_or_else(|_| Err("it broke down: a bug in the grammar engine".to_owned()));
    result.map_err(|detail| EngineError::Constraint { detail })
}

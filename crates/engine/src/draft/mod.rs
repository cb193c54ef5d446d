//! Guessing the next tokens, so that the model can check several in one step (Leviathan et al. 2023).
//!
//! A guess is right when it is the token that would have been chosen anyway, from the same logits with the same random
//! number; so guessing changes the speed and nothing else.

mod lookup;
mod model;

pub use lookup::PromptLookup;
pub use model::DraftModel;

use crate::error::EngineError;
use crate::schedule::Guess;

/// Something that guesses.
pub trait Drafter {
    /// Fills in guesses, as many as it likes up to each one's limit.
    ///
    /// # Errors
    /// A failed machine.
    fn guess(&mut self, sequences: &mut [Guess<'_>]) -> Result<(), EngineError>;

    /// Forgets a sequence that is over.
    fn forget(&mut self, id: u64);
}

//! What has been done.

/// Work done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Passes through the model.
    pub steps: usize,
    /// Tokens computed: of prompts, of answers but for their last, and guesses.
    pub rows: usize,
    /// Tokens of prompts and preempted answers that were found in the cache.
    pub n_found: usize,
    /// Tokens chosen.
    pub n_generated: usize,
    /// Tokens guessed.
    pub n_guessed: usize,
    /// Guesses that were right.
    pub n_right: usize,
    /// How often a sequence lost its place.
    pub n_preempted: usize,
}

impl Totals {
    /// What has been done since then.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            steps: self.steps - before.steps,
            rows: self.rows - before.rows,
            n_found: self.n_found - before.n_found,
            n_generated: self.n_generated - before.n_generated,
            n_guessed: self.n_guessed - before.n_guessed,
            n_right: self.n_right - before.n_right,
            n_preempted: self.n_preempted - before.n_preempted,
        }
    }
}

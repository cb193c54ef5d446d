//! Guesses from the text itself.

use super::Drafter;
use crate::error::EngineError;
use crate::schedule::Guess;

/// Guesses that what followed the last tokens before follows them again: for answers that quote their prompt, repeat
/// themselves, or fill in a form (Saxena 2023). Costs a search through the sequence and no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptLookup {
    /// Most tokens that are guessed.
    pub most: usize,
    /// Longest end of the text that is looked for.
    pub longest: usize,
    /// Shortest end that is taken for a reason to guess.
    pub shortest: usize,
}

impl Default for PromptLookup {
    /// Up to 7 tokens, which a processor checks in little more time than one, behind at least 2 that occurred before.
    fn default() -> Self {
        Self { most: 7, longest: 4, shortest: 2 }
    }
}

impl PromptLookup {
    /// What followed the last occurrence of the longest end that occurred before.
    fn find<'a>(&self, tokens: &'a [u32], most: usize) -> &'a [u32] {
        let n = tokens.len();
        for len in (self.shortest.max(1)..=self.longest).rev() {
            if len >= n {
                continue;
            }
            let end = &tokens[n - len..];
            if let Some(at) = (0..n - len).rev().find(|&at| tokens[at..].starts_with(end)) {
                let from = at + len;
                return &tokens[from..n.min(from + most)];
            }
        }
        &[]
    }
}

impl Drafter for PromptLookup {
    fn guess(&mut self, sequences: &mut [Guess<'_>]) -> Result<(), EngineError> {
        for sequence in sequences {
            let found = self.find(sequence.tokens, self.most.min(sequence.most));
            sequence.guesses.extend_from_slice(found);
        }
        Ok(())
    }

    fn forget(&mut self, _id: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_guessed() {
        let lookup = PromptLookup::default();
        let find = |tokens: &[u32], most| lookup.find(tokens, most).to_vec();
        assert_eq!(find(&[], 5), [0; 0]);
        assert_eq!(find(&[1, 2, 3], 5), [0; 0]);
        assert_eq!(find(&[1, 2, 3, 1], 5), [0; 0], "one token is no reason");
        assert_eq!(find(&[1, 2, 3, 4, 1, 2], 5), [3, 4, 1, 2]);
        assert_eq!(find(&[1, 2, 3, 4, 1, 2], 1), [3]);
        assert_eq!(find(&[1, 2, 8, 1, 2, 9, 1, 2], 1), [9], "the last occurrence");
        assert_eq!(find(&[7, 1, 2, 8, 3, 1, 2, 9, 7, 1, 2], 2), [8, 3], "the longest end");
        assert_eq!(find(&[5, 5, 5, 5], 3), [5], "runs go on");
    }
}

//! What encoders of pieces of text keep between calls: working memory, and the tokens of short words.

use std::sync::{Mutex, PoisonError};

use super::table::{Key, MAX_SHORT_PIECE, NONE, PieceKey, piece_key};
use super::{CACHE_SEED, CACHE_SLOTS, CACHE_TOKENS, CacheSlot};

/// Working memory of threads, lent for a call and given back.
#[derive(Debug)]
pub(super) struct Pool<T>(Mutex<Vec<T>>);

impl<T> Pool<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Calls `work` with memory that nobody else uses, made new when none is left.
    pub(super) fn with<R>(&self, new: impl FnOnce() -> T, work: impl FnOnce(&mut T) -> R) -> R {
        let pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut lent = pooled.unwrap_or_else(new);
        let result = work(&mut lent);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(lent);
        result
    }
}

/// Tokens of words of at most [`MAX_SHORT_PIECE`] bytes.
pub(super) struct WordCache(Vec<CacheSlot>);

impl std::fmt::Debug for WordCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WordCache").finish_non_exhaustive()
    }
}

impl WordCache {
    pub(super) fn new() -> Self {
        // No word has the all-zero key: its length is part of it.
        Self(vec![CacheSlot { key: [0; 2], tokens: [NONE; CACHE_TOKENS] }; CACHE_SLOTS])
    }

    /// Appends the tokens of the word `text[start..end]`, which `encode` makes if they are not known.
    #[inline]
    pub(super) fn encode(
        &mut self,
        text: &[u8],
        start: usize,
        end: usize,
        out: &mut Vec<u32>,
        encode: impl FnOnce(&[u8], &mut Vec<u32>),
    ) {
        let length = end - start;
        if length > MAX_SHORT_PIECE {
            return encode(&text[start..end], out);
        }
        let key: PieceKey = piece_key(text, start, length);
        let slot = &mut self.0[key.hash(CACHE_SEED) & (CACHE_SLOTS - 1)];
        if slot.key == key {
            out.extend(slot.tokens.iter().take_while(|token| **token != NONE));
            return;
        }
        let before = out.len();
        encode(&text[start..end], out);
        let made = &out[before..];
        if made.len() <= CACHE_TOKENS {
            *slot = CacheSlot { key, tokens: [NONE; CACHE_TOKENS] };
            slot.tokens[..made.len()].copy_from_slice(made);
        }
    }
}

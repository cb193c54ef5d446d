//! A sequence as the scheduler sees it.

use std::cmp::Reverse;

use verve_ops::KV_BLOCK;

use super::{Outputs, Segment, Submission};
use crate::blocks::BlockCache;

/// Tokens of an answer that room is made for in advance.
const MAX_RESERVED: usize = 1 << 12;

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: u64,
    pub(super) priority: i32,
    pub(super) client: u64,
    /// When it came, counted in submissions.
    pub(super) arrival: u64,
    /// Prompt and answer so far.
    pub(super) tokens: Vec<u32>,
    /// What may follow, to be checked in the next step.
    pub(super) guesses: Vec<u32>,
    /// Tokens at the end at last.
    pub(super) n_at_most: usize,
    /// Tokens in the cache.
    pub(super) n_cached: usize,
    /// Tokens whose outputs were given, if each has some.
    pub(super) n_reported: usize,
    pub(super) outputs: Outputs,
    /// By position.
    pub(super) blocks: Vec<u32>,
    /// Blocks that others can find.
    pub(super) n_published: usize,
    /// Whether it ran before and has to start again.
    pub(super) was_preempted: bool,
}

impl Sequence {
    pub(super) fn new(submission: Submission, arrival: u64) -> Self {
        let Submission { id, mut tokens, max_new, priority, client, outputs } = submission;
        // Usual answers allocate nothing on the way.
        let room = max_new.min(MAX_RESERVED);
        let n_blocks = (tokens.len() + room).div_ceil(KV_BLOCK);
        tokens.reserve_exact(room);
        Self {
            id,
            priority,
            client,
            arrival,
            n_at_most: tokens.len() + max_new,
            tokens,
            guesses: Vec::new(),
            n_cached: 0,
            n_reported: 0,
            outputs,
            blocks: Vec::with_capacity(n_blocks),
            n_published: 0,
            was_preempted: false,
        }
    }

    /// Known tokens that are not in the cache yet; at least 1, but for one that is held.
    pub(super) fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_cached
    }

    /// Blocks that it does not have yet, for the tokens that it knows and one block more.
    pub(super) fn n_lacking(&self) -> usize {
        let for_all = (self.n_at_most - 1).max(self.tokens.len()).div_ceil(KV_BLOCK);
        let soon = for_all.min(self.tokens.len().div_ceil(KV_BLOCK) + 1);
        soon.saturating_sub(self.blocks.len())
    }

    /// Whether it waits to be told how it goes on.
    pub(super) fn is_held(&self) -> bool {
        self.n_pending() == 0
    }

    /// When its request came, those of greater priority first.
    pub(super) fn begun(&self) -> (Reverse<i32>, u64) {
        (Reverse(self.priority), self.arrival)
    }

    /// Place in the order of those that run: the lesser, the later it loses its place.
    pub(super) fn rank(&self) -> (Reverse<i32>, u64, u64) {
        (Reverse(self.priority), self.arrival, self.id)
    }

    /// Tokens that need not be computed if the cache has them: not the last one, whose output is wanted.
    pub(super) fn findable(&self) -> &[u32] {
        let end = match self.outputs {
            Outputs::Last => self.tokens.len() - 1,
            Outputs::All => self.n_reported.min(self.tokens.len() - 1),
        };
        &self.tokens[..end]
    }

    /// The next `n_known` tokens, and the guesses if these are the last.
    pub(super) fn segment(&self, slot: usize, n_known: usize) -> Segment {
        let (start, end) = (self.n_cached, self.n_cached + n_known);
        let samples = end == self.tokens.len();
        let n_guessed = if samples { self.guesses.len() } else { 0 };
        let first = match self.outputs {
            Outputs::Last if samples => end - 1,
            Outputs::Last => end,
            // The last one's is wanted again, to choose what follows.
            Outputs::All => self.n_reported.max(start).min(if samples { end - 1 } else { end }),
        };
        let outputs = first..end + n_guessed;
        Segment { id: self.id, slot, start, n_known, n_guessed, outputs, samples }
    }

    /// Makes full blocks known to others.
    pub(super) fn publish(&mut self, blocks: &mut BlockCache) {
        while (self.n_published + 1) * KV_BLOCK <= self.n_cached {
            let n = self.n_published;
            let parent = n.checked_sub(1).map(|above| self.blocks[above]);
            if parent.is_some_and(|parent| !blocks.is_published(parent)) {
                return;
            }
            self.blocks[n] = blocks.publish(parent, self.blocks[n], &self.tokens[n * KV_BLOCK..][..KV_BLOCK]);
            self.n_published += 1;
        }
    }

    /// Forgets what was in the cache; the blocks have been given back.
    pub(super) fn suspend(&mut self) {
        self.guesses.clear();
        self.n_cached = 0;
        self.n_published = 0;
        self.was_preempted = true;
    }
}

//! Which rows of which sequence go into the next step. Pure: lengths in, plan out; no model, no tokens, no clock.

use std::collections::VecDeque;

use verve_ops::KV_BLOCK;

use crate::blocks::BlockAllocator;

/// What a scheduler may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Rows (new tokens) of a step, at least 1.
    pub max_rows: usize,
    /// Sequences at once, at least 1. No more than `max_rows` are ever used, so that each gets on in each step.
    pub max_sequences: usize,
    /// Blocks of the KV cache.
    pub n_blocks: usize,
}

/// Consecutive rows of one sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Index of the request, as it was submitted.
    pub request: usize,
    /// Place of the sequence, below [`SchedulerLimits::max_sequences`].
    pub slot: usize,
    /// Position of the first row.
    pub start: usize,
    /// Rows.
    pub len: usize,
    /// Whether the last row's logits are wanted: all known tokens are then in the cache.
    pub samples: bool,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Requests that start now and their slots.
    pub admitted: Vec<(usize, usize)>,
    /// What to compute; no slot twice.
    pub segments: Vec<Segment>,
}

/// What became of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The sequence goes on; if it sampled, it has one more token.
    Continue,
    /// The sequence is over.
    Finished,
}

#[derive(Debug)]
struct Waiting {
    request: usize,
    n_prompt: usize,
    n_blocks: usize,
}

#[derive(Debug)]
struct Sequence {
    request: usize,
    /// Tokens in the cache.
    n_cached: usize,
    /// Tokens known: prompt and answer so far.
    n_tokens: usize,
    blocks: Vec<u32>,
}

/// Decides what runs.
///
/// Requests start in the order of submission, when there is a free slot and the cache has room for the longest answer
/// they may give; so a started sequence never runs out of blocks, and a waiting one is never overtaken. In each step
/// every sequence that waits for its next token gets its row; what is left of `max_rows` goes to prompts, the earliest
/// started first, in chunks as large as fit.
#[derive(Debug)]
pub struct Scheduler {
    max_rows: usize,
    blocks: BlockAllocator,
    waiting: VecDeque<Waiting>,
    /// By slot.
    running: Vec<Option<Sequence>>,
    /// Slots in use, in order of admission.
    order: Vec<usize>,
    /// Lists of blocks to be used again.
    spare: Vec<Vec<u32>>,
}

impl Scheduler {
    /// A scheduler without requests.
    ///
    /// # Panics
    /// When no row or no sequence is allowed.
    pub fn new(limits: SchedulerLimits) -> Self {
        let SchedulerLimits { max_rows, max_sequences, n_blocks } = limits;
        assert!(max_rows > 0 && max_sequences > 0, "a scheduler without rows or sequences: {limits:?}");
        Self {
            max_rows,
            blocks: BlockAllocator::new(n_blocks),
            waiting: VecDeque::new(),
            running: (0..max_sequences.min(max_rows)).map(|_| None).collect(),
            order: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Tokens that a request may have in the cache at once: its answer's last token is never read.
    pub fn tokens_needed(n_prompt: usize, max_new: usize) -> usize {
        n_prompt + max_new.saturating_sub(1)
    }

    /// Blocks that [`Self::tokens_needed`] fill.
    pub fn blocks_needed(n_prompt: usize, max_new: usize) -> usize {
        Self::tokens_needed(n_prompt, max_new).div_ceil(KV_BLOCK)
    }

    /// Puts a request at the end of the queue: `n_prompt` tokens, answered by at most `max_new`.
    ///
    /// # Panics
    /// When a length is 0 or the cache could never hold it: the caller checks ([`Self::blocks_needed`]).
    pub fn submit(&mut self, request: usize, n_prompt: usize, max_new: usize) {
        let n_blocks = Self::blocks_needed(n_prompt, max_new);
        assert!(n_prompt > 0 && max_new > 0, "request {request} has {n_prompt} tokens and may get {max_new}");
        let all = self.blocks.n_blocks();
        assert!(n_blocks <= all, "request {request} needs {n_blocks} blocks, the cache has {all}");
        self.waiting.push_back(Waiting { request, n_prompt, n_blocks });
    }

    /// True when no request is waiting or running.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.order.is_empty()
    }

    /// Blocks that no sequence has.
    pub fn n_free_blocks(&self) -> usize {
        self.blocks.n_free()
    }

    /// Blocks of the sequence in a slot, in order of positions.
    ///
    /// # Panics
    /// When the slot is empty.
    pub fn blocks(&self, slot: usize) -> &[u32] {
        &self.sequence(slot).blocks
    }

    /// Starts what can start and fills `plan` with the next step. Not empty unless [`Self::is_idle`].
    pub fn plan(&mut self, plan: &mut Plan) {
        plan.admitted.clear();
        plan.segments.clear();
        self.admit(&mut plan.admitted);
        // Decode rows first: there are no more sequences than rows.
        let n_decoding = self.order.iter().filter(|&&slot| self.sequence(slot).pending() == 1).count();
        let mut left = self.max_rows - n_decoding;
        for &slot in &self.order {
            let sequence = self.sequence(slot);
            let pending = sequence.pending();
            let len = if pending == 1 { 1 } else { pending.min(left) };
            if pending > 1 {
                left -= len;
            }
            if len > 0 {
                let (request, start) = (sequence.request, sequence.n_cached);
                plan.segments.push(Segment { request, slot, start, len, samples: len == pending });
            }
        }
    }

    fn admit(&mut self, admitted: &mut Vec<(usize, usize)>) {
        while let Some(next) = self.waiting.front() {
            let Some(slot) = self.running.iter().position(Option::is_none) else { return };
            if next.n_blocks > self.blocks.n_free() {
                return;
            }
            let mut blocks = self.spare.pop().unwrap_or_default();
            let taken = self.blocks.take(next.n_blocks, &mut blocks);
            assert!(taken, "{} blocks are free", self.blocks.n_free());
            self.running[slot] = Some(Sequence { request: next.request, n_cached: 0, n_tokens: next.n_prompt, blocks });
            self.order.push(slot);
            admitted.push((next.request, slot));
            self.waiting.pop_front();
        }
    }

    /// Takes note of a computed segment of the last plan.
    ///
    /// # Panics
    /// When the segment is not of the last plan.
    pub fn complete(&mut self, segment: &Segment, outcome: Outcome) {
        let sequence = self.running.get_mut(segment.slot).and_then(Option::as_mut);
        match sequence {
            Some(sequence) if sequence.request == segment.request && sequence.n_cached == segment.start => {
                sequence.n_cached += segment.len;
                sequence.n_tokens += usize::from(segment.samples);
            }
            _ => panic!("{segment:?} is not of the last plan"),
        }
        if outcome == Outcome::Finished {
            self.release(segment.slot);
        }
    }

    /// Ends everything: calls `ended` with each request, and its slot if it was running.
    pub fn clear(&mut self, mut ended: impl FnMut(usize, Option<usize>)) {
        while let Some(&slot) = self.order.first() {
            ended(self.sequence(slot).request, Some(slot));
            self.release(slot);
        }
        for waiting in self.waiting.drain(..) {
            ended(waiting.request, None);
        }
    }

    fn release(&mut self, slot: usize) {
        if let Some(mut sequence) = self.running[slot].take() {
            self.blocks.give_back(&mut sequence.blocks);
            self.spare.push(sequence.blocks);
            self.order.retain(|&other| other != slot);
        }
    }

    fn sequence(&self, slot: usize) -> &Sequence {
        match self.running.get(slot) {
            Some(Some(sequence)) => sequence,
            _ => panic!("no sequence is in slot {slot}"),
        }
    }
}

impl Sequence {
    /// Known tokens that are not in the cache yet; at least 1.
    fn pending(&self) -> usize {
        self.n_tokens - self.n_cached
    }
}

//! Which rows of which sequence go into the next step. Pure: tokens in, plan out; no model, no clock.

mod queue;
mod sequence;

use std::ops::Range;

use verve_ops::KV_BLOCK;

use self::queue::Queue;
use self::sequence::Sequence;
use crate::blocks::BlockCache;

/// What a scheduler may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Rows (new tokens) of a step, at least 1.
    pub max_rows: usize,
    /// Rows of prompts in a step in which other sequences wait for their next token; they would wait longer for more.
    /// At least 1.
    pub max_prompt_rows: usize,
    /// Sequences at once, at least 1. No more than `max_rows` or `max_outputs` are ever used, so that each gets on in
    /// each step.
    pub max_sequences: usize,
    /// Rows of a step with outputs, at least 1.
    pub max_outputs: usize,
    /// Blocks of the KV cache.
    pub n_blocks: usize,
    /// Whether sequences find what others have computed.
    pub share_prefixes: bool,
}

/// Which rows of the known tokens have outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// The last one.
    Last,
    /// Each of them.
    All,
}

/// A sequence to be computed.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Its name, which no other unfinished sequence has.
    pub id: u64,
    /// What is known at the beginning.
    pub tokens: Vec<u32>,
    /// Most tokens that are added to them.
    pub max_new: usize,
    /// Sequences of a greater one go first, and take from those of a lesser one what they need.
    pub priority: i32,
    /// On whose behalf: those of one priority share the machine evenly among clients.
    pub client: u64,
    /// Which rows of `tokens` have outputs.
    pub outputs: Outputs,
}

/// Consecutive rows of one sequence in a step: known tokens, then guesses for those that follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The sequence.
    pub id: u64,
    /// Its place, below [`SchedulerLimits::max_sequences`].
    pub slot: usize,
    /// Position of the first row.
    pub start: usize,
    /// Rows of known tokens, at least 1.
    pub n_known: usize,
    /// Rows of guesses behind them.
    pub n_guessed: usize,
    /// Positions whose outputs are wanted, some at the end of the segment. May be empty.
    pub outputs: Range<usize>,
    /// Whether all known tokens are in the cache then, so that the next one can be chosen.
    pub samples: bool,
}

impl Segment {
    /// Positions of the rows.
    pub fn positions(&self) -> Range<usize> {
        self.start..self.start + self.n_known + self.n_guessed
    }
}

/// A sequence whose next tokens may be guessed.
#[derive(Debug)]
pub struct Guess<'a> {
    /// The sequence.
    pub id: u64,
    /// What is known.
    pub tokens: &'a [u32],
    /// Most guesses.
    pub most: usize,
    /// To be filled.
    pub guesses: &'a mut Vec<u32>,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sequences that start now, or again, and how many of their tokens were found in the cache.
    pub admitted: Vec<(u64, usize)>,
    /// Sequences that lost their place and wait to start again.
    pub preempted: Vec<u64>,
    /// What to compute; no slot twice.
    pub segments: Vec<Segment>,
}

/// What became of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The sequence goes on.
    Continue,
    /// The sequence keeps its place, with nothing to compute, until [`Scheduler::go_on`] or [`Scheduler::cancel`]; or it
    /// loses it to one that has.
    Hold,
    /// The sequence is over.
    Finished,
}

/// Decides what runs.
///
/// **Order.** Sequences start by priority, then clients that have had least, then as they came. The next to start is
/// never overtaken for want of blocks; only one whose beginning another is computing just now lets others pass, to find
/// it in the cache afterwards.
///
/// **Steps.** Every sequence that waits for its next token gets its row, and rows for guesses if no prompt waits. What is
/// left goes to prompts, in the order of rank, in chunks as large as fit.
///
/// **Blocks.** A sequence holds blocks for what it has. When none is left, the sequence of least rank (lowest priority,
/// latest come) is preempted: it gives its blocks back and waits; started again, it computes its tokens again, or finds
/// them. The sequence of highest rank is never preempted and each fits alone, so that everything ends. Held sequences
/// ([`Outcome::Hold`]) give way before any other; they do not come back by themselves.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    blocks: BlockCache,
    waiting: Queue,
    /// By slot.
    running: Vec<Option<Sequence>>,
    /// Slots in use, by rank.
    order: Vec<usize>,
    /// `order` as it is when a step is planned.
    planned: Vec<usize>,
    n_submitted: u64,
}

impl Scheduler {
    /// A scheduler without sequences.
    ///
    /// # Panics
    /// When no row, sequence or output is allowed.
    pub fn new(limits: SchedulerLimits) -> Self {
        let SchedulerLimits { max_rows, max_prompt_rows, max_sequences, max_outputs, n_blocks, .. } = limits;
        let n_slots = max_sequences.min(max_rows).min(max_outputs);
        assert!(n_slots > 0 && max_prompt_rows > 0, "a scheduler without rows, sequences or outputs: {limits:?}");
        Self {
            limits,
            blocks: BlockCache::new(n_blocks),
            waiting: Queue::default(),
            running: (0..n_slots).map(|_| None).collect(),
            order: Vec::with_capacity(n_slots),
            planned: Vec::with_capacity(n_slots),
            n_submitted: 0,
        }
    }

    /// Tokens that a sequence may have in the cache at once: the last one added is never read.
    pub fn tokens_needed(n_tokens: usize, max_new: usize) -> usize {
        n_tokens + max_new.saturating_sub(1)
    }

    /// Blocks that [`Self::tokens_needed`] fill.
    pub fn blocks_needed(n_tokens: usize, max_new: usize) -> usize {
        Self::tokens_needed(n_tokens, max_new).div_ceil(KV_BLOCK)
    }

    /// Queues a sequence and returns its place in the order in which they come.
    ///
    /// # Panics
    /// When there are no tokens or the cache could never hold it: the caller checks ([`Self::blocks_needed`]).
    pub fn submit(&mut self, submission: Submission) -> u64 {
        let arrival = self.n_submitted;
        self.n_submitted += 1;
        let sequence = self.checked(submission, arrival);
        self.waiting.push(sequence);
        arrival
    }

    /// Queues a sequence that goes on with the work of one submitted before: it ranks as if it had come then, and starts
    /// before those that have not begun.
    ///
    /// # Panics
    /// As [`Self::submit`].
    pub fn submit_again(&mut self, submission: Submission, arrival: u64) {
        let mut sequence = self.checked(submission, arrival);
        sequence.was_preempted = true;
        self.waiting.push(sequence);
    }

    fn checked(&self, submission: Submission, arrival: u64) -> Sequence {
        let Submission { id, max_new, .. } = submission;
        let n_tokens = submission.tokens.len();
        let (needed, all) = (Self::blocks_needed(n_tokens, max_new), self.blocks.n_blocks());
        assert!(n_tokens > 0, "sequence {id} is empty");
        assert!(needed <= all, "sequence {id} needs {needed} blocks, the cache has {all}");
        Sequence::new(submission, arrival)
    }

    /// True when no sequence is waiting or running.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.order.is_empty()
    }

    /// Sequences that wait to start.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that have a place.
    pub fn n_running(&self) -> usize {
        self.order.len()
    }

    /// The KV cache's blocks.
    pub fn blocks(&self) -> &BlockCache {
        &self.blocks
    }

    /// Blocks of the sequence in a slot, in order of positions.
    ///
    /// # Panics
    /// When the slot is empty.
    pub fn blocks_of(&self, slot: usize) -> &[u32] {
        &self.sequence(slot).blocks
    }

    /// Known tokens of the sequence in a slot, then the guesses that the plan kept.
    ///
    /// # Panics
    /// When the slot is empty.
    pub fn tokens_of(&self, slot: usize) -> (&[u32], &[u32]) {
        let sequence = self.sequence(slot);
        (&sequence.tokens, &sequence.guesses)
    }

    /// The sequences that wait for their next token, for guesses about what follows; none while a prompt is computed or
    /// waits, since rows are then worth more. The next plan takes the guesses up.
    pub fn guessable(&mut self) -> Vec<Guess<'_>> {
        if !self.waiting.is_empty() || self.order.iter().any(|&slot| self.sequence(slot).n_pending() > 1) {
            return Vec::new();
        }
        let n_running = self.order.len().max(1);
        let most = self.limits.max_rows.min(self.limits.max_outputs) / n_running - 1;
        let mut list = Vec::new();
        // In the order of slots, which is as good as any.
        for Sequence { id, tokens, guesses, n_at_most, .. } in self.running.iter_mut().flatten() {
            // The last token that can be added is never read.
            let most = (*n_at_most - tokens.len()).saturating_sub(1).min(most);
            guesses.clear();
            if most > 0 {
                list.push(Guess { id: *id, tokens, most, guesses });
            }
        }
        list
    }

    /// Starts what can start and fills `plan` with the next step. Not empty unless [`Self::is_idle`] or all are held.
    pub fn plan(&mut self, plan: &mut Plan) {
        plan.admitted.clear();
        plan.preempted.clear();
        plan.segments.clear();
        self.admit(plan);
        let is_decoding = |sequence: &Sequence| sequence.n_pending() == 1;
        // Decode rows first: there are no more sequences than rows and outputs.
        let mut slots = std::mem::take(&mut self.planned);
        slots.clone_from(&self.order);
        let mut n_rows = 0;
        let mut n_outputs = 0;
        for &slot in &slots {
            let Some(sequence) = &self.running[slot] else { continue };
            if !is_decoding(sequence) {
                continue;
            }
            let wanted = sequence.n_cached + 1 + sequence.guesses.len();
            let Some(room) = self.make_room(slot, wanted, plan) else { continue };
            let Some(sequence) = &mut self.running[slot] else { unreachable!("it has room") };
            sequence.guesses.truncate(room - sequence.n_cached - 1);
            n_rows += 1 + sequence.guesses.len();
            n_outputs += 1 + sequence.guesses.len();
            plan.segments.push(sequence.segment(slot, 1));
        }
        // Each prompt may have one output at its end; what is left over goes to those that have more.
        let n_prompts =
            slots.iter().filter(|&&slot| self.running[slot].as_ref().is_some_and(|s| s.n_pending() > 1)).count();
        let mut outputs = self.limits.max_outputs.saturating_sub(n_outputs + n_prompts);
        let mut rows = self.limits.max_rows - n_rows;
        if n_rows > 0 {
            rows = rows.min(self.limits.max_prompt_rows);
        }
        for &slot in &slots {
            let Some(sequence) = &self.running[slot] else { continue };
            if sequence.n_pending() < 2 || rows == 0 {
                continue;
            }
            let mut len = sequence.n_pending().min(rows);
            if sequence.outputs == Outputs::All {
                let unwanted = sequence.n_reported.saturating_sub(sequence.n_cached);
                len = len.min(unwanted + outputs + 1);
            }
            let wanted = sequence.n_cached + len;
            let Some(room) = self.make_room(slot, wanted, plan) else { continue };
            let Some(sequence) = &mut self.running[slot] else { unreachable!("it has room") };
            let segment = sequence.segment(slot, room - sequence.n_cached);
            outputs -= segment.outputs.len().saturating_sub(1).min(outputs);
            rows -= segment.n_known;
            plan.segments.push(segment);
        }
        self.planned = slots;
        // A sequence preempted for one of higher rank has no segment any more.
        plan.segments.retain(|segment| self.running[segment.slot].as_ref().is_some_and(|s| s.id == segment.id));
    }

    /// Sees to it that a running sequence has blocks for its first `wanted` positions, or at least for the next one.
    /// Returns for how many it has; `None` if it had to go itself.
    fn make_room(&mut self, slot: usize, wanted: usize, plan: &mut Plan) -> Option<usize> {
        loop {
            let sequence = self.running[slot].as_mut()?;
            let missing = wanted.div_ceil(KV_BLOCK).saturating_sub(sequence.blocks.len());
            if missing == 0 {
                return Some(wanted);
            }
            let some = missing.min(self.blocks.n_available());
            let taken = self.blocks.take(some, &mut sequence.blocks);
            assert!(taken, "{some} blocks are available");
            let room = wanted.min(sequence.blocks.len() * KV_BLOCK);
            // Guesses, and the rest of a prompt, are not worth anybody's place.
            if room > sequence.n_cached {
                return Some(room);
            }
            if let Some(held) = self.last_held() {
                self.end(held);
                continue;
            }
            let Some(&last) = self.order.last() else { unreachable!("slot {slot} is in use") };
            self.preempt(last, plan);
        }
    }

    fn preempt(&mut self, slot: usize, plan: &mut Plan) {
        let Some(mut sequence) = self.vacate(slot) else { return };
        plan.preempted.push(sequence.id);
        sequence.suspend();
        self.waiting.put_back(sequence);
    }

    fn admit(&mut self, plan: &mut Plan) {
        let mut passed = Vec::new();
        while let Some(next) = self.waiting.next(&passed) {
            let sequence = self.waiting.get(next);
            let (id, priority, n_tokens) = (sequence.id, sequence.priority, sequence.tokens.len());
            let begun = sequence.begun();
            let findable = if self.limits.share_prefixes { sequence.findable() } else { &[] };
            let (n_found, n_idle) = self.blocks.find(findable);
            // Who has just lost its place does not get it back at once.
            if self.is_being_computed(findable, n_found) || plan.preempted.contains(&id) {
                passed.push(id);
                continue;
            }
            // What those that run still lack is theirs, or the next tokens would drive someone out again.
            let lacking: usize = self.order.iter().map(|&slot| self.sequence(slot).n_lacking()).sum();
            let needed = n_tokens.div_ceil(KV_BLOCK) - n_found + n_idle + lacking;
            let free_slot = self.running.iter().position(Option::is_none);
            let Some(slot) = free_slot.filter(|_| needed <= self.blocks.n_available() || self.order.is_empty()) else {
                // A held one gives way to what came before it or is of its own request, and lest nothing runs at all.
                let none_runs = self.order.iter().all(|&slot| self.sequence(slot).is_held());
                if let Some(held) = self.last_held()
                    && (none_runs || begun <= self.sequence(held).begun())
                {
                    self.end(held);
                    continue;
                }
                let lowest = self.order.last().copied();
                match lowest.filter(|&slot| self.sequence(slot).priority < priority) {
                    Some(slot) => {
                        self.preempt(slot, plan);
                        continue;
                    }
                    None => break,
                }
            };
            let mut sequence = self.waiting.start(next);
            let findable = if self.limits.share_prefixes { sequence.findable().len() } else { 0 };
            self.blocks.hold(&sequence.tokens[..findable], &mut sequence.blocks);
            sequence.n_published = sequence.blocks.len();
            sequence.n_cached = sequence.blocks.len() * KV_BLOCK;
            plan.admitted.push((id, sequence.n_cached));
            let rank = sequence.rank();
            self.running[slot] = Some(sequence);
            let place = self.order.partition_point(|&other| self.sequence(other).rank() < rank);
            self.order.insert(place, slot);
        }
    }

    /// Whether a running sequence is about to compute more of these tokens than were found.
    fn is_being_computed(&self, tokens: &[u32], n_found: usize) -> bool {
        let more = (n_found + 1) * KV_BLOCK;
        tokens.len() >= more
            && self.order.iter().any(|&slot| {
                let other = self.sequence(slot);
                // Those that have cached it have published it; another block of the same hash is never published.
                other.n_cached < more && other.tokens.len() >= more && other.tokens[..more] == tokens[..more]
            })
    }

    /// Takes note of a computed segment of the last plan and of the tokens that were chosen: guesses that turned out
    /// right, and the token behind them.
    ///
    /// # Panics
    /// When the segment is not of the last plan.
    pub fn complete(&mut self, segment: &Segment, chosen: &[u32], outcome: Outcome) {
        let sequence = self.running.get_mut(segment.slot).and_then(Option::as_mut);
        let Some(sequence) = sequence.filter(|s| s.id == segment.id && s.n_cached == segment.start) else {
            panic!("{segment:?} is not of the last plan");
        };
        assert!(
            chosen.len() <= 1 + segment.n_guessed && (segment.samples || chosen.is_empty()),
            "{segment:?}: {chosen:?}"
        );
        sequence.n_cached += segment.n_known + chosen.len().saturating_sub(1);
        sequence.n_reported = sequence.n_reported.max(sequence.n_cached);
        sequence.tokens.extend_from_slice(chosen);
        sequence.guesses.clear();
        self.waiting.served(sequence.client, segment.n_known + segment.n_guessed);
        if self.limits.share_prefixes {
            sequence.publish(&mut self.blocks);
        }
        match outcome {
            Outcome::Finished => self.end(segment.slot),
            Outcome::Hold => assert!(segment.samples && chosen.is_empty(), "{segment:?} is held with something to do"),
            Outcome::Continue => assert!(!segment.samples || !chosen.is_empty(), "{segment:?} goes on without a token"),
        }
    }

    /// Gives a held sequence its next token. Returns false if it has lost its place: then it is over.
    pub fn go_on(&mut self, id: u64, token: u32) -> bool {
        let held = self.running.iter_mut().flatten().find(|sequence| sequence.id == id && sequence.is_held());
        held.map(|sequence| sequence.tokens.push(token)).is_some()
    }

    /// The held sequence of least rank.
    fn last_held(&self) -> Option<usize> {
        self.order.iter().copied().rfind(|&slot| self.sequence(slot).is_held())
    }

    /// Ends a sequence before its time. Returns whether it was there.
    pub fn cancel(&mut self, id: u64) -> bool {
        if self.waiting.remove(id).is_some() {
            return true;
        }
        let slot = self.order.iter().copied().find(|&slot| self.sequence(slot).id == id);
        slot.inspect(|&slot| self.end(slot)).is_some()
    }

    /// Empties a slot and gives its blocks back.
    fn vacate(&mut self, slot: usize) -> Option<Sequence> {
        let mut sequence = self.running[slot].take()?;
        self.blocks.release(&mut sequence.blocks);
        self.order.retain(|&other| other != slot);
        Some(sequence)
    }

    /// Ends the sequence in a slot.
    fn end(&mut self, slot: usize) {
        if let Some(sequence) = self.vacate(slot) {
            self.waiting.stopped(sequence.client);
        }
    }

    /// Forgets what finished sequences left in the cache.
    pub fn forget_idle(&mut self) {
        self.blocks.forget_idle();
    }

    fn sequence(&self, slot: usize) -> &Sequence {
        match self.running.get(slot) {
            Some(Some(sequence)) => sequence,
            _ => panic!("no sequence is in slot {slot}"),
        }
    }

    /// Checks that sequences, slots and blocks agree with each other.
    ///
    /// # Panics
    /// When they do not: a bug.
    pub fn check(&self) {
        self.blocks.check(self.running.iter().flatten().map(|sequence| &*sequence.blocks));
        let mut slots = self.order.clone();
        slots.sort_unstable();
        let taken: Vec<usize> = (0..self.running.len()).filter(|&slot| self.running[slot].is_some()).collect();
        assert!(slots == taken, "slots {taken:?} are taken, {slots:?} in order");
        assert!(self.order.windows(2).all(|pair| self.sequence(pair[0]).rank() < self.sequence(pair[1]).rank()));
        for sequence in self.running.iter().flatten() {
            assert!(sequence.n_cached <= sequence.tokens.len(), "{sequence:?} has computed what nobody knows");
            assert!(sequence.n_cached <= sequence.blocks.len() * KV_BLOCK, "{sequence:?} lacks blocks");
        }
        self.waiting.check();
    }
}

//! The scheduler alone, driven with random sequences, sizes, guesses and endings.

use std::collections::BTreeMap;

use proptest::prelude::*;
use verve_engine::{Outcome, Outputs, Plan, Scheduler, SchedulerLimits, Segment, Submission};
use verve_ops::KV_BLOCK;

/// A sequence as the scheduler sees it, and when it really ends.
#[derive(Debug, Clone)]
struct Wish {
    /// Letters of which each stands for the same half block of tokens.
    beginning: Vec<u32>,
    n_rest: usize,
    max_new: usize,
    /// Ends after this many new tokens, if that is before `max_new`: end of text.
    ends_after: usize,
    all_outputs: bool,
    /// Submitted before this step.
    arrives: usize,
    /// Cancelled so many steps later.
    cancelled_after: Option<usize>,
    priority: i32,
    client: u64,
}

impl Wish {
    fn tokens(&self, id: usize) -> Vec<u32> {
        let half = |&letter: &u32| (0..KV_BLOCK as u32 / 2).map(move |i| letter << 8 | i);
        let rest = (0..self.n_rest).map(|at| (id << 16 | at) as u32);
        self.beginning.iter().flat_map(half).chain(rest).collect()
    }

    /// The `n`th new token of sequence `id`.
    fn next(id: usize, n: usize) -> u32 {
        (id << 20 | n) as u32
    }

    fn n_new(&self) -> usize {
        self.max_new.min(self.ends_after)
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    let length = || prop_oneof![1usize..4, 1usize..40, 1usize..300];
    (
        (prop::collection::vec(0u32..2, 0..8), length(), length(), length()),
        (prop::bool::weighted(0.2), 0usize..40, prop::option::weighted(0.2, 0usize..30)),
        (-1i32..2, 0u64..3),
    )
        .prop_map(|((beginning, n_rest, max_new, ends_after), (all_outputs, arrives, cancelled_after), by)| Wish {
            beginning,
            n_rest,
            max_new,
            ends_after,
            all_outputs,
            arrives,
            cancelled_after,
            priority: by.0,
            client: by.1,
        })
}

struct Known {
    tokens: Vec<u32>,
    n_prompt: usize,
    n_cached: usize,
    /// Positions whose outputs have been given.
    reported: Vec<bool>,
}

struct Simulation<'a> {
    wishes: &'a [Wish],
    limits: SchedulerLimits,
    scheduler: Scheduler,
    known: BTreeMap<u64, Known>,
    n_done: usize,
}

impl Simulation<'_> {
    /// Checks everything that a plan promises, and carries it out.
    fn step(&mut self, plan: &Plan) -> Result<(), TestCaseError> {
        for id in &plan.preempted {
            prop_assert!(plan.segments.iter().all(|segment| segment.id != *id));
        }
        for &(id, n_found) in &plan.admitted {
            let known = self.known.get_mut(&id).expect("only what was submitted starts");
            prop_assert!(known.n_cached == 0 && n_found < known.tokens.len());
            prop_assert!(n_found == 0 || (self.limits.share_prefixes && n_found.is_multiple_of(KV_BLOCK)));
            known.n_cached = n_found;
        }
        for id in &plan.preempted {
            self.known.get_mut(id).expect("only what runs is preempted").n_cached = 0;
        }
        let (mut n_rows, mut n_outputs) = (0, 0);
        for segment in &plan.segments {
            n_rows += segment.positions().len();
            n_outputs += segment.outputs.len();
            self.check_segment(segment)?;
        }
        prop_assert!(n_rows <= self.limits.max_rows && n_outputs <= self.limits.max_outputs, "{n_rows} {n_outputs}");
        for segment in &plan.segments {
            self.complete(segment)?;
        }
        self.scheduler.check();
        Ok(())
    }

    fn check_segment(&self, segment: &Segment) -> Result<(), TestCaseError> {
        let known = &self.known[&segment.id];
        prop_assert!(segment.n_known > 0);
        prop_assert_eq!(segment.start, known.n_cached);
        let end = segment.start + segment.n_known;
        prop_assert!(end <= known.tokens.len());
        prop_assert_eq!(segment.samples, end == known.tokens.len());
        let (tokens, guesses) = self.scheduler.tokens_of(segment.slot);
        prop_assert_eq!(tokens, &known.tokens[..]);
        prop_assert!(segment.n_guessed == guesses.len() || (segment.n_guessed == 0 && !segment.samples));
        prop_assert!(self.scheduler.blocks_of(segment.slot).len() * KV_BLOCK >= segment.positions().end);
        // The last known token's output and the guesses' are always wanted, those of the prompt once if at all.
        let wish = &self.wishes[segment.id as usize];
        for position in segment.positions() {
            let samples = segment.samples && position + 1 >= end;
            let scores = wish.all_outputs && !known.reported.get(position).copied().unwrap_or(true);
            prop_assert_eq!(segment.outputs.contains(&position), samples || scores, "position {}", position);
        }
        Ok(())
    }

    fn complete(&mut self, segment: &Segment) -> Result<(), TestCaseError> {
        let id = segment.id as usize;
        let known = self.known.get_mut(&segment.id).expect("checked");
        known.n_cached += segment.n_known;
        for position in segment.outputs.clone() {
            if let Some(reported) = known.reported.get_mut(position) {
                *reported = true;
            }
        }
        let mut chosen = Vec::new();
        let mut outcome = Outcome::Continue;
        if segment.samples {
            let (_, guesses) = self.scheduler.tokens_of(segment.slot);
            for n in 0..=segment.n_guessed {
                let n_new = known.tokens.len() - known.n_prompt;
                let next = Wish::next(id, n_new);
                known.tokens.push(next);
                chosen.push(next);
                if n_new + 1 == self.wishes[id].n_new() {
                    outcome = Outcome::Finished;
                    break;
                }
                if guesses.get(n) != Some(&next) {
                    break;
                }
                known.n_cached += 1;
            }
        }
        self.scheduler.complete(segment, &chosen, outcome);
        if outcome == Outcome::Finished {
            let known = self.known.remove(&segment.id).expect("checked");
            prop_assert!(!self.wishes[id].all_outputs || known.reported.iter().all(|&reported| reported));
            self.n_done += 1;
        }
        Ok(())
    }
}

fn limits() -> impl Strategy<Value = SchedulerLimits> {
    let rows = || prop_oneof![1usize..6, 1usize..300];
    // The longest wish has 256 + 299 + 299 tokens: 14 blocks.
    (rows(), rows(), 1usize..7, rows(), 14usize..40, any::<bool>()).prop_map(
        |(max_rows, max_prompt_rows, max_sequences, max_outputs, n_blocks, share_prefixes)| SchedulerLimits {
            max_rows,
            max_prompt_rows,
            max_sequences,
            max_outputs,
            n_blocks,
            share_prefixes,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn everything_is_computed_and_every_block_comes_back(
        wishes in prop::collection::vec(wish(), 1..14),
        limits in limits(),
        guesses in prop::collection::vec(0usize..6, 1..8),
    ) {
        let mut sim =
            Simulation { wishes: &wishes, limits, scheduler: Scheduler::new(limits), known: BTreeMap::new(), n_done: 0 };
        let mut plan = Plan::default();
        let mut step = 0;
        let last_arrival = wishes.iter().map(|wish| wish.arrives).max().unwrap_or(0);
        while step <= last_arrival || !sim.scheduler.is_idle() {
            prop_assert!(step < 20_000, "it goes on for ever");
            for (id, wish) in wishes.iter().enumerate() {
                if wish.arrives == step {
                    let tokens = wish.tokens(id);
                    let reported = vec![false; tokens.len()];
                    let known = Known { tokens: tokens.clone(), n_prompt: tokens.len(), n_cached: 0, reported };
                    sim.known.insert(id as u64, known);
                    let outputs = if wish.all_outputs { Outputs::All } else { Outputs::Last };
                    let Wish { max_new, priority, client, .. } = *wish;
                    sim.scheduler.submit(Submission { id: id as u64, tokens, max_new, priority, client, outputs });
                }
                if wish.cancelled_after.is_some_and(|after| wish.arrives + after == step) {
                    let was_there = sim.known.remove(&(id as u64)).is_some();
                    prop_assert_eq!(sim.scheduler.cancel(id as u64), was_there);
                    sim.n_done += usize::from(was_there);
                    sim.scheduler.check();
                }
            }
            for guess in sim.scheduler.guessable() {
                let id = guess.id as usize;
                let n_new = guess.tokens.len() - wishes[id].tokens(id).len();
                let n = guesses[(step + id) % guesses.len()].min(guess.most);
                // The last one is wrong now and then.
                guess.guesses.extend((0..n).map(|at| Wish::next(id, n_new + at) + u32::from(at == 3)));
            }
            sim.scheduler.plan(&mut plan);
            prop_assert_eq!(plan.segments.is_empty(), sim.scheduler.is_idle());
            sim.step(&plan)?;
            step += 1;
        }
        prop_assert_eq!(sim.n_done, wishes.len());
        let blocks = sim.scheduler.blocks();
        prop_assert_eq!(blocks.n_available(), limits.n_blocks);
        prop_assert!(limits.share_prefixes || blocks.n_idle() == 0);
    }
}

fn small(n_blocks: usize, max_sequences: usize) -> SchedulerLimits {
    SchedulerLimits {
        max_rows: 64,
        max_prompt_rows: 64,
        max_sequences,
        max_outputs: 64,
        n_blocks,
        share_prefixes: true,
    }
}

fn submission(id: u64, n_tokens: usize, max_new: usize) -> Submission {
    let tokens = (0..n_tokens as u32).map(|at| (id as u32) << 16 | at).collect();
    Submission { id, tokens, max_new, priority: 0, client: 0, outputs: Outputs::Last }
}

/// Carries out a plan; nothing ends.
fn carry_out(scheduler: &mut Scheduler, plan: &Plan) {
    for segment in &plan.segments {
        let chosen: &[u32] = if segment.samples { &[7] } else { &[] };
        scheduler.complete(segment, chosen, Outcome::Continue);
    }
}

#[test]
fn a_step_with_decoding_sequences_keeps_prompts_short() {
    let mut scheduler = Scheduler::new(SchedulerLimits { max_prompt_rows: 10, ..small(20, 4) });
    scheduler.submit(submission(0, 3, 50));
    let mut plan = Plan::default();
    scheduler.plan(&mut plan);
    carry_out(&mut scheduler, &plan);
    scheduler.submit(submission(1, 100, 50));
    for _ in 0..10 {
        scheduler.plan(&mut plan);
        let rows: Vec<usize> = plan.segments.iter().map(|segment| segment.n_known).collect();
        assert_eq!(rows, [1, 10]);
        carry_out(&mut scheduler, &plan);
    }
    scheduler.plan(&mut plan);
    assert_eq!(plan.segments.len(), 2);
    assert!(plan.segments.iter().all(|segment| segment.n_known == 1));
}

#[test]
fn the_latest_loses_its_place_when_blocks_run_out_and_finds_its_tokens_again() {
    let mut scheduler = Scheduler::new(small(5, 2));
    // Each begins with one block and a half and needs a third block before it ends; there are five.
    scheduler.submit(submission(0, 90, 120));
    scheduler.submit(submission(1, 90, 120));
    let mut plan = Plan::default();
    let mut preempted = Vec::new();
    for _ in 0..60 {
        scheduler.plan(&mut plan);
        preempted.extend(plan.preempted.clone());
        carry_out(&mut scheduler, &plan);
        scheduler.check();
    }
    assert_eq!(preempted, [1], "once, and not again before there is room");
    assert!(scheduler.cancel(0));
    scheduler.plan(&mut plan);
    assert_eq!(plan.admitted, [(1, 2 * KV_BLOCK)], "its blocks are still there");
    // Someone more important comes and needs everything.
    carry_out(&mut scheduler, &plan);
    scheduler.submit(Submission { priority: 1, ..submission(2, 256, 1) });
    scheduler.plan(&mut plan);
    assert_eq!((&plan.preempted[..], plan.admitted[0].0), (&[1][..], 2));
}

#[test]
#[should_panic(expected = "sequence 3 needs 2 blocks, the cache has 1")]
fn a_sequence_that_never_fits_is_refused_at_once() {
    Scheduler::new(small(1, 2)).submit(submission(3, KV_BLOCK, 2));
}

#[test]
#[should_panic(expected = "is not of the last plan")]
fn a_segment_completed_twice_is_a_bug() {
    let mut scheduler = Scheduler::new(small(1, 2));
    scheduler.submit(submission(0, 3, 9));
    let mut plan = Plan::default();
    scheduler.plan(&mut plan);
    carry_out(&mut scheduler, &plan);
    carry_out(&mut scheduler, &plan);
}

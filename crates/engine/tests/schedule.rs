//! The scheduler alone, driven with random requests, sizes and endings.

use std::collections::BTreeMap;

use proptest::prelude::*;
use verve_engine::{Outcome, Plan, Scheduler, SchedulerLimits};
use verve_ops::KV_BLOCK;

/// A request as the scheduler sees it, and when it really ends.
#[derive(Debug, Clone)]
struct Wish {
    n_prompt: usize,
    max_new: usize,
    /// Ends after this many tokens of its answer, if that is before `max_new`: end of text or cancellation.
    ends_after: usize,
    /// Submitted before this step.
    arrives: usize,
}

impl Wish {
    fn n_new(&self) -> usize {
        self.max_new.min(self.ends_after)
    }

    fn n_blocks(&self) -> usize {
        // The last token is never read.
        (self.n_prompt + self.max_new - 1).div_ceil(KV_BLOCK)
    }
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let length = || prop_oneof![1usize..4, 1usize..40, 1usize..400];
    let wish = (length(), length(), length(), 0usize..40).prop_map(|(n_prompt, max_new, ends_after, arrives)| Wish {
        n_prompt,
        max_new,
        ends_after,
        arrives,
    });
    prop::collection::vec(wish, 1..14).prop_map(|mut wishes| {
        wishes.sort_by_key(|wish| wish.arrives);
        wishes
    })
}

struct Running {
    request: usize,
    n_cached: usize,
    n_tokens: usize,
}

struct Simulation<'a> {
    wishes: &'a [Wish],
    limits: SchedulerLimits,
    scheduler: Scheduler,
    submitted: usize,
    admitted: usize,
    running: BTreeMap<usize, Running>,
    /// Slots by admission.
    order: Vec<usize>,
    rows: usize,
}

impl Simulation<'_> {
    /// Checks everything that a plan promises, and carries it out.
    fn step(&mut self, plan: &Plan) -> Result<(), TestCaseError> {
        let n_slots = self.limits.max_sequences.min(self.limits.max_rows);
        for &(request, slot) in &plan.admitted {
            prop_assert_eq!(request, self.admitted, "requests start in the order of submission");
            prop_assert!(slot < n_slots);
            self.admitted += 1;
            let running = Running { request, n_cached: 0, n_tokens: self.wishes[request].n_prompt };
            prop_assert!(self.running.insert(slot, running).is_none(), "slot {} is taken", slot);
            self.order.push(slot);
        }
        self.check_blocks()?;
        if self.admitted < self.submitted {
            let needed = self.wishes[self.admitted].n_blocks();
            let has_room = needed <= self.scheduler.n_free_blocks() && self.running.len() < n_slots;
            prop_assert!(!has_room, "request {} could have started", self.admitted);
        }
        self.check_segments(plan)?;
        for segment in &plan.segments {
            let Some(running) = self.running.get_mut(&segment.slot) else { unreachable!("checked") };
            running.n_cached += segment.len;
            running.n_tokens += usize::from(segment.samples);
            self.rows += segment.len;
            let wish = &self.wishes[running.request];
            let is_over = running.n_tokens == wish.n_prompt + wish.n_new();
            if is_over {
                self.running.remove(&segment.slot);
                self.order.retain(|&slot| slot != segment.slot);
            }
            self.scheduler.complete(segment, if is_over { Outcome::Finished } else { Outcome::Continue });
        }
        Ok(())
    }

    /// Every running sequence owns all the blocks it can need, and no two own one.
    fn check_blocks(&self) -> Result<(), TestCaseError> {
        let mut owned: Vec<u32> = Vec::new();
        for (&slot, running) in &self.running {
            let blocks = self.scheduler.blocks(slot);
            prop_assert_eq!(blocks.len(), self.wishes[running.request].n_blocks());
            owned.extend(blocks);
        }
        prop_assert_eq!(owned.len() + self.scheduler.n_free_blocks(), self.limits.n_blocks);
        owned.sort_unstable();
        prop_assert!(owned.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(owned.last().is_none_or(|&block| (block as usize) < self.limits.n_blocks));
        Ok(())
    }

    fn check_segments(&self, plan: &Plan) -> Result<(), TestCaseError> {
        let mut len_of = BTreeMap::new();
        for segment in &plan.segments {
            prop_assert!(len_of.insert(segment.slot, segment.len).is_none(), "slot {} twice", segment.slot);
            let Some(running) = self.running.get(&segment.slot) else {
                return Err(TestCaseError::fail(format!("slot {} is empty", segment.slot)));
            };
            prop_assert!(segment.len > 0);
            prop_assert_eq!((segment.request, segment.start), (running.request, running.n_cached));
            let end = segment.start + segment.len;
            prop_assert!(end <= running.n_tokens);
            prop_assert_eq!(segment.samples, end == running.n_tokens);
        }
        let pending: usize = self.running.values().map(|running| running.n_tokens - running.n_cached).sum();
        let rows: usize = len_of.values().sum();
        prop_assert_eq!(rows, pending.min(self.limits.max_rows), "a step is as full as it can be");
        // No one starves: whoever waits for one token gets it, and the earliest prompt gets on.
        let (mut is_first, mut may_have_rows) = (true, true);
        for slot in &self.order {
            let running = &self.running[slot];
            let (pending, len) = (running.n_tokens - running.n_cached, len_of.get(slot).copied().unwrap_or(0));
            if pending == 1 {
                prop_assert_eq!(len, 1);
                continue;
            }
            prop_assert!(!is_first || len > 0, "slot {} got no row", slot);
            prop_assert!(may_have_rows || len == 0, "slot {} got rows before an earlier prompt", slot);
            is_first = false;
            may_have_rows &= len == pending;
        }
        Ok(())
    }
}

fn limits() -> impl Strategy<Value = SchedulerLimits> {
    // 800 tokens are the longest wish: 13 blocks.
    (prop_oneof![1usize..6, 1usize..300], 1usize..7, 13usize..40)
        .prop_map(|(max_rows, max_sequences, n_blocks)| SchedulerLimits { max_rows, max_sequences, n_blocks })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_request_gets_all_its_tokens_and_every_block_comes_back(wishes in wishes(), limits in limits()) {
        let mut sim = Simulation {
            wishes: &wishes,
            limits,
            scheduler: Scheduler::new(limits),
            submitted: 0,
            admitted: 0,
            running: BTreeMap::new(),
            order: Vec::new(),
            rows: 0,
        };
        let mut plan = Plan::default();
        // What must be computed, if it were one row a step: no plan may be empty while there is work.
        let work: usize = wishes.iter().map(|wish| wish.n_prompt + wish.n_new() - 1).sum();
        let mut step = 0;
        while sim.submitted < wishes.len() || !sim.scheduler.is_idle() {
            prop_assert!(step <= work + 40, "it goes on for ever");
            while sim.submitted < wishes.len() && wishes[sim.submitted].arrives <= step {
                let wish = &wishes[sim.submitted];
                sim.scheduler.submit(sim.submitted, wish.n_prompt, wish.max_new);
                sim.submitted += 1;
            }
            sim.scheduler.plan(&mut plan);
            prop_assert_eq!(plan.segments.is_empty(), sim.scheduler.is_idle());
            sim.step(&plan)?;
            step += 1;
        }
        prop_assert_eq!(sim.rows, work, "no token is computed twice");
        prop_assert_eq!(sim.scheduler.n_free_blocks(), limits.n_blocks);
    }

    #[test]
    fn clearing_frees_everything_and_names_every_request_once(
        wishes in wishes(),
        limits in limits(),
        steps in 0usize..30,
    ) {
        let mut scheduler = Scheduler::new(limits);
        for (request, wish) in wishes.iter().enumerate() {
            scheduler.submit(request, wish.n_prompt, wish.max_new);
        }
        let mut open: BTreeMap<usize, Option<usize>> = (0..wishes.len()).map(|request| (request, None)).collect();
        let mut answered = vec![0; wishes.len()];
        let mut plan = Plan::default();
        for _ in 0..steps {
            scheduler.plan(&mut plan);
            open.extend(plan.admitted.iter().map(|&(request, slot)| (request, Some(slot))));
            for segment in &plan.segments {
                answered[segment.request] += usize::from(segment.samples);
                let is_over = answered[segment.request] == wishes[segment.request].n_new();
                if is_over {
                    open.remove(&segment.request);
                }
                scheduler.complete(segment, if is_over { Outcome::Finished } else { Outcome::Continue });
            }
        }
        let mut ended = BTreeMap::new();
        scheduler.clear(|request, slot| assert!(ended.insert(request, slot).is_none(), "{request} twice"));
        prop_assert_eq!(ended, open);
        prop_assert!(scheduler.is_idle());
        prop_assert_eq!(scheduler.n_free_blocks(), limits.n_blocks);
        // It is as good as new.
        scheduler.submit(77, 5, 5);
        scheduler.plan(&mut plan);
        prop_assert_eq!(&plan.admitted, &vec![(77, 0)]);
    }
}

#[test]
#[should_panic(expected = "request 3 needs 2 blocks, the cache has 1")]
fn a_request_that_never_fits_is_refused_at_once() {
    Scheduler::new(SchedulerLimits { max_rows: 8, max_sequences: 2, n_blocks: 1 }).submit(3, KV_BLOCK, 2);
}

#[test]
#[should_panic(expected = "is not of the last plan")]
fn a_segment_completed_twice_is_a_bug() {
    let mut scheduler = Scheduler::new(SchedulerLimits { max_rows: 8, max_sequences: 2, n_blocks: 1 });
    scheduler.submit(0, 3, 2);
    let mut plan = Plan::default();
    scheduler.plan(&mut plan);
    scheduler.complete(&plan.segments[0], Outcome::Continue);
    scheduler.complete(&plan.segments[0], Outcome::Continue);
}

//! The heart of the engine: plan, step, choose, report.

mod beams;
mod check;
mod report;
mod totals;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::slice::ChunksExact;

use verve_model::{StepBatch, StepLimits};
use verve_ops::{KV_BLOCK, Real};

use self::beams::is_searched;
use self::report::{report_recorded, score};
pub use self::totals::Totals;
use crate::draft::Drafter;
use crate::error::EngineError;
use crate::group::{Group, Tools};
use crate::model::StepModel;
use crate::params::SamplingParams;
use crate::request::{Event, FinishReason, MAX_CHOICES, OnEvent, Pooling, Request};
use crate::sampler::Sampler;
use crate::schedule::{Outcome, Outputs, Plan, Scheduler, SchedulerLimits, Segment, Submission};
use crate::vocabulary::Vocabulary;

/// How a [`Core`] works. None of it changes an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreOptions {
    /// As [`SchedulerLimits::max_prompt_rows`].
    pub max_prompt_rows: usize,
    /// As [`SchedulerLimits::max_outputs`].
    pub max_outputs: usize,
    /// As [`SchedulerLimits::share_prefixes`].
    pub share_prefixes: bool,
}

impl CoreOptions {
    /// Everything that makes answers come sooner, but guesses.
    pub fn for_limits(limits: StepLimits) -> Self {
        Self { max_prompt_rows: limits.max_rows, max_outputs: limits.max_rows, share_prefixes: true }
    }
}

/// A step's rows.
#[derive(Default)]
struct Rows {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    sequences: Vec<u32>,
    output_rows: Vec<u32>,
    hidden_rows: Vec<u32>,
}

/// Requests and the model that answers them, one step at a time.
pub struct Core<'v, M> {
    model: M,
    run: Run<'v>,
}

/// Everything but the model.
struct Run<'v> {
    vocabulary: &'v Vocabulary,
    scheduler: Scheduler,
    sampler: Sampler,
    drafter: Option<Box<dyn Drafter + 'v>>,
    groups: BTreeMap<usize, Group>,
    next_request: usize,
    n_ctx: usize,
    max_blocks: usize,
    /// `[max_sequences, max_blocks]`.
    block_table: Vec<u32>,
    plan: Plan,
    rows: Rows,
    chosen: Vec<u32>,
    /// Bits for the tokens that a constraint allows.
    allowed: Vec<u32>,
    totals: Totals,
}

/// Names a sequence after its request and answer.
fn sequence_id(request: usize, choice: usize) -> u64 {
    (request * MAX_CHOICES + choice) as u64
}

/// The request and answer of a sequence.
fn request_of(sequence: u64) -> (usize, usize) {
    (sequence as usize / MAX_CHOICES, sequence as usize % MAX_CHOICES)
}

/// Most tokens of an answer to a prompt that fits into the context. The last one needs no place in it.
pub(crate) fn longest_answer(n_ctx: usize, n_prompt: usize, params: &SamplingParams) -> usize {
    params.max_tokens.min((n_ctx + 1).saturating_sub(n_prompt))
}

impl<'v, M: StepModel> Core<'v, M> {
    /// A core without requests.
    ///
    /// # Errors
    /// A vocabulary larger than the model's.
    ///
    /// # Panics
    /// When the model or the options allow no rows, sequences or outputs.
    pub fn new(model: M, vocabulary: &'v Vocabulary, options: CoreOptions) -> Result<Self, EngineError> {
        let (n_ids, n_vocab, limits) = (vocabulary.n_vocab(), model.n_vocab(), model.limits());
        if n_ids > n_vocab {
            return Err(EngineError::VocabularyTooLarge { found: n_ids, n_vocab });
        }
        let scheduler = Scheduler::new(SchedulerLimits {
            max_rows: limits.max_rows,
            max_prompt_rows: options.max_prompt_rows,
            max_sequences: limits.max_sequences,
            max_outputs: options.max_outputs,
            n_blocks: model.n_blocks(),
            share_prefixes: options.share_prefixes,
        });
        let run = Run {
            vocabulary,
            scheduler,
            sampler: Sampler::new(vocabulary),
            drafter: None,
            groups: BTreeMap::new(),
            next_request: 0,
            n_ctx: model.n_ctx().min(limits.max_blocks * KV_BLOCK),
            max_blocks: limits.max_blocks,
            block_table: vec![0; limits.max_sequences * limits.max_blocks],
            plan: Plan::default(),
            rows: Rows::default(),
            chosen: Vec::new(),
            allowed: Vec::new(),
            totals: Totals::default(),
        };
        Ok(Self { model, run })
    }

    /// Has tokens guessed, to be checked several at a time.
    pub fn set_drafter(&mut self, drafter: Option<Box<dyn Drafter + 'v>>) {
        self.run.drafter = drafter;
    }

    /// Longest sequence, prompt and answer together.
    pub fn n_ctx(&self) -> usize {
        self.run.n_ctx
    }

    /// Work done so far.
    pub fn totals(&self) -> Totals {
        self.run.totals
    }

    /// Who waits, runs and holds which blocks.
    pub fn scheduler(&self) -> &Scheduler {
        &self.run.scheduler
    }

    /// Forgets what finished requests left in the cache.
    pub fn forget_prefixes(&mut self) {
        self.run.scheduler.forget_idle();
    }

    /// True when no request is waiting or running.
    pub fn is_idle(&self) -> bool {
        self.run.groups.is_empty()
    }

    /// Whether a request is waiting or running.
    pub fn is_open(&self, request: usize) -> bool {
        self.run.groups.contains_key(&request)
    }

    /// Requests that are waiting or running.
    pub fn n_requests(&self) -> usize {
        self.run.groups.len()
    }

    /// The name that the next request gets, taken or not: requests are named in order.
    pub fn next_request(&self) -> usize {
        self.run.next_request
    }

    /// Queues a request and returns its name.
    ///
    /// # Errors
    /// A request that cannot be answered; its name is used up.
    pub fn submit(&mut self, request: Request) -> Result<usize, EngineError> {
        self.run.submit(request)
    }

    /// Ends a request: its answers finish as they are. Does nothing when it is over.
    pub fn cancel(&mut self, request: usize, on_event: OnEvent<'_>) {
        self.run.cancel(request, on_event);
    }

    /// Ends all requests.
    pub fn cancel_all(&mut self, on_event: OnEvent<'_>) {
        let requests: Vec<usize> = self.run.groups.keys().copied().collect();
        for request in requests {
            self.run.cancel(request, on_event);
        }
    }

    /// Does one step, if there is anything to do.
    ///
    /// # Errors
    /// A failed machine: nothing can be answered any more.
    pub fn step(&mut self, on_event: OnEvent<'_>) -> Result<(), EngineError> {
        let Self { model, run } = self;
        if run.groups.is_empty() {
            return Ok(());
        }
        let n_vocab = model.n_vocab();
        let plan = run.plan()?;
        let rows = &run.rows;
        let logits = model.step(&StepBatch {
            tokens: &rows.tokens,
            positions: &rows.positions,
            slots: &rows.slots,
            sequences: &rows.sequences,
            block_table: &run.block_table,
            max_blocks: run.max_blocks,
            output_rows: &rows.output_rows,
        })?;
        run.totals.steps += 1;
        run.totals.rows += run.rows.tokens.len();
        let mut rest = logits;
        for segment in &plan.segments {
            if !run.is_embedded(segment) {
                let n = segment.outputs.len() * n_vocab;
                assert!(n <= rest.len(), "the model gave too few rows of logits");
                let (logits, others) = rest.split_at(n);
                run.take_logits(segment, logits.chunks_exact(n_vocab), on_event);
                rest = others;
            }
        }
        let n_hidden = run.rows.hidden_rows.len();
        let mut rest: &[f32] = if n_hidden > 0 { model.hidden(&run.rows.hidden_rows)? } else { &[] };
        let d_model = (rest.len() / n_hidden.max(1)).max(1);
        for segment in &plan.segments {
            if run.is_embedded(segment) {
                let (hidden, others) = rest.split_at(segment.outputs.len() * d_model);
                run.take_hidden(segment, hidden.chunks_exact(d_model), on_event);
                rest = others;
            }
        }
        run.plan = plan;
        Ok(())
    }
}

impl Run<'_> {
    fn submit(&mut self, request: Request) -> Result<usize, EngineError> {
        let name = self.next_request;
        self.next_request += 1;
        let max_new = self.check(&request)?;
        let prompt: Vec<u32> =
            if request.prompt.is_empty() { self.vocabulary.start_prompt() } else { &request.prompt }.to_vec();
        let (priority, client) = (request.priority, request.client);
        let every_row = request.prompt_logprobs.is_some() || request.embed == Some(Pooling::Mean);
        let mut group = Group::new(request, &prompt, max_new, self.vocabulary)?;
        group.request.prompt = prompt;
        for choice in 0..group.n_first() {
            group.arrival = self.scheduler.submit(Submission {
                id: sequence_id(name, choice),
                tokens: group.request.prompt.clone(),
                max_new,
                priority,
                client,
                outputs: if every_row && choice == 0 { Outputs::All } else { Outputs::Last },
            });
        }
        self.groups.insert(name, group);
        Ok(name)
    }

    fn cancel(&mut self, request: usize, on_event: OnEvent<'_>) {
        if self.cancel_search(request, on_event) {
            return;
        }
        let Some(mut group) = self.groups.remove(&request) else { return };
        for choice in 0..group.n_sequences() {
            let is_open = group.choices.get(choice).is_none_or(|choice| !choice.is_complete);
            if is_open {
                self.scheduler.cancel(sequence_id(request, choice));
                self.forget_guesses(request, choice);
                let is_recorded = group.choices.get(choice).is_some_and(|choice| choice.record.is_some());
                let (text, finish) = group.finish(choice, FinishReason::Cancelled);
                if !is_recorded {
                    // The answer does not matter: the request is over.
                    let _ = on_event(Event::Finished { request, choice, text, finish });
                }
            }
        }
        report_recorded(request, &group, on_event);
    }

    fn fail(&mut self, request: usize, error: EngineError, on_event: OnEvent<'_>) {
        let Some(group) = self.groups.remove(&request) else { return };
        for choice in 0..group.n_sequences() {
            self.scheduler.cancel(sequence_id(request, choice));
            self.forget_guesses(request, choice);
        }
        let _ = on_event(Event::Failed { request, error });
    }

    fn forget_guesses(&mut self, request: usize, choice: usize) {
        if let Some(drafter) = &mut self.drafter {
            drafter.forget(sequence_id(request, choice));
        }
    }

    /// Decides what the next step computes and gathers its rows.
    fn plan(&mut self) -> Result<Plan, EngineError> {
        if let Some(drafter) = &mut self.drafter {
            let mut guesses = self.scheduler.guessable();
            // Of many hypotheses most are given up soon.
            guesses.retain(|guess| !is_searched(&self.groups, guess.id));
            if !guesses.is_empty() {
                drafter.guess(&mut guesses)?;
            }
            for guess in &mut guesses {
                guess.guesses.truncate(guess.most);
            }
        }
        let mut plan = std::mem::take(&mut self.plan);
        self.scheduler.plan(&mut plan);
        self.totals.n_preempted += plan.preempted.len();
        for &(sequence, n_found) in &plan.admitted {
            self.totals.n_found += n_found;
            if let Some(group) = self.groups.get_mut(&request_of(sequence).0) {
                group.n_cached.get_or_insert(n_found);
            }
        }
        self.fill_rows(&plan);
        Ok(plan)
    }

    fn is_embedded(&self, segment: &Segment) -> bool {
        self.groups.get(&request_of(segment.id).0).is_some_and(Group::is_embedded)
    }

    fn fill_rows(&mut self, plan: &Plan) {
        let Rows { tokens, positions, slots, sequences, output_rows, hidden_rows } = &mut self.rows;
        for list in [&mut *tokens, positions, slots, sequences, output_rows, hidden_rows] {
            list.clear();
        }
        for segment in &plan.segments {
            let blocks = self.scheduler.blocks_of(segment.slot);
            self.block_table[segment.slot * self.max_blocks..][..blocks.len()].copy_from_slice(blocks);
            let is_embedded = self.groups.get(&request_of(segment.id).0).is_some_and(Group::is_embedded);
            let outputs = if is_embedded { &mut *hidden_rows } else { &mut *output_rows };
            let (known, guesses) = self.scheduler.tokens_of(segment.slot);
            for position in segment.positions() {
                if segment.outputs.contains(&position) {
                    outputs.push(tokens.len() as u32);
                }
                tokens.push(known.get(position).copied().unwrap_or_else(|| guesses[position - known.len()]));
                positions.push(position as u32);
                slots.push(blocks[position / KV_BLOCK] * KV_BLOCK as u32 + (position % KV_BLOCK) as u32);
                sequences.push(segment.slot as u32);
            }
        }
    }

    /// Uses the logits of a segment's outputs: for the log-probabilities of the prompt, and to choose tokens.
    fn take_logits<R: Real>(&mut self, segment: &Segment, logits: ChunksExact<'_, R>, on_event: OnEvent<'_>) {
        let (request, _) = request_of(segment.id);
        // Where an answer has failed or was cancelled, the other answers' segments have no sequence any more.
        if !self.groups.contains_key(&request) {
            return;
        }
        match self.answer(segment, logits, on_event) {
            Ok(outcome) => {
                let chosen = std::mem::take(&mut self.chosen);
                self.scheduler.complete(segment, &chosen, outcome);
                self.chosen = chosen;
                self.end_if_over(request, on_event);
                if outcome == Outcome::Hold
                    && let Err(error) = self.advance(request, on_event)
                {
                    self.fail(request, error, on_event);
                }
            }
            Err(error) => self.fail(request, error, on_event),
        }
    }

    /// Fills `chosen` with the tokens that follow.
    fn answer<R: Real>(
        &mut self,
        segment: &Segment,
        mut logits: ChunksExact<'_, R>,
        on_event: OnEvent<'_>,
    ) -> Result<Outcome, EngineError> {
        let (request, choice) = request_of(segment.id);
        let Some(group) = self.groups.get_mut(&request) else { unreachable!("the caller has looked") };
        self.chosen.clear();
        // Outputs before the last known token's are for the prompt alone.
        let last_known = segment.start + segment.n_known - 1;
        if choice == 0 && group.request.prompt_logprobs.is_some() {
            score(group, segment, logits.clone(), &mut self.sampler, request, on_event)?;
        }
        if !segment.samples {
            return Ok(Outcome::Continue);
        }
        if let Some(search) = &mut group.search {
            let mut tools =
                Tools { vocabulary: self.vocabulary, sampler: &mut self.sampler, allowed: &mut self.allowed };
            if let Some(logits) = logits.last() {
                search.take(choice, logits, &group.request.params, &mut tools)?;
            }
            return Ok(Outcome::Hold);
        }
        if group.choices.is_empty() {
            // Nothing was to be generated.
            let (text, finish) = group.finish(0, FinishReason::Length);
            let _ = on_event(Event::Finished { request, choice, text, finish });
            return Ok(Outcome::Finished);
        }
        let (_, guesses) = self.scheduler.tokens_of(segment.slot);
        self.totals.n_guessed += guesses.len();
        logits.by_ref().take(last_known - segment.outputs.start).for_each(drop);
        for (n, logits) in logits.enumerate() {
            let mut tools =
                Tools { vocabulary: self.vocabulary, sampler: &mut self.sampler, allowed: &mut self.allowed };
            let is_recorded = group.choices[choice].record.is_some();
            let chosen = group.choose(choice, logits, &mut tools)?;
            let (id, reason) = (chosen.token.id, chosen.reason);
            self.chosen.push(id);
            self.totals.n_generated += 1;
            let mut go_on = ControlFlow::Continue(());
            if !is_recorded {
                go_on = on_event(Event::Token {
                    request,
                    choice,
                    id,
                    text: chosen.text,
                    logprob: chosen.token.logprob,
                    alternatives: chosen.token.alternatives,
                });
            }
            if let Some(reason) = reason {
                let (text, finish) = group.finish(choice, reason);
                if !is_recorded {
                    group.is_unwanted |= on_event(Event::Finished { request, choice, text, finish }).is_break();
                }
                return Ok(Outcome::Finished);
            }
            if go_on.is_break() {
                group.is_unwanted = true;
                break;
            }
            match guesses.get(n) {
                Some(&guess) if guess == id => self.totals.n_right += 1,
                _ => break,
            }
        }
        Ok(Outcome::Continue)
    }

    /// Uses the hidden states of a segment's outputs.
    fn take_hidden(&mut self, segment: &Segment, hidden: ChunksExact<'_, f32>, on_event: OnEvent<'_>) {
        let (request, choice) = request_of(segment.id);
        let Some(group) = self.groups.get_mut(&request) else { return };
        hidden.for_each(|hidden| group.pool(hidden));
        let mut outcome = Outcome::Continue;
        if segment.samples {
            let _ = on_event(Event::Embedding { request, values: &group.embedding() });
            let (text, finish) = group.finish(0, FinishReason::Length);
            let _ = on_event(Event::Finished { request, choice, text, finish });
            outcome = Outcome::Finished;
        }
        self.scheduler.complete(segment, &[], outcome);
        self.end_if_over(request, on_event);
    }

    /// Forgets a request that is complete or that the caller does not want any more.
    fn end_if_over(&mut self, request: usize, on_event: OnEvent<'_>) {
        let Some(group) = self.groups.get(&request) else { return };
        if group.n_open == 0 {
            report_recorded(request, group, on_event);
            for choice in 0..group.n_sequences() {
                self.forget_guesses(request, choice);
            }
            self.groups.remove(&request);
        } else if group.is_unwanted {
            self.cancel(request, on_event);
        }
    }
}

//! The loop that answers requests: plan, step, sample, report.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use verve_model::rng::Stream;
use verve_model::{StepBatch, StepLimits};
use verve_ops::{KV_BLOCK, Real};

use crate::error::EngineError;
use crate::params::SamplingParams;
use crate::sampler::{History, Sampler, TokenLogprob, draws};
use crate::schedule::{Outcome, Plan, Scheduler, SchedulerLimits, Segment};
use crate::stop::StopSet;
use crate::text::TextStream;
use crate::vocabulary::Vocabulary;

/// A model with a KV cache, as far as generation needs to know it.
pub trait StepModel {
    /// Type of its logits.
    type Logit: Real;
    /// Longest sequence in tokens.
    fn n_ctx(&self) -> usize;
    /// Logits of a row.
    fn n_vocab(&self) -> usize;
    /// Blocks of its KV cache.
    fn n_blocks(&self) -> usize;
    /// What a step may be asked for.
    fn limits(&self) -> StepLimits;
    /// Computes the rows of a batch and returns the logits of its output rows, `[n_outputs, n_vocab]`. A row's result
    /// depends only on the tokens of its own sequence up to it.
    ///
    /// # Errors
    /// What concerns all requests: a failed machine.
    fn step(&mut self, batch: &StepBatch<'_>) -> Result<&[Self::Logit], EngineError>;
}

/// Something to be answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// Token ids. May be empty if the vocabulary has a token that starts a text.
    pub prompt: Vec<u32>,
    /// How to answer.
    pub params: SamplingParams,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop string was completed; it is not part of the text.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// The model ended the text.
    EndOfText,
    /// The caller asked to end it.
    Cancelled,
}

impl FinishReason {
    /// The name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::EndOfText => "end_of_text",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Tokens of the prompt, a start token put in for an empty one included.
    pub n_prompt: usize,
    /// Tokens chosen, an end-of-text token included.
    pub n_generated: usize,
}

/// What happens to a request. Every request gets any number of `Token`s and then one `Finished` or one `Failed`, unless
/// the machine fails. The texts of a request's events joined are its answer.
#[derive(Debug)]
pub enum Event<'a> {
    /// A token was chosen.
    Token {
        /// Index of the request.
        request: usize,
        /// The token.
        id: u32,
        /// Text that became certain; often empty. See [`TextStream`].
        text: &'a str,
        /// Log-probability of the token, if asked for.
        logprob: Option<f32>,
        /// The likeliest tokens in its place, if asked for.
        alternatives: &'a [TokenLogprob],
    },
    /// The answer is complete.
    Finished {
        /// Index of the request.
        request: usize,
        /// Text that was held back until now; often empty.
        text: &'a str,
        /// Why and how long.
        finish: Finish,
    },
    /// The request cannot be answered, or not to its end. Others go on.
    Failed {
        /// Index of the request.
        request: usize,
        /// Why.
        error: EngineError,
    },
}

impl Event<'_> {
    /// Index of the request.
    pub fn request(&self) -> usize {
        match self {
            Self::Token { request, .. } | Self::Finished { request, .. } | Self::Failed { request, .. } => *request,
        }
    }

    /// Text that became certain; often empty.
    pub fn text(&self) -> &str {
        match self {
            Self::Token { text, .. } | Self::Finished { text, .. } => text,
            Self::Failed { .. } => "",
        }
    }
}

/// Receives what happens. `Break` ends the request of the event: it finishes as [`FinishReason::Cancelled`], unless it
/// has ended by itself, and gives its place to the next.
pub type OnEvent<'e> = &'e mut dyn FnMut(Event<'_>) -> ControlFlow<()>;

/// What [`generate`] works on.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// To be answered.
    pub requests: &'a [Request],
    /// The ids of the model's tokenizer.
    pub vocabulary: &'a Vocabulary,
    /// Set to end all answers before the next step.
    pub cancel: &'a AtomicBool,
}

/// Work done for a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Passes through the model.
    pub steps: usize,
    /// Tokens computed: of prompts, and of answers but for their last.
    pub rows: usize,
    /// Tokens chosen.
    pub n_generated: usize,
}

/// A request that runs.
struct Active<'a> {
    prompt: &'a [u32],
    params: &'a SamplingParams,
    history: History,
    draws: Stream,
    text: TextStream,
    n_generated: usize,
    max_new: usize,
    /// The token chosen last.
    last: u32,
}

/// A step's rows.
#[derive(Default)]
struct Rows {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    sequences: Vec<u32>,
    output_rows: Vec<u32>,
}

/// Answers requests, as many at once as the model's limits allow, the others as these finish. Events of different
/// requests are interleaved; those of one request are the same as if it were alone.
///
/// # Errors
/// What concerns all requests: a tokenizer with more ids than the model, a failed machine. Everything else is reported
/// as [`Event::Failed`] of one request.
pub fn generate<M: StepModel>(model: &mut M, batch: &Batch<'_>, on_event: OnEvent<'_>) -> Result<Totals, EngineError> {
    let (n_ids, n_vocab) = (batch.vocabulary.n_vocab(), model.n_vocab());
    if n_ids > n_vocab {
        return Err(EngineError::VocabularyTooLarge { found: n_ids, n_vocab });
    }
    let limits = model.limits();
    let mut run = Run {
        batch,
        n_ctx: model.n_ctx().min(limits.max_blocks * KV_BLOCK),
        max_blocks: limits.max_blocks,
        sampler: Sampler::new(batch.vocabulary),
        scheduler: Scheduler::new(SchedulerLimits {
            max_rows: limits.max_rows,
            max_sequences: limits.max_sequences,
            n_blocks: model.n_blocks(),
        }),
        active: (0..limits.max_sequences).map(|_| None).collect(),
        block_table: vec![0; limits.max_sequences * limits.max_blocks],
        totals: Totals::default(),
        on_event,
    };
    run.submit_all(model.n_blocks());
    let mut plan = Plan::default();
    let mut rows = Rows::default();
    while !run.scheduler.is_idle() {
        if batch.cancel.load(Ordering::Relaxed) {
            run.cancel();
            break;
        }
        run.scheduler.plan(&mut plan);
        for &(request, slot) in &plan.admitted {
            run.activate(request, slot);
        }
        run.fill_rows(&plan, &mut rows);
        let logits = model.step(&StepBatch {
            tokens: &rows.tokens,
            positions: &rows.positions,
            slots: &rows.slots,
            sequences: &rows.sequences,
            block_table: &run.block_table,
            max_blocks: limits.max_blocks,
            output_rows: &rows.output_rows,
        })?;
        run.totals.steps += 1;
        run.totals.rows += rows.tokens.len();
        let mut outputs = logits.chunks_exact(n_vocab);
        for segment in &plan.segments {
            let outcome = match segment.samples {
                false => Outcome::Continue,
                true => {
                    let Some(logits) = outputs.next() else { panic!("the model gave too few rows of logits") };
                    run.choose(segment, logits)
                }
            };
            run.scheduler.complete(segment, outcome);
        }
    }
    Ok(run.totals)
}

/// Most tokens of an answer to a prompt that fits into the context. The last one needs no place in it.
pub(crate) fn longest_answer(n_ctx: usize, n_prompt: usize, params: &SamplingParams) -> usize {
    params.max_tokens.min((n_ctx + 1).saturating_sub(n_prompt))
}

struct Run<'a, 'e> {
    batch: &'a Batch<'a>,
    n_ctx: usize,
    max_blocks: usize,
    sampler: Sampler,
    scheduler: Scheduler,
    /// By slot.
    active: Vec<Option<Active<'a>>>,
    /// `[max_sequences, max_blocks]`.
    block_table: Vec<u32>,
    totals: Totals,
    on_event: OnEvent<'e>,
}

impl<'a> Run<'a, '_> {
    /// The tokens a request starts from.
    fn prompt(&self, request: usize) -> &'a [u32] {
        let prompt = &self.batch.requests[request].prompt;
        if prompt.is_empty() { self.batch.vocabulary.start_prompt() } else { prompt }
    }

    /// Queues every request that can be answered and reports the others.
    fn submit_all(&mut self, n_blocks: usize) {
        for request in 0..self.batch.requests.len() {
            match self.check(request, n_blocks) {
                Ok(()) => {
                    let n_prompt = self.prompt(request).len();
                    self.scheduler.submit(request, n_prompt, self.max_new(request));
                }
                Err(error) => self.report_end(Event::Failed { request, error }),
            }
        }
    }

    /// Reports that a request is over, so that the answer does not matter.
    fn report_end(&mut self, event: Event<'_>) {
        let _ = (self.on_event)(event);
    }

    fn max_new(&self, request: usize) -> usize {
        longest_answer(self.n_ctx, self.prompt(request).len(), &self.batch.requests[request].params)
    }

    fn check(&self, request: usize, n_blocks: usize) -> Result<(), EngineError> {
        let Request { params, .. } = &self.batch.requests[request];
        params.validate(self.batch.vocabulary)?;
        let prompt = self.prompt(request);
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let limit = self.batch.vocabulary.n_vocab();
        if let Some(index) = prompt.iter().position(|&id| id as usize >= limit) {
            return Err(EngineError::TokenId { index, found: prompt[index], limit });
        }
        if prompt.len() > self.n_ctx {
            return Err(EngineError::PromptTooLong { n_prompt: prompt.len(), n_ctx: self.n_ctx });
        }
        let max_new = self.max_new(request);
        if Scheduler::blocks_needed(prompt.len(), max_new) > n_blocks {
            let needed = Scheduler::tokens_needed(prompt.len(), max_new);
            return Err(EngineError::CacheTooSmall { needed, capacity: n_blocks * KV_BLOCK });
        }
        Ok(())
    }

    fn activate(&mut self, request: usize, slot: usize) {
        let blocks = self.scheduler.blocks(slot);
        self.block_table[slot * self.max_blocks..][..blocks.len()].copy_from_slice(blocks);
        let params = &self.batch.requests[request].params;
        let prompt = self.prompt(request);
        self.active[slot] = Some(Active {
            prompt,
            params,
            history: History::new(params, prompt),
            draws: draws(params.seed),
            text: TextStream::new(Arc::new(StopSet::new(&params.stop))),
            n_generated: 0,
            max_new: self.max_new(request),
            last: 0,
        });
    }

    fn fill_rows(&self, plan: &Plan, rows: &mut Rows) {
        let Rows { tokens, positions, slots, sequences, output_rows } = rows;
        for list in [&mut *tokens, positions, slots, sequences, output_rows] {
            list.clear();
        }
        for segment in &plan.segments {
            let Some(active) = &self.active[segment.slot] else { panic!("slot {} is empty", segment.slot) };
            let blocks = self.scheduler.blocks(segment.slot);
            for position in segment.start..segment.start + segment.len {
                tokens.push(active.prompt.get(position).copied().unwrap_or(active.last));
                positions.push(position as u32);
                slots.push(blocks[position / KV_BLOCK] * KV_BLOCK as u32 + (position % KV_BLOCK) as u32);
                sequences.push(segment.slot as u32);
            }
            if segment.samples {
                output_rows.push(tokens.len() as u32 - 1);
            }
        }
    }

    /// Chooses a sequence's next token and reports it.
    fn choose<R: Real>(&mut self, segment: &Segment, logits: &[R]) -> Outcome {
        let request = segment.request;
        let Some(active) = &mut self.active[segment.slot] else { panic!("slot {} is empty", segment.slot) };
        let index = active.n_generated;
        let sampled = match self.sampler.sample(logits, active.params, &active.history, &active.draws, index, None) {
            Ok(sampled) => sampled,
            Err(error) => {
                self.report_end(Event::Failed { request, error });
                self.active[segment.slot] = None;
                return Outcome::Finished;
            }
        };
        let (id, logprob, alternatives) = (sampled.id, sampled.logprob, sampled.alternatives);
        active.history.push(id, sampled.surprise);
        self.totals.n_generated += 1;
        active.n_generated += 1;
        active.last = id;
        let ends_text = self.batch.vocabulary.ends_text(id) && !active.params.ignore_eos;
        // A token that ends the text is not part of it.
        let bytes = if ends_text { &[] } else { self.batch.vocabulary.bytes(id) };
        let piece = active.text.push(bytes);
        let go_on = (self.on_event)(Event::Token { request, id, text: piece.text, logprob, alternatives });
        let reason = if piece.stopped {
            FinishReason::Stop
        } else if ends_text {
            FinishReason::EndOfText
        } else if active.n_generated == active.max_new {
            FinishReason::Length
        } else if go_on.is_break() {
            FinishReason::Cancelled
        } else {
            return Outcome::Continue;
        };
        self.finish(request, segment.slot, reason);
        Outcome::Finished
    }

    /// Reports the end of a running request.
    fn finish(&mut self, request: usize, slot: usize, reason: FinishReason) {
        let Some(mut active) = self.active[slot].take() else { panic!("slot {slot} is empty") };
        let piece = active.text.finish();
        // What was held back may complete a stop string, but does not undo a cancellation.
        let stopped = piece.stopped && reason != FinishReason::Cancelled;
        let reason = if stopped { FinishReason::Stop } else { reason };
        let finish = Finish { reason, n_prompt: active.prompt.len(), n_generated: active.n_generated };
        // The answer does not matter: the request is over.
        let _ = (self.on_event)(Event::Finished { request, text: piece.text, finish });
    }

    /// Ends everything.
    fn cancel(&mut self) {
        let mut ended = Vec::new();
        self.scheduler.clear(|request, slot| ended.push((request, slot)));
        for (request, slot) in ended {
            match slot {
                Some(slot) => self.finish(request, slot, FinishReason::Cancelled),
                None => {
                    let n_prompt = self.prompt(request).len();
                    let finish = Finish { reason: FinishReason::Cancelled, n_prompt, n_generated: 0 };
                    self.report_end(Event::Finished { request, text: "", finish });
                }
            }
        }
    }
}

//! Answers to a batch of requests.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::core::{Core, CoreOptions, Totals};
use crate::error::EngineError;
use crate::model::StepModel;
use crate::request::{AnswerToken, Event, Finish, FinishReason, OnEvent, Request};
use crate::vocabulary::Vocabulary;

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

/// Answers requests, as many at once as the model's limits allow, the others as these finish. Events of different
/// requests are interleaved; those of one request are the same as if it were alone.
///
/// # Errors
/// What concerns all requests: a tokenizer with more ids than the model, a failed machine. Everything else is reported
/// as [`Event::Failed`] of one request.
pub fn generate<M: StepModel>(model: &mut M, batch: &Batch<'_>, on_event: OnEvent<'_>) -> Result<Totals, EngineError> {
    let options = CoreOptions::for_limits(model.limits());
    let mut core = Core::new(model, batch.vocabulary, options)?;
    core.answer_all(batch.requests, batch.cancel, on_event)
}

impl<M: StepModel> Core<'_, M> {
    /// Answers requests and returns the work that it took; requests submitted before are answered along with them, their
    /// events lost.
    ///
    /// # Errors
    /// A failed machine. What concerns one request is reported as [`Event::Failed`].
    pub fn answer_all(
        &mut self,
        requests: &[Request],
        cancel: &AtomicBool,
        on_event: OnEvent<'_>,
    ) -> Result<Totals, EngineError> {
        let before = self.totals();
        let first = self.next_request();
        for (request, asked) in requests.iter().enumerate() {
            if let Err(error) = self.submit(asked.clone()) {
                // The answer does not matter: the request is over.
                let _ = on_event(Event::Failed { request, error });
            }
        }
        // Requests are named on from those before.
        let on_event: OnEvent<'_> = &mut |event| match event.renamed(first) {
            Some(event) => on_event(event),
            None => ControlFlow::Continue(()),
        };
        while !self.is_idle() {
            if cancel.load(Ordering::Relaxed) {
                self.cancel_all(on_event);
                break;
            }
            self.step(on_event)?;
        }
        Ok(self.totals().since(before))
    }
}

/// All of a request's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text, without stop string and special tokens.
    pub text: String,
    /// The tokens chosen, an end-of-text token included. After a stop string they stand for more than the text.
    pub tokens: Vec<AnswerToken>,
    /// Why it ended, and lengths.
    pub finish: Finish,
}

/// What a request got.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answers {
    /// The prompt's tokens and their log-probabilities, if asked for.
    pub prompt: Vec<AnswerToken>,
    /// The prompt's vector, if asked for.
    pub embedding: Vec<f32>,
    /// As many as asked for.
    pub choices: Vec<Answer>,
}

/// The answers to a batch, in the order of its requests, and the work it took.
///
/// # Errors
/// As [`generate`]; what concerns one request is in its place.
pub fn answer<M: StepModel>(
    model: &mut M,
    batch: &Batch<'_>,
) -> Result<(Vec<Result<Answers, EngineError>>, Totals), EngineError> {
    let options = CoreOptions::for_limits(model.limits());
    Core::new(model, batch.vocabulary, options)?.whole_answers(batch.requests, batch.cancel)
}

impl<M: StepModel> Core<'_, M> {
    /// As [`Self::answer_all`], with whole answers.
    ///
    /// # Errors
    /// As [`Self::answer_all`]; what concerns one request is in its place.
    pub fn whole_answers(
        &mut self,
        requests: &[Request],
        cancel: &AtomicBool,
    ) -> Result<(Vec<Result<Answers, EngineError>>, Totals), EngineError> {
        let mut collected: Vec<Collected> = requests.iter().map(|_| Collected::default()).collect();
        let totals = self.answer_all(requests, cancel, &mut |event| {
            collected[event.request()].take(event);
            ControlFlow::Continue(())
        })?;
        Ok((collected.into_iter().map(Collected::end).collect(), totals))
    }
}

/// Events of a request, put together.
#[derive(Debug, Default)]
pub struct Collected {
    answers: Answers,
    open: Vec<(String, Vec<AnswerToken>, Option<Finish>)>,
    error: Option<EngineError>,
}

impl Collected {
    /// Takes the next event.
    pub fn take(&mut self, event: Event<'_>) {
        let choice = event.choice();
        if let Event::Token { .. } | Event::Finished { .. } = event {
            if self.open.len() <= choice {
                self.open.resize_with(choice + 1, Default::default);
            }
            self.open[choice].0.push_str(event.text());
        }
        match event {
            Event::Prompt { tokens, .. } => self.answers.prompt = tokens.to_vec(),
            Event::Embedding { values, .. } => self.answers.embedding = values.to_vec(),
            Event::Token { id, logprob, alternatives, .. } => {
                self.open[choice].1.push(AnswerToken { id, logprob, alternatives: alternatives.to_vec() });
            }
            Event::Finished { finish, .. } => self.open[choice].2 = Some(finish),
            Event::Failed { error, .. } => self.error = Some(error),
        }
    }

    /// Whether the request has failed or all of its `n` answers have ended.
    pub fn is_over(&self, n: usize) -> bool {
        self.error.is_some() || self.open.iter().filter(|(.., finish)| finish.is_some()).count() >= n
    }

    /// Whether an answer was ended before its time.
    pub fn is_cancelled(&self) -> bool {
        let reasons = self.open.iter().filter_map(|(.., finish)| finish.map(|finish| finish.reason));
        reasons.into_iter().any(|reason| reason == FinishReason::Cancelled)
    }

    /// What the request got, after its last event.
    ///
    /// # Errors
    /// Why it failed.
    pub fn end(mut self) -> Result<Answers, EngineError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let choices = self
            .open
            .into_iter()
            .filter_map(|(text, tokens, finish)| finish.map(|finish| Answer { text, tokens, finish }));
        self.answers.choices = choices.collect();
        Ok(self.answers)
    }
}

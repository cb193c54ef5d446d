//! Whole answers, for callers that do not stream.

use std::ops::ControlFlow;

use crate::error::EngineError;
use crate::generate::{Batch, Event, Finish, StepModel, Totals, generate};
use crate::sampler::TokenLogprob;

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

/// One token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerToken {
    /// The token.
    pub id: u32,
    /// Its log-probability, if asked for.
    pub logprob: Option<f32>,
    /// The likeliest tokens in its place, likeliest first, if asked for.
    pub alternatives: Vec<TokenLogprob>,
}

/// The answers to a batch, in the order of its requests, and the work it took.
///
/// # Errors
/// As [`generate`]; what concerns one request is in its place.
pub fn answer<M: StepModel>(
    model: &mut M,
    batch: &Batch<'_>,
) -> Result<(Vec<Result<Answer, EngineError>>, Totals), EngineError> {
    let mut parts: Vec<(String, Vec<AnswerToken>)> = batch.requests.iter().map(|_| Default::default()).collect();
    let mut ends: Vec<Option<Result<Finish, EngineError>>> = batch.requests.iter().map(|_| None).collect();
    let totals = generate(model, batch, &mut |event| {
        let (text, tokens) = &mut parts[event.request()];
        text.push_str(event.text());
        match event {
            Event::Token { id, logprob, alternatives, .. } => {
                tokens.push(AnswerToken { id, logprob, alternatives: alternatives.to_vec() });
            }
            Event::Finished { request, finish, .. } => ends[request] = Some(Ok(finish)),
            Event::Failed { request, error } => ends[request] = Some(Err(error)),
        }
        ControlFlow::Continue(())
    })?;
    let answers = parts.into_iter().zip(ends).map(|((text, tokens), end)| match end {
        Some(end) => end.map(|finish| Answer { text, tokens, finish }),
        None => panic!("a request got no last event"),
    });
    Ok((answers.collect(), totals))
}

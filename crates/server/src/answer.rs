//! Whole answers, for clients that do not stream.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Interval;
use verve_engine::AnswerToken;

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use crate::generation::{End, Generation, Update};

/// How often the key is looked at.
pub const CHECK: Duration = Duration::from_secs(1);

/// Waits for a generation as long as its caller may and the server runs.
pub struct Watch<'a> {
    app: &'a App,
    caller: &'a Caller,
    ending: watch::Receiver<bool>,
    check: Interval,
}

impl<'a> Watch<'a> {
    /// From now on.
    pub fn new(app: &'a App, caller: &'a Caller) -> Self {
        Self { app, caller, ending: app.ending(), check: tokio::time::interval(CHECK) }
    }

    /// What happens next; `None` when everything has happened. Dropped while it waits, it has missed nothing.
    ///
    /// # Errors
    /// 401 when the key is taken back meanwhile; 503 when the server ends. The generation is over then.
    pub async fn next(&mut self, generation: &mut Generation) -> Result<Option<Update>, ApiError> {
        loop {
            let error = tokio::select! {
                biased;
                update = generation.next() => return Ok(update),
                _ = self.ending.wait_for(|ending| *ending) => ApiError::unavailable("the server is shutting down", 5),
                _ = self.check.tick() => match self.caller.still_valid(self.app) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
            };
            generation.expire();
            return Err(error);
        }
    }
}

/// One whole answer.
#[derive(Debug, Default, Clone)]
pub struct Whole {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<AnswerToken>,
    /// How it ended.
    pub end: Option<End>,
}

/// What came of one prompt.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The prompt's tokens, if asked for.
    pub prompt: Vec<AnswerToken>,
    /// The prompt's vector, if asked for.
    pub embedding: Vec<f32>,
    /// Answers by number.
    pub answers: Vec<Whole>,
}

/// Waits for everything that comes of `n_prompts` prompts with `n` answers each.
///
/// # Errors
/// The first failure; 504 at the deadline; 401 when the key is taken back meanwhile; 503 when the server ends.
pub async fn collect(
    app: &Arc<App>,
    caller: &Caller,
    generation: &mut Generation,
    n_prompts: usize,
    n: usize,
) -> Result<Vec<Outcome>, ApiError> {
    let answers = || Outcome { answers: vec![Whole::default(); n], ..Outcome::default() };
    let mut outcomes: Vec<Outcome> = (0..n_prompts).map(|_| answers()).collect();
    let deadline = tokio::time::sleep(app.options.request_timeout);
    let mut watch = Watch::new(app, caller);
    tokio::pin!(deadline);
    loop {
        let update = tokio::select! {
            biased;
            update = watch.next(generation) => update?,
            () = &mut deadline => {
                generation.expire();
                return Err(ApiError::deadline(app.options.request_timeout.as_secs()));
            }
        };
        match update {
            None => return Ok(outcomes),
            Some(Update::Failed(error)) => return Err(error),
            Some(Update::Prompt { prompt, tokens }) => outcomes[prompt].prompt = tokens,
            Some(Update::Embedding { prompt, values }) => outcomes[prompt].embedding = values,
            Some(Update::Token { prompt, choice, token, text }) => {
                if let Some(answer) = outcomes[prompt].answers.get_mut(choice) {
                    answer.text.push_str(&text);
                    answer.tokens.push(token);
                }
            }
            Some(Update::End { prompt, choice, text, end }) => {
                if let Some(answer) = outcomes[prompt].answers.get_mut(choice) {
                    answer.text.push_str(&text);
                    answer.end = Some(end);
                }
            }
        }
    }
}

/// A JSON response.
pub fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = Response::new(Body::from(body));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => axum::response::IntoResponse::into_response(ApiError::internal(format!(
            "the answer cannot be written: {error}"
        ))),
    }
}

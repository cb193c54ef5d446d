//! What a generation costs and how long it takes: for metrics, quotas, the administrator and the answer itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use verve_engine::Finish;

use crate::access::Caller;
use crate::app::App;
use crate::metrics::{OutcomeLabels, TokenLabels};
use crate::recent::Entry;

/// How a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Whole.
    Done,
    /// The client left.
    Cancelled,
    /// The request was at fault.
    Refused,
    /// The server was at fault.
    Failed,
    /// A filter ended it.
    Filtered,
    /// The deadline passed.
    Expired,
}

impl Outcome {
    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Filtered => "filtered",
            Self::Expired => "expired",
        }
    }
}

/// Tokens of a request, as answers report them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of all prompts.
    pub prompt: usize,
    /// Of those, found in the cache.
    pub cached: usize,
    /// Tokens of all answers.
    pub generated: usize,
}

/// How long it took, milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Timings {
    /// From submission to the first token.
    pub first_token_ms: f64,
    /// From the first token to the last.
    pub generated_ms: f64,
    /// Tokens a second behind the first.
    pub tokens_per_second: f64,
    /// From submission to the end.
    pub total_ms: f64,
}

/// Measures one HTTP request's generation.
pub struct Track {
    app: Arc<App>,
    caller: Caller,
    request_id: Arc<str>,
    endpoint: &'static str,
    model: String,
    since: Instant,
    first: Option<Instant>,
    last: Instant,
    n_tokens: usize,
    usage: Usage,
    has_started: bool,
}

impl Track {
    /// Nothing yet.
    pub fn new(app: &Arc<App>, caller: &Caller, endpoint: &'static str, model: &str) -> Self {
        let now = Instant::now();
        Self {
            app: app.clone(),
            caller: caller.clone(),
            request_id: caller.request_id.clone(),
            endpoint,
            model: model.to_owned(),
            since: now,
            first: None,
            last: now,
            n_tokens: 0,
            usage: Usage::default(),
            has_started: false,
        }
    }

    /// The server.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// The request's field that prompts come from.
    pub fn prompt_field(&self) -> &'static str {
        match self.endpoint {
            "/v1/chat/completions" => "messages",
            "/v1/score" => "items",
            "/v1/completions" => "prompt",
            _ => "input",
        }
    }

    /// The requests go to the engine.
    pub fn started(&mut self) {
        self.has_started = true;
        self.since = Instant::now();
        self.last = self.since;
    }

    /// A token has come.
    pub fn token(&mut self) {
        let now = Instant::now();
        self.n_tokens += 1;
        if self.first.is_none() {
            self.first = Some(now);
            self.app.metrics.first_token.observe((now - self.since).as_secs_f64());
        } else {
            self.app.metrics.token_gap.observe((now - self.last).as_secs_f64());
        }
        self.last = now;
    }

    /// An answer has ended; a prompt counts once, with its first answer.
    pub fn end(&mut self, finish: &Finish, is_first: bool) {
        if is_first {
            self.usage.prompt += finish.n_prompt;
            self.usage.cached += finish.n_cached;
        }
        self.usage.generated += finish.n_generated + finish.n_discarded;
    }

    /// Records what a filter found.
    pub fn note(&self, finding: &verve_moderate::Finding, outcome: &'static str) {
        crate::filter::note(&self.app, &self.request_id, finding, outcome);
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// How long it took so far.
    pub fn timings(&self) -> Timings {
        let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
        let first = self.first.unwrap_or(self.last);
        let rest = self.last - first;
        let rate = (self.n_tokens.saturating_sub(1)) as f64 / rest.as_secs_f64().max(1e-9);
        Timings {
            first_token_ms: ms(first - self.since),
            generated_ms: ms(rest),
            tokens_per_second: if self.n_tokens > 1 { (rate * 100.0).round() / 100.0 } else { 0.0 },
            total_ms: ms(self.last - self.since),
        }
    }

    /// The end, whichever it is: counts and accounts.
    pub fn close(&mut self, outcome: Outcome) {
        if !self.has_started {
            return;
        }
        let Usage { prompt, cached, generated } = self.usage;
        // What was cut off has been computed all the same.
        let generated = generated.max(self.n_tokens);
        let metrics = &self.app.metrics;
        let labels = |kind| TokenLabels { model: self.model.clone(), key: self.caller.key_name().to_owned(), kind };
        metrics.tokens.get_or_create(&labels("prompt")).inc_by(prompt as u64);
        metrics.tokens.get_or_create(&labels("cached")).inc_by(cached as u64);
        metrics.tokens.get_or_create(&labels("generated")).inc_by(generated as u64);
        let outcome_labels = OutcomeLabels { model: self.model.clone(), outcome: outcome.name() };
        metrics.outcomes.get_or_create(&outcome_labels).inc();
        self.caller.settle(&self.app, prompt, generated);
        let ttft_ms = self.first.map(|first| (first - self.since).as_secs_f64() * 1e3);
        let total_ms = self.since.elapsed().as_secs_f64() * 1e3;
        self.app.recent.push(Entry {
            request_id: self.request_id.to_string(),
            time: crate::ids::now(),
            key: self.caller.key_name().to_owned(),
            model: self.model.clone(),
            endpoint: self.endpoint,
            status: outcome.name(),
            prompt_tokens: prompt,
            completion_tokens: generated,
            ttft_ms,
            total_ms,
        });
        tracing::info!(
            request_id = &*self.request_id,
            key = self.caller.key_name(),
            model = self.model,
            endpoint = self.endpoint,
            outcome = outcome.name(),
            prompt_tokens = prompt,
            cached_tokens = cached,
            completion_tokens = generated,
            ttft_ms = ttft_ms.map_or(0.0, |ms| ms.round()),
            total_ms = total_ms.round(),
            "generation"
        );
    }
}

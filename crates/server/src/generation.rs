//! Requests on their way through an engine: what comes back, measured, bounded and ended when nobody waits for it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{JoinError, JoinHandle};
use verve_engine::{AnswerToken, Finish, FinishReason, OwnedEvent, Request};
use verve_moderate::{Stage, Verdict};

use crate::app::App;
use crate::error::ApiError;
use crate::filter::{Ended, Filters};
use crate::models::Loaded;
use crate::track::{Outcome, Track};

/// Bytes of events that may wait for a client to read them; an answer that would have more is ended. A client that reads never
/// has more than a step's.
const MAX_BACKLOG: usize = 16 << 20;

/// About how much memory an event takes until it is read.
fn weight(event: &OwnedEvent) -> usize {
    let token = |token: &AnswerToken| size_of_val(token) + size_of_val(&token.alternatives[..]);
    let inside = match event {
        OwnedEvent::Prompt(tokens) => tokens.iter().map(token).sum(),
        OwnedEvent::Embedding(values) => size_of_val(&values[..]),
        OwnedEvent::Token { token, text, .. } => size_of_val(&token.alternatives[..]) + text.len(),
        OwnedEvent::Finished { text, .. } => text.len(),
        OwnedEvent::Failed(_) => 0,
    };
    size_of_val(event) + inside
}

/// Something that happened to one of the requests.
#[derive(Debug)]
pub enum Update {
    /// The tokens of a prompt and their log-probabilities.
    Prompt {
        /// Which prompt.
        prompt: usize,
        /// All of its tokens.
        tokens: Vec<AnswerToken>,
    },
    /// A prompt's vector.
    Embedding {
        /// Which prompt.
        prompt: usize,
        /// `d_model` numbers.
        values: Vec<f32>,
    },
    /// A token.
    Token {
        /// Which prompt.
        prompt: usize,
        /// Which of its answers.
        choice: usize,
        /// The token.
        token: AnswerToken,
        /// Text that became certain.
        text: String,
    },
    /// The end of an answer.
    End {
        /// Which prompt.
        prompt: usize,
        /// Which of its answers.
        choice: usize,
        /// Text that was held back until now.
        text: String,
        /// How it ended.
        end: End,
    },
    /// Nothing more will come.
    Failed(ApiError),
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// Lengths.
    pub finish: Finish,
}

/// Why an answer ended, in the public API's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The model ended it, or a stop text came.
    Stop,
    /// There was no room for more.
    Length,
    /// A filter refused what came next.
    Filtered,
}

impl EndReason {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Filtered => "content_filter",
        }
    }
}

/// An answer that services are asked about.
struct Asking {
    prompt: usize,
    choice: usize,
    finish: Finish,
    opinion: JoinHandle<Verdict>,
}

/// Requests that an engine is answering. Dropped, it ends them.
pub struct Generation {
    model: Arc<Loaded>,
    tickets: Vec<u64>,
    events: UnboundedReceiver<(usize, OwnedEvent)>,
    backlog: Arc<AtomicUsize>,
    /// Ends still to come.
    n_open: usize,
    /// What comes next.
    ahead: VecDeque<Update>,
    /// An answer that services are asked about.
    asking: Option<Asking>,
    filters: Filters,
    /// Measures and accounts.
    pub track: Track,
    is_over: bool,
}

impl Generation {
    /// Hands requests to a model's engine, all of them or none.
    ///
    /// # Errors
    /// 400 for more requests than it ever has room for; 429 when it has none now; 503 when it has ended.
    pub fn start(app: &App, model: Arc<Loaded>, requests: Vec<Request>, mut track: Track) -> Result<Self, ApiError> {
        let limit = model.queue_limit;
        if requests.len() > limit {
            let message =
                format!("{} prompts in one request, the server takes at most {limit} at once", requests.len());
            return Err(ApiError::invalid(track.prompt_field(), message));
        }
        let (sender, events) = unbounded_channel();
        let backlog = Arc::new(AtomicUsize::new(0));
        let n_open = requests.iter().map(Request::n_ends).sum();
        let filters = Filters::new(app, &model.vocabulary, &requests);
        track.started();
        let mut generation = Self {
            model,
            tickets: Vec::with_capacity(requests.len()),
            events,
            backlog: backlog.clone(),
            n_open,
            ahead: VecDeque::new(),
            asking: None,
            filters,
            track,
            is_over: false,
        };
        for (prompt, request) in requests.into_iter().enumerate() {
            let (sender, backlog) = (sender.clone(), backlog.clone());
            let sink = Box::new(move |event| {
                // What comes at once, as the log-probabilities of a long prompt do, may be more than the limit.
                let is_full = backlog.fetch_add(weight(&event), Ordering::Relaxed) >= MAX_BACKLOG;
                if is_full || sender.send((prompt, event)).is_err() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
            match generation.model.engine.submit(request, sink) {
                Ok(ticket) => generation.tickets.push(ticket),
                Err(error) => {
                    let error = generation.failed(error);
                    generation.close(Outcome::Refused);
                    return Err(error);
                }
            }
        }
        Ok(generation)
    }

    fn failed(&self, error: verve_engine::EngineError) -> ApiError {
        let is_dead = matches!(error, verve_engine::EngineError::Stopped { .. });
        if is_dead {
            self.track.app().models.forget(&self.model);
        }
        let error = ApiError::from(error);
        // The engine knows prompts only.
        if error.param.as_deref() == Some("prompt") { error.about(self.track.prompt_field()) } else { error }
    }

    /// What happens next; `None` when everything has happened.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Update>> {
        loop {
            if let Some(update) = self.ahead.pop_front() {
                return Poll::Ready(Some(update));
            }
            if let Some(asking) = &mut self.asking {
                let Poll::Ready(verdict) = Pin::new(&mut asking.opinion).poll(cx) else { return Poll::Pending };
                self.asked(verdict);
                continue;
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            let (prompt, event) = match self.events.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(received)) => received,
                Poll::Ready(None) => {
                    let error = if self.backlog.load(Ordering::Relaxed) >= MAX_BACKLOG {
                        ApiError::unavailable("the answer was not read for too long and was ended", 1)
                    } else {
                        ApiError::internal("the engine gave up the request")
                    };
                    self.close(Outcome::Failed);
                    return Poll::Ready(Some(Update::Failed(error)));
                }
            };
            self.backlog.fetch_sub(weight(&event), Ordering::Relaxed);
            if let Some(update) = self.update(prompt, event) {
                return Poll::Ready(Some(update));
            }
        }
    }

    /// What an event means; `None` for what comes behind a refused text.
    fn update(&mut self, prompt: usize, event: OwnedEvent) -> Option<Update> {
        Some(match event {
            OwnedEvent::Prompt(tokens) => Update::Prompt { prompt, tokens },
            OwnedEvent::Embedding(values) => Update::Embedding { prompt, values },
            OwnedEvent::Token { choice, token, text } => {
                self.track.token();
                if let Err(finding) = self.filters.token(prompt, choice, token, text, &mut self.ahead) {
                    self.track.note(&finding, "refused");
                    self.end_refused(prompt);
                }
                return self.ahead.pop_front();
            }
            OwnedEvent::Finished { choice, text, finish } => {
                let (ended, finding) = self.filters.finish(prompt, choice, text, &mut self.ahead);
                for finding in self.filters.records(prompt, choice) {
                    self.track.note(finding, "recorded");
                }
                if let Some(finding) = finding {
                    self.track.note(&finding, "refused");
                }
                let update = match ended {
                    Ended::Whole(text) => self.end(prompt, choice, text, reason(finish.reason), finish),
                    Ended::Refused(text) => self.end(prompt, choice, text, EndReason::Filtered, finish),
                    Ended::Ask(text) => {
                        self.ask(prompt, choice, text, finish);
                        return None;
                    }
                };
                self.ahead.push_back(update);
                return self.ahead.pop_front();
            }
            OwnedEvent::Failed(error) => {
                let error = self.failed(error);
                self.close(if error.status.is_client_error() { Outcome::Refused } else { Outcome::Failed });
                Update::Failed(error)
            }
        })
    }

    /// Asks services about a whole answer.
    fn ask(&mut self, prompt: usize, choice: usize, text: String, finish: Finish) {
        let Some(chain) = self.filters.chain().cloned() else { return };
        let opinion = tokio::task::spawn_blocking(move || chain.check_services(Stage::Output, &text));
        self.asking = Some(Asking { prompt, choice, finish, opinion });
    }

    /// Ends the answer that services were asked about.
    fn asked(&mut self, verdict: Result<Verdict, JoinError>) {
        let Some(Asking { prompt, choice, finish, .. }) = self.asking.take() else { return };
        // Without an opinion nothing is let out.
        let has_opinion = verdict.is_ok();
        let verdict = verdict.unwrap_or_default();
        for finding in &verdict.records {
            self.track.note(finding, "recorded");
        }
        if let Some(finding) = &verdict.refused {
            self.track.note(finding, "refused");
        }
        let is_refused = !has_opinion || verdict.refused.is_some();
        let rest = self.filters.asked(prompt, choice, is_refused, &mut self.ahead);
        let reason = if is_refused { EndReason::Filtered } else { reason(finish.reason) };
        let update = self.end(prompt, choice, rest, reason, finish);
        self.ahead.push_back(update);
    }

    /// Ends a prompt's answers in the engine when all of them are refused; others go on.
    fn end_refused(&mut self, prompt: usize) {
        if self.filters.all_refused(prompt)
            && let Some(&ticket) = self.tickets.get(prompt)
        {
            self.model.engine.cancel(ticket);
        }
    }

    fn end(&mut self, prompt: usize, choice: usize, text: String, reason: EndReason, finish: Finish) -> Update {
        self.n_open = self.n_open.saturating_sub(1);
        self.track.end(&finish, choice == 0);
        if self.n_open == 0 {
            self.close(if reason == EndReason::Filtered { Outcome::Filtered } else { Outcome::Done });
        }
        Update::End { prompt, choice, text, end: End { reason, finish } }
    }

    /// What happens next; `None` when everything has happened.
    pub async fn next(&mut self) -> Option<Update> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Puts an update back in front.
    pub fn put_back(&mut self, update: Update) {
        self.ahead.push_front(update);
    }

    /// Ends everything that is still going on, because the deadline has passed.
    pub fn expire(&mut self) {
        self.close(Outcome::Expired);
    }

    fn close(&mut self, outcome: Outcome) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        self.track.close(outcome);
        if outcome != Outcome::Done {
            for &ticket in &self.tickets {
                self.model.engine.cancel(ticket);
            }
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.close(Outcome::Cancelled);
    }
}

fn reason(reason: FinishReason) -> EndReason {
    match reason {
        FinishReason::Stop | FinishReason::EndOfText => EndReason::Stop,
        // Nobody is there to read of a cancellation, unless the server is shutting down.
        FinishReason::Length | FinishReason::Cancelled => EndReason::Length,
    }
}

//! What can be asked of an engine, and what it reports.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::beam::BeamSearch;
use crate::constraint::ConstraintSource;
use crate::error::EngineError;
use crate::params::SamplingParams;
use crate::sampler::TokenLogprob;

/// Most answers to one request.
pub const MAX_CHOICES: usize = 128;

/// Something to be answered.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids. May be empty if the vocabulary has a token that starts a text.
    pub prompt: Vec<u32>,
    /// How to answer. `max_tokens` may be 0 where there is something else to report, see [`Self::prompt_logprobs`] and
    /// [`Self::embed`].
    pub params: SamplingParams,
    /// Answers, 1 to [`MAX_CHOICES`]. Answer `c` is what a request with the seed `seed + c` gets.
    pub n: usize,
    /// Answers computed, of which the `n` likeliest (by the mean log-probability of their tokens) are reported, the
    /// likeliest first; 0 for `n`. Where it is more than `n`, they are reported when all are complete.
    pub best_of: usize,
    /// Search for the likeliest answers instead of drawing some; the `n` best are reported when the search is over, the
    /// best first, with their scores ([`Finish::score`]).
    pub beams: Option<BeamSearch>,
    /// `Some(k)`: report the log-probability of each token of the prompt, and the `k` likeliest in its place.
    pub prompt_logprobs: Option<usize>,
    /// Report the prompt's hidden states as one vector instead of answering it.
    pub embed: Option<Pooling>,
    /// What answers must look like.
    pub constraint: Option<Arc<dyn ConstraintSource>>,
    /// Requests of a greater priority go first.
    pub priority: i32,
    /// On whose behalf: requests of one priority share the machine evenly among clients.
    pub client: u64,
}

impl Request {
    /// How many times [`Event::Finished`] comes, unless the request fails.
    pub fn n_ends(&self) -> usize {
        if self.embed.is_some() || self.params.max_tokens == 0 { 1 } else { self.n }
    }

    /// Sequences that it may be computed with at once.
    pub(crate) fn n_sequences(&self) -> usize {
        self.n.max(self.best_of).max(self.beams.map_or(0, |beams| beams.width)).min(MAX_CHOICES)
    }
}

impl Default for Request {
    /// One answer to an empty prompt.
    fn default() -> Self {
        Self {
            prompt: Vec::new(),
            params: SamplingParams::default(),
            n: 1,
            best_of: 0,
            beams: None,
            prompt_logprobs: None,
            embed: None,
            constraint: None,
            priority: 0,
            client: 0,
        }
    }
}

/// How a text's hidden states, behind the last norm, become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean over all tokens.
    Mean,
    /// That of the last token.
    Last,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop string was completed; it is not part of the text.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// The model ended the text, or its constraint is fulfilled and allows nothing more.
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Tokens of the prompt, a start token put in for an empty one included.
    pub n_prompt: usize,
    /// Tokens of the prompt that were found in the cache when it was first begun. The only thing here that depends on
    /// other requests.
    pub n_cached: usize,
    /// Tokens chosen, an end-of-text token included.
    pub n_generated: usize,
    /// Tokens of answers that were computed for `best_of`, or chosen in a beam search, and are not reported; with the first
    /// answer only.
    pub n_discarded: usize,
    /// What beam search ranks the answer by, see [`BeamSearch`].
    pub score: Option<f64>,
}

/// One token of a prompt or an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerToken {
    /// The token.
    pub id: u32,
    /// Its log-probability, if asked for. A prompt's first token has none.
    pub logprob: Option<f32>,
    /// The likeliest tokens in its place, likeliest first, if asked for.
    pub alternatives: Vec<TokenLogprob>,
}

/// What happens to a request, named by what [`crate::Core::submit`] returned (in a batch: its index). Every request gets
/// what it asked for about its prompt, then for each answer any number of `Token`s and one `Finished`; or, at any time,
/// one `Failed` that ends it, unless the machine fails. The texts of an answer's events joined are the answer.
#[derive(Debug)]
pub enum Event<'a> {
    /// The prompt's tokens and their log-probabilities.
    Prompt {
        /// The request.
        request: usize,
        /// All of the prompt.
        tokens: &'a [AnswerToken],
    },
    /// The prompt's vector.
    Embedding {
        /// The request.
        request: usize,
        /// `d_model` numbers.
        values: &'a [f32],
    },
    /// A token was chosen.
    Token {
        /// The request.
        request: usize,
        /// Which of its answers.
        choice: usize,
        /// The token.
        id: u32,
        /// Text that became certain; often empty. See [`crate::TextStream`].
        text: &'a str,
        /// Log-probability of the token, if asked for.
        logprob: Option<f32>,
        /// The likeliest tokens in its place, if asked for.
        alternatives: &'a [TokenLogprob],
    },
    /// An answer is complete. Where none was asked for, this ends the request.
    Finished {
        /// The request.
        request: usize,
        /// Which of its answers.
        choice: usize,
        /// Text that was held back until now; often empty.
        text: &'a str,
        /// Why and how long.
        finish: Finish,
    },
    /// The request cannot be answered, or not to its end. Others go on.
    Failed {
        /// The request.
        request: usize,
        /// Why.
        error: EngineError,
    },
}

impl Event<'_> {
    /// The request.
    pub fn request(&self) -> usize {
        match self {
            Self::Prompt { request, .. }
            | Self::Embedding { request, .. }
            | Self::Token { request, .. }
            | Self::Finished { request, .. }
            | Self::Failed { request, .. } => *request,
        }
    }

    /// The event with requests counted from `first`; `None` for an earlier one's.
    pub(crate) fn renamed(mut self, first: usize) -> Option<Self> {
        let (Self::Prompt { request, .. }
        | Self::Embedding { request, .. }
        | Self::Token { request, .. }
        | Self::Finished { request, .. }
        | Self::Failed { request, .. }) = &mut self;
        *request = request.checked_sub(first)?;
        Some(self)
    }

    /// Which of the request's answers it is about.
    pub fn choice(&self) -> usize {
        match self {
            Self::Token { choice, .. } | Self::Finished { choice, .. } => *choice,
            Self::Prompt { .. } | Self::Embedding { .. } | Self::Failed { .. } => 0,
        }
    }

    /// Text that became certain; often empty.
    pub fn text(&self) -> &str {
        match self {
            Self::Token { text, .. } | Self::Finished { text, .. } => text,
            Self::Prompt { .. } | Self::Embedding { .. } | Self::Failed { .. } => "",
        }
    }
}

/// Receives what happens. `Break` ends the request of the event: its answers finish as [`FinishReason::Cancelled`],
/// unless they have ended by themselves, and give their places to the next.
pub type OnEvent<'e> = &'e mut dyn FnMut(Event<'_>) -> ControlFlow<()>;

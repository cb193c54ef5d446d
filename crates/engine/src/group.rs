//! A request that is being answered: its prompt and its answers.

use std::sync::Arc;

use verve_model::rng::Stream;
use verve_ops::Real;

use crate::beam::Search;
use crate::constraint::{Constraint, guarded};
use crate::error::EngineError;
use crate::request::{AnswerToken, Finish, FinishReason, Pooling, Request};
use crate::sampler::{History, Sampler, draws};
use crate::stop::StopSet;
use crate::text::TextStream;
use crate::vocabulary::Vocabulary;

/// A request and the state of its answers.
pub(crate) struct Group {
    pub(crate) request: Request,
    /// Tokens of the prompt, a start token put in for an empty one included.
    pub(crate) n_prompt: usize,
    pub(crate) max_new: usize,
    /// Tokens of the prompt found in the cache, once begun.
    pub(crate) n_cached: Option<usize>,
    pub(crate) choices: Vec<Choice>,
    /// In place of choices, where the likeliest answers are searched for.
    pub(crate) search: Option<Search>,
    /// When its first sequence came.
    pub(crate) arrival: u64,
    /// Answers that are not complete.
    pub(crate) n_open: usize,
    /// Log-probabilities of the prompt's tokens so far.
    pub(crate) scored: Vec<AnswerToken>,
    /// Sum of the hidden states so far.
    pub(crate) pooled: Vec<f64>,
    /// Whether the log-probabilities of the answers' tokens are reported.
    pub(crate) with_logprobs: bool,
    /// Whether the caller has asked to end it.
    pub(crate) is_unwanted: bool,
}

/// One answer.
pub(crate) struct Choice {
    history: History,
    draws: Stream,
    text: TextStream,
    constraint: Option<Box<dyn Constraint>>,
    pub(crate) n_generated: usize,
    pub(crate) is_complete: bool,
    /// What would have been reported, where only the likeliest answers are.
    pub(crate) record: Option<Record>,
}

/// An answer that may turn out not to be wanted.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) tokens: Vec<(AnswerToken, String)>,
    pub(crate) last_text: String,
    pub(crate) finish: Option<Finish>,
    sum_logprob: f64,
}

impl Record {
    /// Mean log-probability of the tokens.
    pub(crate) fn likelihood(&self) -> f64 {
        self.sum_logprob / self.tokens.len().max(1) as f64
    }
}

/// A token that was chosen.
pub(crate) struct Chosen<'a> {
    pub(crate) token: AnswerTokenRef<'a>,
    pub(crate) text: &'a str,
    /// Why it was the last, if it was.
    pub(crate) reason: Option<FinishReason>,
}

/// An [`AnswerToken`] that is not kept.
pub(crate) struct AnswerTokenRef<'a> {
    pub(crate) id: u32,
    pub(crate) logprob: Option<f32>,
    pub(crate) alternatives: &'a [crate::sampler::TokenLogprob],
}

/// What the answers of all requests use.
pub(crate) struct Tools<'a> {
    pub(crate) vocabulary: &'a Vocabulary,
    pub(crate) sampler: &'a mut Sampler,
    /// Bits for the tokens that a constraint allows.
    pub(crate) allowed: &'a mut Vec<u32>,
}

impl Group {
    /// # Errors
    /// A constraint that cannot be met.
    pub(crate) fn new(
        mut request: Request,
        prompt: &[u32],
        max_new: usize,
        vocabulary: &Vocabulary,
    ) -> Result<Self, EngineError> {
        let beams = request.beams.filter(|_| max_new > 0);
        let search = beams.map(|beams| Search::new(beams, &request, prompt, max_new, vocabulary)).transpose()?;
        let n_choices = match (max_new, request.best_of) {
            // Nothing is generated, or it is not drawn.
            _ if search.is_some() => 0,
            (0, _) => 0,
            (_, 0) => request.n,
            (_, best_of) => best_of,
        };
        let is_recorded = n_choices > request.n;
        let with_logprobs = request.params.n_logprobs.is_some();
        if is_recorded {
            // Likelihoods are needed to choose answers by.
            request.params.n_logprobs.get_or_insert(0);
        }
        let mut choices = Vec::with_capacity(n_choices);
        let stops = Arc::new(StopSet::new(&request.params.stop));
        for choice in 0..n_choices {
            let start = |source: &Arc<dyn crate::ConstraintSource>| guarded(|| source.start(max_new));
            choices.push(Choice {
                history: History::new(&request.params, prompt),
                draws: draws(request.params.seed.wrapping_add(choice as u64)),
                text: TextStream::new(stops.clone()),
                constraint: request.constraint.as_ref().map(start).transpose()?,
                n_generated: 0,
                is_complete: false,
                record: is_recorded.then(Record::default),
            });
        }
        let (n_open, n_prompt) = (n_choices.max(1), prompt.len());
        Ok(Self {
            request,
            n_prompt,
            max_new,
            n_cached: None,
            choices,
            search,
            arrival: 0,
            n_open,
            scored: Vec::new(),
            with_logprobs,
            pooled: Vec::new(),
            is_unwanted: false,
        })
    }

    /// Whether its prompt becomes a vector.
    pub(crate) fn is_embedded(&self) -> bool {
        self.request.embed.is_some()
    }

    /// Sequences that the request is computed with, at most.
    pub(crate) fn n_sequences(&self) -> usize {
        self.search.as_ref().map_or(self.choices.len().max(1), Search::width)
    }

    /// Sequences that it begins with.
    pub(crate) fn n_first(&self) -> usize {
        self.choices.len().max(1)
    }

    /// Chooses the next token of an answer.
    ///
    /// # Errors
    /// What ends the request.
    pub(crate) fn choose<'a, R: Real>(
        &'a mut self,
        choice: usize,
        logits: &[R],
        tools: &'a mut Tools<'_>,
    ) -> Result<Chosen<'a>, EngineError> {
        let Self { request, choices, max_new, .. } = self;
        let (params, choice) = (&request.params, &mut choices[choice]);
        let ends_text = |id| tools.vocabulary.ends_text(id) && !params.ignore_eos;
        // Each time round, the constraint allows one token less.
        let (id, logprob, surprise) = loop {
            let mut allowed = None;
            if let Some(constraint) = &mut choice.constraint {
                let n_left = *max_new - choice.n_generated;
                tools.allowed.clear();
                tools.allowed.resize(tools.vocabulary.n_vocab().div_ceil(32), 0);
                guarded(|| constraint.allow(n_left, tools.allowed))?;
                allowed = Some(&**tools.allowed);
            }
            let index = choice.n_generated;
            let sampled = tools.sampler.sample(logits, params, &choice.history, &choice.draws, index, allowed)?;
            let (id, logprob, surprise) = (sampled.id, sampled.logprob, sampled.surprise);
            let is_taken = match &mut choice.constraint {
                Some(constraint) if !ends_text(id) => guarded(|| constraint.accept(id))?,
                _ => true,
            };
            if is_taken {
                break (id, logprob, surprise);
            }
        };
        let alternatives = tools.sampler.alternatives();
        choice.n_generated += 1;
        choice.history.push(id, surprise);
        let ends_text = ends_text(id);
        let mut is_fulfilled = false;
        if let Some(constraint) = &choice.constraint {
            is_fulfilled = guarded(|| Ok(constraint.is_complete()))?;
        }
        // A token that ends the text is not part of it.
        let bytes = if ends_text { &[] } else { tools.vocabulary.bytes(id) };
        let piece = choice.text.push(bytes);
        let reason = if piece.stopped {
            Some(FinishReason::Stop)
        } else if ends_text || is_fulfilled {
            Some(FinishReason::EndOfText)
        } else if choice.n_generated == *max_new {
            Some(FinishReason::Length)
        } else {
            None
        };
        let token = AnswerTokenRef { id, logprob, alternatives };
        if let Some(record) = &mut choice.record {
            record.sum_logprob += f64::from(logprob.unwrap_or_default());
            let kept = AnswerToken { id, logprob, alternatives: alternatives.to_vec() };
            record.tokens.push((kept, piece.text.to_owned()));
        }
        Ok(Chosen { token, text: piece.text, reason })
    }

    /// Ends an answer: the text that was held back, and how it ended.
    pub(crate) fn finish(&mut self, choice: usize, reason: FinishReason) -> (&str, Finish) {
        let (n_prompt, n_cached) = (self.n_prompt, self.n_cached.unwrap_or(0));
        self.n_open -= 1;
        let Some(choice) = self.choices.get_mut(choice) else {
            return ("", Finish { reason, n_prompt, n_cached, n_generated: 0, n_discarded: 0, score: None });
        };
        choice.is_complete = true;
        let piece = choice.text.finish();
        // What was held back may complete a stop string, but does not undo a cancellation.
        let stopped = piece.stopped && reason != FinishReason::Cancelled;
        let reason = if stopped { FinishReason::Stop } else { reason };
        let n_generated = choice.n_generated;
        let finish = Finish { reason, n_prompt, n_cached, n_generated, n_discarded: 0, score: None };
        if let Some(record) = &mut choice.record {
            record.last_text.push_str(piece.text);
            record.finish = Some(finish);
        }
        (piece.text, finish)
    }

    /// Adds the hidden state of the prompt's next token.
    pub(crate) fn pool(&mut self, hidden: &[f32]) {
        self.pooled.resize(hidden.len(), 0.0);
        for (sum, &x) in self.pooled.iter_mut().zip(hidden) {
            *sum += f64::from(x);
        }
    }

    /// The prompt's vector.
    pub(crate) fn embedding(&self) -> Vec<f32> {
        let n = match self.request.embed {
            Some(Pooling::Mean) => self.n_prompt as f64,
            _ => 1.0,
        };
        self.pooled.iter().map(|sum| (sum / n) as f32).collect()
    }
}

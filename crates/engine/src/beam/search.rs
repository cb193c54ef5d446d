//! The search itself: log-probabilities in, hypotheses out. Knows neither model nor scheduler.

use std::sync::Arc;

use verve_ops::Real;

use super::{BeamSearch, EarlyStopping};
use crate::constraint::{Constraint, ConstraintSource, guarded};
use crate::error::EngineError;
use crate::group::Tools;
use crate::params::SamplingParams;
use crate::request::{FinishReason, Request};
use crate::sampler::{Candidate, History, TokenLogprob};
use crate::stop::StopSet;
use crate::text::TextStream;
use crate::vocabulary::Vocabulary;

/// A beam search between two rounds. In a round, the likeliest continuations of each hypothesis are taken as they come, in
/// any order; when all are there, [`Search::advance`] chooses the hypotheses of the next round.
pub(crate) struct Search {
    settings: BeamSearch,
    max_new: usize,
    /// Continuations that are looked at, of each hypothesis and of all.
    n_candidates: usize,
    stops: Arc<StopSet>,
    /// Hypotheses that go on, likeliest first; at least one until the search is over.
    live: Vec<Hypothesis>,
    /// Complete ones, best first, at most `width`.
    complete: Vec<Hypothesis>,
    /// Tokens chosen, of all hypotheses.
    n_chosen: usize,
}

/// The beginning of an answer, or all of it.
pub(crate) struct Hypothesis {
    /// Names its sequence among those of the request, below `width`.
    pub(crate) place: usize,
    tokens: Vec<Token>,
    /// Of log-probabilities.
    sum: f64,
    state: State,
    /// How it can go on, once known in this round.
    ways: Option<Vec<Way>>,
    /// Why it is complete, if it is, and its score.
    pub(crate) end: Option<(FinishReason, f64)>,
}

#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) id: u32,
    /// The model's own.
    pub(crate) logprob: f32,
    /// The same for all that could have come instead.
    pub(crate) alternatives: Arc<[TokenLogprob]>,
}

/// What decides how a hypothesis can go on, besides its tokens.
struct State {
    history: History,
    text: TextStream,
    constraint: Option<Box<dyn Constraint>>,
}

/// A token that can come next.
struct Way {
    candidate: Candidate,
    ends_text: bool,
    /// The constraint behind it.
    constraint: Option<Box<dyn Constraint>>,
    alternatives: Arc<[TokenLogprob]>,
}

/// A hypothesis of the next round.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Next {
    /// Its place.
    pub(crate) place: usize,
    /// Its last token.
    pub(crate) token: u32,
    /// Whether the hypothesis that had the place before is its beginning.
    pub(crate) goes_on: bool,
}

impl Hypothesis {
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.tokens.iter().map(|token| token.id)
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Whether it is complete with another token, and why.
    fn end_with(
        &self,
        way: &Way,
        bytes: &[u8],
        max_new: usize,
        stops: &StopSet,
    ) -> Result<Option<FinishReason>, EngineError> {
        let completes_stop = || !stops.is_empty() && self.state.text.clone().push(bytes).stopped;
        let is_fulfilled = match &way.constraint {
            Some(constraint) => guarded(|| Ok(constraint.is_complete()))?,
            None => false,
        };
        Ok(if !way.ends_text && completes_stop() {
            Some(FinishReason::Stop)
        } else if way.ends_text || is_fulfilled {
            Some(FinishReason::EndOfText)
        } else if self.len() + 1 == max_new {
            Some(FinishReason::Length)
        } else {
            None
        })
    }

    /// Itself with another token.
    fn with(&self, way: Way, sum: f64, bytes: &[u8]) -> Self {
        let Way { candidate, constraint, alternatives, ends_text: _ } = way;
        let mut tokens = Vec::with_capacity(self.tokens.len() + 1);
        tokens.extend_from_slice(&self.tokens);
        tokens.push(Token { id: candidate.id, logprob: candidate.logprob, alternatives });
        let (mut history, mut text) = (self.state.history.clone(), self.state.text.clone());
        history.push(candidate.id, None);
        text.push(bytes);
        Self { place: self.place, tokens, sum, state: State { history, text, constraint }, ways: None, end: None }
    }
}

impl Search {
    /// The beginning of a search for answers of at most `max_new` tokens: one hypothesis without tokens, in place 0.
    ///
    /// # Errors
    /// A constraint that cannot be met.
    pub(crate) fn new(
        settings: BeamSearch,
        request: &Request,
        prompt: &[u32],
        max_new: usize,
        vocabulary: &Vocabulary,
    ) -> Result<Self, EngineError> {
        let Request { params, constraint, .. } = request;
        let stops = Arc::new(StopSet::new(&params.stop));
        let start = |source: &Arc<dyn ConstraintSource>| guarded(|| source.start(max_new));
        let state = State {
            history: History::new(params, prompt),
            text: TextStream::new(stops.clone()),
            constraint: constraint.as_ref().map(start).transpose()?,
        };
        let first = Hypothesis { place: 0, tokens: Vec::new(), sum: 0.0, state, ways: None, end: None };
        let n_ends = if params.ignore_eos { 0 } else { vocabulary.n_ends_of_text() };
        let n_candidates = (1 + n_ends).max(2) * settings.width;
        Ok(Self { settings, max_new, n_candidates, stops, live: vec![first], complete: Vec::new(), n_chosen: 0 })
    }

    pub(crate) fn width(&self) -> usize {
        self.settings.width
    }

    pub(crate) fn stops(&self) -> &Arc<StopSet> {
        &self.stops
    }

    /// Tokens chosen so far, of all hypotheses.
    pub(crate) fn n_chosen(&self) -> usize {
        self.n_chosen
    }

    /// The hypothesis in a place.
    pub(crate) fn hypothesis(&self, place: usize) -> Option<&Hypothesis> {
        self.live.iter().find(|hypothesis| hypothesis.place == place)
    }

    /// Tokens of each hypothesis that goes on.
    pub(crate) fn n_generated(&self) -> usize {
        self.live.first().map_or(0, Hypothesis::len)
    }

    /// Whether the logits behind all hypotheses are there.
    pub(crate) fn is_round_complete(&self) -> bool {
        self.live.iter().all(|hypothesis| hypothesis.ways.is_some())
    }

    /// Takes the logits behind the hypothesis in a place.
    ///
    /// # Errors
    /// What ends the request.
    pub(crate) fn take<R: Real>(
        &mut self,
        place: usize,
        logits: &[R],
        params: &SamplingParams,
        tools: &mut Tools<'_>,
    ) -> Result<(), EngineError> {
        let (k, max_new) = (self.n_candidates, self.max_new);
        if let Some(hypothesis) = self.live.iter_mut().find(|hypothesis| hypothesis.place == place) {
            let ways = ways(hypothesis, logits, params, tools, k, max_new)?;
            hypothesis.ways = Some(ways);
        }
        Ok(())
    }

    /// Ends a round: chooses the hypotheses of the next one, likeliest first; none when the search is over.
    ///
    /// # Errors
    /// What ends the request.
    pub(crate) fn advance(&mut self, vocabulary: &Vocabulary) -> Result<Vec<Next>, EngineError> {
        let BeamSearch { width, length_penalty, early_stopping } = self.settings;
        let old = std::mem::take(&mut self.live);
        let n_tokens = old.first().map_or(0, Hypothesis::len) + 1;
        let score = |sum: f64, n_tokens: usize| sum / (n_tokens as f64).powf(length_penalty);
        let mut old: Vec<(Hypothesis, Vec<Way>)> = old
            .into_iter()
            .map(|mut hypothesis| {
                let ways = hypothesis.ways.take().unwrap_or_default();
                (hypothesis, ways)
            })
            .collect();
        let mut all: Vec<(f64, usize, Way)> = Vec::new();
        for (parent, (hypothesis, ways)) in old.iter_mut().enumerate() {
            all.extend(ways.drain(..).map(|way| (hypothesis.sum + way.candidate.score, parent, way)));
        }
        // Stable: of equally likely ones, the first hypothesis' and then the lowest id.
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate(self.n_candidates);
        for (rank, (sum, parent, way)) in all.into_iter().enumerate() {
            let hypothesis = &old[parent].0;
            let bytes = if way.ends_text { &[] } else { vocabulary.bytes(way.candidate.id) };
            match hypothesis.end_with(&way, bytes, self.max_new, &self.stops)? {
                Some(reason) if rank < width => {
                    let end = Some((reason, score(sum, n_tokens)));
                    self.complete.push(Hypothesis { end, ..hypothesis.with(way, sum, bytes) });
                    self.n_chosen += 1;
                }
                Some(_) => {}
                None if self.live.len() < width => {
                    self.live.push(hypothesis.with(way, sum, bytes));
                    self.n_chosen += 1;
                }
                None => {}
            }
        }
        // Stable: of equally good ones, the first to be complete.
        let of = |hypothesis: &Hypothesis| hypothesis.end.map_or(f64::NEG_INFINITY, |(_, score)| score);
        self.complete.sort_by(|a, b| of(b).total_cmp(&of(a)));
        self.complete.truncate(width);
        if let (Some(best), Some(worst)) = (self.live.first(), self.complete.get(width - 1)) {
            let length = match early_stopping {
                EarlyStopping::Never if length_penalty > 0.0 => self.max_new,
                _ => n_tokens,
            };
            if early_stopping == EarlyStopping::Full || score(best.sum, length) <= of(worst) {
                self.live.clear();
            }
        }
        Ok(self.placed())
    }

    /// Gives the new hypotheses places: the first that goes on with an old one takes that one's.
    fn placed(&mut self) -> Vec<Next> {
        let mut is_taken = vec![false; self.settings.width];
        let goes_on: Vec<bool> =
            (self.live.iter()).map(|hypothesis| !std::mem::replace(&mut is_taken[hypothesis.place], true)).collect();
        let mut free = (0..is_taken.len()).filter(|&place| !is_taken[place]);
        let place = |(hypothesis, goes_on): (&mut Hypothesis, bool)| {
            if !goes_on && let Some(place) = free.next() {
                hypothesis.place = place;
            }
            Next { place: hypothesis.place, token: hypothesis.tokens.last().map_or(0, |token| token.id), goes_on }
        };
        self.live.iter_mut().zip(goes_on).map(place).collect()
    }

    /// The best complete answers, best first, at most `n`.
    pub(crate) fn best(&self, n: usize) -> &[Hypothesis] {
        &self.complete[..n.min(self.complete.len())]
    }

    /// Ends the search as it is: hypotheses that are not complete come behind those that are.
    pub(crate) fn cancel(&mut self) {
        for mut hypothesis in self.live.drain(..) {
            let score = hypothesis.sum / (hypothesis.len().max(1) as f64).powf(self.settings.length_penalty);
            hypothesis.end = Some((FinishReason::Cancelled, score));
            self.complete.push(hypothesis);
        }
    }
}

/// The `k` likeliest tokens that can follow a hypothesis.
fn ways<R: Real>(
    hypothesis: &mut Hypothesis,
    logits: &[R],
    params: &SamplingParams,
    tools: &mut Tools<'_>,
    k: usize,
    max_new: usize,
) -> Result<Vec<Way>, EngineError> {
    let index = hypothesis.tokens.len();
    let State { history, constraint, .. } = &mut hypothesis.state;
    let ends_text = |id| tools.vocabulary.ends_text(id) && !params.ignore_eos;
    let mut allowed = None;
    if let Some(constraint) = constraint {
        tools.allowed.clear();
        tools.allowed.resize(tools.vocabulary.n_vocab().div_ceil(32), 0);
        guarded(|| constraint.allow(max_new - index, tools.allowed))?;
        allowed = Some(&mut **tools.allowed);
    }
    // Each time round, some less are allowed: those that cannot come after all.
    loop {
        let found = tools.sampler.candidates(logits, params, history, index, allowed.as_deref(), k)?;
        let alternatives: Arc<[TokenLogprob]> = tools.sampler.alternatives().into();
        let mut ways = Vec::with_capacity(found.len());
        let n_found = found.len();
        for candidate in found {
            let ends_text = ends_text(candidate.id);
            let mut behind = None;
            if let Some(constraint) = constraint {
                let mut fork = guarded(|| Ok(constraint.fork()))?;
                if !ends_text && !guarded(|| fork.accept(candidate.id))? {
                    if let Some(allowed) = &mut allowed {
                        allowed[candidate.id as usize / 32] &= !(1 << (candidate.id % 32));
                    }
                    continue;
                }
                behind = Some(fork);
            }
            ways.push(Way { candidate, ends_text, constraint: behind, alternatives: alternatives.clone() });
        }
        if ways.len() == n_found {
            return Ok(ways);
        }
    }
}

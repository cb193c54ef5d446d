//! From logits to a token.

mod candidates;
mod dry;
mod filters;
mod history;
mod math;
#[cfg(test)]
mod tests;

pub(crate) use candidates::Candidate;
pub(crate) use dry::MAX_REPEAT;
pub use history::History;
use math::{exp, first_of, ln, maximum, ranked_id, sum_exp};
use verve_model::rng::Stream;
use verve_ops::Real;

use crate::error::EngineError;
use crate::params::SamplingParams;
use crate::vocabulary::Vocabulary;

/// A token and the logarithm of the probability that the model gave it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled<'a> {
    /// The token.
    pub id: u32,
    /// Its log-probability, if asked for.
    pub logprob: Option<f32>,
    /// The likeliest tokens, likeliest first, if asked for.
    pub alternatives: &'a [TokenLogprob],
    /// With mirostat: minus the binary logarithm of its probability in the draw, for [`History::push`].
    pub surprise: Option<f32>,
}

/// The random numbers of a request: the token at place `n` of an answer uses number `n`.
pub fn draws(seed: u64) -> Stream {
    Stream::new(seed, "sample")
}

/// Chooses tokens. The choice is a pure function of the arguments of [`Sampler::sample`]; what the sampler keeps is room
/// for intermediate results, so that a step allocates nothing.
///
/// Order of operations:
///
/// 1. Log-probabilities, if asked for, are taken from the model's logits as they are, over all of the model's rows.
/// 2. Ids that the vocabulary does not have or excludes, or that are not allowed at this place, are ruled out.
/// 3. Repetition penalty on the tokens of prompt and answer (as transformers does it): `l / p` for `l > 0`, else `l p`.
/// 4. Presence and frequency penalty on the tokens of the answer (as the OpenAI API does it):
///    `l - presence - count frequency`.
/// 5. DRY, on tokens that would go on with a repetition (as text-generation-webui does it):
///    `l - multiplier base^(n - allowed_length)` for a token that would make a repetition of `n >= allowed_length` tokens
///    one longer. The repetition is the longest end of prompt and answer, of at most 50 tokens, that also stands earlier
///    within the range before that token. It holds no breaker: it begins behind the last token at which one of the
///    breaking texts is complete, and behind the last token without text (a special token). Tokens whose own text holds a
///    breaker, or that have none, are never penalised.
/// 6. Logit bias.
/// 7. Temperature: `l / t`. Temperature 0 takes the greatest logit and is done.
/// 8. Mirostat, if set, in place of 9 to 13: keeps the tokens that are at most `mu` bits surprising, at least the
///    likeliest. `mu` begins as `2 tau`; a token with `s` bits in the draw moves it by `eta (tau - s)`.
/// 9. Top-n-sigma: keeps logits within `n` standard deviations of the greatest. The deviation is that of the model's
///    logits as they are, of all ids of the vocabulary, over the temperature; neither penalties nor bans move it.
/// 10. Top-k. 11. Top-p, 12. min-p and 13. typical, each on the distribution over what the steps before left. (Min-p is
///     relative to the likeliest token, which no step takes away.) Typical keeps the tokens whose surprise is nearest to
///     the distribution's entropy: the fewest that have the probability together, and those exactly as near as the last.
/// 14. The draw: the first id, in order of ids, at which the sum of the probabilities left exceeds the random number.
///
/// Wherever tokens are ordered, equal logits are ordered by id, the lower first.
#[derive(Debug, Clone)]
pub struct Sampler {
    vocabulary: Vocabulary,
    /// The model's logits; then those of valid ids, changed.
    logits: Vec<f32>,
    /// `e^(logit - max)`, of valid ids; 0 for those that the filters leave out.
    weights: Vec<f32>,
    /// Ranks of the likeliest tokens, or of those that the filters keep.
    ranks: Vec<u64>,
    /// By id: tokens of the repetition that it would go on with. All 0 between calls.
    repeats: Vec<u8>,
    /// Of the last tokens.
    text: Vec<u8>,
    alternatives: Vec<TokenLogprob>,
}

/// The model's distribution.
#[derive(Debug, Clone, Copy)]
struct Softmax {
    /// Of all rows.
    max: f32,
    /// Logarithm of the sum of `e^(logit - max)`.
    log_sum: f64,
}

impl Softmax {
    fn new(logits: &[f32], max: f32) -> Self {
        Self { max, log_sum: ln(sum_exp(logits, max)) }
    }

    fn logprob(self, logit: f32) -> f32 {
        self.logprob64(logit) as f32
    }

    fn logprob64(self, logit: f32) -> f64 {
        f64::from(logit) - f64::from(self.max) - self.log_sum
    }
}

impl Sampler {
    /// A sampler for the ids of a vocabulary.
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let n_valid = vocabulary.n_vocab();
        Self {
            vocabulary: vocabulary.clone(),
            logits: Vec::with_capacity(n_valid),
            weights: Vec::with_capacity(n_valid),
            ranks: Vec::with_capacity(n_valid),
            repeats: vec![0; n_valid],
            text: Vec::new(),
            alternatives: Vec::new(),
        }
    }

    /// Bytes that a sampler for `n_vocab` ids takes, if their texts have eight bytes on average.
    pub fn bytes(n_vocab: usize) -> usize {
        n_vocab * (2 * size_of::<f32>() + size_of::<u64>() + size_of::<u8>() + size_of::<usize>() + 8)
    }

    /// Chooses the token at place `index` of an answer, counted from 0, from the model's logits, one for each of its
    /// rows. `draws` is that of [`draws`] for the request's seed. `allowed` says which ids may be chosen here: bit
    /// `id % 32` of word `id / 32`, and none behind its end; `None` allows all.
    ///
    /// # Errors
    /// [`EngineError::BadLogit`] for a logit that is not a number or plus infinity, [`EngineError::NothingLeft`].
    ///
    /// # Panics
    /// When there are fewer logits than ids.
    pub fn sample<R: Real>(
        &mut self,
        logits: &[R],
        params: &SamplingParams,
        history: &History,
        draws: &Stream,
        index: usize,
        allowed: Option<&[u32]>,
    ) -> Result<Sampled<'_>, EngineError> {
        let max = self.read(logits, index)?;
        let n_valid = self.vocabulary.n_vocab();
        // The model's own numbers, before they are changed.
        let softmax = params.n_logprobs.map(|_| Softmax::new(&self.logits, max));
        let sigmas = (params.top_n_sigma > 0.0)
            .then(|| (f64::from(params.top_n_sigma) * math::deviation(&self.logits[..n_valid])) as f32);
        self.keep_valid();
        self.alternatives.clear();
        if let (Some(n), Some(softmax)) = (params.n_logprobs, softmax) {
            self.find_alternatives(n, softmax);
        }
        if let Some(allowed) = allowed {
            math::rule_out(&mut self.logits, allowed);
        }
        self.penalise(params, history);
        let changed = allowed.is_some() || history.penalises() || !params.logit_bias.is_empty();
        // Most often the model's own favourite is still the greatest.
        let best = if changed { None } else { first_of(&self.logits, max) };
        let max = match best {
            Some(_) => max,
            None => maximum(&self.logits).ok_or_else(|| bad_logit(&self.logits, index))?,
        };
        let nothing_left = EngineError::NothingLeft { n_generated: index };
        let chosen = if max == f32::NEG_INFINITY {
            None
        } else if params.temperature == 0.0 {
            best.or_else(|| first_of(&self.logits, max)).map(|id| (id, None))
        } else {
            self.weigh(params, max, sigmas, history);
            self.filter(params, history);
            filters::draw(&self.weights, draws.uniform(index as u64)).map(|id| (id, self.surprise(id, history)))
        };
        let Some((id, surprise)) = chosen else { return Err(nothing_left) };
        let logprob = softmax.map(|softmax| softmax.logprob(logits[id as usize].to_f32()));
        Ok(Sampled { id, logprob, alternatives: &self.alternatives, surprise })
    }

    /// The model's own log-probability of a given token, and the `n` likeliest tokens, likeliest first: what
    /// [`Sampler::sample`] reports when it chooses that token.
    ///
    /// # Errors
    /// [`EngineError::BadLogit`] for a logit that is not a number or plus infinity.
    ///
    /// # Panics
    /// When there are fewer logits than ids, or none of `id`.
    pub fn logprobs_of<R: Real>(
        &mut self,
        logits: &[R],
        id: u32,
        n: usize,
    ) -> Result<(f32, &[TokenLogprob]), EngineError> {
        let max = self.read(logits, 0)?;
        let softmax = Softmax::new(&self.logits, max);
        let logprob = softmax.logprob(self.logits[id as usize]);
        self.keep_valid();
        self.alternatives.clear();
        self.find_alternatives(n, softmax);
        Ok((logprob, &self.alternatives))
    }

    /// Takes over all rows' logits and returns the greatest.
    fn read<R: Real>(&mut self, logits: &[R], n_generated: usize) -> Result<f32, EngineError> {
        let n_valid = self.vocabulary.n_vocab();
        assert!(logits.len() >= n_valid, "{} logits for {n_valid} ids", logits.len());
        self.logits.clear();
        self.logits.extend(logits.iter().map(|logit| logit.to_f32()));
        maximum(&self.logits).ok_or_else(|| bad_logit(&self.logits, n_generated))
    }

    /// Rules out what the vocabulary does not have or excludes.
    fn keep_valid(&mut self) {
        self.logits.truncate(self.vocabulary.n_vocab());
        for &id in self.vocabulary.excluded() {
            self.logits[id as usize] = f32::NEG_INFINITY;
        }
    }

    /// The `n` likeliest tokens.
    fn find_alternatives(&mut self, n: usize, softmax: Softmax) {
        self.rank_best(n);
        self.ranks.sort_unstable_by(|a, b| b.cmp(a));
        for &rank in &self.ranks {
            let id = ranked_id(rank);
            let logit = self.logits[id as usize];
            if logit > f32::NEG_INFINITY {
                self.alternatives.push(TokenLogprob { id, logprob: softmax.logprob(logit) });
            }
        }
    }

    /// Steps 3 to 6.
    fn penalise(&mut self, params: &SamplingParams, history: &History) {
        history.penalise(params, &mut self.logits);
        if let Some(tokens) = history.tokens() {
            self.penalise_repeats(params, tokens);
        }
        for &(id, bias) in &params.logit_bias {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
    }

    /// Steps 7 and 9: logits relative to the greatest over the temperature. Step 10, unless mirostat takes its place. The
    /// exponentials of those that are left.
    fn weigh(&mut self, params: &SamplingParams, max: f32, sigmas: Option<f32>, history: &History) {
        let least = sigmas.map_or(f32::NEG_INFINITY, |sigmas| -sigmas);
        for logit in &mut self.logits {
            let below = *logit - max;
            *logit = if below >= least { below / params.temperature } else { f32::NEG_INFINITY };
        }
        self.weights.resize(self.logits.len(), 0.0);
        let is_cut = params.top_k > 0 && params.top_k < self.logits.len() && history.most_bits().is_none();
        if !is_cut {
            self.weights.iter_mut().zip(&self.logits).for_each(|(weight, &logit)| *weight = exp(logit));
            return;
        }
        // Of most vocabularies few tokens are left: the others need no exponential.
        self.rank_best(params.top_k);
        self.weights.fill(0.0);
        for &rank in &self.ranks {
            let id = ranked_id(rank) as usize;
            self.weights[id] = exp(self.logits[id]);
        }
    }
}

fn bad_logit(logits: &[f32], n_generated: usize) -> EngineError {
    let bad = logits.iter().position(|&logit| logit.is_nan() || logit == f32::INFINITY).unwrap_or_default();
    EngineError::BadLogit { id: bad as u32, value: logits.get(bad).copied().unwrap_or(f32::NAN), n_generated }
}

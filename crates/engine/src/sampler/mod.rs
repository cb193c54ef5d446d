//! From logits to a token.

mod history;
mod math;
#[cfg(test)]
mod tests;

pub use history::History;
use math::{exp, maximum, rank, ranked_id, sum, sum_exp};
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
/// 2. Ids that the vocabulary does not have or excludes are ruled out.
/// 3. Repetition penalty on the tokens of prompt and answer (as transformers does it): `l / p` for `l > 0`, else `l p`.
/// 4. Presence and frequency penalty on the tokens of the answer (as the OpenAI API does it):
///    `l - presence - count frequency`.
/// 5. Logit bias.
/// 6. Temperature: `l / t`. Temperature 0 takes the greatest logit and is done.
/// 7. Top-k. 8. Top-p, on the distribution over what top-k left. 9. Min-p.
/// 10. The draw: the first id, in order of ids, at which the sum of the probabilities left exceeds the random number.
///
/// Wherever tokens are ordered, equal logits are ordered by id, the lower first.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// Number of ids that may be sampled.
    n_valid: usize,
    excluded: Vec<u32>,
    /// The model's logits; then those of valid ids, changed.
    logits: Vec<f32>,
    /// `e^(logit - max)`, of valid ids; 0 for those that the filters leave out.
    weights: Vec<f32>,
    /// Ranks of the likeliest tokens, or of those that the filters keep.
    ranks: Vec<u64>,
    alternatives: Vec<TokenLogprob>,
}

impl Sampler {
    /// A sampler for the ids of a vocabulary.
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let n_valid = vocabulary.n_vocab();
        Self {
            n_valid,
            excluded: vocabulary.excluded().to_vec(),
            logits: Vec::with_capacity(n_valid),
            weights: Vec::with_capacity(n_valid),
            ranks: Vec::with_capacity(n_valid),
            alternatives: Vec::new(),
        }
    }

    /// Bytes that a sampler for `n_vocab` ids takes.
    pub fn bytes(n_vocab: usize) -> usize {
        n_vocab * (2 * size_of::<f32>() + size_of::<u64>())
    }

    /// Chooses the token at place `index` of an answer, counted from 0, from the model's logits, one for each of its
    /// rows. `draws` is that of [`draws`] for the request's seed.
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
    ) -> Result<Sampled<'_>, EngineError> {
        assert!(logits.len() >= self.n_valid, "{} logits for {} ids", logits.len(), self.n_valid);
        self.logits.clear();
        self.logits.extend(logits.iter().map(|logit| logit.to_f32()));
        let max = maximum(&self.logits).ok_or_else(|| bad_logit(&self.logits, index))?;
        // The model's own numbers, before they are changed.
        let log_sum = params.n_logprobs.map(|_| sum_exp(&self.logits, max).ln());
        let logprob = |logit: f32, log_sum: f64| (f64::from(logit) - f64::from(max) - log_sum) as f32;
        self.logits.truncate(self.n_valid);
        for &id in &self.excluded {
            self.logits[id as usize] = f32::NEG_INFINITY;
        }
        self.alternatives.clear();
        if let (Some(n), Some(log_sum)) = (params.n_logprobs, log_sum) {
            self.find_alternatives(n, |logit| logprob(logit, log_sum));
        }
        let id = self.choose(params, history, draws, index)?;
        let logprob = log_sum.map(|log_sum| logprob(logits[id as usize].to_f32(), log_sum));
        Ok(Sampled { id, logprob, alternatives: &self.alternatives })
    }

    /// The `n` likeliest tokens.
    fn find_alternatives(&mut self, n: usize, logprob: impl Fn(f32) -> f32) {
        self.rank_all();
        keep_best(&mut self.ranks, n);
        self.ranks.sort_unstable_by(|a, b| b.cmp(a));
        for &rank in &self.ranks {
            let id = ranked_id(rank);
            let logit = self.logits[id as usize];
            if logit > f32::NEG_INFINITY {
                self.alternatives.push(TokenLogprob { id, logprob: logprob(logit) });
            }
        }
    }

    /// Steps 3 to 10.
    fn choose(
        &mut self,
        params: &SamplingParams,
        history: &History,
        draws: &Stream,
        index: usize,
    ) -> Result<u32, EngineError> {
        history.penalise(params, &mut self.logits);
        for &(id, bias) in &params.logit_bias {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        let max = maximum(&self.logits).ok_or_else(|| bad_logit(&self.logits, index))?;
        if max == f32::NEG_INFINITY {
            return Err(EngineError::NothingLeft { n_generated: index });
        }
        if params.temperature == 0.0 {
            let best = self.logits.iter().position(|&logit| logit == max);
            return best.map(|id| id as u32).ok_or(EngineError::NothingLeft { n_generated: index });
        }
        self.weights.clear();
        for logit in &mut self.logits {
            *logit = (*logit - max) / params.temperature;
            self.weights.push(exp(*logit));
        }
        if self.filter(params) {
            self.weights.fill(0.0);
            for &rank in &self.ranks {
                let id = ranked_id(rank) as usize;
                self.weights[id] = exp(self.logits[id]);
            }
        }
        if params.min_p > 0.0 {
            let least = params.min_p.ln();
            for (weight, &logit) in self.weights.iter_mut().zip(&self.logits) {
                *weight = if logit >= least { *weight } else { 0.0 };
            }
        }
        draw(&self.weights, draws.uniform(index as u64)).ok_or(EngineError::NothingLeft { n_generated: index })
    }

    /// Top-k and top-p: leaves in `ranks` what they keep. False when they keep everything; `ranks` is then not set.
    fn filter(&mut self, params: &SamplingParams) -> bool {
        let limits_k = params.top_k > 0 && params.top_k < self.n_valid;
        if limits_k {
            self.rank_all();
            keep_best(&mut self.ranks, params.top_k);
        }
        if params.top_p >= 1.0 {
            return limits_k;
        }
        let wanted = if limits_k {
            let total: f64 = self.ranks.iter().map(|&rank| self.weight(rank)).sum();
            f64::from(params.top_p) * total
        } else {
            let total = sum(&self.weights);
            // Tokens lighter than this have together less than half of the weight that top-p leaves out, and are the
            // lightest: the others are enough.
            let negligible = 0.5 * (1.0 - f64::from(params.top_p)) * total / self.n_valid as f64;
            let ids = (0..).zip(&self.logits).zip(&self.weights);
            self.ranks.clear();
            self.ranks.extend(
                ids.filter(|&(_, &weight)| f64::from(weight) >= negligible).map(|((id, &logit), _)| rank(logit, id)),
            );
            f64::from(params.top_p) * total
        };
        self.keep_nucleus(wanted);
        true
    }

    /// Keeps the fewest best ranks that together weigh `wanted`. Sorts only as far as needed.
    fn keep_nucleus(&mut self, wanted: f64) {
        let mut sum = 0.0;
        let mut sorted = 0;
        let mut group = 64;
        while sorted < self.ranks.len() {
            let rest = &mut self.ranks[sorted..];
            let n = group.min(rest.len());
            if n < rest.len() {
                rest.select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
            }
            rest[..n].sort_unstable_by(|a, b| b.cmp(a));
            for place in sorted..sorted + n {
                sum += self.weight(self.ranks[place]);
                if sum >= wanted {
                    self.ranks.truncate(place + 1);
                    return;
                }
            }
            sorted += n;
            group *= 4;
        }
    }

    fn weight(&self, rank: u64) -> f64 {
        f64::from(self.weights[ranked_id(rank) as usize])
    }

    fn rank_all(&mut self) {
        self.ranks.clear();
        self.ranks.extend((0..).zip(&self.logits).map(|(id, &logit)| rank(logit, id)));
    }
}

/// Keeps the `n` greatest, in any order.
fn keep_best(ranks: &mut Vec<u64>, n: usize) {
    if n == 0 {
        ranks.clear();
    } else if n < ranks.len() {
        ranks.select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
        ranks.truncate(n);
    }
}

/// Weights that the draw adds up before it looks inside.
const GROUP: usize = 256;

/// The first id at which the sum of weights exceeds `uniform` of their total; `None` when all are 0.
fn draw(weights: &[f32], uniform: f64) -> Option<u32> {
    let total: f64 = weights.chunks(GROUP).map(sum).sum();
    let target = uniform * total;
    let mut before = 0.0;
    for (first, group) in (0..).step_by(GROUP).zip(weights.chunks(GROUP)) {
        let after = before + sum(group);
        if after > target {
            return draw_in_group(group, target - before).map(|place| first + place);
        }
        before = after;
    }
    // Rounding can leave the target at the total: then it is the last.
    weights.iter().rposition(|&weight| weight > 0.0).map(|place| place as u32)
}

/// As [`draw`], with the target. Rounding can leave it at the group's sum: then it is the last.
fn draw_in_group(group: &[f32], target: f64) -> Option<u32> {
    let mut sum = 0.0;
    let mut last = None;
    for (place, &weight) in (0..).zip(group) {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = Some(place);
            if sum > target {
                break;
            }
        }
    }
    last
}

fn bad_logit(logits: &[f32], n_generated: usize) -> EngineError {
    let bad = logits.iter().position(|&logit| logit.is_nan() || logit == f32::INFINITY).unwrap_or_default();
    EngineError::BadLogit { id: bad as u32, value: logits.get(bad).copied().unwrap_or(f32::NAN), n_generated }
}

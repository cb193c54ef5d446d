//! The likeliest next tokens, for beam search.

use verve_ops::Real;

use super::math::{maximum, ranked_id, rule_out};
use super::{History, Sampler, Softmax, TokenLogprob, bad_logit};
use crate::error::EngineError;
use crate::params::SamplingParams;

/// A token that may come next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) id: u32,
    /// Its log-probability after penalties and bias: what beam search adds up.
    pub(crate) score: f64,
    /// The model's own.
    pub(crate) logprob: f32,
}

impl Sampler {
    /// The `k` likeliest tokens that may come next, likeliest first; fewer where there are not as many. The arguments are
    /// those of [`Sampler::sample`], of whose steps 1 to 6 are done: penalties and bias change the logits before they
    /// become probabilities, over all of the model's rows; what the vocabulary excludes or `allowed` does not allow is
    /// left out afterwards, and its probability is lost to all, so that an answer's likelihood is what the model gives it.
    ///
    /// # Errors
    /// [`EngineError::BadLogit`] for a logit that is not a number or plus infinity.
    pub(crate) fn candidates<R: Real>(
        &mut self,
        logits: &[R],
        params: &SamplingParams,
        history: &History,
        index: usize,
        allowed: Option<&[u32]>,
        k: usize,
    ) -> Result<Vec<Candidate>, EngineError> {
        let max = self.read(logits, index)?;
        let own = Softmax::new(&self.logits, max);
        self.alternatives.clear();
        if let Some(n) = params.n_logprobs.filter(|&n| n > 0) {
            self.keep_valid();
            self.find_alternatives(n, own);
            self.read(logits, index)?;
        }
        let mut softmax = own;
        if history.penalises() || !params.logit_bias.is_empty() {
            self.penalise(params, history);
            let max = maximum(&self.logits).ok_or_else(|| bad_logit(&self.logits, index))?;
            softmax = Softmax::new(&self.logits, max);
        }
        self.keep_valid();
        if let Some(allowed) = allowed {
            rule_out(&mut self.logits, allowed);
        }
        self.rank_best(k);
        self.ranks.sort_unstable_by(|a, b| b.cmp(a));
        let candidate = |&rank: &u64| {
            let id = ranked_id(rank);
            let logit = self.logits[id as usize];
            let logprob = own.logprob(logits[id as usize].to_f32());
            (logit > f32::NEG_INFINITY).then(|| Candidate { id, score: softmax.logprob64(logit), logprob })
        };
        Ok(self.ranks.iter().filter_map(candidate).collect())
    }

    /// The likeliest tokens in place of the last ones sampled or found, if they were asked for.
    pub(crate) fn alternatives(&self) -> &[TokenLogprob] {
        &self.alternatives
    }
}

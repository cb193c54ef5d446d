//! Which tokens are left to draw from, and the draw.

use std::f64::consts::LN_2;

use super::math::{ln, rank, ranked_id, sum};
use super::{History, Sampler};
use crate::params::SamplingParams;

impl Sampler {
    /// Steps 8 and 10 to 13: sets the weights of tokens that they leave out to 0.
    pub(super) fn filter(&mut self, params: &SamplingParams, history: &History) {
        if let Some(bits) = history.most_bits() {
            return self.keep_unsurprising(bits);
        }
        if params.top_k > 0 && params.top_k < self.logits.len() {
            self.rank_all();
            keep_best(&mut self.ranks, params.top_k);
            self.keep_ranked();
        }
        if params.top_p < 1.0 {
            self.keep_likeliest(f64::from(params.top_p));
        }
        if params.min_p > 0.0 {
            let least = ln(f64::from(params.min_p)) as f32;
            for (weight, &logit) in self.weights.iter_mut().zip(&self.logits) {
                *weight = if logit >= least { *weight } else { 0.0 };
            }
        }
        if params.typical_p < 1.0 {
            self.keep_typical(f64::from(params.typical_p));
        }
    }

    /// Mirostat: keeps what has at most so many bits, and the likeliest token.
    fn keep_unsurprising(&mut self, bits: f64) {
        // With weights w relative to the likeliest token's: -log2(w / total) <= bits.
        let least = (ln(total(&self.weights)) - bits * LN_2) as f32;
        let mut best = None;
        for (id, (weight, &logit)) in self.weights.iter_mut().zip(&self.logits).enumerate() {
            if logit == 0.0 && best.is_none() {
                best = Some(id);
            } else if logit < least {
                *weight = 0.0;
            }
        }
    }

    /// Bits of a token in the draw, if mirostat needs them.
    pub(super) fn surprise(&self, id: u32, history: &History) -> Option<f32> {
        history.most_bits()?;
        let weight = f64::from(self.weights[id as usize]);
        Some((ln(total(&self.weights) / weight) / LN_2) as f32)
    }

    /// Top-p.
    fn keep_likeliest(&mut self, probability: f64) {
        let total = total(&self.weights);
        // Tokens lighter than this have together less than half of the weight that is to be left out, and are the
        // lightest: the others are enough.
        let negligible = (0.5 * (1.0 - probability) * total / self.weights.len() as f64) as f32;
        self.ranks.clear();
        for (id, (&weight, &logit)) in (0..).zip(self.weights.iter().zip(&self.logits)) {
            if weight > negligible {
                self.ranks.push(rank(logit, id));
            }
        }
        let n = self.cut(probability * total);
        self.ranks.truncate(n);
        self.keep_ranked();
    }

    /// Typical: a token's surprise less the entropy is the mean logit less its own.
    fn keep_typical(&mut self, probability: f64) {
        let pairs = || self.weights.iter().zip(&self.logits).filter(|&(&weight, _)| weight > 0.0);
        let total: f64 = pairs().map(|(&weight, _)| f64::from(weight)).sum();
        let mean = pairs().map(|(&weight, &logit)| f64::from(weight) * f64::from(logit)).sum::<f64>() / total;
        self.ranks.clear();
        for (id, (&weight, &logit)) in (0..).zip(self.weights.iter().zip(&self.logits)) {
            if weight > 0.0 {
                self.ranks.push(rank(-(f64::from(logit) - mean).abs() as f32, id));
            }
        }
        let n = self.cut(probability * total);
        if let Some(&last) = self.ranks.get(n.saturating_sub(1)) {
            self.ranks.retain(|&rank| rank >> 32 >= last >> 32);
        }
        self.keep_ranked();
    }

    /// How many of the best ranks it takes to weigh `wanted`; they come first then, in order. Sorts only as far as needed.
    fn cut(&mut self, wanted: f64) -> usize {
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
                sum += f64::from(self.weights[ranked_id(self.ranks[place]) as usize]);
                if sum >= wanted {
                    return place + 1;
                }
            }
            sorted += n;
            group *= 4;
        }
        sorted
    }

    /// Leaves their weights to the tokens in `ranks` only.
    fn keep_ranked(&mut self) {
        // A rank's upper half is not needed any more: it carries the weight over.
        for rank in &mut self.ranks {
            let id = ranked_id(*rank);
            *rank = u64::from(self.weights[id as usize].to_bits()) << 32 | u64::from(id);
        }
        self.weights.fill(0.0);
        for &kept in &self.ranks {
            self.weights[kept as u32 as usize] = f32::from_bits((kept >> 32) as u32);
        }
    }
}

/// Keeps the `n` greatest, in any order.
pub(super) fn keep_best(ranks: &mut Vec<u64>, n: usize) {
    if n == 0 {
        ranks.clear();
    } else if n < ranks.len() {
        ranks.select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
        ranks.truncate(n);
    }
}

/// Weights that the draw adds up before it looks inside.
const GROUP: usize = 256;

/// The sum, added in the order of [`draw`].
fn total(weights: &[f32]) -> f64 {
    weights.chunks(GROUP).map(sum).sum()
}

/// The first id at which the sum of weights exceeds `uniform` of their total; `None` when all are 0.
pub(super) fn draw(weights: &[f32], uniform: f64) -> Option<u32> {
    let target = uniform * total(weights);
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

//! Which tokens are left to draw from, and the draw.

use std::f64::consts::LN_2;

use super::math::{self, first_of, greatest, ln, rank, ranked_id, sum};
use super::{History, Sampler};
use crate::params::SamplingParams;

impl Sampler {
    /// Steps 8 and 11 to 13: sets the weights of tokens that they leave out to 0.
    pub(super) fn filter(&mut self, params: &SamplingParams, history: &History) {
        if let Some(bits) = history.most_bits() {
            return self.keep_unsurprising(bits);
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
        let best = first_of(&self.logits, 0.0).map(|id| (id as usize, self.weights[id as usize]));
        for (weight, &logit) in self.weights.iter_mut().zip(&self.logits) {
            *weight = if logit >= least { *weight } else { 0.0 };
        }
        if let Some((id, weight)) = best {
            self.weights[id] = weight;
        }
    }

    /// Bits of a token in the draw, if mirostat needs them.
    pub(super) fn surprise(&self, id: u32, history: &History) -> Option<f32> {
        history.most_bits()?;
        let weight = f64::from(self.weights[id as usize]);
        Some((ln(total(&self.weights) / weight) / LN_2) as f32)
    }

    /// Leaves in `ranks` the `n` greatest logits, in any order.
    pub(super) fn rank_best(&mut self, n: usize) {
        self.ranks.clear();
        if n == 0 {
            return;
        }
        let blocks = || self.logits.chunks(BLOCK).map(greatest);
        // Where there are few against many, the n-th greatest of the blocks' greatest rules out nearly all others.
        let mut least = f32::NEG_INFINITY;
        if n < self.logits.len() / BLOCK / 2 {
            self.ranks.extend((0..).zip(blocks()).map(|(block, greatest)| rank(greatest, block)));
            let (_, &mut nth, _) = self.ranks.select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
            least = self.logits.chunks(BLOCK).nth(ranked_id(nth) as usize).map_or(least, greatest);
            self.ranks.clear();
        }
        for (first, block) in (0..).step_by(BLOCK).zip(self.logits.chunks(BLOCK)) {
            if greatest(block) >= least {
                gather(&mut self.ranks, first, block, |place| block[place] >= least);
            }
        }
        if n < self.ranks.len() {
            self.ranks.select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
            self.ranks.truncate(n);
        }
    }

    /// Top-p.
    fn keep_likeliest(&mut self, probability: f64) {
        let total = total(&self.weights);
        let wanted = probability * total;
        // Tokens lighter than this have together less than half of the weight that is to be left out, and are the
        // lightest: the others are enough.
        let negligible = 0.5 * (1.0 - probability) * total / self.weights.len() as f64;
        // Logits below `low` are out, those from `high` on are in. Halving what is between is faster than sorting much.
        let (mut low, mut high) = (ln(negligible) as f32, f32::INFINITY);
        let mut between = math::weight_from(&self.weights, &self.logits, low).1;
        let mut above = (0.0, 0);
        for _ in 0..MAX_HALVINGS {
            if between <= MAX_SORTED {
                break;
            }
            let middle = 0.5 * (low + high.min(0.0));
            let from = math::weight_from(&self.weights, &self.logits, middle);
            let inside = from.1 - above.1;
            if from.0 >= wanted {
                (low, between) = (middle, inside);
            } else {
                (high, above, between) = (middle, from, between - inside);
            }
        }
        self.ranks.clear();
        let blocks = self.logits.chunks(BLOCK).zip(self.weights.chunks(BLOCK));
        for (first, (logits, weights)) in (0..).step_by(BLOCK).zip(blocks) {
            if greatest(logits) >= low && greatest(weights) > 0.0 {
                let between = |place| (logits[place] >= low) & (logits[place] < high) & (weights[place] > 0.0);
                gather(&mut self.ranks, first, logits, between);
            }
        }
        let n = self.cut(wanted - above.0);
        self.ranks.truncate(n);
        self.keep_ranked(high);
    }

    /// Typical: a token's surprise less the entropy is the mean logit less its own.
    fn keep_typical(&mut self, probability: f64) {
        let total = total(&self.weights);
        let mean = math::weighted_sum(&self.weights, &self.logits) / total;
        self.ranks.clear();
        let blocks = self.logits.chunks(BLOCK).zip(self.weights.chunks(BLOCK));
        for (first, (logits, weights)) in (0..).step_by(BLOCK).zip(blocks) {
            if greatest(weights) > 0.0 {
                let mut near = [0f32; BLOCK];
                for (near, &logit) in near.iter_mut().zip(logits) {
                    *near = -(f64::from(logit) - mean).abs() as f32;
                }
                gather(&mut self.ranks, first, &near[..logits.len()], |place| weights[place] > 0.0);
            }
        }
        let n = self.cut(probability * total);
        if let Some(&last) = self.ranks.get(n.saturating_sub(1)) {
            self.ranks.retain(|&rank| rank >> 32 >= last >> 32);
        }
        self.keep_ranked(f32::INFINITY);
    }

    /// How many of the best ranks it takes to weigh `wanted`. They come first then, the last of them in its place.
    fn cut(&mut self, wanted: f64) -> usize {
        let weigh =
            |ranks: &[u64]| ranks.iter().map(|&rank| f64::from(self.weights[ranked_id(rank) as usize])).sum::<f64>();
        let ranks = &mut self.ranks[..];
        // All before `start` belong to them; whether they end before `end` is known once it is below the number of ranks.
        let (mut sum, mut start, mut end) = (0.0, 0, ranks.len());
        let mut group = 64;
        while end - start > 64 {
            let n = if end == ranks.len() { group.min((end - start) / 2) } else { (end - start) / 2 };
            ranks[start..end].select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
            let after = sum + weigh(&ranks[start..start + n]);
            if after >= wanted {
                end = start + n;
            } else {
                (sum, start) = (after, start + n);
                group *= 8;
            }
        }
        ranks[start..end].sort_unstable_by(|a, b| b.cmp(a));
        for place in start..end {
            sum += weigh(&ranks[place..=place]);
            if sum >= wanted {
                return place + 1;
            }
        }
        end
    }

    /// Leaves their weights to the tokens in `ranks` and to those with logits from `least` on.
    fn keep_ranked(&mut self, least: f32) {
        // A rank's upper half is not needed any more: it carries the weight over.
        for rank in &mut self.ranks {
            let id = ranked_id(*rank);
            *rank = u64::from(self.weights[id as usize].to_bits()) << 32 | u64::from(id);
        }
        for (weight, &logit) in self.weights.iter_mut().zip(&self.logits) {
            *weight = if logit >= least { *weight } else { 0.0 };
        }
        for &kept in &self.ranks {
            self.weights[kept as u32 as usize] = f32::from_bits((kept >> 32) as u32);
        }
    }
}

/// Appends the ranks of a block's values that are inside. There is no branch to be guessed wrong.
fn gather(ranks: &mut Vec<u64>, first: u32, values: &[f32], inside: impl Fn(usize) -> bool) {
    let mut places = [0u8; BLOCK];
    let mut n = 0;
    for place in 0..values.len().min(BLOCK) {
        places[n] = place as u8;
        n += usize::from(inside(place));
    }
    ranks.extend(places[..n].iter().map(|&place| rank(values[usize::from(place)], first + u32::from(place))));
}

/// Logits that are looked at one by one only if the greatest of them may matter.
const BLOCK: usize = 128;

/// Candidates of top-p that are not worth another pass over the vocabulary, and most such passes: many equal logits cannot
/// be halved.
const MAX_SORTED: usize = 4096;
const MAX_HALVINGS: usize = 10;

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

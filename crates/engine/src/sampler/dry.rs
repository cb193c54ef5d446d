//! The DRY penalty: tokens that would go on with a repetition ("don't repeat yourself", p-e-w 2024).

use super::Sampler;
use super::math::{rank, ranked_id};
use crate::params::SamplingParams;

/// Longest repetition that is told from longer ones, as text-generation-webui has it.
pub(crate) const MAX_REPEAT: usize = 50;

/// Greatest penalty: far more than any logit, and finite, so that a step with nothing else to choose still chooses.
const MAX_PENALTY: f64 = 1e30;

impl Sampler {
    /// Step 5, on the tokens of prompt and answer. Time linear in their number.
    pub(super) fn penalise_repeats(&mut self, params: &SamplingParams, tokens: &[u32]) {
        let cap = self.unbroken(&params.dry_breakers, tokens);
        if cap < params.dry_allowed_length {
            return;
        }
        let range = if params.dry_range == 0 { tokens.len() } else { params.dry_range.min(tokens.len()) };
        let window = &tokens[tokens.len() - range..];
        // Which tokens were touched; the sampler has no other use for the room now.
        self.ranks.clear();
        let (repeats, touched) = (&mut self.repeats, &mut self.ranks);
        each_repeat(window, cap, |next, len| {
            let Some(longest) = repeats.get_mut(next as usize) else { return };
            if len >= params.dry_allowed_length && len > usize::from(*longest) {
                if *longest == 0 {
                    touched.push(rank(0.0, next));
                }
                *longest = len as u8;
            }
        });
        for &rank in &self.ranks {
            let id = ranked_id(rank);
            let len = usize::from(std::mem::take(&mut self.repeats[id as usize]));
            let text = self.vocabulary.bytes(id);
            let breaks =
                text.is_empty() || params.dry_breakers.iter().any(|b| end_of_last(text, b.as_bytes()).is_some());
            if !breaks {
                self.logits[id as usize] -= penalty(params, len);
            }
        }
    }

    /// Tokens behind the last one that breaks a sequence, at most [`MAX_REPEAT`].
    fn unbroken(&mut self, breakers: &[String], tokens: &[u32]) -> usize {
        // Their text, and as much before it as a breaker that is complete in it may need.
        let before = breakers.iter().map(String::len).max().unwrap_or(0);
        let mut first = tokens.len().saturating_sub(MAX_REPEAT);
        let mut n_before = 0;
        while first > 0 && n_before < before {
            first -= 1;
            n_before += self.vocabulary.bytes(tokens[first]).len();
        }
        self.text.clear();
        for &id in &tokens[first..] {
            self.text.extend_from_slice(self.vocabulary.bytes(id));
        }
        let ends = breakers.iter().filter_map(|breaker| end_of_last(&self.text, breaker.as_bytes()));
        let broken = ends.max().unwrap_or(0);
        let mut start = self.text.len();
        let goes_on = |&&id: &&u32| {
            let len = self.vocabulary.bytes(id).len();
            start -= len;
            len > 0 && start >= broken
        };
        tokens.iter().rev().take(MAX_REPEAT).take_while(goes_on).count()
    }
}

/// For a repetition of `len` tokens. Plain products: every machine gives the same bits.
fn penalty(params: &SamplingParams, len: usize) -> f32 {
    let base = f64::from(params.dry_base);
    let grown = (params.dry_allowed_length..len).fold(f64::from(params.dry_multiplier), |product, _| product * base);
    grown.min(MAX_PENALTY) as f32
}

/// Calls `found(next, len)` for every place in `tokens` but the last whose token is the last one: the token after it, and
/// how many tokens up to it are the last ones, at most `cap`. Linear: the Z-algorithm (Gusfield 1997) on the tokens in
/// reverse, whose table needs no more than the pattern's places, because the pattern is cut off at `cap`.
fn each_repeat(tokens: &[u32], cap: usize, mut found: impl FnMut(u32, usize)) {
    let n = tokens.len();
    let (cap, back) = (cap.min(n).min(MAX_REPEAT), |place: usize| tokens[n - 1 - place]);
    // Entry k: how far the reversed tokens from place k on are those from the beginning.
    let mut table = [0u8; MAX_REPEAT];
    // The match that reaches farthest back: from `from` to before `to`.
    let (mut from, mut to) = (0, 0);
    for place in 1..n {
        let known = if place < to { usize::from(table[place - from]).min(to - place) } else { 0 };
        let mut len = known;
        if place + known >= to {
            while len < cap && place + len < n && back(len) == back(place + len) {
                len += 1;
            }
            if place + len > to {
                (from, to) = (place, place + len);
            }
        }
        if place < cap {
            table[place] = len as u8;
        }
        if len > 0 {
            found(back(place - 1), len);
        }
    }
}

/// Where the last occurrence of `part` in `text` ends.
fn end_of_last(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).rposition(|window| window == part).map(|start| start + part.len())
}

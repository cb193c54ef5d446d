//! Which tokens a sequence has had, for the penalties.

use std::collections::HashMap;

use crate::params::SamplingParams;

/// Tokens of an answer that room is made for in advance, so that usual answers allocate nothing on the way.
const MAX_RESERVED: usize = 1 << 12;

/// How often each token of a sequence was generated; tokens of the prompt are known too. Keeps nothing when no penalty
/// is set.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// By token id: how often it was generated. 0 for tokens that are in the prompt only.
    counts: Option<HashMap<u32, u32>>,
}

impl History {
    /// A sequence that has only its prompt.
    pub fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let counts = || {
            let mut counts = HashMap::with_capacity(prompt.len() + params.max_tokens.min(MAX_RESERVED));
            counts.extend(prompt.iter().map(|&id| (id, 0)));
            counts
        };
        Self { counts: params.uses_history().then(counts) }
    }

    /// One more generated token.
    pub fn push(&mut self, id: u32) {
        if let Some(counts) = &mut self.counts {
            *counts.entry(id).or_default() += 1;
        }
    }

    /// Applies repetition, presence and frequency penalties. Each token's logit is changed by itself, so the order of
    /// tokens does not matter.
    pub(super) fn penalise(&self, params: &SamplingParams, logits: &mut [f32]) {
        for (&id, &count) in self.counts.iter().flatten() {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            if *logit > 0.0 {
                *logit /= params.repetition_penalty;
            } else {
                *logit *= params.repetition_penalty;
            }
            if count > 0 {
                *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
            }
        }
    }
}

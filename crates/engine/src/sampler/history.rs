//! What a sequence has had so far, for the penalties and for mirostat.

use std::collections::HashMap;

use crate::params::SamplingParams;

/// Tokens of an answer that room is made for in advance, so that usual answers allocate nothing on the way.
const MAX_RESERVED: usize = 1 << 12;

/// What a sequence has had so far, as far as its parameters need it: a function of its prompt and its answer's tokens, so
/// that a copy taken at any place goes on as the original does.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// By token id: how often it was generated. 0 for tokens that are in the prompt only.
    counts: Option<HashMap<u32, u32>>,
    /// Prompt and answer, for DRY.
    tokens: Option<Vec<u32>>,
    mirostat: Option<Mirostat>,
}

/// Mirostat 2 (Basu et al. 2021).
#[derive(Debug, Clone)]
struct Mirostat {
    tau: f64,
    eta: f64,
    /// Most bits that the next token may have.
    mu: f64,
}

impl History {
    /// A sequence that has only its prompt.
    pub fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let capacity = prompt.len() + params.max_tokens.min(MAX_RESERVED);
        let counts = || {
            let mut counts = HashMap::with_capacity(capacity);
            counts.extend(prompt.iter().map(|&id| (id, 0)));
            counts
        };
        let tokens = || {
            let mut tokens = Vec::with_capacity(capacity);
            tokens.extend_from_slice(prompt);
            tokens
        };
        let mirostat = || {
            let (tau, eta) = (f64::from(params.mirostat_tau), f64::from(params.mirostat_eta));
            Mirostat { tau, eta, mu: 2.0 * tau }
        };
        Self {
            counts: params.penalises_counts().then(counts),
            tokens: (params.dry_multiplier > 0.0).then(tokens),
            mirostat: (params.mirostat_tau > 0.0).then(mirostat),
        }
    }

    /// One more token of the answer, with the surprise that [`crate::Sampled`] reports; `None` for a token that was not
    /// drawn.
    pub fn push(&mut self, id: u32, surprise: Option<f32>) {
        if let Some(counts) = &mut self.counts {
            *counts.entry(id).or_default() += 1;
        }
        if let Some(tokens) = &mut self.tokens {
            tokens.push(id);
        }
        if let (Some(mirostat), Some(surprise)) = (&mut self.mirostat, surprise) {
            mirostat.mu -= mirostat.eta * (f64::from(surprise) - mirostat.tau);
        }
    }

    /// Whether it changes logits.
    pub(super) fn penalises(&self) -> bool {
        self.counts.is_some() || self.tokens.is_some()
    }

    /// Prompt and answer, if DRY needs them.
    pub(super) fn tokens(&self) -> Option<&[u32]> {
        self.tokens.as_deref()
    }

    /// Most bits that the next token may have.
    pub(super) fn most_bits(&self) -> Option<f64> {
        self.mirostat.as_ref().map(|mirostat| mirostat.mu)
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

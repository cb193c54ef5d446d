//! Batch sizes in whole rows and whole micro-batches.

use verve_model::ModelConfig;

use super::RunConfig;
use crate::error::{Result, TrainError};

/// Tokens of a micro-batch if nothing is said: enough for efficient products on a CPU, few enough for its caches.
const MICRO_TOKENS: usize = 4096;

/// Tokens of a batch by parameters. From 125M on those of Brown et al. 2020, table 2.1; below, powers of two that leave a
/// short run enough steps.
const BATCH_TOKENS: [(usize, u64); 9] = [
    (2_000_000, 4096),
    (8_000_000, 8192),
    (20_000_000, 16_384),
    (60_000_000, 32_768),
    (120_000_000, 131_072),
    (1_000_000_000, 524_288),
    (5_000_000_000, 1_048_576),
    (100_000_000_000, 2_097_152),
    (usize::MAX, 3_276_800),
];

/// Fewest steps of a run whose length is given in tokens, if the batch is chosen.
const FEWEST_STEPS: u64 = 200;

/// A batch in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchRows {
    /// Rows of a micro-batch, before memory is looked at.
    pub micro: usize,
    /// Rows of a step in the end; a multiple of `micro`.
    pub full: u64,
    /// Rows of the first step; a multiple of `micro`, at most `full`.
    pub first: u64,
}

impl BatchRows {
    /// Sizes of a micro-batch with which steps have the same rows, at most `micro`, largest first.
    pub fn micro_batches(&self) -> Vec<usize> {
        let divides = |rows: &usize| self.full.is_multiple_of(*rows as u64) && self.first.is_multiple_of(*rows as u64);
        (1..=self.micro).rev().filter(divides).collect()
    }
}

impl RunConfig {
    /// Rows of a step and of a micro-batch; adds to `notes` what was rounded.
    pub(super) fn batch_rows(
        &self,
        model: &ModelConfig,
        n_params: usize,
        notes: &mut Vec<String>,
    ) -> Result<BatchRows> {
        let n_ctx = model.n_ctx as u64;
        let b = &self.batch;
        for (key, tokens) in [("batch_tokens", b.batch_tokens), ("ramp_start_tokens", b.ramp_start_tokens)] {
            if let Some(tokens) = tokens.filter(|&tokens| tokens < n_ctx) {
                let problem = format!("a row has {n_ctx} tokens, so it must be at least that, or n_ctx shorter");
                return Err(TrainError::setting("batch", key, tokens, problem));
            }
        }
        let wanted = b.batch_tokens.unwrap_or_else(|| self.default_batch_tokens(n_params, n_ctx));
        let rows = (wanted / n_ctx).max(1);
        let micro = b.micro_batch.unwrap_or_else(|| default_micro_batch(rows, model.n_ctx));
        if let (Some(micro), Some(tokens)) = (b.micro_batch, b.batch_tokens)
            && tokens < micro as u64 * n_ctx
        {
            let problem = format!("is more than batch_tokens = {tokens} hold, which are {rows} rows");
            return Err(TrainError::setting("batch", "micro_batch", micro, problem));
        }
        let full = whole(wanted, micro, n_ctx, "batch_tokens", b.batch_tokens.is_some(), notes);
        let first = match b.ramp_start_tokens {
            Some(tokens) if tokens > wanted => {
                let problem = format!("is above batch_tokens = {wanted}: the batch grows from one to the other");
                return Err(TrainError::setting("batch", "ramp_start_tokens", tokens, problem));
            }
            Some(tokens) => whole(tokens, micro, n_ctx, "ramp_start_tokens", true, notes).min(full),
            None => full,
        };
        Ok(BatchRows { micro, full, first })
    }

    fn default_batch_tokens(&self, n_params: usize, n_ctx: u64) -> u64 {
        let by_size = BATCH_TOKENS.iter().find(|(limit, _)| n_params < *limit).map_or(4096, |(_, tokens)| *tokens);
        // A run of few tokens has smaller steps rather than few of them.
        let by_length = self.budget.tokens.map_or(u64::MAX, |tokens| tokens / FEWEST_STEPS);
        let by_length = if by_length == 0 { 1 } else { 1 << by_length.ilog2() };
        by_size.min(by_length).max(self.batch.micro_batch.unwrap_or(1) as u64 * n_ctx)
    }
}

/// The largest number of rows near [`MICRO_TOKENS`] that divides `rows`, or just the number near it.
fn default_micro_batch(rows: u64, n_ctx: usize) -> usize {
    let most = (MICRO_TOKENS / n_ctx).max(1).min(usize::try_from(rows).unwrap_or(usize::MAX));
    (most.div_ceil(2)..=most).rev().find(|&micro| rows.is_multiple_of(micro as u64)).unwrap_or(most)
}

/// `tokens` in rows, rounded to the nearest whole number of micro-batches.
fn whole(tokens: u64, micro: usize, n_ctx: u64, key: &str, tell: bool, notes: &mut Vec<String>) -> u64 {
    let micro_tokens = micro as u64 * n_ctx;
    let count = ((tokens + micro_tokens / 2) / micro_tokens).max(1);
    if tell && count * micro_tokens != tokens {
        notes.push(format!(
            "{key} = {tokens} is {} now: {count} micro-batches of {micro} rows of {n_ctx} tokens",
            count * micro_tokens
        ));
    }
    count * micro as u64
}

//! Batch sizes.

/// How many micro-batches a step accumulates: constant, or growing linearly with the tokens seen, as GPT-3's did "from a
/// small value (32k tokens) to the full value over the first 4-12 billion tokens" (Brown et al. 2020, appendix B). Whole
/// micro-batches only: the linear ramp is rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSchedule {
    /// Rows of a micro-batch.
    pub micro_batch: usize,
    /// Tokens in a row.
    pub n_ctx: usize,
    /// Micro-batches of a step at the beginning; at least 1.
    pub first: u64,
    /// Micro-batches of a step in the end; at least `first`.
    pub full: u64,
    /// Tokens after which the batch is full; 0 for no ramp.
    pub ramp_tokens: u64,
}

impl BatchSchedule {
    /// Tokens in a micro-batch.
    pub fn micro_tokens(&self) -> u64 {
        self.micro_batch as u64 * self.n_ctx as u64
    }

    /// Tokens in a full batch.
    pub fn full_tokens(&self) -> u64 {
        self.full * self.micro_tokens()
    }

    /// Micro-batches of the step that begins when `tokens` have been seen.
    pub fn micro_batches(&self, tokens: u64) -> u64 {
        if tokens >= self.ramp_tokens {
            return self.full;
        }
        let grown = u128::from(self.full - self.first) * u128::from(tokens) / u128::from(self.ramp_tokens);
        self.first + grown as u64
    }

    /// The first count of tokens at which a step has `micro_batches` (above `first`, at most `full`).
    fn reached(&self, micro_batches: u64) -> u64 {
        let grown = u128::from(micro_batches - self.first) * u128::from(self.ramp_tokens);
        grown.div_ceil(u128::from(self.full - self.first)) as u64
    }

    /// Walks the ramp level by level: calls `level(tokens, step_tokens, until)` while the ramp lasts; `level` answers the
    /// number of steps to take on this level, or `None` to stop. Returns the tokens at the end.
    fn walk(&self, mut level: impl FnMut(u64, u64, u64) -> Option<u64>) -> u64 {
        let mut tokens: u64 = 0;
        while tokens < self.ramp_tokens && self.first < self.full {
            let now = self.micro_batches(tokens);
            let step_tokens = now * self.micro_tokens();
            let until = if now < self.full { self.reached(now + 1) } else { self.ramp_tokens };
            let Some(steps) = level(tokens, step_tokens, until) else { break };
            tokens = tokens.saturating_add(steps.saturating_mul(step_tokens));
        }
        tokens
    }

    /// Tokens seen after `steps` steps.
    pub fn tokens_after(&self, steps: u64) -> u64 {
        let mut left = steps;
        let tokens = self.walk(|tokens, step_tokens, until| {
            let take = (until - tokens).div_ceil(step_tokens).min(left);
            left -= take;
            (take > 0).then_some(take)
        });
        tokens.saturating_add(left.saturating_mul(self.full_tokens()))
    }

    /// Steps after which at least `tokens` have been seen.
    pub fn steps_for(&self, tokens: u64) -> u64 {
        let mut steps = 0;
        let seen = self.walk(|seen, step_tokens, until| {
            let take = (until.min(tokens).saturating_sub(seen)).div_ceil(step_tokens);
            steps += take;
            (take > 0).then_some(take)
        });
        steps + tokens.saturating_sub(seen).div_ceil(self.full_tokens())
    }
}

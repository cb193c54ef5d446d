//! Values that cannot be, and settings that contradict each other.

use super::{RunConfig, ScheduleKind};
use crate::error::{Result, TrainError};

/// No text has more tokens; keeps sums of products of settings inside 64 bits.
const MAX_TOKENS: u64 = 1_000_000_000_000_000;
const MAX_STEPS: u64 = 1_000_000_000_000;

impl RunConfig {
    /// Checks every number by itself, and contradictions that need no knowledge of the data.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_budget()?;
        self.check_batch()?;
        self.check_optimizer()?;
        self.check_schedule()?;
        self.check_intervals()?;
        // The largest that TOML can hold.
        whole("run", "seed", self.run.seed, 0..=i64::MAX as u64)?;
        if let Some(share) = self.data.held_out {
            real("data", "held_out", share, 0.0..=0.9)?;
        }
        if let Some(vocab) = self.data.vocab {
            whole("data", "vocab", vocab as u64, 257..=1 << 24)?;
        }
        Ok(())
    }

    fn check_budget(&self) -> Result<()> {
        let b = &self.budget;
        if let Some(steps) = b.steps {
            whole("budget", "steps", steps, 1..=MAX_STEPS)?;
        }
        if let Some(tokens) = b.tokens {
            whole("budget", "tokens", tokens, 1..=MAX_TOKENS)?;
        }
        for (key, minutes) in [("minutes", b.minutes), ("chosen_for_minutes", b.chosen_for_minutes)] {
            if let Some(minutes) = minutes {
                real("budget", key, minutes, 0.001..=5_256_000.0)?;
            }
        }
        let given: Vec<&str> =
            [("steps", b.steps.is_some()), ("tokens", b.tokens.is_some()), ("minutes", b.minutes.is_some())]
                .into_iter()
                .filter_map(|(key, given)| given.then_some(key))
                .collect();
        match given[..] {
            [_] => Ok(()),
            [] => Err(TrainError::setting("budget", "steps", "nothing", "give one of steps, tokens and minutes")),
            _ => Err(TrainError::setting(
                "budget",
                "steps",
                given.join(" and "),
                "these contradict each other: give only one of steps, tokens and minutes",
            )),
        }
    }

    fn check_batch(&self) -> Result<()> {
        let b = &self.batch;
        if let Some(rows) = b.micro_batch {
            whole("batch", "micro_batch", rows as u64, 1..=1 << 20)?;
        }
        for (key, tokens) in [("batch_tokens", b.batch_tokens), ("ramp_start_tokens", b.ramp_start_tokens)] {
            if let Some(tokens) = tokens {
                whole("batch", key, tokens, 1..=1 << 32)?;
            }
        }
        if let Some(tokens) = b.ramp_tokens {
            whole("batch", "ramp_tokens", tokens, 1..=MAX_TOKENS)?;
        }
        match (b.ramp_start_tokens, b.ramp_tokens) {
            (Some(start), None) => {
                Err(TrainError::setting("batch", "ramp_start_tokens", start, "a growing batch also needs ramp_tokens"))
            }
            (None, Some(tokens)) => {
                Err(TrainError::setting("batch", "ramp_tokens", tokens, "a growing batch also needs ramp_start_tokens"))
            }
            _ => Ok(()),
        }
    }

    fn check_optimizer(&self) -> Result<()> {
        let o = &self.optimizer;
        if let Some(lr) = o.lr {
            real("optimizer", "lr", lr, 1e-12..=1.0)?;
        }
        real("optimizer", "beta1", o.beta1, 0.0..=0.999_999)?;
        real("optimizer", "beta2", o.beta2, 0.0..=0.999_999)?;
        real("optimizer", "eps", o.eps, 1e-20..=0.1)?;
        real("optimizer", "weight_decay", o.weight_decay, 0.0..=100.0)?;
        real("optimizer", "clip", o.clip, 1e-6..=1e12)
    }

    fn check_schedule(&self) -> Result<()> {
        let s = &self.schedule;
        real("schedule", "min_lr_ratio", s.min_lr_ratio, 0.0..=1.0)?;
        if let Some(steps) = s.warmup_steps {
            whole("schedule", "warmup_steps", steps, 0..=MAX_STEPS)?;
        }
        for (key, tokens) in [("warmup_tokens", s.warmup_tokens), ("decay_tokens", s.decay_tokens)] {
            if let Some(tokens) = tokens {
                whole("schedule", key, tokens, 0..=MAX_TOKENS)?;
            }
        }
        if let Some(share) = s.decay_share {
            real("schedule", "decay_share", share, 0.0..=1.0)?;
        }
        if let (Some(steps), Some(tokens)) = (s.warmup_steps, s.warmup_tokens) {
            let problem = format!("contradicts warmup_tokens = {tokens}: give only one of them");
            return Err(TrainError::setting("schedule", "warmup_steps", steps, problem));
        }
        let only_for = |key, set: bool, kind: &str| {
            let problem = format!("only a {kind} schedule has it");
            if set { Err(TrainError::setting("schedule", key, "given", problem)) } else { Ok(()) }
        };
        if s.kind != ScheduleKind::Cosine {
            only_for("decay_tokens", s.decay_tokens.is_some(), "cosine")?;
        }
        if s.kind != ScheduleKind::WarmupStableDecay {
            only_for("decay_share", s.decay_share.is_some(), "warmup_stable_decay")?;
            only_for("decay_curve", s.decay_curve.is_some(), "warmup_stable_decay")?;
        }
        Ok(())
    }

    fn check_intervals(&self) -> Result<()> {
        for (section, key, every) in [
            ("eval", "every", self.eval.every),
            ("sample", "every", self.sample.every),
            ("checkpoint", "every_steps", self.checkpoint.every_steps),
        ] {
            if let Some(every) = every {
                whole(section, key, every, 0..=MAX_STEPS)?;
            }
        }
        whole("eval", "rows", self.eval.rows, 0..=1 << 32)?;
        whole("sample", "max_tokens", self.sample.max_tokens as u64, 1..=1 << 24)?;
        real("checkpoint", "every_minutes", self.checkpoint.every_minutes, 0.001..=5_256_000.0)?;
        whole("checkpoint", "keep_last", self.checkpoint.keep_last as u64, 1..=1_000_000)
    }
}

fn whole(section: &'static str, key: &'static str, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(TrainError::setting(section, key, value, format!("must be from {} to {}", range.start(), range.end())))
}

fn real(section: &'static str, key: &'static str, value: f64, range: std::ops::RangeInclusive<f64>) -> Result<()> {
    // Not a number is in no range.
    if range.contains(&value) {
        return Ok(());
    }
    Err(TrainError::setting(section, key, value, format!("must be from {} to {}", range.start(), range.end())))
}

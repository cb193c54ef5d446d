//! Learning rates.

use serde::{Deserialize, Serialize};

/// How the rate falls at the end of a warm-up-stable-decay schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayCurve {
    /// In a straight line.
    Linear,
    /// As one minus the square root of the part done (Hägele et al. 2024, arXiv:2405.18392).
    OneMinusSqrt,
}

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LrShape {
    /// Half a cosine from the peak, at the end of the warm-up, to the floor when `end` tokens have been seen; then
    /// constant (Brown et al. 2020).
    Cosine {
        /// Tokens at which the floor is reached.
        end: u64,
    },
    /// Constant, then falling to the floor between two counts of tokens (Hu et al. 2024, arXiv:2404.06395).
    WarmupStableDecay {
        /// Tokens at which the fall begins.
        start: u64,
        /// Tokens at which the floor is reached.
        end: u64,
        /// Shape of the fall.
        curve: DecayCurve,
    },
    /// The peak for ever.
    Constant,
}

/// Learning rate of a step, from the tokens that will have been seen at its end: linear warm-up from zero, then `shape`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LrSchedule {
    /// Highest rate.
    pub peak: f64,
    /// Lowest rate after the peak.
    pub floor: f64,
    /// Tokens of the warm-up; its last step has the peak rate.
    pub warmup_tokens: u64,
    /// What follows.
    pub shape: LrShape,
}

impl LrSchedule {
    /// Rate of the step after which `tokens` have been seen.
    pub fn at(&self, tokens: u64) -> f64 {
        if tokens < self.warmup_tokens {
            return self.peak * (tokens as f64 / self.warmup_tokens as f64);
        }
        let range = self.peak - self.floor;
        match self.shape {
            LrShape::Constant => self.peak,
            LrShape::Cosine { end } => {
                let done = part(tokens, self.warmup_tokens, end);
                self.floor + range * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
            LrShape::WarmupStableDecay { start, end, curve } => {
                let done = part(tokens, start, end);
                let left = match curve {
                    DecayCurve::Linear => 1.0 - done,
                    DecayCurve::OneMinusSqrt => 1.0 - done.sqrt(),
                };
                self.floor + range * left
            }
        }
    }
}

/// Which part of the way from `start` to `end` is done, 0 to 1.
fn part(tokens: u64, start: u64, end: u64) -> f64 {
    if tokens >= end {
        return 1.0;
    }
    tokens.saturating_sub(start) as f64 / end.saturating_sub(start) as f64
}

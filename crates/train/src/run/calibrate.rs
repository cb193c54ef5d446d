//! From minutes to steps: a short measurement before the first step, on a state of its own.

use std::time::Instant;

use verve_ops::Backend;
use verve_shard::{RowOrder, ShardSet};

use crate::config::RunPlan;
use crate::error::Result;
use crate::eval::Evaluator;
use crate::step::Trainer;

/// Share of the budget that the measurement may take, and its least and most micro-batches.
const SHARE: f64 = 0.02;
const MICRO_BATCHES: std::ops::RangeInclusive<usize> = 3..=20;
/// Share of the budget left for checkpoints and samples.
const RESERVE: f64 = 0.03;
/// Evaluations assumed when their interval is chosen by the number of steps.
const MOST_EVALS: f64 = 20.0;
const EVAL_SHARE: f64 = 0.05;

/// Seconds of the parts of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speed {
    /// Forward and backward of a micro-batch.
    micro_batch: f64,
    /// AdamW on everything.
    optimizer: f64,
    /// An evaluation.
    eval: f64,
}

impl Speed {
    /// Times the parts on the data's first rows. The trainer is of no use afterwards.
    pub fn measure<B: Backend>(
        trainer: &mut Trainer<'_, B>,
        evaluator: Option<&mut Evaluator>,
        (shards, order): (&ShardSet, &RowOrder),
        budget: f64,
    ) -> Result<Self> {
        // The first touches all memory.
        trainer.micro_batch(shards, order, 0, 0.0)?;
        let began = Instant::now();
        let mut times = Vec::new();
        while times.len() < *MICRO_BATCHES.start()
            || (times.len() < *MICRO_BATCHES.end() && began.elapsed().as_secs_f64() < SHARE * budget)
        {
            let at = Instant::now();
            trainer.micro_batch(shards, order, 0, 0.0)?;
            trainer.backend.synchronize()?;
            times.push(at.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let at = Instant::now();
        trainer.apply(0.0, 1.0);
        trainer.backend.synchronize()?;
        let optimizer = at.elapsed().as_secs_f64();
        let eval = match evaluator {
            None => 0.0,
            Some(evaluator) => {
                let count = evaluator.micro_batches(trainer.acts.batch());
                let at = Instant::now();
                let (net, acts) = trainer.parts();
                evaluator.micro_batch(net, acts, shards, 0, 1)?;
                at.elapsed().as_secs_f64() * count as f64
            }
        };
        Ok(Self { micro_batch: times[times.len() / 2], optimizer, eval })
    }

    /// Seconds that so many steps take.
    fn seconds(&self, steps: u64, plan: &RunPlan) -> f64 {
        let micro_batches = plan.batch.tokens_after(steps) / plan.batch.micro_tokens();
        let training = micro_batches as f64 * self.micro_batch + steps as f64 * self.optimizer;
        let between = match plan.config.eval.every {
            Some(0) => 0.0,
            Some(every) => (steps / every) as f64 * self.eval,
            None => (MOST_EVALS * self.eval).min(EVAL_SHARE * training),
        };
        training + between + 2.0 * self.eval
    }

    /// The most steps that fit into the seconds left; at least one.
    pub fn steps(&self, seconds: f64, plan: &RunPlan) -> u64 {
        let seconds = seconds * (1.0 - RESERVE);
        let fits = |steps: u64| self.seconds(steps, plan) <= seconds;
        let mut high = 1;
        while high < 1 << 40 && fits(high) {
            high *= 2;
        }
        let mut low = high / 2;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        low.max(1)
    }

    /// Of training alone, at the full batch.
    pub fn tokens_per_second(&self, plan: &RunPlan) -> f64 {
        let seconds = plan.batch.full as f64 * self.micro_batch + self.optimizer;
        plan.batch.full_tokens() as f64 / seconds
    }
}

//! Timing of bare training steps, for benchmarks.

use std::time::Instant;

use verve_ops::Backend;
use verve_shard::ShardSet;

use crate::config::RunPlan;
use crate::error::Result;
use crate::state::Origin;
use crate::step::{StepInput, Trainer};

/// Seconds of each of `steps` optimizer steps of a plan at its full batch, after `warm_up` untimed ones. Batches, gradients,
/// clipping and the optimizer are those of a run; there is no evaluation, sample or checkpoint.
///
/// # Errors
/// Whatever stops a run: memory, data that do not fit the model, a failed machine.
pub fn time_steps<B: Backend>(
    backend: &B,
    plan: &RunPlan,
    shards: &ShardSet,
    warm_up: usize,
    steps: usize,
) -> Result<Vec<f64>> {
    let seed = plan.config.run.seed;
    let mut trainer = Trainer::new(backend, plan, &Origin::Seed(seed))?;
    let order = shards.row_order(plan.model.n_ctx, seed)?;
    let micro_batches = plan.batch.full;
    let mut seconds = Vec::with_capacity(steps);
    for step in 0..warm_up + steps {
        let start = Instant::now();
        // A rate so small that the loss stays finite on any data.
        trainer.step(&StepInput { shards, order: &order, micro_batches, lr: 1e-6 })?;
        backend.synchronize()?;
        if step >= warm_up {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

//! Memory of a run, and the settings with which it fits.

use verve_model::{
    ElementSizes, MasterWeights, MemoryOptions, MemoryPlan, ModelConfig, PlanItem, Recompute, layout, memory_plan,
    presets,
};

use super::batch::BatchRows;
use super::resolve::Known;
use super::{Dtype, RunConfig, WriteMode};
use crate::error::{Result, TrainError};

/// Levels that cost next to nothing.
const CHEAP: [Recompute; 3] = [Recompute::None, Recompute::Activations, Recompute::ActivationsAndNorms];

impl Dtype {
    /// Bytes of a weight or activation, and of a statistic, gradient, moment or master weight.
    pub fn sizes(self) -> ElementSizes {
        match self {
            Self::F32 => ElementSizes { elem: 4, acc: 4 },
            Self::Bf16 => ElementSizes { elem: 2, acc: 4 },
        }
    }
}

/// The settings that memory depends on, chosen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fit {
    pub micro_batch: usize,
    pub recompute: Recompute,
    pub write: WriteMode,
    pub plan: MemoryPlan,
}

impl RunConfig {
    /// The first combination that fits: everything kept and checkpoints in the background if possible; then cheap
    /// recomputation, then smaller micro-batches, then checkpoints that hold up training, then whole blocks again.
    pub(super) fn fit_memory(&self, model: &ModelConfig, rows: &BatchRows, known: &Known<'_>) -> Result<Fit> {
        let micros = match self.batch.micro_batch {
            Some(micro) => vec![micro],
            None => rows.micro_batches(),
        };
        let writes = match self.checkpoint.write {
            Some(write) => vec![write],
            None => vec![WriteMode::Background, WriteMode::Blocking],
        };
        let (cheap, last) = match self.run.recompute {
            Some(level) => (vec![level], vec![]),
            None => (CHEAP.to_vec(), vec![Recompute::Blocks]),
        };
        let mut needed = None;
        for levels in [cheap, last] {
            for &write in &writes {
                for &micro_batch in &micros {
                    for &recompute in &levels {
                        let plan = self.memory(model, micro_batch, recompute, write, known)?;
                        if plan.total() <= known.available_memory {
                            return Ok(Fit { micro_batch, recompute, write, plan });
                        }
                        needed.get_or_insert(plan.total());
                    }
                }
            }
        }
        Err(TrainError::Memory {
            needed: bytes(needed.unwrap_or(0)),
            available: bytes(known.available_memory),
            hint: self.hint(model, rows, known),
        })
    }

    /// Everything a run allocates, by purpose.
    fn memory(
        &self,
        model: &ModelConfig,
        batch: usize,
        recompute: Recompute,
        write: WriteMode,
        known: &Known<'_>,
    ) -> Result<MemoryPlan> {
        let sizes = self.run.dtype.sizes();
        let master = if sizes.elem < sizes.acc { MasterWeights::Kept } else { MasterWeights::None };
        let options = MemoryOptions { batch, seq_len: model.n_ctx, recompute, sizes, master, moments: 2 };
        let mut plan = memory_plan(model, &options)?;
        let n_params = model.n_params() as u64;
        if write == WriteMode::Background {
            // Exact weights and both moments.
            let bytes = 3 * n_params * sizes.acc as u64;
            plan.items.push(PlanItem { purpose: "checkpoint snapshot", bytes });
        }
        // A tensor as numbers and as bytes of a file.
        let largest = layout(model).iter().map(|spec| spec.len()).max().unwrap_or(0);
        plan.items.push(PlanItem { purpose: "checkpoint writing", bytes: (largest * (sizes.acc + 4)) as u64 });
        plan.items.extend((known.other_memory)(self, model, batch * model.n_ctx));
        Ok(plan)
    }

    /// What would fit: the largest micro-batch with the least recomputation, or else the largest preset.
    fn hint(&self, model: &ModelConfig, rows: &BatchRows, known: &Known<'_>) -> String {
        let fits = |model: &ModelConfig, micro, recompute| {
            self.memory(model, micro, recompute, WriteMode::Blocking, known)
                .is_ok_and(|plan| plan.total() <= known.available_memory)
        };
        for micro in rows.micro_batches() {
            if let Some(level) = Recompute::ALL.into_iter().find(|&level| fits(model, micro, level)) {
                return format!(
                    "the largest setting that fits is [batch] micro_batch = {micro} with [run] recompute = \"{}\" and \
                     [checkpoint] write = \"blocking\"",
                    name(level)
                );
            }
        }
        let mut sizes: Vec<(usize, &str)> = presets::names()
            .filter_map(|name| {
                let model = ModelConfig::preset(name, Some(known.n_vocab)).ok()?;
                fits(&model, 1, Recompute::Blocks).then(|| (model.n_params(), name))
            })
            .collect();
        sizes.sort_unstable();
        match sizes.last() {
            Some((_, preset)) => format!(
                "no micro-batch of this model fits; the largest preset that does is \"{preset}\" with [batch] micro_batch \
                 = 1, [run] recompute = \"blocks\" and [checkpoint] write = \"blocking\""
            ),
            None => "not even the smallest preset fits: free some memory, or use a smaller vocabulary".to_owned(),
        }
    }
}

/// The name of a level in settings.
fn name(level: Recompute) -> &'static str {
    match level {
        Recompute::None => "none",
        Recompute::Activations => "activations",
        Recompute::ActivationsAndNorms => "activations_and_norms",
        Recompute::Blocks => "blocks",
    }
}

/// Bytes for people, in powers of 1024.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{count} bytes") } else { format!("{value:.1} {unit}") }
}

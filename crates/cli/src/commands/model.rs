//! Finding and opening a trained model: a run folder, one of its checkpoints, or any folder in the Hugging Face layout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use verve_engine::{EngineOptions, Vocabulary, memory_plan};
use verve_model::MemoryPlan;
use verve_model::formats::{Checkpoint, load};
use verve_ops::InferBackend;
use verve_tokenizer::Tokenizer;
use verve_train::{Which, locate};

use crate::machine::Machine;
use crate::units;

/// A model on disk whose files have been checked; its weights are not read yet.
pub struct Model {
    /// Configuration and weights.
    pub checkpoint: Checkpoint,
    /// What its ids mean.
    pub tokenizer: Tokenizer,
}

impl Model {
    /// Opens a run folder (its best checkpoint, or the newest where nothing was held out), a checkpoint or a model folder.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = folder_of(path)?;
        let checkpoint = load(&folder)?;
        let tokenizer = Tokenizer::load(&folder).with_context(|| format!("the tokenizer of {}", folder.display()))?;
        let (ids, n_vocab) = (tokenizer.n_vocab(), checkpoint.config().n_vocab);
        if ids > n_vocab {
            bail!(
                "{}: the tokenizer has {ids} tokens and the model {n_vocab}: they do not belong together; put the \
                 model's own tokenizer.json into the folder",
                folder.display()
            );
        }
        Ok(Self { checkpoint, tokenizer })
    }

    /// What the engine needs to know of the tokenizer, with the end-of-text ids that the model's own files name.
    pub fn vocabulary(&self) -> Vocabulary {
        let vocabulary = Vocabulary::new(&self.tokenizer);
        let n = vocabulary.n_vocab();
        let known = |ids: &[u32]| ids.iter().copied().filter(|&id| (id as usize) < n).collect::<Vec<_>>();
        let ends = known(&self.checkpoint.ids().eos);
        if ends.is_empty() { vocabulary } else { vocabulary.with_end_of_text(ends) }
    }
}

/// The folder with `config.json` that `path` means.
fn folder_of(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        bail!("there is no model at {}: give a run folder or a folder with config.json", path.display());
    }
    if path.join("config.json").is_file() {
        return Ok(path.to_owned());
    }
    if path.join("config.toml").is_file() {
        return Ok(locate(path, Which::Best)?);
    }
    bail!(
        "{} is no model: it has neither config.json (a model) nor config.toml (a run); give a run folder or a model folder",
        path.display()
    )
}

/// Says how much memory the engine will take, by purpose, and refuses if it cannot be had.
pub fn check_memory<B: InferBackend>(backend: &B, model: &Model, options: &EngineOptions) -> Result<()> {
    let plan = memory_plan(backend, model.checkpoint.config(), options)?;
    let available = Machine::detect().available;
    if plan.total() > available {
        bail!(
            "generation needs {} of memory and {} are available: use --dtype bf16, fewer sequences at once (--batch) or \
             fewer tokens (--max-tokens)",
            describe(&plan),
            units::bytes(available)
        );
    }
    eprintln!("memory: {}", describe(&plan));
    Ok(())
}

/// A plan in one line, largest purpose first.
pub fn describe(plan: &MemoryPlan) -> String {
    let mut items: Vec<_> = plan.items.iter().filter(|item| item.bytes > 0).collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.bytes));
    let parts: Vec<String> =
        items.iter().map(|item| format!("{} {}", item.purpose, units::bytes(item.bytes))).collect();
    format!("{} ({})", units::bytes(plan.total()), parts.join(", "))
}

//! Finding and opening a model: a run folder, one of its checkpoints, any folder in the Hugging Face layout, or a GGUF file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use verve_engine::{EngineOptions, Vocabulary, memory_plan};
use verve_model::MemoryPlan;
use verve_model::formats::ModelFile;
use verve_tokenizer::{SpecialTokens, Tokenizer};
use verve_train::{Which, locate};

use super::gguf_metadata;
use crate::device::Device;
use crate::units;

/// A model on disk whose files have been checked; its weights are not read yet.
pub struct Model {
    /// The folder or the GGUF file.
    pub path: PathBuf,
    /// Configuration and weights.
    pub checkpoint: Arc<ModelFile>,
    /// What its ids mean.
    pub tokenizer: Arc<Tokenizer>,
}

impl Model {
    /// Opens a run folder (its best checkpoint, or the newest where nothing was held out), a checkpoint, a model folder or a
    /// GGUF file.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = model_at(path)?;
        let checkpoint = Arc::new(ModelFile::open(&folder)?);
        Self::with_tokenizer(folder, checkpoint)
    }

    /// The model of a file or folder that has been opened.
    pub fn with_tokenizer(folder: PathBuf, checkpoint: Arc<ModelFile>) -> Result<Self> {
        let tokenizer = match &*checkpoint {
            ModelFile::Folder(_) => Tokenizer::load(&folder).map_err(anyhow::Error::from),
            ModelFile::Gguf(model) => {
                gguf_metadata::vocabulary(model.file()).and_then(|vocab| Ok(Tokenizer::from_gguf(vocab)?))
            }
        };
        let tokenizer = tokenizer.with_context(|| format!("the tokenizer of {}", folder.display()))?;
        let (ids, n_vocab) = (tokenizer.n_vocab(), checkpoint.config().n_vocab);
        if ids > n_vocab {
            bail!(
                "{}: the tokenizer has {ids} tokens and the model {n_vocab}: they do not belong together; put the \
                 model's own tokenizer.json into the folder",
                folder.display()
            );
        }
        Ok(Self { path: folder, checkpoint, tokenizer: Arc::new(tokenizer) })
    }

    /// What the engine needs to know of the tokenizer, with the end-of-text ids that the model's own files name.
    pub fn vocabulary(&self) -> Vocabulary {
        let vocabulary = Vocabulary::new(&self.tokenizer);
        let n = vocabulary.n_vocab();
        let known = |ids: &[u32]| ids.iter().copied().filter(|&id| (id as usize) < n).collect::<Vec<_>>();
        let ends = known(&self.checkpoint.ids().eos);
        let vocabulary = if ends.is_empty() { vocabulary } else { vocabulary.with_end_of_text(ends) };
        match self.tokenizer.bos() {
            Some(start) if self.tokenizer.adds_bos() => vocabulary.with_start(Some(start)),
            _ => vocabulary,
        }
    }

    /// [`Self::vocabulary`] with another id that ends a text, such as a chat template's end of a turn.
    pub fn vocabulary_with_end(&self, end: Option<u32>) -> Vocabulary {
        let vocabulary = self.vocabulary();
        let own = (0..vocabulary.n_vocab() as u32).filter(|&id| vocabulary.ends_text(id));
        let ends: Vec<u32> = own.chain(end).collect();
        vocabulary.with_end_of_text(ends)
    }

    /// The ids of a prompt, with the token in front that the model expects there, if any. Special tokens in a prompt are text.
    pub fn prompt(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_with_specials(text, SpecialTokens::Ordinary)
    }
}

/// The folder with `config.json`, or the GGUF file, that `path` means.
pub fn model_at(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        return downloaded(path);
    }
    if path.is_file() {
        return Ok(path.to_owned());
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

/// The downloaded model that a path means which does not exist: `OWNER/NAME` or `NAME`, with or without a revision.
fn downloaded(path: &Path) -> Result<PathBuf> {
    let name = path.to_str().unwrap_or_default();
    let is_path =
        path.is_absolute() || name.starts_with('.') || name.matches('/').count() > 1 || name.ends_with(".gguf");
    if name.is_empty() || is_path {
        bail!("there is no model at {}: give a run folder, a folder with config.json or a GGUF file", path.display());
    }
    Ok(verve_hub::resolve(name, &verve_hub::Settings::from_env()?)?)
}

/// Says how much memory the engine will take, by purpose, and refuses if it cannot be had.
///
/// # Errors
/// What does not fit by purpose, and the largest setting that would.
pub fn check_memory<B: Device>(backend: &B, model: &Model, options: &EngineOptions) -> Result<()> {
    let formats = model.checkpoint.formats()?;
    let config = model.checkpoint.config();
    let plan_of = |options: &EngineOptions| memory_plan(backend, config, formats.as_ref(), options);
    let plan = plan_of(options)?;
    let available = backend.memory()?.available;
    if plan.total() > available {
        let mut fewer = (1..options.max_sequences).rev().map(|max_sequences| {
            // The cache shrinks with the sequences that it is for.
            let cache_tokens = options.cache_tokens.map(|tokens| tokens * max_sequences / options.max_sequences);
            (max_sequences, EngineOptions { max_sequences, cache_tokens, ..*options })
        });
        let fits = fewer.find(|(_, options)| plan_of(options).is_ok_and(|plan| plan.total() <= available));
        let advice = match fits {
            Some((sequences, _)) => format!("{sequences} sequences at once (--batch {sequences}) would fit"),
            None => "use --dtype bf16, a quantised model or fewer tokens (--max-tokens)".to_owned(),
        };
        bail!("generation needs {} of memory and {} are available: {advice}", describe(&plan), units::bytes(available));
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

//! A model on a machine, ready to answer.

use std::sync::atomic::AtomicBool;

use verve_model::{
    InferStep, InferWeights, KvCache, MemoryPlan, ModelConfig, PlanItem, StepBatch, StepLimits, infer_memory_plan,
    infer_step,
};
use verve_ops::{InferBackend, KV_BLOCK, Real};

use crate::error::EngineError;
use crate::generate::{Batch, Event, Request, StepModel, Totals, generate};
use crate::sampler::Sampler;
use crate::vocabulary::Vocabulary;

/// Sizes of an engine. They decide memory and speed, never what an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Sequences at once. At least 1, at most 4096.
    pub max_sequences: usize,
    /// Rows (new tokens) of a step: long prompts are computed in chunks of at most this many. At least 1, at most 65536.
    pub max_rows: usize,
    /// Tokens that the KV cache holds, all sequences together, rounded up to whole blocks. `None` has room for
    /// `max_sequences` sequences of the model's longest length.
    pub cache_tokens: Option<usize>,
    /// Longest sequence, prompt and answer together, if that is to be less than the model's `n_ctx`. At least 1.
    pub max_context: Option<usize>,
}

impl Default for EngineOptions {
    /// 16 sequences, 256 rows, a cache for all of them.
    fn default() -> Self {
        Self { max_sequences: 16, max_rows: 256, cache_tokens: None, max_context: None }
    }
}

/// The sizes that options mean for a model.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    limits: StepLimits,
    n_blocks: usize,
    n_ctx: usize,
}

impl EngineOptions {
    fn sizes(&self, config: &ModelConfig) -> Result<Sizes, EngineError> {
        for (field, found, most) in [
            ("max_sequences", self.max_sequences, 1 << 12),
            ("max_rows", self.max_rows, 1 << 16),
            ("cache_tokens", self.cache_tokens.unwrap_or(1), u32::MAX as usize),
            ("max_context", self.max_context.unwrap_or(1), u32::MAX as usize),
        ] {
            if found == 0 || found > most {
                return Err(EngineError::Option { field, found, allowed: format!("from 1 to {most}") });
            }
        }
        let n_ctx = self.max_context.unwrap_or(config.n_ctx).min(config.n_ctx);
        let max_blocks = n_ctx.div_ceil(KV_BLOCK);
        let n_blocks = match self.cache_tokens {
            Some(tokens) => tokens.div_ceil(KV_BLOCK),
            None => self.max_sequences * max_blocks,
        };
        let limits = StepLimits { max_rows: self.max_rows, max_sequences: self.max_sequences, max_blocks };
        Ok(Sizes { limits, n_blocks, n_ctx })
    }
}

/// Memory of [`Engine::new`] with prepared weights, by purpose, before anything is allocated.
///
/// # Errors
/// An option out of its range.
pub fn memory_plan<B: InferBackend>(
    backend: &B,
    config: &ModelConfig,
    options: &EngineOptions,
) -> Result<MemoryPlan, EngineError> {
    let Sizes { limits, n_blocks, .. } = options.sizes(config)?;
    let mut items = infer_memory_plan(backend, config, n_blocks, limits);
    let outputs = limits.max_sequences.min(limits.max_rows) * config.n_vocab;
    let bytes = outputs * (size_of::<B::Acc>() + size_of::<f32>()) + Sampler::bytes(config.n_vocab);
    items.push(PlanItem { purpose: "logits and sampling", bytes: bytes as u64 });
    Ok(MemoryPlan { items })
}

/// A model on a machine, with its KV cache and workspace. Its answers depend on model, prompt, parameters and seed only.
pub struct Engine<'a, B: InferBackend> {
    model: BackendModel<'a, B>,
    vocabulary: &'a Vocabulary,
}

impl<'a, B: InferBackend> Engine<'a, B> {
    /// Allocates what [`memory_plan`] says, weights aside: they come prepared, from a checkpoint
    /// ([`InferWeights::build`]) or from weights that go on being trained ([`InferWeights::prepare`]).
    ///
    /// # Errors
    /// An option out of its range, a vocabulary larger than the model's, out of memory.
    pub fn new(
        backend: &'a B,
        config: &'a ModelConfig,
        weights: InferWeights<B>,
        vocabulary: &'a Vocabulary,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let Sizes { limits, n_blocks, n_ctx } = options.sizes(config)?;
        if vocabulary.n_vocab() > config.n_vocab {
            return Err(EngineError::VocabularyTooLarge { found: vocabulary.n_vocab(), n_vocab: config.n_vocab });
        }
        let cache = KvCache::new(backend, config, n_blocks)?;
        let workspace = InferStep::new(backend, config, limits)?;
        let model = BackendModel { backend, config, weights, cache, workspace, n_ctx, logits: Vec::new() };
        Ok(Self { model, vocabulary })
    }

    /// Longest sequence, prompt and answer together.
    pub fn n_ctx(&self) -> usize {
        self.model.n_ctx
    }

    /// Answers requests; see [`generate`]. `cancel` ends all answers before the next step.
    ///
    /// # Errors
    /// A failed machine. What concerns one request is reported as [`Event::Failed`].
    pub fn generate(
        &mut self,
        requests: &[Request],
        cancel: &AtomicBool,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Totals, EngineError> {
        generate(&mut self.model, &Batch { requests, vocabulary: self.vocabulary, cancel }, on_event)
    }
}

struct BackendModel<'a, B: InferBackend> {
    backend: &'a B,
    config: &'a ModelConfig,
    weights: InferWeights<B>,
    cache: KvCache<B>,
    workspace: InferStep<B>,
    n_ctx: usize,
    /// Logits of the last step.
    logits: Vec<f32>,
}

impl<B: InferBackend> StepModel for BackendModel<'_, B> {
    fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    fn n_vocab(&self) -> usize {
        self.config.n_vocab
    }

    fn n_blocks(&self) -> usize {
        self.cache.n_blocks()
    }

    fn limits(&self) -> StepLimits {
        self.workspace.limits()
    }

    fn step(&mut self, batch: &StepBatch<'_>) -> Result<&[f32], EngineError> {
        let Self { backend, config, weights, cache, workspace, logits, .. } = self;
        let exact = infer_step(*backend, config, weights, cache, batch, workspace)?;
        logits.clear();
        logits.extend(exact.iter().map(|&logit| logit.to_f32()));
        Ok(logits)
    }
}

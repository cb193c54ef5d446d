//! A model on a machine, ready to answer.

use std::sync::atomic::AtomicBool;

use verve_model::{
    InferStep, InferWeights, KvCache, MemoryPlan, ModelConfig, Network, PlanItem, StepBatch, StepLimits, WeightFormats,
    infer_memory_plan, infer_step,
};
use verve_ops::{InferBackend, KV_BLOCK};

use crate::answer::{Answer, answer};
use crate::error::EngineError;
use crate::generate::{Batch, OnEvent, Request, StepModel, Totals, generate, longest_answer};
use crate::sampler::Sampler;
use crate::schedule::Scheduler;
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

/// Most tokens of a KV cache.
const MAX_CACHE_TOKENS: usize = 1 << 31;

/// The sizes that options mean for a model.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    limits: StepLimits,
    n_blocks: usize,
    n_ctx: usize,
}

impl EngineOptions {
    /// These options with no more sequences and no larger a cache than `requests` can use. `None` for `cache_tokens` is
    /// replaced; a number is kept if it is smaller.
    #[must_use]
    pub fn for_requests(self, requests: &[Request], config: &ModelConfig) -> Self {
        let n_ctx = self.n_ctx(config);
        // An empty prompt becomes one token; a prompt that does not fit is refused.
        let blocks = |request: &Request| {
            let n_prompt = request.prompt.len().max(1);
            let max_new = longest_answer(n_ctx, n_prompt, &request.params);
            if max_new == 0 { 0 } else { Scheduler::blocks_needed(n_prompt, max_new) }
        };
        let mut needed: Vec<usize> = requests.iter().map(blocks).collect();
        needed.sort_unstable_by(|a, b| b.cmp(a));
        let max_sequences = self.max_sequences.min(requests.len().max(1));
        let tokens = needed.iter().take(max_sequences).sum::<usize>().max(1) * KV_BLOCK;
        let cache_tokens = Some(self.cache_tokens.map_or(tokens, |limit| limit.min(tokens)));
        Self { max_sequences, cache_tokens, ..self }
    }

    fn n_ctx(&self, config: &ModelConfig) -> usize {
        self.max_context.unwrap_or(config.n_ctx).min(config.n_ctx)
    }

    fn sizes(&self, config: &ModelConfig) -> Result<Sizes, EngineError> {
        for (field, found, most) in [
            ("max_sequences", self.max_sequences, 1 << 12),
            ("max_rows", self.max_rows, 1 << 16),
            ("cache_tokens", self.cache_tokens.unwrap_or(1), MAX_CACHE_TOKENS),
            ("max_context", self.max_context.unwrap_or(1), MAX_CACHE_TOKENS),
        ] {
            if found == 0 || found > most {
                return Err(EngineError::Option { field, found, allowed: format!("from 1 to {most}") });
            }
        }
        let n_ctx = self.n_ctx(config);
        let max_blocks = n_ctx.div_ceil(KV_BLOCK);
        let n_blocks = match self.cache_tokens {
            Some(tokens) => tokens.div_ceil(KV_BLOCK),
            None => self.max_sequences * max_blocks,
        };
        // Places in the cache are numbered in 32 bits.
        if n_blocks * KV_BLOCK > MAX_CACHE_TOKENS {
            let found = n_blocks * KV_BLOCK;
            return Err(EngineError::Option {
                field: "cache_tokens",
                found,
                allowed: format!("from 1 to {MAX_CACHE_TOKENS}"),
            });
        }
        let limits = StepLimits { max_rows: self.max_rows, max_sequences: self.max_sequences, max_blocks };
        Ok(Sizes { limits, n_blocks, n_ctx })
    }
}

/// The most memory that reading a model's weights, [`Engine::new`] and [`Engine::generate`] hold at once, by purpose.
/// Allocates nothing.
///
/// `formats` says which weights stay in blocks, `None` that none does.
///
/// # Errors
/// An option out of its range.
pub fn memory_plan<B: InferBackend>(
    backend: &B,
    config: &ModelConfig,
    formats: Option<&WeightFormats>,
    options: &EngineOptions,
) -> Result<MemoryPlan, EngineError> {
    let Sizes { limits, n_blocks, .. } = options.sizes(config)?;
    let mut items = infer_memory_plan(backend, config, formats, n_blocks, limits);
    let bytes = InferStep::<B>::host_bytes(config, limits) + Sampler::bytes(config.n_vocab);
    items.push(PlanItem { purpose: "logits and sampling", bytes: bytes as u64 });
    // Weights are read before anything else is there; only what that takes beyond the rest counts.
    let together: u64 = items.iter().map(|item| item.bytes).sum();
    let reading = InferWeights::bytes_while_building(backend, config, formats) as u64;
    if reading > together {
        items.push(PlanItem { purpose: "reading the weights", bytes: reading - together });
    }
    Ok(MemoryPlan { items })
}

/// A model on a machine, with its KV cache and workspace. Its answers depend on model, prompt, parameters and seed only.
pub struct Engine<'a, B: InferBackend> {
    model: BackendModel<'a, B>,
    vocabulary: &'a Vocabulary,
}

impl<'a, B: InferBackend> Engine<'a, B> {
    /// Allocates what [`memory_plan`] says, weights aside: they come prepared, from a checkpoint or from
    /// [`InferWeights::build`].
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
        let model = BackendModel { backend, config, weights, cache, workspace, n_ctx };
        Ok(Self { model, vocabulary })
    }

    /// An engine for samples of a model that is being trained: works on a copy of the weights as they are now.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_network(
        network: Network<'a, B>,
        vocabulary: &'a Vocabulary,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let Network { backend, config, weights } = network;
        let weights = InferWeights::prepare(backend, config, weights)?;
        Self::new(backend, config, weights, vocabulary, options)
    }

    /// Longest sequence, prompt and answer together.
    pub fn n_ctx(&self) -> usize {
        self.model.n_ctx
    }

    /// Answers requests; see [`generate`]. `cancel` ends all answers before the next step.
    ///
    /// # Errors
    /// A failed machine. What concerns one request is reported as [`crate::Event::Failed`].
    pub fn generate(
        &mut self,
        requests: &[Request],
        cancel: &AtomicBool,
        on_event: OnEvent<'_>,
    ) -> Result<Totals, EngineError> {
        generate(&mut self.model, &Batch { requests, vocabulary: self.vocabulary, cancel }, on_event)
    }

    /// Answers requests and returns the whole answers in the order of the requests; see [`answer`].
    ///
    /// # Errors
    /// A failed machine. What concerns one request is in its place.
    pub fn answer(
        &mut self,
        requests: &[Request],
        cancel: &AtomicBool,
    ) -> Result<Vec<Result<Answer, EngineError>>, EngineError> {
        Ok(answer(&mut self.model, &Batch { requests, vocabulary: self.vocabulary, cancel })?.0)
    }
}

struct BackendModel<'a, B: InferBackend> {
    backend: &'a B,
    config: &'a ModelConfig,
    weights: InferWeights<B>,
    cache: KvCache<B>,
    workspace: InferStep<B>,
    n_ctx: usize,
}

impl<B: InferBackend> StepModel for BackendModel<'_, B> {
    type Logit = B::Acc;

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

    fn step(&mut self, batch: &StepBatch<'_>) -> Result<&[B::Acc], EngineError> {
        let Self { backend, config, weights, cache, workspace, .. } = self;
        Ok(infer_step(*backend, config, weights, cache, batch, workspace)?)
    }
}

//! A model on a machine, ready to answer.

use std::sync::atomic::AtomicBool;

use verve_model::{
    InferStep, InferWeights, KvCache, MemoryPlan, ModelConfig, Network, PlanItem, StepBatch, StepLimits, WeightFormats,
    hidden_states, infer_memory_plan, infer_step,
};
use verve_ops::{InferBackend, KV_BLOCK, KvFormat};

use crate::blocks::BlockCache;
use crate::core::{Core, CoreOptions, Totals, longest_answer};
use crate::draft::PromptLookup;
use crate::error::EngineError;
use crate::generate::Answers;
use crate::model::StepModel;
use crate::request::{OnEvent, Request};
use crate::sampler::Sampler;
use crate::schedule::Scheduler;
use crate::vocabulary::Vocabulary;

/// Sizes of an engine. They decide memory and speed, and none but `kv_format` what an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Sequences at once. At least 1, at most 4096.
    pub max_sequences: usize,
    /// Rows (new tokens) of a step: long prompts are computed in chunks of at most this many. At least 1, at most 65536.
    pub max_rows: usize,
    /// Tokens that the KV cache holds, all sequences together, rounded up to whole blocks. `None` has room for
    /// `max_sequences` sequences of the model's longest length.
    pub cache_tokens: Option<usize>,
    /// How the KV cache holds keys and values.
    pub kv_format: KvFormat,
    /// Longest sequence, prompt and answer together, if that is to be less than the model's `n_ctx`. At least 1.
    pub max_context: Option<usize>,
    /// Rows of prompts in a step in which others wait for their next token. At least 1.
    pub max_prompt_rows: usize,
    /// Rows of a step with logits, at least 1: bounds the memory for those of prompts whose log-probabilities are asked
    /// for, and for guesses.
    pub max_outputs: usize,
    /// Whether requests find what earlier ones left in the cache.
    pub share_prefixes: bool,
    /// Whether to guess the next tokens from the text itself, to check several in one step.
    pub prompt_lookup: Option<PromptLookup>,
}

impl Default for EngineOptions {
    /// 16 sequences, 256 rows, a cache for all of them, no guesses.
    fn default() -> Self {
        Self {
            max_sequences: 16,
            max_rows: 256,
            cache_tokens: None,
            kv_format: KvFormat::Elem,
            max_context: None,
            max_prompt_rows: 128,
            max_outputs: 64,
            share_prefixes: true,
            prompt_lookup: None,
        }
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
    max_outputs: usize,
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
            let max_new = if request.embed.is_some() { 0 } else { longest_answer(n_ctx, n_prompt, &request.params) };
            if n_prompt > n_ctx { 0 } else { Scheduler::blocks_needed(n_prompt, max_new) }
        };
        let of_choices = |request: &Request| std::iter::repeat_n(blocks(request), request.n_sequences());
        let mut needed: Vec<usize> = requests.iter().flat_map(of_choices).collect();
        needed.sort_unstable_by(|a, b| b.cmp(a));
        let max_sequences = self.max_sequences.min(needed.len().max(1));
        let tokens = needed.iter().take(max_sequences).sum::<usize>().max(1) * KV_BLOCK;
        let cache_tokens = Some(self.cache_tokens.map_or(tokens, |limit| limit.min(tokens)));
        // Only guesses and log-probabilities of prompts have more outputs than sequences.
        let one_each = self.prompt_lookup.is_none() && requests.iter().all(|r| r.prompt_logprobs.is_none());
        let max_outputs = if one_each { max_sequences } else { self.max_outputs };
        Self { max_sequences, cache_tokens, max_outputs, ..self }
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
            ("max_prompt_rows", self.max_prompt_rows, 1 << 16),
            ("max_outputs", self.max_outputs, 1 << 16),
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
        // Every sequence has an output.
        Ok(Sizes { limits, n_blocks, n_ctx, max_outputs: self.max_outputs.max(self.max_sequences) })
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
    let Sizes { limits, n_blocks, max_outputs, .. } = options.sizes(config)?;
    let mut items = infer_memory_plan(backend, config, formats, (n_blocks, options.kv_format), limits);
    let bytes = InferStep::<B>::host_bytes(config, limits, max_outputs)
        + Sampler::bytes(config.n_vocab)
        + BlockCache::bytes(n_blocks);
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
    core: Core<'a, BackendModel<'a, B>>,
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
        let model = BackendModel::new(backend, config, weights, options)?;
        let mut core = Core::new(
            model,
            vocabulary,
            CoreOptions {
                max_prompt_rows: options.max_prompt_rows,
                max_outputs: options.sizes(config)?.max_outputs,
                share_prefixes: options.share_prefixes,
            },
        )?;
        if let Some(lookup) = options.prompt_lookup {
            core.set_drafter(Some(Box::new(lookup)));
        }
        Ok(Self { core })
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

    /// Requests and steps, for callers that have requests come while others are answered.
    pub fn core(&mut self) -> &mut Core<'a, BackendModel<'a, B>> {
        &mut self.core
    }

    /// Longest sequence, prompt and answer together.
    pub fn n_ctx(&self) -> usize {
        self.core.n_ctx()
    }

    /// Answers requests; see [`crate::generate`]. `cancel` ends all answers before the next step.
    ///
    /// # Errors
    /// A failed machine. What concerns one request is reported as [`crate::Event::Failed`].
    pub fn generate(
        &mut self,
        requests: &[Request],
        cancel: &AtomicBool,
        on_event: OnEvent<'_>,
    ) -> Result<Totals, EngineError> {
        self.core.answer_all(requests, cancel, on_event)
    }

    /// Answers requests and returns what each got, in the order of the requests; see [`crate::answer`].
    ///
    /// # Errors
    /// A failed machine. What concerns one request is in its place.
    pub fn answer(
        &mut self,
        requests: &[Request],
        cancel: &AtomicBool,
    ) -> Result<Vec<Result<Answers, EngineError>>, EngineError> {
        Ok(self.core.whole_answers(requests, cancel)?.0)
    }
}

/// A model on a backend.
pub struct BackendModel<'a, B: InferBackend> {
    backend: &'a B,
    config: &'a ModelConfig,
    weights: InferWeights<B>,
    cache: KvCache<B>,
    workspace: InferStep<B>,
    n_ctx: usize,
}

impl<'a, B: InferBackend> BackendModel<'a, B> {
    /// Allocates cache and workspace for the sizes of `options`.
    ///
    /// # Errors
    /// An option out of its range, out of memory.
    pub fn new(
        backend: &'a B,
        config: &'a ModelConfig,
        weights: InferWeights<B>,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let Sizes { limits, n_blocks, n_ctx, .. } = options.sizes(config)?;
        let cache = KvCache::new(backend, config, n_blocks, options.kv_format)?;
        let workspace = InferStep::new(backend, config, limits)?;
        Ok(Self { backend, config, weights, cache, workspace, n_ctx })
    }
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

    fn hidden(&mut self, rows: &[u32]) -> Result<&[f32], EngineError> {
        let Self { backend, config, weights, workspace, .. } = self;
        Ok(hidden_states(*backend, config, weights, rows, workspace)?)
    }
}

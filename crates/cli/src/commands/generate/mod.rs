//! `verve generate`.

use std::path::Path;

use anyhow::Result;
use verve_engine::{
    BackendModel, DraftModel, Engine, EngineOptions, PromptLookup, Request, SamplingParams, Vocabulary,
};
use verve_model::formats::{FileType, ModelFile};

use self::one::PromptJob;
use super::model::{Model, check_memory};
use crate::args::{Dtype, GenerateArgs, GuessArgs, MachineArgs, Precision, SamplingArgs};
use crate::device::{Device, kv_format, on_backend};
use crate::interrupt;

mod answers;
mod file;
mod one;
mod prompts;
mod rules;

pub fn run(machine: &MachineArgs, args: GenerateArgs) -> Result<()> {
    let mut params = SamplingParams { n_logprobs: args.logprobs, ..params(&args.sampling) };
    let beams = args.beams.search();
    if beams.is_some() {
        // Nothing is drawn.
        params.temperature = 0.0;
    }
    let precision = args.precision.precision();
    let setup = Setup::open(&args.model, Some(&args.guess), args.dtype, precision)?;
    if args.prompts.is_some() {
        return file::run(machine, setup, params, args);
    }
    let prompt = args.prompt.unwrap_or_default();
    let constraint = rules::of_args(&rules::rules(&setup.model), &args.rule)?;
    let n = args.beams.n;
    let request = Request { prompt: setup.model.prompt(&prompt), params, n, beams, constraint, ..Request::default() };
    let cancel = interrupt::watch("stopping")?;
    on_backend(machine, setup.dtype, PromptJob { setup, prompt, request, cancel })
}

/// Answers one prompt, streamed to standard output.
pub fn one(
    machine: &MachineArgs,
    model: &Path,
    prompt: &str,
    params: SamplingParams,
    dtype: Option<Dtype>,
    precision: Precision,
) -> Result<()> {
    let setup = Setup::open(model, None, dtype, precision)?;
    let request = Request { prompt: setup.model.prompt(prompt), params, ..Request::default() };
    let cancel = interrupt::watch("stopping")?;
    on_backend(machine, setup.dtype, PromptJob { setup, prompt: prompt.to_owned(), request, cancel })
}

/// A model, and how its answers are computed.
struct Setup {
    model: Model,
    guess: Option<GuessArgs>,
    draft: Option<Model>,
    dtype: Dtype,
    precision: Precision,
}

impl Setup {
    fn open(path: &Path, guess: Option<&GuessArgs>, dtype: Option<Dtype>, precision: Precision) -> Result<Self> {
        let model = Model::open(path)?;
        let draft = guess.and_then(|guess| guess.draft_model.as_deref()).map(Model::open).transpose()?;
        let dtype = dtype.map_or_else(|| own_dtype(&model.checkpoint), Ok)?;
        Ok(Self { model, guess: guess.cloned(), draft, dtype, precision })
    }

    /// The options with what guesses need.
    fn with_guesses(&self, options: EngineOptions) -> EngineOptions {
        let Some(guess) = &self.guess else { return options };
        if !guess.prompt_lookup && self.draft.is_none() {
            return options;
        }
        // All of a few sequences' guesses; where there are many, guesses gain nothing.
        let max_outputs = options.max_outputs.max((options.max_sequences * (guess.guesses + 1)).min(64));
        let lookup = PromptLookup { most: guess.guesses, ..PromptLookup::default() };
        EngineOptions { max_outputs, prompt_lookup: guess.prompt_lookup.then_some(lookup), ..options }
    }

    /// Says what memory the answers to `requests` take, reads the weights and calls `work` with an engine.
    fn with_engine<B: Device, T>(
        &self,
        backend: &B,
        requests: &[Request],
        options: EngineOptions,
        work: impl FnOnce(&mut Engine<'_, B>, &Vocabulary) -> Result<T>,
    ) -> Result<T> {
        let Self { model, draft, precision, .. } = self;
        let config = model.checkpoint.config();
        let options = EngineOptions { kv_format: kv_format::<B>(precision.kv, &model.checkpoint)?, ..options };
        let options = self.with_guesses(options).for_requests(requests, config);
        let options = self.with_guesses(options);
        check_memory(backend, model, &options)?;
        let weights = model.checkpoint.infer_weights(backend, precision.activations)?;
        let vocabulary = model.vocabulary();
        let mut engine = Engine::new(backend, config, weights, &vocabulary, &options)?;
        if let (Some(draft), Some(guess)) = (draft, &self.guess) {
            let config = draft.checkpoint.config();
            let tokens = options.max_sequences * config.n_ctx;
            let options = EngineOptions { cache_tokens: Some(tokens), ..options };
            check_memory(backend, draft, &options)?;
            let weights = draft.checkpoint.infer_weights(backend, precision.activations)?;
            let small = BackendModel::new(backend, config, weights, &options)?;
            let drafter = DraftModel::new(small, guess.guesses, model.checkpoint.config().n_vocab)?;
            engine.core().set_drafter(Some(Box::new(drafter)));
        }
        work(&mut engine, &vocabulary)
    }
}

/// The type the weights are stored in.
pub fn own_dtype(file: &ModelFile) -> Result<Dtype> {
    Ok(if file.dtype()? == FileType::Bf16 { Dtype::Bf16 } else { Dtype::F32 })
}

/// Sampling as the flags have it; no log-probabilities.
pub fn params(args: &SamplingArgs) -> SamplingParams {
    let dry_breakers = match &args.dry_breaker[..] {
        [] => SamplingParams::default().dry_breakers,
        texts => texts.to_vec(),
    };
    SamplingParams {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        typical_p: args.typical_p,
        top_n_sigma: args.top_n_sigma,
        mirostat_tau: args.mirostat_tau,
        mirostat_eta: args.mirostat_eta,
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        dry_multiplier: args.dry_multiplier,
        dry_base: args.dry_base,
        dry_allowed_length: args.dry_allowed_length,
        dry_breakers,
        dry_range: args.dry_range,
        logit_bias: args.logit_bias.clone(),
        stop: args.stop.clone(),
        seed: args.seed.unwrap_or_else(drawn_seed),
        max_tokens: args.max_tokens,
        n_logprobs: None,
        ignore_eos: args.ignore_eos,
    }
}

/// A seed that differs from call to call; small enough to be typed again.
fn drawn_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (since.as_nanos() as u64 ^ u64::from(std::process::id())) % 1_000_000_007
}

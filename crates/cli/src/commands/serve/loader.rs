//! Loading models for the server, each with an engine on a thread of its own.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use verve_chat::ChatFormat;
use verve_constrain::Rules;
use verve_engine::{Engine, EngineOptions, PromptLookup, Requests, Vocabulary, engine_channel, memory_plan, serve};
use verve_model::formats::ModelFile;
use verve_ops::KvFormat;
use verve_ops::quant::ActivationPrecision;
use verve_server::{Loaded, ModelEntry, ModelLoader};

use super::find::{Found, find};
use crate::args::{Dtype, MachineArgs, Precision, ServeSettings};
use crate::commands::chat::template::templates;
use crate::commands::generate::own_dtype;
use crate::commands::model::Model;
use crate::device::{Device, OnBackend, isa, kv_format, on_backend};

/// Tokens of the KV cache for each sequence, unless the settings say otherwise.
const CACHE_PER_SEQUENCE: usize = 2048;

/// Sizes of engines.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    max_sequences: usize,
    queue: usize,
    context: Option<usize>,
    cache_tokens: Option<usize>,
    precision: Precision,
    dtype: Option<Dtype>,
    prompt_lookup: bool,
}

impl Sizes {
    /// As the settings have them.
    pub fn of(settings: &ServeSettings) -> Result<Self> {
        let activations = match settings.activations.as_deref().unwrap_or("int16") {
            "f32" => ActivationPrecision::Exact,
            "int16" => ActivationPrecision::Int16,
            "int8" => ActivationPrecision::Int8,
            other => bail!("activations is {other:?}, must be f32, int16 or int8"),
        };
        let kv = match settings.kv_cache.as_deref() {
            None => None,
            Some("as-is") => Some(KvFormat::Elem),
            Some("f16") => Some(KvFormat::F16),
            Some("int8") => Some(KvFormat::Int8),
            Some(other) => bail!("kv_cache is {other:?}, must be as-is, f16 or int8"),
        };
        Ok(Self {
            max_sequences: settings.max_sequences.unwrap_or(16),
            queue: settings.queue.unwrap_or(1024),
            context: settings.context,
            cache_tokens: settings.cache_tokens,
            precision: Precision { activations, kv },
            dtype: settings.dtype,
            prompt_lookup: settings.prompt_lookup.unwrap_or(false),
        })
    }

    /// For a model whose longest sequence is `n_ctx`: that of its engine, and the engine's options.
    fn engine(&self, n_ctx: usize) -> (usize, EngineOptions) {
        let context = self.context.unwrap_or(n_ctx).min(n_ctx);
        let cache = self.cache_tokens.unwrap_or((self.max_sequences * CACHE_PER_SEQUENCE.min(context)).max(context));
        let n_ctx = context.min(cache);
        let lookup = self.prompt_lookup.then(PromptLookup::default);
        let standard = EngineOptions::default();
        let options = EngineOptions {
            max_sequences: self.max_sequences,
            cache_tokens: Some(cache),
            max_context: Some(n_ctx),
            prompt_lookup: lookup,
            ..standard
        };
        (n_ctx, options)
    }
}

/// Loads the models that the settings name.
pub struct Loader {
    machine: MachineArgs,
    sizes: Sizes,
    template: Option<String>,
    found: Vec<(Found, ModelEntry)>,
}

impl Loader {
    /// Finds the models and plans their memory; reads no weights.
    pub fn new(machine: &MachineArgs, settings: &ServeSettings, sizes: Sizes) -> Result<Self> {
        let found = find(settings.model.as_deref().unwrap_or_default())?;
        let found = found
            .into_iter()
            .map(|found| {
                let entry =
                    entry(machine, sizes, &found).with_context(|| format!("the model {}", found.path.display()))?;
                Ok((found, entry))
            })
            .collect::<Result<_>>()?;
        Ok(Self { machine: machine.clone(), sizes, template: settings.template.clone(), found })
    }
}

fn entry(machine: &MachineArgs, sizes: Sizes, found: &Found) -> Result<ModelEntry> {
    let file = ModelFile::open(&found.path)?;
    let (n_ctx, options) = sizes.engine(file.config().n_ctx);
    let dtype = sizes.dtype.map_or_else(|| own_dtype(&file), Ok)?;
    let bytes = on_backend(machine, dtype, PlanJob { file: &file, options, kv: sizes.precision.kv })?;
    let modified = std::fs::metadata(&found.path).and_then(|meta| meta.modified());
    let created = modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_secs());
    Ok(ModelEntry { name: found.name.clone(), created, bytes, n_ctx })
}

struct PlanJob<'a> {
    file: &'a ModelFile,
    options: EngineOptions,
    kv: Option<KvFormat>,
}

impl OnBackend for PlanJob<'_> {
    type Out = u64;

    fn run<B: Device>(self, backend: B) -> Result<u64> {
        let formats = self.file.formats()?;
        let options = EngineOptions { kv_format: kv_format::<B>(self.kv, self.file)?, ..self.options };
        Ok(memory_plan(&backend, self.file.config(), formats.as_ref(), &options)?.total())
    }
}

impl ModelLoader for Loader {
    fn entries(&self) -> Vec<ModelEntry> {
        self.found.iter().map(|(_, entry)| entry.clone()).collect()
    }

    fn load(&self, name: &str) -> Result<Loaded, String> {
        self.loaded(name).map_err(|error| format!("{error:#}"))
    }
}

impl Loader {
    fn loaded(&self, name: &str) -> Result<Loaded> {
        let Some((found, _)) = self.found.iter().find(|(found, _)| found.name == name) else {
            bail!("there is no such model");
        };
        // Weights are read on the engine's thread while the tokenizer is built on this one.
        let file = Arc::new(ModelFile::open(&found.path)?);
        let (n_ctx, options) = self.sizes.engine(file.config().n_ctx);
        let dtype = self.sizes.dtype.map_or_else(|| own_dtype(&file), Ok)?;
        let (engine, requests) = engine_channel(self.sizes.queue);
        let (ready, is_ready) = channel();
        let (words, vocabularies) = channel();
        let job = ServeJob {
            file: file.clone(),
            vocabularies,
            options,
            precision: self.sizes.precision,
            requests,
            ready: ready.clone(),
        };
        let machine = self.machine.clone();
        let thread = std::thread::Builder::new()
            .name(format!("engine of {name}"))
            .spawn(move || {
                if let Err(error) = on_backend(&machine, dtype, job) {
                    // Before it is ready somebody waits for the reason; later its requests have it.
                    if ready.send(Err(format!("{error:#}"))).is_err() {
                        tracing::error!(error = format!("{error:#}"), "the engine has ended");
                    }
                }
            })
            .context("no thread for its engine")?;
        let model = Model::with_tokenizer(found.path.clone(), file)?;
        let chat = ChatFormat::new(&templates(&model)?, self.template.as_deref(), &model.tokenizer)?;
        for warning in chat.iter().flat_map(|chat| &chat.warnings) {
            tracing::warn!(model = name, %warning, "chat template");
        }
        let ends = chat.as_ref().and_then(|chat| chat.end_of_turn);
        let vocabulary = Arc::new(model.vocabulary_with_end(ends));
        let tokenizer = model.tokenizer.clone();
        let rules = Rules::new(tokenizer.clone(), &vocabulary);
        let d_model = model.checkpoint.config().d_model;
        let fingerprint =
            fingerprint(&found.path, &model, self.sizes.precision, dtype, &isa(&self.machine)?.to_string());
        // An engine that has failed meanwhile says so below.
        let _ = words.send(vocabulary.clone());
        match is_ready.recv() {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => bail!(problem),
            Err(_) => bail!("its engine broke down"),
        }
        drop(is_ready);
        Ok(Loaded {
            name: name.to_owned(),
            engine,
            thread: Some(thread),
            tokenizer,
            vocabulary,
            chat,
            rules,
            n_ctx,
            d_model,
            fingerprint,
            queue_limit: self.sizes.queue,
        })
    }
}

/// Names everything that an answer depends on besides the request: weights, tokenizer, program, arithmetic.
fn fingerprint(path: &Path, model: &Model, precision: Precision, dtype: Dtype, isa: &str) -> String {
    let length = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let config = format!("{:?}", model.checkpoint.config());
    let parts =
        format!("{config} {} {length} {precision:?} {dtype:?} {isa} {}", model.tokenizer.hash(), crate::VERSION);
    format!("fp_{}", &blake3::hash(parts.as_bytes()).to_hex()[..12])
}

struct ServeJob {
    file: Arc<ModelFile>,
    /// The vocabulary comes when it is known; never if the tokenizer cannot be used.
    vocabularies: Receiver<Arc<Vocabulary>>,
    options: EngineOptions,
    precision: Precision,
    requests: Requests,
    ready: Sender<Result<(), String>>,
}

impl OnBackend for ServeJob {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let Self { file, vocabularies, options, precision, requests, ready } = self;
        let options = EngineOptions { kv_format: kv_format::<B>(precision.kv, &file)?, ..options };
        let weights = file.infer_weights(&backend, precision.activations)?;
        let Ok(vocabulary) = vocabularies.recv() else { return Ok(()) };
        let mut engine = Engine::new(&backend, file.config(), weights, &vocabulary, &options)?;
        // Whoever loads the model waits for it.
        let _ = ready.send(Ok(()));
        drop(ready);
        serve(engine.core(), &requests)?;
        Ok(())
    }
}

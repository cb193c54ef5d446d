//! A model of the user's: from file to first token, prefill, decoding one and many sequences, and what the cache saves.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;
use verve_engine::{Engine, EngineOptions, Event, Request, SamplingParams};
use verve_model::InferWeights;

use super::{Bench, Figure, median};
use crate::args::{BenchArgs, Dtype, Precision};
use crate::commands::generate::own_dtype;
use crate::commands::model::{Model, check_memory};
use crate::device::{Device, OnBackend, kv_format, on_backend};

/// Tokens of the prefill job's prompt, and of the prompts of the decoding jobs.
const PREFILL: usize = 512;
const SHORT: usize = 64;
/// Tokens of each decoded answer.
const ANSWER: usize = 64;
/// Sequences decoded together.
const MANY: usize = 16;
/// Tokens of the prompt of which all but [`FRESH`] are in the cache.
const LONG: usize = 2000;
const FRESH: usize = 100;
const ROUNDS: usize = 5;

pub fn run(bench: &Bench, args: &BenchArgs, path: PathBuf) -> Result<()> {
    let model = Model::open(&path)?;
    let dtype = own_dtype(&model.checkpoint)?;
    let precision = args.precision.precision();
    on_backend(&bench.machine, dtype, Job { bench, path, dtype, precision })
}

struct Job<'a> {
    bench: &'a Bench,
    path: PathBuf,
    dtype: Dtype,
    precision: Precision,
}

/// When the first and the last token of a batch came, seconds after its start.
struct Times {
    first: f64,
    /// When every request had its first token.
    all_first: f64,
    last: f64,
}

impl OnBackend for Job<'_> {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let begun = Instant::now();
        let model = Model::open(&self.path)?;
        let config = model.checkpoint.config();
        let kv_format = kv_format::<B>(self.precision.kv, &model.checkpoint)?;
        let options = EngineOptions {
            kv_format,
            max_sequences: MANY,
            max_rows: PREFILL,
            max_prompt_rows: PREFILL,
            max_outputs: MANY,
            cache_tokens: Some((MANY * (SHORT + ANSWER + 64)).max(LONG + 256)),
            ..EngineOptions::default()
        };
        check_memory(&backend, &model, &options)?;
        let weights = model.checkpoint.infer_weights(&backend, self.precision.activations)?;
        let bytes = InferWeights::bytes(&backend, config, model.checkpoint.formats()?.as_ref()) as f64;
        let vocabulary = model.vocabulary();
        let mut engine = Engine::new(&backend, config, weights, &vocabulary, &options)?;
        let mut prompts = Prompts { n_vocab: vocabulary.n_vocab() as u64, n: 0 };
        times(&mut engine, &[prompts.request(SHORT, 1)])?;
        let load = begun.elapsed().as_secs_f64();
        let facts = json!({
            "model": self.path.file_name().map(|name| name.to_string_lossy().into_owned()),
            "dtype": super::dtype_name(self.dtype),
            "activations": format!("{:?}", self.precision.activations).to_lowercase(),
            "kv_cache": kv_format.name(),
            "weight_bytes": bytes,
            "rounds": ROUNDS,
        });
        let report = |job: &str, value: f64, unit: &str, share| {
            self.bench.print(Figure { job, value, unit, share, more: facts.clone() })
        };
        report("load-to-first", 1e3 * load, "ms", None)?;

        let read = backend.ceilings()?.read_gb_s;
        let rounds = |engine: &mut Engine<'_, B>, work: &mut dyn FnMut(&mut Engine<'_, B>) -> Result<f64>| {
            (0..ROUNDS).map(|_| work(engine)).collect::<Result<Vec<f64>>>().map(median)
        };
        if config.n_ctx > PREFILL {
            let rate = rounds(&mut engine, &mut |engine| {
                Ok(PREFILL as f64 / times(engine, &[prompts.request(PREFILL, 1)])?.first)
            })?;
            report("prefill-512", rate, "tokens/s", None)?;
        }
        let one = rounds(&mut engine, &mut |engine| {
            let times = times(engine, &[prompts.request(SHORT, ANSWER)])?;
            Ok((ANSWER - 1) as f64 / (times.last - times.first))
        })?;
        report("decode-1", one, "tokens/s", Some((one * bytes / 1e9 / read, "read bandwidth")))?;
        let many = rounds(&mut engine, &mut |engine| {
            let requests: Vec<Request> = (0..MANY).map(|_| prompts.request(SHORT, ANSWER)).collect();
            let times = times(engine, &requests)?;
            Ok((MANY * (ANSWER - 1)) as f64 / (times.last - times.all_first))
        })?;
        report("decode-16", many, "tokens/s", None)?;
        if config.n_ctx > LONG {
            let mut shares = Vec::new();
            for _ in 0..ROUNDS {
                let first = prompts.request(LONG, 1);
                let mut again = first.clone();
                again.prompt.truncate(LONG - FRESH);
                again.prompt.extend(prompts.request(FRESH, 1).prompt);
                let uncached = times(&mut engine, &[first])?.first;
                shares.push(100.0 * times(&mut engine, &[again])?.first / uncached);
            }
            report("cached-prompt", median(shares), "% of time", None)?;
        }
        Ok(())
    }
}

/// Prompts that do not begin like one another.
struct Prompts {
    n_vocab: u64,
    n: u64,
}

impl Prompts {
    fn request(&mut self, n_prompt: usize, max_tokens: usize) -> Request {
        let mut id = || {
            // A linear congruential generator (Knuth): any ids will do.
            self.n = self.n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.n >> 33) % self.n_vocab) as u32
        };
        let prompt = (0..n_prompt).map(|_| id()).collect();
        let params = SamplingParams { temperature: 0.0, max_tokens, ignore_eos: true, ..SamplingParams::default() };
        Request { prompt, params, ..Request::default() }
    }
}

fn times<B: Device>(engine: &mut Engine<'_, B>, requests: &[Request]) -> Result<Times> {
    let (mut first, mut all_first, mut last, mut failed) = (None, 0.0, 0.0, None);
    let mut seen = vec![false; requests.len()];
    let started = Instant::now();
    engine.generate(requests, &AtomicBool::new(false), &mut |event| {
        match event {
            Event::Token { request, .. } => {
                last = started.elapsed().as_secs_f64();
                first.get_or_insert(last);
                if !std::mem::replace(&mut seen[request], true) {
                    all_first = last;
                }
            }
            Event::Failed { error, .. } => failed = Some(error),
            Event::Prompt { .. } | Event::Embedding { .. } | Event::Finished { .. } => {}
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let Some(first) = first else { bail!("the engine gave no token") };
    Ok(Times { first, all_first, last })
}

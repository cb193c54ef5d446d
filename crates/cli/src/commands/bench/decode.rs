//! Decoding one sequence: bound by reading the weights once a token.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;
use verve_engine::{Engine, EngineOptions, Event, Request, SamplingParams, Vocabulary};
use verve_model::{InferWeights, ModelConfig, init};

use super::{Bench, Figure, median};
use crate::args::Dtype;
use crate::device::{Device, OnBackend, on_backend};

/// Tokens of the prompt, and tokens timed in each round.
const PROMPT: usize = 16;
const TIMED: usize = 32;
const ROUNDS: usize = 3;

pub fn run(bench: &Bench) -> Result<()> {
    on_backend(&bench.machine, Dtype::Bf16, Job { bench })
}

struct Job<'a> {
    bench: &'a Bench,
}

impl OnBackend for Job<'_> {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let config = ModelConfig::preset("gpt2", None)?;
        let mut host = Vec::new();
        let weights = InferWeights::build(&backend, &config, |spec, buffer| {
            host.clear();
            host.resize(spec.len(), B::Elem::default());
            init::fill(spec, 1, &mut host);
            backend.upload(&host, buffer);
            Ok(())
        })?;
        let bytes = InferWeights::bytes(&backend, &config, None) as f64;
        let vocabulary = Vocabulary::from_bytes((0..config.n_vocab).map(|_| b"x"));
        let params = SamplingParams { temperature: 0.0, max_tokens: TIMED + 1, ..SamplingParams::default() };
        let requests = [Request { prompt: (0..PROMPT as u32).collect(), params, ..Request::default() }];
        let options = EngineOptions::default().for_requests(&requests, &config);
        let mut engine = Engine::new(&backend, &config, weights, &vocabulary, &options)?;
        let never = AtomicBool::new(false);
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let (mut first, mut last, mut failed) = (None, Instant::now(), None);
            engine.generate(&requests, &never, &mut |event| {
                match event {
                    Event::Token { .. } => {
                        last = Instant::now();
                        first.get_or_insert(last);
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
            rates.push(TIMED as f64 / (last - first).as_secs_f64());
        }
        let rate = median(rates);
        let read = backend.ceilings()?.read_gb_s;
        self.bench.print(Figure {
            job: "decode-124m",
            value: rate,
            unit: "tokens/s",
            share: Some((rate * bytes / 1e9 / read, "read bandwidth")),
            more: json!({ "dtype": "bf16", "weight_bytes": bytes, "read_gb_s": read, "rounds": ROUNDS }),
        })
    }
}

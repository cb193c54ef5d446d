//! Real models on real backends: the cache gives what the full forward pass gives, and company, chunks and threads change
//! no bit.

mod common;

use std::collections::BTreeMap;

use common::models::{Model, N_VOCAB, configs};
use verve_cpu::{CpuBackend, CpuElem, Isa};
use verve_engine::*;
use verve_model::{Activations, ModelConfig, Positions, Recompute, TrainBatch, forward_loss};
use verve_ops::reference::Reference;
use verve_ops::{InferBackend, KV_BLOCK, Real};
use verve_testkit::Data;

/// Tokens whose log-probabilities are compared. Each depends on the logits of all.
fn compared() -> impl Iterator<Item = u32> {
    (0..N_VOCAB as u32).step_by(5)
}

/// Their log-probabilities at every position of a sequence, `[position][token]`, by the forward pass of training.
fn full_forward<B: InferBackend>(model: &Model<B>, tokens: &[u32]) -> Vec<Vec<f64>> {
    let mut acts = Activations::new(&model.backend, &model.config, 1, tokens.len(), Recompute::None).expect("memory");
    let mut logprobs = vec![vec![0.0; N_VOCAB]; tokens.len()];
    for id in compared() {
        let targets = vec![id; tokens.len()];
        forward_loss(model.network(), &mut acts, TrainBatch { tokens, targets: &targets }).expect("a good batch");
        for (row, loss) in logprobs.iter_mut().zip(acts.losses()) {
            row[id as usize] = -loss.to_f64();
        }
    }
    logprobs
}

/// Prefill in chunks, then decoding, then all of it again by the full forward pass.
fn agrees_with_the_full_forward<B: InferBackend>(backend: impl Fn() -> B, tolerance: f64) {
    for (name, config) in configs() {
        let model = Model::random(backend(), name, config);
        for (n_prompt, max_rows) in [(1, 64), (70, 13), (64, 64), (130, 256)] {
            let prompt = Data::new(n_prompt as u64).ids(n_prompt, N_VOCAB);
            let params = SamplingParams {
                n_logprobs: Some(N_VOCAB),
                max_tokens: 80,
                ignore_eos: true,
                ..SamplingParams::default()
            };
            let requests = [Request { prompt: prompt.clone(), params, ..Request::default() }];
            let options = EngineOptions { max_sequences: 2, max_rows, ..EngineOptions::default() };
            let record = model.records(&options, &requests).remove(0);
            let ids = record.ids();
            assert_eq!(ids.len(), 80.min(151 - n_prompt));
            let tokens: Vec<u32> = prompt.iter().chain(&ids[..ids.len() - 1]).copied().collect();
            let expected = full_forward(&model, &tokens);
            for (step, token) in record.tokens.iter().enumerate() {
                assert_eq!(token.alternatives.len(), N_VOCAB);
                let found: BTreeMap<u32, u32> = token.alternatives.iter().copied().collect();
                let expected = &expected[n_prompt - 1 + step];
                for id in compared() {
                    let (found, expected) = (f64::from(f32::from_bits(found[&id])), expected[id as usize]);
                    assert!(
                        (found - expected).abs() < tolerance,
                        "{name}, prompt of {n_prompt}, token {step}: {found} for {id}, not {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_reference_agrees_with_the_full_forward() {
    agrees_with_the_full_forward(Reference::<f64>::new, 2e-6);
    agrees_with_the_full_forward(Reference::<f32>::new, 2e-5);
}

#[test]
fn the_cpu_agrees_with_the_full_forward() {
    for isa in Isa::available() {
        agrees_with_the_full_forward(|| CpuBackend::<f32>::new(1, isa).unwrap(), 2e-5);
        agrees_with_the_full_forward(|| CpuBackend::<half::bf16>::new(1, isa).unwrap(), 0.15);
    }
}

/// Requests of all lengths and ways to choose.
fn requests() -> Vec<Request> {
    let mut data = Data::new(5);
    let lengths = [1, 3, 64, 65, 100, 20, 128, 0, 7];
    let base = SamplingParams { ignore_eos: true, n_logprobs: Some(3), max_tokens: 25, ..SamplingParams::default() };
    let with = |number: usize| match number % 5 {
        0 => SamplingParams { temperature: 0.0, ..base.clone() },
        1 => SamplingParams { temperature: 1.3, top_p: 0.9, ..base.clone() },
        2 => SamplingParams { repetition_penalty: 1.3, top_k: 10, max_tokens: 70, ..base.clone() },
        3 => SamplingParams { min_p: 0.05, stop: vec!["ab".to_owned(), "é".to_owned()], ..base.clone() },
        _ => SamplingParams { frequency_penalty: 0.4, max_tokens: 9, ignore_eos: false, ..base.clone() },
    };
    let request = |(number, &length): (usize, &usize)| Request {
        prompt: data.ids(length, N_VOCAB - 1),
        params: SamplingParams { seed: number as u64, ..with(number) },
        ..Request::default()
    };
    lengths.iter().enumerate().map(request).collect()
}

fn options() -> Vec<EngineOptions> {
    let sizes = |max_sequences, max_rows| EngineOptions { max_sequences, max_rows, ..EngineOptions::default() };
    vec![
        sizes(16, 256),
        sizes(3, 7),
        // One row at a time: everything is decoding.
        sizes(1, 1),
        EngineOptions { cache_tokens: Some(5 * KV_BLOCK), ..sizes(9, 33) },
    ]
}

/// The answers of requests that are alone.
fn alone<B: InferBackend>(model: &Model<B>, requests: &[Request]) -> Vec<common::Record> {
    let options = EngineOptions { max_sequences: 1, ..EngineOptions::default() };
    requests.iter().flat_map(|request| model.records(&options, std::slice::from_ref(request))).collect()
}

fn same_in_any_company<B: InferBackend>(
    model: &Model<B>,
    options: &[EngineOptions],
    requests: &[Request],
    expected: &[common::Record],
) {
    for options in options {
        let found = model.records(options, requests);
        for (number, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert_eq!(
                found,
                expected,
                "{} on {}, request {number}, {options:?}",
                model.name,
                model.backend.describe()
            );
        }
    }
}

#[test]
fn the_reference_gives_the_same_bits_in_any_company() {
    let requests = requests();
    for (name, config) in configs() {
        let model = Model::random(Reference::<f32>::new(), name, config);
        let expected = alone(&model, &requests);
        assert!(expected.iter().all(|record| record.error.is_none()));
        same_in_any_company(&model, &options(), &requests, &expected);
        let mut backwards: Vec<Request> = requests.clone();
        backwards.reverse();
        let mut found = model.records(&EngineOptions::default(), &backwards);
        found.reverse();
        assert_eq!(found, expected, "{name}, in reverse order");
    }
}

fn cpu_gives_the_same_bits<E: CpuElem>() {
    let requests = requests();
    for isa in Isa::available() {
        for (name, config) in configs() {
            let model =
                |threads| Model::random(CpuBackend::<E>::new(threads, isa).expect("threads"), name, config.clone());
            let expected = alone(&model(1), &requests);
            let options = options();
            for (threads, options) in [(1, &options[..]), (2, &options[..2]), (3, &options[3..])] {
                same_in_any_company(&model(threads), options, &requests, &expected);
            }
        }
    }
}

#[test]
fn the_cpu_gives_the_same_bits_in_any_company_and_at_any_thread_count_in_f32() {
    cpu_gives_the_same_bits::<f32>();
}

#[test]
fn the_cpu_gives_the_same_bits_in_any_company_and_at_any_thread_count_in_bf16() {
    cpu_gives_the_same_bits::<half::bf16>();
}

#[test]
fn sizes_for_requests_are_enough_for_all_of_them_at_once() {
    let requests = requests();
    let (_, config) = configs().remove(0);
    let model = Model::random(Reference::<f32>::new(), "gpt2", config);
    let options = EngineOptions::default().for_requests(&requests, &model.config);
    assert_eq!(options.max_sequences, requests.len());
    // In blocks: 1, 1, 3, 2, 2, 1, 3, 2, 1.
    assert_eq!(options.cache_tokens, Some(16 * KV_BLOCK));
    let mut engine = model.engine(&options);
    let cancel = std::sync::atomic::AtomicBool::new(false);
    let totals = engine.generate(&requests, &cancel, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert!(totals.steps <= 70 + 3, "they did not wait for each other: {totals:?}");
    let narrow = EngineOptions { max_sequences: 2, cache_tokens: Some(100), ..EngineOptions::default() };
    let options = narrow.for_requests(&requests, &model.config);
    assert_eq!((options.max_sequences, options.cache_tokens), (2, Some(100)));
    let nothing = EngineOptions::default().for_requests(&[], &model.config);
    assert_eq!((nothing.max_sequences, nothing.cache_tokens), (1, Some(KV_BLOCK)));
}

#[test]
fn options_out_of_range_are_named() {
    let (_, config) = configs().remove(0);
    let backend = Reference::<f32>::new();
    let plan = |options: EngineOptions| memory_plan(&backend, &config, None, &options).unwrap_err().to_string();
    let default = EngineOptions::default();
    let message = plan(EngineOptions { max_sequences: 0, ..default });
    assert_eq!(message, "engine option max_sequences is 0, must be from 1 to 4096");
    let message = plan(EngineOptions { max_rows: 70_000, ..default });
    assert_eq!(message, "engine option max_rows is 70000, must be from 1 to 65536");
    assert!(plan(EngineOptions { cache_tokens: Some(0), ..default }).starts_with("engine option cache_tokens is 0"));
    let huge = ModelConfig { n_ctx: 1 << 24, positions: Positions::Rotary { theta: 100.0 }, ..config.clone() };
    let message =
        memory_plan(&backend, &huge, None, &EngineOptions { max_sequences: 4096, ..default }).unwrap_err().to_string();
    assert_eq!(message, "engine option cache_tokens is 68719476736, must be from 1 to 2147483648");
    assert!(plan(EngineOptions { max_context: Some(0), ..default }).starts_with("engine option max_context is 0"));
}

#[test]
fn a_shorter_context_bounds_prompts_and_answers() {
    let (_, config) = configs().remove(3);
    let model = Model::random(Reference::<f32>::new(), "llama", config);
    let requests = requests();
    let whole = model.records(&EngineOptions::default(), &requests);
    let found = model.records(&EngineOptions { max_context: Some(66), ..EngineOptions::default() }, &requests);
    assert_eq!(
        found[4].error.as_deref(),
        Some("the prompt has 100 tokens, the context holds 66; shorten the prompt by 34 or more")
    );
    assert_eq!(found[2].ids(), whole[2].ids()[..3]);
    assert_eq!(found[2].reason(), Some(FinishReason::Length));
    assert_eq!(found[0], whole[0]);
}

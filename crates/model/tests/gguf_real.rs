//! Published GGUF models against transformers reading the same files (tools/golden/gguf_models.py). Runs where
//! `VERVE_TEST_MODELS` names a folder with the files; CONTRIBUTING.md says how to get them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::PathBuf;

use verve_cpu::{CpuBackend, Isa};
use verve_model::formats::GgufModel;
use verve_model::{InferStep, KvCache, StepBatch, StepLimits, infer_step};
use verve_ops::quant::ActivationPrecision;
use verve_ops::{KV_BLOCK, KvFormat};
use verve_testkit::Golden;

/// The file, if it is there.
fn model(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("VERVE_TEST_MODELS").map(PathBuf::from);
    let path = folder.map(|folder| folder.join(name)).filter(|path| path.is_file());
    if path.is_none() {
        eprintln!("skipped: VERVE_TEST_MODELS names no folder with {name}");
    }
    path
}

/// Feeds every prompt and then the expected continuation, token by token; at each step the greedy choice must be the
/// expected one, and after the prompt the logits must be those of transformers.
fn agrees(name: &str) {
    let Some(path) = model(name) else { return };
    let stem = name.strip_suffix(".gguf").unwrap();
    let golden = Golden::read(verve_testkit::golden_dir("gguf").join(format!("{stem}.safetensors")));
    let model = GgufModel::open(&path).unwrap();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let backend = CpuBackend::<f32>::new(threads, Isa::detect()).unwrap();
    let weights = model.infer_weights(&backend, ActivationPrecision::Exact).unwrap();
    let config = model.config();
    let limits = StepLimits { max_rows: 64, max_sequences: 1, max_blocks: 2 };
    let mut ws = InferStep::new(&backend, config, limits).unwrap();
    let mut cache = KvCache::new(&backend, config, 2, KvFormat::Elem).unwrap();
    for prompt in 0.. {
        if !golden.names().any(|name| name == format!("{prompt}.prompt")) {
            assert!(prompt >= 20, "{prompt} prompts");
            break;
        }
        let values = |what: &str| golden.f32s(&format!("{prompt}.{what}"));
        let ids = |what: &str| values(what).into_iter().map(|id| id as u32).collect::<Vec<_>>();
        let (mut tokens, greedy, expected) = (ids("prompt"), ids("greedy"), values("logits"));
        let mut position = 0;
        for (step, &next) in greedy.iter().enumerate() {
            let positions: Vec<u32> = (position..position + tokens.len() as u32).collect();
            let batch = StepBatch {
                tokens: &tokens,
                positions: &positions,
                slots: &positions,
                sequences: &vec![0; tokens.len()],
                block_table: &[0, 1],
                max_blocks: 2,
                output_rows: &[tokens.len() as u32 - 1],
            };
            assert!((position as usize) + tokens.len() <= 2 * KV_BLOCK);
            let logits = infer_step(&backend, config, &weights, &mut cache, &batch, &mut ws).unwrap();
            if step == 0 {
                let found: Vec<f32> = logits.iter().copied().step_by(97).collect();
                let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let error = (found - expected).abs();
                    assert!(
                        error <= 1e-4 * largest,
                        "{name}, prompt {prompt}, logit {}: {found}, not {expected}",
                        97 * at
                    );
                }
            }
            let best = (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best });
            assert_eq!(best as u32, next, "{name}, prompt {prompt}, step {step}");
            position += tokens.len() as u32;
            tokens = vec![next];
        }
    }
}

#[test]
fn smollm2_is_what_transformers_computes() {
    agrees("SmolLM2-135M-Instruct.Q4_1.gguf");
}

#[test]
fn gemma_is_what_transformers_computes() {
    agrees("gemma-3-270m-q4_k_m.gguf");
}

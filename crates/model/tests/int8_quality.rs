//! What activations of 8 and 16 bits, and KV caches that round, cost: the distribution of the next token of a published model over some prompts and
//! their continuations, against that with exact activations. Runs where `VERVE_TEST_MODELS` names a folder with the file; CONTRIBUTING.md says how to get it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::PathBuf;

use verve_cpu::{CpuBackend, Isa};
use verve_model::formats::GgufModel;
use verve_model::{InferStep, KvCache, StepBatch, StepLimits, infer_step};
use verve_ops::quant::ActivationPrecision;
use verve_ops::{KV_BLOCK, KvFormat};
use verve_testkit::Golden;

const NAME: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// More tokens than any prompt has with its continuation.
const LENGTH: usize = 128;

/// Logarithms of the probabilities of all tokens.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
    logits.iter().map(|&x| f64::from(x - largest) - sum.ln()).collect()
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best })
}

#[test]
fn rounded_activations_change_little() {
    let folder = std::env::var_os("VERVE_TEST_MODELS").map(PathBuf::from);
    let Some(path) = folder.map(|folder| folder.join(NAME)).filter(|path| path.is_file()) else {
        eprintln!("skipped: VERVE_TEST_MODELS names no folder with {NAME}");
        return;
    };
    let golden = Golden::read(verve_testkit::golden_dir("gguf").join("SmolLM2-135M-Instruct.Q4_1.safetensors"));
    let model = GgufModel::open(&path).unwrap();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let backend = CpuBackend::<f32>::new(threads, Isa::detect()).unwrap();
    let config = model.config();
    let max_blocks = LENGTH.div_ceil(KV_BLOCK);
    let limits = StepLimits { max_rows: LENGTH, max_sequences: 1, max_blocks };
    let mut ws = InferStep::new(&backend, config, limits).unwrap();
    let block_table: Vec<u32> = (0..max_blocks as u32).collect();
    let weights = [ActivationPrecision::Exact, ActivationPrecision::Int8, ActivationPrecision::Int16]
        .map(|precision| model.infer_weights(&backend, precision).unwrap());
    let [exact, int8, int16] = &weights;
    // Each compared with the first.
    let mut ways = [
        (exact, KvFormat::Elem),
        (int8, KvFormat::Elem),
        (int16, KvFormat::Elem),
        (exact, KvFormat::F16),
        (exact, KvFormat::Int8),
    ]
    .map(|(weights, format)| (weights, KvCache::new(&backend, config, max_blocks, format).unwrap()));
    let (mut n, mut predicted) = (0, 0);
    let mut costs = [const { Cost::new() }; 4];
    let mut surprise = 0.0;
    for prompt in (0..).take_while(|prompt| golden.names().any(|name| name == format!("{prompt}.prompt"))) {
        let ids = ["prompt", "greedy"].map(|what| golden.f32s(&format!("{prompt}.{what}")));
        let tokens: Vec<u32> = ids.concat().into_iter().map(|id| id as u32).collect();
        let positions: Vec<u32> = (0..tokens.len() as u32).collect();
        let [exact, rounded @ ..] = ways.each_mut().map(|(weights, cache)| {
            let batch = StepBatch {
                tokens: &tokens,
                positions: &positions,
                slots: &positions,
                sequences: &vec![0; tokens.len()],
                block_table: &block_table,
                max_blocks,
                output_rows: &positions,
            };
            infer_step(&backend, config, weights, cache, &batch, &mut ws).unwrap().to_vec()
        });
        for (row, exact) in exact.chunks_exact(config.n_vocab).enumerate() {
            let next = tokens.get(row + 1).map(|&id| id as usize);
            let p = log_softmax(exact);
            n += 1;
            predicted += usize::from(next.is_some());
            surprise -= next.map_or(0.0, |next| p[next]);
            for (cost, logits) in costs.iter_mut().zip(&rounded) {
                let logits = &logits[row * config.n_vocab..][..config.n_vocab];
                let q = log_softmax(logits);
                let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
                cost.divergence += kl;
                cost.worst = cost.worst.max(kl);
                cost.agreed += usize::from(best(exact) == best(logits));
                cost.surprise -= next.map_or(0.0, |next| q[next]);
            }
        }
    }
    assert!(n > 500, "{n} tokens");
    let perplexity = |sum: f64| (sum / predicted as f64).exp();
    // Largest divergence, least agreement, largest change of perplexity.
    let allowed = [
        ("activations of 8 bits", 0.01, 0.94, 0.02),
        ("activations of 16 bits", 1e-6, 0.998, 1e-4),
        ("KV cache of f16", 1e-5, 0.99, 1e-3),
        ("KV cache of 8 bits", 0.01, 0.94, 0.02),
    ];
    for (cost, (name, divergence, agreement, change)) in costs.iter().zip(allowed) {
        let mean = cost.divergence / f64::from(n);
        let agreed = cost.agreed as f64 / f64::from(n);
        let (exact, rounded) = (perplexity(surprise), perplexity(cost.surprise));
        println!(
            "{name}, {n} tokens: KL divergence {mean:.3e} nats (largest {:.3e}), the likeliest token is the same for {:.2} %, \
             perplexity {exact:.4} exact, {rounded:.4}",
            cost.worst,
            100.0 * agreed
        );
        assert!(mean < divergence, "{name}: KL divergence {mean}");
        assert!(agreed > agreement, "{name}: the likeliest token is the same for {agreed}");
        assert!((rounded / exact - 1.0).abs() < change, "{name}: perplexity {exact} exact, {rounded}");
    }
}

/// What rounding changes.
struct Cost {
    divergence: f64,
    worst: f64,
    agreed: usize,
    surprise: f64,
}

impl Cost {
    const fn new() -> Self {
        Self { divergence: 0.0, worst: 0.0, agreed: 0, surprise: 0.0 }
    }
}

//! What 8-bit activations cost: the distribution of the next token of a published model over some prompts and
//! their continuations, against that with exact activations. Runs where `VERVE_TEST_MODELS` names a folder with the file; CONTRIBUTING.md says how to get it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::PathBuf;

use verve_cpu::{CpuBackend, Isa};
use verve_model::formats::GgufModel;
use verve_model::{InferStep, KvCache, StepBatch, StepLimits, infer_step};
use verve_ops::KV_BLOCK;
use verve_ops::quant::ActivationPrecision;
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
fn int8_activations_change_little() {
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
    let mut cache = KvCache::new(&backend, config, max_blocks).unwrap();
    let block_table: Vec<u32> = (0..max_blocks as u32).collect();
    let weights = [ActivationPrecision::Exact, ActivationPrecision::Int8]
        .map(|precision| model.infer_weights(&backend, precision).unwrap());
    let (mut n, mut predicted, mut divergence, mut worst, mut agreed) = (0, 0, 0.0, 0f64, 0);
    let mut surprise = [0.0; 2];
    for prompt in (0..).take_while(|prompt| golden.names().any(|name| name == format!("{prompt}.prompt"))) {
        let ids = ["prompt", "greedy"].map(|what| golden.f32s(&format!("{prompt}.{what}")));
        let tokens: Vec<u32> = ids.concat().into_iter().map(|id| id as u32).collect();
        let positions: Vec<u32> = (0..tokens.len() as u32).collect();
        let [exact, int8] = weights.each_ref().map(|weights| {
            let batch = StepBatch {
                tokens: &tokens,
                positions: &positions,
                slots: &positions,
                sequences: &vec![0; tokens.len()],
                block_table: &block_table,
                max_blocks,
                output_rows: &positions,
            };
            infer_step(&backend, config, weights, &mut cache, &batch, &mut ws).unwrap().to_vec()
        });
        let rows = exact.chunks_exact(config.n_vocab).zip(int8.chunks_exact(config.n_vocab));
        for (row, (exact, int8)) in rows.enumerate() {
            let (p, q) = (log_softmax(exact), log_softmax(int8));
            let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
            n += 1;
            divergence += kl;
            worst = worst.max(kl);
            agreed += usize::from(best(exact) == best(int8));
            if let Some(&next) = tokens.get(row + 1) {
                predicted += 1;
                surprise[0] -= p[next as usize];
                surprise[1] -= q[next as usize];
            }
        }
    }
    let (mean, agreement) = (divergence / f64::from(n), agreed as f64 / f64::from(n));
    let [exact, int8] = surprise.map(|sum| (sum / f64::from(predicted)).exp());
    println!(
        "{n} tokens: KL divergence {mean:.5} nats (largest {worst:.4}), the likeliest token is the same for {:.2} %, \
         perplexity {exact:.4} exact, {int8:.4} with 8 bits",
        100.0 * agreement
    );
    assert!(n > 500, "{n} tokens");
    assert!(mean < 0.01, "KL divergence {mean}");
    assert!(agreement > 0.94, "the likeliest token is the same for {agreement}");
    assert!((int8 / exact - 1.0).abs() < 0.02, "perplexity {exact} exact, {int8} with 8 bits");
}

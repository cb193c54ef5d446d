//! What must not change a bit: the recompute level, the number of threads, the company of other sequences. And that
//! gradients are those of the loss, for shapes that no golden file has.

#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Debug;

use common::{Bench, random_batch, small_configs};
use half::bf16;
use verve_cpu::{CpuBackend, CpuElem, Isa};
use verve_model::*;
use verve_ops::reference::Reference;
use verve_ops::{Backend, InferBackend, KV_BLOCK, KvFormat, Real};
use verve_testkit::{Bound, assert_bits, assert_close};

const BATCH: usize = 3;

fn batch(data: &(Vec<u32>, Vec<u32>)) -> TrainBatch<'_> {
    TrainBatch { tokens: &data.0, targets: &data.1 }
}

/// Loss and gradients of a random batch.
fn gradients<B: Backend>(backend: B, config: &ModelConfig, recompute: Recompute) -> (LossSum, Vec<Vec<B::Acc>>) {
    let mut bench = Bench::random(backend, config, 3);
    let data = random_batch(config, BATCH * config.n_ctx, 4);
    let mut acts = bench.acts(BATCH, config.n_ctx, recompute);
    let loss = bench.forward_backward(&mut acts, batch(&data), 0.1);
    let again = forward_loss(bench.net(), &mut acts, batch(&data)).unwrap();
    assert_eq!(again, loss, "{recompute:?}: evaluation and training see the same loss");
    (loss, bench.host_grads())
}

fn assert_same_gradients<A: Real + Debug>(
    what: &str,
    config: &ModelConfig,
    (loss, grads): &(LossSum, Vec<Vec<A>>),
    expected: &(LossSum, Vec<Vec<A>>),
) {
    assert_eq!(*loss, expected.0, "{what}");
    for (spec, (found, expected)) in layout(config).iter().zip(grads.iter().zip(&expected.1)) {
        assert_bits(&format!("{what}: gradient of {}", spec.name), found, expected);
    }
}

fn every_recompute_level_gives_the_same_bits<B: Backend>(backend: impl Fn() -> B) {
    for (name, config) in small_configs() {
        let expected = gradients(backend(), &config, Recompute::None);
        for (spec, grad) in layout(&config).iter().zip(&expected.1) {
            assert!(grad.iter().all(|g| g.to_f64().is_finite()), "{name}: {}", spec.name);
            assert!(grad.iter().any(|g| g.to_f64() != 0.0), "{name}: {}", spec.name);
        }
        for level in Recompute::ALL {
            let what = format!("{name}, {level:?}");
            assert_same_gradients(&what, &config, &gradients(backend(), &config, level), &expected);
        }
    }
}

fn every_thread_count_gives_the_same_bits<E: CpuElem>(isa: Isa) {
    for (name, config) in small_configs() {
        let run = |threads: usize| {
            let backend = CpuBackend::<E>::new(threads, isa).unwrap();
            let all = complete(&backend, &config, &sequences(&config));
            (gradients(backend, &config, Recompute::None), all)
        };
        let expected = run(1);
        for threads in [2, 3, 8] {
            let (found, logits) = run(threads);
            assert_same_gradients(&format!("{name}, {threads} threads"), &config, &found, &expected.0);
            for (found, expected) in logits.iter().zip(&expected.1) {
                assert_bits(&format!("{name}, {threads} threads: logits"), found, expected);
            }
        }
    }
}

/// Three sequences of different lengths.
fn sequences(config: &ModelConfig) -> Vec<Vec<u32>> {
    let lengths = [config.n_ctx, 1, config.n_ctx / 2];
    lengths.iter().zip(10..).map(|(&len, seed)| random_batch(config, len, seed).0).collect()
}

/// New tokens of one sequence: number of the sequence, and which of its tokens.
type Part = (usize, std::ops::Range<usize>);

/// Logits of every token of every sequence, computed in the given steps.
fn in_steps<B: InferBackend>(
    backend: &B,
    config: &ModelConfig,
    texts: &[Vec<u32>],
    steps: &[Vec<Part>],
) -> Vec<Vec<B::Acc>> {
    let weights = {
        let layout = layout(config);
        let weights = layout.build::<B, B::Elem>(backend, |spec, out| {
            let (mean, std) = if spec.shape.len() == 2 { (0.0, 0.2) } else { (0.5, 0.2) };
            let stream = rng::Stream::new(3, &spec.name);
            stream.fill_normal(std, spec.len(), |i, noise| out[i] = B::Elem::from_f64(mean + noise));
            Ok(())
        });
        InferWeights::prepare(backend, config, &weights.unwrap()).unwrap()
    };
    let max_blocks = config.n_ctx.div_ceil(KV_BLOCK);
    let n_blocks = max_blocks * texts.len();
    let limits = StepLimits { max_rows: texts.iter().map(Vec::len).sum(), max_sequences: texts.len(), max_blocks };
    let mut ws = InferStep::new(backend, config, limits).unwrap();
    let mut cache = KvCache::new(backend, config, n_blocks, KvFormat::Elem).unwrap();
    // Blocks of the sequences are mixed.
    let table: Vec<u32> = (0..n_blocks as u32).map(|i| (i * 7 + 3) % n_blocks as u32).collect();
    let table = if n_blocks.is_multiple_of(7) { (0..n_blocks as u32).rev().collect() } else { table };
    let mut logits: Vec<Vec<B::Acc>> = vec![Vec::new(); texts.len()];
    for step in steps {
        let rows: Vec<(usize, usize)> = step.iter().flat_map(|(s, range)| range.clone().map(|at| (*s, at))).collect();
        let slot = |&(s, at): &(usize, usize)| {
            table[s * max_blocks + at / KV_BLOCK] * KV_BLOCK as u32 + (at % KV_BLOCK) as u32
        };
        let batch = StepBatch {
            tokens: &rows.iter().map(|&(s, at)| texts[s][at]).collect::<Vec<_>>(),
            positions: &rows.iter().map(|&(_, at)| at as u32).collect::<Vec<_>>(),
            slots: &rows.iter().map(slot).collect::<Vec<_>>(),
            sequences: &rows.iter().map(|&(s, _)| s as u32).collect::<Vec<_>>(),
            block_table: &table,
            max_blocks,
            output_rows: &(0..rows.len() as u32).collect::<Vec<_>>(),
        };
        let out = infer_step(backend, config, &weights, &mut cache, &batch, &mut ws).unwrap();
        assert_eq!(out.len(), rows.len() * config.n_vocab);
        for ((s, _), row) in rows.iter().zip(out.chunks(config.n_vocab)) {
            logits[*s].extend_from_slice(row);
        }
    }
    logits
}

/// All sequences in one step.
fn complete<B: InferBackend>(backend: &B, config: &ModelConfig, texts: &[Vec<u32>]) -> Vec<Vec<B::Acc>> {
    let whole = texts.iter().enumerate().map(|(s, text)| (s, 0..text.len())).collect();
    in_steps(backend, config, texts, &[whole])
}

/// Alone, together, in pieces of any size: each sequence has the same logits, bit for bit.
fn company_and_pieces_do_not_matter<B: InferBackend>(backend: &B) {
    for (name, config) in small_configs() {
        // Longer than a block of the cache.
        let config = ModelConfig { n_ctx: KV_BLOCK + 5, ..config };
        let texts = sequences(&config);
        let expected = complete(backend, &config, &texts);
        let longest = config.n_ctx;
        let alone = |s: usize| vec![(s, 0..texts[s].len())];
        let one_by_one = (0..longest)
            .map(|at| (0..texts.len()).filter(|&s| at < texts[s].len()).map(|s| (s, at..at + 1)).collect())
            .collect();
        let pieces = [0..5, 5..6, 6..KV_BLOCK, KV_BLOCK..longest].map(|range| vec![(0, range)]).to_vec();
        // The second and third sequence run while the first is prefilled, in another order of sequences.
        let mixed =
            vec![vec![(2, 0..3)], vec![(2, 3..4), (0, 0..9)], vec![(0, 9..longest), (1, 0..1), (2, 4..longest / 2)]];
        let cases: [(&str, Vec<Vec<Part>>); 6] = [
            ("alone", vec![alone(0)]),
            ("another alone", vec![alone(2)]),
            ("one after the other", (0..texts.len()).map(alone).collect()),
            ("token by token", one_by_one),
            ("in pieces", pieces),
            ("mixed", mixed),
        ];
        for (case, steps) in cases {
            for (s, found) in in_steps(backend, &config, &texts, &steps).iter().enumerate() {
                if !found.is_empty() {
                    assert_bits(&format!("{name}, {case}: logits of sequence {s}"), found, &expected[s]);
                }
            }
        }
    }
}

#[test]
fn recompute_on_the_reference() {
    every_recompute_level_gives_the_same_bits(Reference::<f32>::new);
}

#[test]
fn recompute_on_the_cpu() {
    for isa in Isa::available() {
        every_recompute_level_gives_the_same_bits(|| CpuBackend::<f32>::new(2, isa).unwrap());
        every_recompute_level_gives_the_same_bits(|| CpuBackend::<bf16>::new(2, isa).unwrap());
    }
}

#[test]
fn threads_on_the_cpu() {
    for isa in Isa::available() {
        every_thread_count_gives_the_same_bits::<f32>(isa);
        every_thread_count_gives_the_same_bits::<bf16>(isa);
    }
}

#[test]
fn batches_on_the_reference() {
    company_and_pieces_do_not_matter(&Reference::<f64>::new());
}

#[test]
fn batches_on_the_cpu() {
    for isa in Isa::available() {
        company_and_pieces_do_not_matter(&CpuBackend::<f32>::new(3, isa).unwrap());
        company_and_pieces_do_not_matter(&CpuBackend::<bf16>::new(3, isa).unwrap());
    }
}

/// The slope of the loss along a random direction in each tensor, by central differences.
#[test]
fn gradients_are_those_of_the_loss() {
    const STEP: f64 = 1e-5;
    for (name, config) in small_configs() {
        let mut bench = Bench::random(Reference::<f64>::new(), &config, 5);
        let data = random_batch(&config, BATCH * config.n_ctx, 6);
        let mut acts = bench.acts(BATCH, config.n_ctx, Recompute::Blocks);
        bench.forward_backward(&mut acts, batch(&data), 1.0);
        let grads = bench.host_grads();
        let specs: Vec<ParamSpec> = bench.layout.iter().cloned().collect();
        let weights = bench.host_weights();
        for (index, spec) in specs.iter().enumerate() {
            let mut direction = vec![0.0; spec.len()];
            rng::Stream::new(7, &spec.name).fill_normal(1.0, spec.len(), |i, noise| direction[i] = noise);
            let mut loss_at = |by: f64| {
                let moved: Vec<f64> = weights[index].iter().zip(&direction).map(|(w, d)| w + by * d).collect();
                if let Some(buffer) = bench.weights.iter_mut().nth(index) {
                    bench.backend.upload(&moved, buffer);
                }
                let net = Network { backend: &bench.backend, config: &config, weights: &bench.weights };
                forward_loss(net, &mut acts, batch(&data)).unwrap().sum
            };
            let mut difference = |step: f64| (loss_at(step) - loss_at(-step)) / (2.0 * step);
            // The error of order STEP^2 cancels.
            let slope = (4.0 * difference(STEP) - difference(2.0 * STEP)) / 3.0;
            loss_at(0.0);
            let expected: f64 = grads[index].iter().zip(&direction).map(|(g, d)| g * d).sum();
            // A slope may cancel by chance; its terms do not.
            let size = grads[index].iter().zip(&direction).map(|(g, d)| (g * d).powi(2)).sum::<f64>().sqrt();
            let error = (slope - expected).abs();
            assert!(error <= 1e-6 * size + 1e-8, "{name}: {}: slope {slope}, gradient says {expected}", spec.name);
        }
    }
}

/// Two micro-batches add up to their sum, scaled each by its own factor.
#[test]
fn micro_batches_accumulate() {
    for (name, config) in small_configs() {
        let mut bench = Bench::random(Reference::<f64>::new(), &config, 8);
        let data = random_batch(&config, 2 * config.n_ctx, 9);
        let (first, second) = (0..config.n_ctx, config.n_ctx..2 * config.n_ctx);
        let part = |r: std::ops::Range<usize>| TrainBatch { tokens: &data.0[r.clone()], targets: &data.1[r] };
        let mut both = bench.acts(2, config.n_ctx, Recompute::None);
        let mut one = bench.acts(1, config.n_ctx, Recompute::None);
        let whole = bench.forward_backward(&mut both, batch(&data), 0.5);
        let expected = bench.host_grads();
        bench.zero_grads();
        let a = bench.forward_backward(&mut one, part(first), 0.5);
        let b = bench.forward_backward(&mut one, part(second), 0.5);
        assert_eq!(a.targets + b.targets, whole.targets);
        assert_close(&format!("{name}: loss"), &[a.sum + b.sum], &[whole.sum], Bound::new(1e-13));
        for (spec, (found, expected)) in bench.layout.iter().zip(bench.host_grads().iter().zip(&expected)) {
            assert_close(&format!("{name}: gradient of {}", spec.name), found, expected, Bound::new(1e-11));
        }
    }
}

/// Rows see nothing after them and nothing of other rows; banded layers see no farther than their bands reach.
#[test]
fn attention_reaches_as_far_as_the_pattern_says() {
    for (name, config) in small_configs() {
        let backend = Reference::<f64>::new();
        let texts = vec![random_batch(&config, config.n_ctx, 11).0];
        let expected = complete(&backend, &config, &texts);
        for changed in 0..config.n_ctx {
            let mut other = texts.clone();
            other[0][changed] = (other[0][changed] + 1) % config.n_vocab as u32;
            let found = complete(&backend, &config, &other);
            for (at, (f, e)) in found[0].chunks(config.n_vocab).zip(expected[0].chunks(config.n_vocab)).enumerate() {
                // Layer 0 is dense, so that every later token is reached.
                assert_eq!(f == e, at < changed, "{name}: token {changed} changed, logits at {at}");
            }
        }
    }
}

#[test]
fn ids_and_sizes_that_do_not_fit_are_errors() {
    let (_, config) = small_configs().swap_remove(0);
    let bench = Bench::random(Reference::<f32>::new(), &config, 1);
    let mut acts = bench.acts(1, 4, Recompute::None);
    let mut run = |tokens: &[u32], targets: &[u32]| {
        forward_loss(bench.net(), &mut acts, TrainBatch { tokens, targets }).unwrap_err().to_string()
    };
    let n_vocab = config.n_vocab as u32;
    for (tokens, targets) in [(&[0; 3][..], &[0; 4][..]), (&[0; 4], &[0; 5]), (&[0, 0, n_vocab, 0], &[0; 4])] {
        let message = run(tokens, targets);
        assert!(message.contains('3') || message.contains('5') || message.contains("19"), "{message}");
    }
    let message = run(&[0; 4], &[0, n_vocab, 0, 0]);
    assert!(message.contains("19"), "{message}");
    let too_long = Activations::<Reference<f32>>::new(&bench.backend, &config, 1, config.n_ctx + 1, Recompute::None);
    assert!(too_long.err().map(|e| e.to_string()).is_some_and(|m| m.contains("12") && m.contains("13")));
}

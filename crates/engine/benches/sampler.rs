//! Choosing one token of 49,152: wide (normal logits, thousands of tokens matter) and peaked (as trained models mostly are).

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use verve_engine::{History, Sampler, SamplingParams, Vocabulary, draws};
use verve_testkit::Data;

const N_VOCAB: usize = 49_152;
const N_PROMPT: usize = 8192;

fn cases() -> Vec<(&'static str, SamplingParams)> {
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let warm = SamplingParams { temperature: 0.8, ..SamplingParams::default() };
    vec![
        ("greedy", greedy.clone()),
        ("greedy, 5 log-probabilities", SamplingParams { n_logprobs: Some(5), ..greedy.clone() }),
        ("greedy, repetition penalty", SamplingParams { repetition_penalty: 1.1, ..greedy.clone() }),
        ("greedy, DRY over 8192 tokens", SamplingParams { dry_multiplier: 0.8, ..greedy }),
        ("temperature 0.8", warm.clone()),
        ("temperature 0.8, top-p 0.95", SamplingParams { top_p: 0.95, ..warm.clone() }),
        ("temperature 0.8, top-k 40, top-p 0.95", SamplingParams { top_k: 40, top_p: 0.95, ..warm.clone() }),
        ("temperature 0.8, min-p 0.05", SamplingParams { min_p: 0.05, ..warm.clone() }),
        ("temperature 0.8, typical 0.95", SamplingParams { typical_p: 0.95, ..warm.clone() }),
        ("temperature 0.8, top-n-sigma 1", SamplingParams { top_n_sigma: 1.0, ..warm.clone() }),
        ("temperature 0.8, mirostat 5", SamplingParams { mirostat_tau: 5.0, ..warm }),
    ]
}

fn sampler(c: &mut Criterion) {
    let wide: Vec<f32> = Data::new(1).normal(N_VOCAB).into_iter().map(|x| 2.5 * x as f32).collect();
    let peaked: Vec<f32> = wide.iter().enumerate().map(|(id, x)| if id % 997 == 3 { x + 12.0 } else { *x }).collect();
    let vocabulary = Vocabulary::from_bytes((0..N_VOCAB).map(|id| format!("t{id}")));
    let mut sampler = Sampler::new(&vocabulary);
    // 1000 tokens over and over in other orders, and an end that stood before.
    let mut prompt: Vec<u32> = (0..N_PROMPT as u64).map(|i| (i * i * i % 1009) as u32).collect();
    prompt.extend_from_within(100..140);
    let mask: Vec<u32> = (0..N_VOCAB as u32 / 32).map(|word| [0, u32::MAX, 0xF0F0][word as usize % 3]).collect();
    for (kind, logits) in [("wide", &wide), ("peaked", &peaked)] {
        let mut group = c.benchmark_group(format!("sampler {kind}"));
        for (name, params) in cases() {
            params.validate(&vocabulary).unwrap();
            let (history, draws) = (History::new(&params, &prompt), draws(7));
            let mut index = 0;
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    index += 1;
                    sampler.sample(black_box(logits), &params, &history, &draws, index, None).unwrap().id
                });
            });
        }
        let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        let (history, draws) = (History::new(&greedy, &prompt), draws(7));
        group.bench_function("greedy, a third of the tokens allowed", |bencher| {
            bencher.iter(|| sampler.sample(black_box(logits), &greedy, &history, &draws, 0, Some(&mask)).unwrap().id);
        });
        group.finish();
    }
}

criterion_group!(benches, sampler);
criterion_main!(benches);

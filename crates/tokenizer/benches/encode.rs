//! Encoding throughput with GPT-2's vocabulary, beside tiktoken, and the time to train 8,192 tokens.
//!
//! The text is the shared test data where it is present, else this crate's own source, repeated to 4 MB. A path in
//! `VERVE_BENCH_TEXT` names another text.

use std::fmt::Write;
use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use verve_tokenizer::train::{TrainOptions, train};
use verve_tokenizer::{PreSplit, Tokenizer};

/// A text of some megabytes, in documents of about 10 kB.
fn documents() -> Vec<String> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("VERVE_BENCH_TEXT").map(PathBuf::from);
    let shared = manifest.join("../../../shared/data/speeches-en.txt");
    let text = named.into_iter().chain([shared]).find_map(|path| std::fs::read_to_string(path).ok());
    let text = text.unwrap_or_else(|| include_str!("../src/vocab.rs").repeat(400));
    let mut documents = vec![String::new()];
    for line in text.split_inclusive('\n') {
        if documents.last().is_some_and(|document| document.len() > 10_000) {
            documents.push(String::new());
        }
        if let Some(document) = documents.last_mut() {
            document.push_str(line);
        }
    }
    documents
}

/// GPT-2's vocabulary by way of the oracle's tokens, as a trained-looking `vocab.json` with `merges.txt` would give it.
fn gpt2(oracle: &tiktoken_rs::CoreBPE) -> Tokenizer {
    let mut ranks = String::new();
    for id in 0..50_256u32 {
        let bytes = oracle.decode_bytes(&[id]).unwrap_or_default();
        let _ = writeln!(ranks, "{} {id}", base64(&bytes));
    }
    Tokenizer::from_tiktoken(ranks.as_bytes(), None).expect("the oracle's vocabulary is well-formed")
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = (0..3).fold(0usize, |word, i| word << 8 | group.get(i).map_or(0, |byte| usize::from(*byte)));
        for i in 0..4 {
            text.push(if i <= group.len() { char::from(DIGITS[word >> (18 - 6 * i) & 63]) } else { '=' });
        }
    }
    text
}

fn bench(criterion: &mut Criterion) {
    let documents = documents();
    let bytes: usize = documents.iter().map(String::len).sum();
    let oracle = tiktoken_rs::r50k_base_singleton();
    let tokenizer = gpt2(oracle);

    let mut group = criterion.benchmark_group("r50k");
    group.sample_size(10).throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("split", |b| {
        b.iter(|| documents.iter().map(|text| PreSplit::Gpt2.pieces(text.as_bytes()).count()).sum::<usize>())
    });
    let mut ids = Vec::new();
    group.bench_function("encode", |b| {
        b.iter(|| {
            for text in &documents {
                ids.clear();
                tokenizer.encode_into(black_box(text), &mut ids);
                black_box(&ids);
            }
        })
    });
    group.bench_function("tiktoken", |b| {
        b.iter(|| documents.iter().map(|text| oracle.encode_ordinary(black_box(text)).len()).sum::<usize>())
    });
    let all = tokenizer.encode(&documents.concat());
    group.bench_function("decode", |b| b.iter(|| tokenizer.decode_bytes(black_box(&all))));
    group.finish();

    let mut group = criterion.benchmark_group("one piece of 1 MiB");
    group.sample_size(10).throughput(Throughput::Bytes(1 << 20));
    let mut state = 1u64;
    let letters: String = (0..1 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + ((state >> 33) % 26) as u8)
        })
        .collect();
    for (name, text) in [("one letter", "a".repeat(1 << 20)), ("random letters", letters)] {
        group.bench_function(name, |b| b.iter(|| tokenizer.encode(black_box(&text))));
    }
    group.finish();

    let mut group = criterion.benchmark_group("train 8192");
    group.sample_size(10).throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("all threads", |b| b.iter(|| train(TrainOptions::default(), &documents)));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);

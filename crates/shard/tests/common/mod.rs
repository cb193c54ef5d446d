//! Documents and folders that the tests share.
#![allow(dead_code)]

use std::path::Path;

use verve_shard::{Existing, ShardManifest, ShardOptions, ShardWriter, Split};

/// A cheap deterministic generator (SplitMix64), so that inputs are random but the same in every run.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

pub fn options(n_vocab: usize, shard_tokens: u64) -> ShardOptions {
    ShardOptions {
        n_vocab,
        end_of_text: n_vocab as u32 - 1,
        tokenizer_hash: "0123456789abcdef".repeat(4),
        source: "test".to_owned(),
        shard_tokens,
        existing: Existing::Refuse,
    }
}

/// A document: its split, its ids (without end-of-text) and its bytes of text.
pub type Document = (Split, Vec<u32>, u64);

pub fn random_documents(seed: u64, n: usize, n_vocab: usize) -> Vec<Document> {
    let mut numbers = Numbers(seed);
    (0..n)
        .map(|_| {
            let split = if numbers.below(4) == 0 { Split::HeldOut } else { Split::Train };
            let length = numbers.below(40);
            let ids = (0..length).map(|_| numbers.below(n_vocab as u64 - 1) as u32).collect();
            (split, ids, length * 3 + 1)
        })
        .collect()
}

pub fn write(folder: &Path, options: ShardOptions, documents: &[Document]) -> ShardManifest {
    let mut writer = ShardWriter::create(folder, options).unwrap();
    for (split, ids, bytes) in documents {
        writer.push(*split, ids, *bytes).unwrap();
    }
    writer.finish().unwrap()
}

/// What the sequence of a split must be: documents joined by end-of-text.
pub fn joined(documents: &[Document], split: Split, end_of_text: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for (_, ids, _) in documents.iter().filter(|(s, _, _)| *s == split) {
        all.extend_from_slice(ids);
        all.push(end_of_text);
    }
    all
}

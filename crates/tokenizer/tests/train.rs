//! Training against the definition, over thread counts, and at its limits.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use verve_tokenizer::train::{Phase, Progress, TrainOptions, TrainReport, Trainer, train};
use verve_tokenizer::{Error, PreSplit, Tokenizer};

fn options(n_vocab: usize) -> TrainOptions {
    TrainOptions { n_vocab, ..TrainOptions::default() }
}

/// Training as it is defined: count all pairs anew for every merge. Returns the bytes of the merged tokens.
fn naive_training(documents: &[String], n_merges: usize, min_count: u64) -> Vec<Vec<u8>> {
    let mut byte_order: Vec<u8> = (0..=255).collect();
    byte_order.sort_by_key(|byte| (u32::from(common::byte_char(*byte)), *byte));
    let ids: HashMap<u8, usize> = byte_order.iter().copied().zip(0..).collect();
    let mut tokens: Vec<Vec<u8>> = byte_order.iter().map(|byte| vec![*byte]).collect();
    let mut pieces: BTreeMap<Vec<usize>, u64> = BTreeMap::new();
    for document in documents {
        for piece in PreSplit::Gpt2.pieces(document.as_bytes()) {
            *pieces.entry(piece.iter().map(|byte| ids[byte]).collect()).or_default() += 1;
        }
    }
    for _ in 0..n_merges {
        let mut counts: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for (piece, count) in &pieces {
            for pair in piece.windows(2) {
                *counts.entry((pair[0], pair[1])).or_default() += count;
            }
        }
        let best = counts.iter().map(|(pair, count)| (*count, std::cmp::Reverse(*pair))).max();
        let Some((_, std::cmp::Reverse((left, right)))) = best.filter(|(count, _)| *count >= min_count) else { break };
        let merged = tokens.len();
        tokens.push([tokens[left].as_slice(), &tokens[right]].concat());
        let mut after = BTreeMap::new();
        for (piece, count) in pieces {
            let mut parts = Vec::new();
            let mut at = 0;
            while at < piece.len() {
                let is_pair = piece[at] == left && piece.get(at + 1) == Some(&right);
                parts.push(if is_pair { merged } else { piece[at] });
                at += 1 + usize::from(is_pair);
            }
            *after.entry(parts).or_default() += count;
        }
        pieces = after;
    }
    tokens.split_off(256)
}

fn merged_tokens(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    (256..256 + tokenizer.n_merges() as u32).map(|id| tokenizer.token_bytes(id).unwrap().to_vec()).collect()
}

/// English made up on the spot, the same every time.
fn sample_text(n_words: usize, mut state: u64) -> String {
    let syllables = ["the", "an", "ing", "ba", "lo", "ti", "re", "qu", "é", "日", "ss", "aaa", "n't", "7"];
    let mut text = String::new();
    for _ in 0..n_words {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        for shift in 0..1 + (state >> 60) % 3 {
            text += syllables[((state >> (20 + 9 * shift)) % 200).isqrt() as usize % syllables.len()];
        }
        text += if state >> 33 & 15 == 0 { ".\n" } else { " " };
    }
    text
}

#[test]
fn equals_the_definition_on_text() {
    let documents: Vec<String> = (0..5).map(|seed| sample_text(400, seed)).collect();
    let (tokenizer, report) = train(options(257 + 200), &documents).unwrap();
    assert_eq!(merged_tokens(&tokenizer), naive_training(&documents, 200, 2));
    assert_eq!((report.documents, report.n_vocab, report.dropped_pieces), (5, 457, 0));
    assert_eq!(report.bytes, documents.iter().map(|document| document.len() as u64).sum::<u64>());
    assert_eq!(tokenizer.end_of_text(), Some(456));
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let documents: Vec<String> = (0..50).map(|seed| sample_text(80_000, seed)).chain(common::samples()).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            // So little memory that pieces are dropped on the way.
            let options = TrainOptions { memory: 1 << 19, ..options(1000) };
            let (tokenizer, report) = train(options, &documents).unwrap();
            (tokenizer.hash().to_owned(), tokenizer.to_tokenizer_json(), report)
        })
    };
    let one = run(1);
    // More than one batch, and dropping between them.
    assert!(one.2.bytes > 17 << 20 && one.2.dropped_pieces > 1000, "{:?}", one.2);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn one_huge_document_is_counted_like_its_parts() {
    let text = sample_text(900_000, 3);
    assert!(text.len() > 2 << 20);
    let whole = train(options(600), [&text]).unwrap().0;
    // Cut in front of spaces that follow letters, where a piece ends anyway.
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while let Some(cut) = rest.as_bytes().windows(2).skip(5000).position(|w| w[0].is_ascii_alphabetic() && w[1] == b' ')
    {
        let (part, after) = rest.split_at(cut + 5001);
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    assert_eq!(train(options(600), &parts).unwrap().0.hash(), whole.hash());
}

#[test]
fn rare_pieces_are_dropped_within_the_memory_limit() {
    let common_text = "common words stay here ".repeat(50);
    let mut trainer = Trainer::new(TrainOptions { memory: 1 << 20, ..options(300) }).unwrap();
    let mut number = 0u64;
    for _ in 0..60 {
        let mut document = common_text.clone();
        while document.len() < 1 << 20 {
            number += 1;
            document += &format!(" {:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).replace(char::is_numeric, "x");
        }
        trainer.push(&document);
    }
    let (tokenizer, report) = trainer.finish().unwrap();
    assert!(report.dropped_pieces > 10_000 && report.dropped_occurrences >= report.dropped_pieces, "{report:?}");
    assert!(report.distinct_pieces * 64 <= 1 << 20, "{report:?}");
    assert_eq!(tokenizer.n_vocab(), 300);
    assert_eq!(tokenizer.decode(&tokenizer.encode(&common_text)).unwrap(), common_text);
}

#[test]
fn hostile_text_is_learnt_from_too() {
    let documents = ["a".repeat(3 << 20), " ".repeat(1 << 20), "\u{0}\u{10ffff}".repeat(1000), String::new()];
    let (tokenizer, report) = train(options(300), &documents).unwrap();
    assert_eq!(report.documents, 4);
    for document in &documents {
        let ids = tokenizer.encode(document);
        assert!(tokenizer.decode(&ids).unwrap() == *document);
        assert!(ids.len() <= document.len() / 4);
    }
}

#[test]
fn text_with_few_pairs_gives_a_smaller_vocabulary() {
    let (tokenizer, report) = train(options(5000), ["ab ab cd"]).unwrap();
    // "ab" twice; then " a" + "b" is " ab" once only, "cd" once only.
    assert_eq!(merged_tokens(&tokenizer), [b"ab"]);
    assert_eq!((report.n_vocab_asked, report.n_vocab, tokenizer.n_vocab()), (5000, 258, 258));
    let (empty, report) = train(options(5000), std::iter::empty::<&str>()).unwrap();
    assert_eq!((empty.n_vocab(), report.documents), (257, 0));
    assert_eq!(empty.decode(&empty.encode("any text é")).unwrap(), "any text é");
}

#[test]
fn merges_never_make_a_special_token() {
    let options = TrainOptions { special_tokens: vec!["<|x|>".into(), "abc".into()], ..options(280) };
    let (tokenizer, _) = train(options, ["abc abcd abc <|x|> <|x|> <|x|>".repeat(20)]).unwrap();
    let n_vocab = tokenizer.n_vocab() as u32;
    assert_eq!(tokenizer.special_id("<|x|>"), Some(n_vocab - 2));
    assert_eq!(tokenizer.special_id("abc"), Some(n_vocab - 1));
    assert!(!merged_tokens(&tokenizer).contains(&b"abc".to_vec()));
    assert!(tokenizer.encode("abc<|x|>abc").iter().all(|id| *id < n_vocab - 2));
}

#[test]
fn options_that_cannot_work_are_refused_by_name() {
    let message = |options: TrainOptions| match Trainer::new(options).unwrap_err() {
        error @ Error::InvalidOption { .. } => error.to_string(),
        other => panic!("{other}"),
    };
    assert!(message(options(255)).starts_with("vocabulary size: 255 ids asked for; at least 257"));
    assert!(message(options(256)).contains("1 special token"));
    assert!(message(options(usize::MAX)).starts_with("vocabulary size"));
    let specials = |names: &[&str]| TrainOptions {
        special_tokens: names.iter().map(|name| (*name).to_owned()).collect(),
        ..options(300)
    };
    assert!(message(specials(&["<a>", "<a>"])).contains("twice"));
    assert!(message(specials(&[""])).contains("empty"));
    assert!(message(specials(&["x"])).contains("single byte"));
    assert_eq!(train(TrainOptions { n_vocab: 256, ..specials(&[]) }, ["text"]).unwrap().0.n_vocab(), 256);
}

#[test]
fn progress_rises_to_the_end() {
    let mut seen: Vec<Progress> = Vec::new();
    let text = sample_text(2000, 1).repeat(1000);
    let report: TrainReport = {
        let mut trainer = Trainer::new(options(500)).unwrap().with_progress(|progress| seen.push(progress));
        trainer.push(&text);
        trainer.finish().unwrap().1
    };
    let phase = |wanted: Phase| seen.iter().filter(|progress| progress.phase == wanted).collect::<Vec<_>>();
    let (counting, merging) = (phase(Phase::Counting), phase(Phase::Merging));
    assert!(counting.is_sorted_by_key(|progress| progress.done) && merging.is_sorted_by_key(|progress| progress.done));
    assert_eq!(counting.last().map(|progress| progress.done), Some(report.bytes));
    assert_eq!(merging.last().map(|progress| (progress.done, progress.total)), Some((243, Some(243))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn equals_the_definition(documents in proptest::collection::vec(prop_oneof![common::any_text(), "[ab ]{0,60}"], 0..12)) {
        let (tokenizer, _) = train(options(257 + 60), &documents).unwrap();
        prop_assert_eq!(merged_tokens(&tokenizer), naive_training(&documents, 60, 2));
        for document in &documents {
            prop_assert_eq!(&tokenizer.decode(&tokenizer.encode(document)).unwrap(), document);
        }
    }
}

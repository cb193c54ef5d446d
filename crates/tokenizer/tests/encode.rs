//! Encoding against tiktoken and against the definition; decoding; special tokens.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use common::NaiveBpe;
use proptest::prelude::*;
use verve_tokenizer::{SpecialTokens, StreamDecoder, Tokenizer, Utf8Stream};

fn oracle() -> &'static tiktoken_rs::CoreBPE {
    tiktoken_rs::r50k_base_singleton()
}

/// GPT-2's vocabulary, made from the oracle's tokens.
fn gpt2() -> &'static Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let tokens = common::published_tokens(oracle(), common::R50K_TOKENS);
        Arc::new(Tokenizer::from_tiktoken(common::rank_file(&tokens).as_bytes(), None).unwrap())
    })
}

#[test]
fn gpt2_has_its_known_figures() {
    let summary = gpt2().summary();
    assert_eq!((summary.n_vocab, summary.n_merges, summary.n_unused, summary.n_unreachable), (50_257, 50_000, 0, 0));
    assert_eq!(gpt2().end_of_text(), Some(50_256));
    assert_eq!(gpt2().token_bytes(50_256), Some(b"<|endoftext|>".as_slice()));
    assert_eq!(gpt2().token_bytes(50_257), None);
    assert_eq!(gpt2().encode("Hello world"), [15496, 995]);
}

#[test]
fn equals_tiktoken_on_shared_texts() {
    for text in common::shared_texts() {
        assert!(gpt2().encode(&text) == oracle().encode_ordinary(&text));
    }
}

#[test]
fn equals_tiktoken_on_many_scripts_and_on_this_repository() {
    for text in common::samples().iter().chain(&common::repository_texts()) {
        let ids = gpt2().encode(text);
        assert!(ids == oracle().encode_ordinary(text), "{:?}", text.chars().take(80).collect::<String>());
        assert!(gpt2().decode(&ids).unwrap() == *text);
    }
}

#[test]
fn equals_tiktoken_on_hostile_texts() {
    for text in common::hostile_texts() {
        assert!(
            gpt2().encode(&text) == oracle().encode_ordinary(&text),
            "{:?}",
            text.chars().take(80).collect::<String>()
        );
    }
}

#[test]
fn equals_tiktoken_on_every_code_point() {
    let text: String = ('\0'..=char::MAX).collect();
    assert!(gpt2().encode(&text) == oracle().encode_ordinary(&text));
}

#[test]
fn p50k_has_its_whole_piece_tokens_and_its_gap() {
    let oracle = tiktoken_rs::p50k_base_singleton();
    // The special token is not in the rank file; its place is free.
    let mut tokens = common::published_tokens(oracle, 50_281);
    tokens[50_256] = None;
    let p50k = Tokenizer::from_tiktoken(common::rank_file(&tokens).as_bytes(), None).unwrap();
    assert_eq!(p50k.end_of_text(), Some(50_256));
    assert_eq!(p50k.n_vocab(), 50_281);
    for text in common::hostile_texts().iter().chain(&common::shared_texts()) {
        assert!(p50k.encode(text) == oracle.encode_ordinary(text));
    }
    for n in 1..40 {
        let text = format!("if x:\n{}y", " ".repeat(n));
        assert_eq!(p50k.encode(&text), oracle.encode_ordinary(&text));
    }
}

#[test]
fn a_megabyte_of_one_letter() {
    let text = "a".repeat(1 << 20);
    let ids = gpt2().encode(&text);
    assert_eq!(gpt2().decode(&ids).unwrap(), text);
    // The run is cut into the longest token of that letter that merging makes, from the left.
    let shorter = gpt2().encode(&text[..1 << 12]);
    assert_eq!(ids.len(), shorter.len() << 8);
    assert!(ids.chunks(shorter.len()).all(|chunk| chunk == shorter));
    assert_eq!(shorter, oracle().encode_ordinary(&text[..1 << 12]));
}

#[test]
fn megabytes_of_other_repetitions() {
    // Pieces of a megabyte; whitespace is one piece but for its last character. Nothing that is cubic or quadratic ends.
    for unit in ["aaab", "ab", "é", " ", "\n", "\t ", "=", "'s", "\u{301}", "日", "0"] {
        let text = unit.repeat((1 << 20) / unit.len());
        let ids = gpt2().encode(&text);
        assert!(gpt2().decode(&ids).unwrap() == text, "{unit:?}");
        let shorter = unit.repeat(1 << 10);
        assert_eq!(gpt2().encode(&shorter), oracle().encode_ordinary(&shorter), "{unit:?}");
    }
}

#[test]
fn special_tokens_come_only_when_asked_for() {
    let text = "one<|endoftext|>two <|endoftext|>";
    let plain = gpt2().encode(text);
    assert!(!plain.contains(&50_256));
    assert_eq!(plain, oracle().encode_ordinary(text));
    let parsed = gpt2().encode_with(text, SpecialTokens::Parse);
    assert_eq!(parsed, oracle().encode_with_special_tokens(text));
    assert_eq!(parsed.iter().filter(|id| **id == 50_256).count(), 2);
    assert_eq!(gpt2().decode(&parsed).unwrap(), text);
    assert!(gpt2().is_special(50_256) && !gpt2().is_special(0));
}

#[test]
fn unknown_ids_are_errors() {
    assert_eq!(
        gpt2().decode(&[1, 50_257]).unwrap_err().to_string(),
        "token id 50257 is outside the vocabulary of 50257 ids"
    );
    let mut stream = StreamDecoder::new(Arc::clone(gpt2()));
    assert!(stream.push(u32::MAX).is_err());
    assert_eq!(stream.push(15496).unwrap(), "Hello");
}

#[test]
fn encoding_into_appends_and_threads_share() {
    let texts = common::hostile_texts();
    let expected: Vec<Vec<u32>> = texts.iter().map(|text| gpt2().encode(text)).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut all = vec![7];
                texts.iter().for_each(|text| gpt2().encode_into(text, &mut all));
                assert!(all[1..] == expected.concat() && all[0] == 7);
            });
        }
    });
}

/// Merge tables over three letters: any pairs in any order, several ways to make a token, ids in any order.
#[derive(Debug)]
struct Table {
    merges: Vec<(Vec<u8>, Vec<u8>)>,
    ids: HashMap<Vec<u8>, u32>,
}

fn any_table(in_order: bool) -> impl Strategy<Value = Table> {
    let picks = proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..40);
    (picks, any::<u64>()).prop_map(move |(picks, seed)| {
        let mut tokens: Vec<Vec<u8>> = vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()];
        let mut merges = Vec::new();
        for (left, right) in picks {
            let (left, right) = (left.get(&tokens).clone(), right.get(&tokens).clone());
            let joined = [left.as_slice(), &right].concat();
            if joined.len() > 24 || merges.contains(&(left.clone(), right.clone())) {
                continue;
            }
            merges.push((left, right));
            if !tokens.contains(&joined) {
                tokens.push(joined);
            }
        }
        let mut state = seed | 1;
        let mut random = move |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        if !in_order {
            (1..merges.len()).for_each(|i| merges.swap(i, random(i + 1)));
        }
        let mut names: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        names.extend(tokens.into_iter().filter(|token| token.len() > 1));
        (1..names.len()).for_each(|i| names.swap(i, random(i + 1)));
        Table { merges, ids: names.into_iter().zip(0..).collect() }
    })
}

impl Table {
    fn tokenizer(&self) -> Tokenizer {
        let vocab: HashMap<String, u32> = self.ids.iter().map(|(bytes, id)| (common::spell(bytes), *id)).collect();
        let lines: Vec<String> =
            self.merges.iter().map(|(l, r)| format!("{} {}\n", common::spell(l), common::spell(r))).collect();
        let vocab = serde_json::to_vec(&vocab).unwrap();
        Tokenizer::from_vocab_and_merges(&vocab, format!("#version: 0.2\n{}", lines.concat()).as_bytes()).unwrap()
    }

    fn naive(&self) -> NaiveBpe {
        NaiveBpe { ranks: self.merges.iter().cloned().zip(0..).collect(), ids: self.ids.clone() }
    }
}

fn letters() -> impl Strategy<Value = String> {
    let run = ("[abc]{1,3}", 1usize..60).prop_map(|(unit, n)| unit.repeat(n));
    prop_oneof!["[abc]{1,64}", "[abc]{65,300}", "[ab]{1,300}", run]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn equals_the_definition_for_tables_in_order(table in any_table(true), texts in proptest::collection::vec(letters(), 8)) {
        let (tokenizer, naive) = (table.tokenizer(), table.naive());
        for text in texts {
            prop_assert_eq!(tokenizer.encode(&text), naive.encode_piece(text.as_bytes()), "{}", text);
        }
    }

    #[test]
    fn equals_the_definition_for_tables_in_any_order(table in any_table(false), texts in proptest::collection::vec(letters(), 8)) {
        let (tokenizer, naive) = (table.tokenizer(), table.naive());
        for text in texts {
            prop_assert_eq!(tokenizer.encode(&text), naive.encode_piece(text.as_bytes()), "{}", text);
        }
    }

    #[test]
    fn saved_tables_keep_ids_and_hash(table in any_table(false), text in letters()) {
        let tokenizer = table.tokenizer();
        let again = Tokenizer::from_tokenizer_json(tokenizer.to_tokenizer_json().as_bytes()).unwrap();
        prop_assert_eq!(again.hash(), tokenizer.hash());
        prop_assert_eq!(again.encode(&text), tokenizer.encode(&text));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn equals_tiktoken(text in common::any_text()) {
        let ids = gpt2().encode(&text);
        prop_assert_eq!(&ids, &oracle().encode_ordinary(&text));
        prop_assert_eq!(gpt2().decode(&ids).unwrap(), text);
    }

    #[test]
    fn any_bytes_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut ids = Vec::new();
        gpt2().encode_bytes_into(&bytes, &mut ids);
        prop_assert_eq!(gpt2().decode_bytes(&ids).unwrap(), bytes);
    }

    #[test]
    fn streams_equal_the_whole(ids in proptest::collection::vec(prop_oneof![0u32..256, 0u32..50_257], 0..60)) {
        let mut stream = StreamDecoder::new(Arc::clone(gpt2()));
        let mut text = String::new();
        for id in &ids {
            text += stream.push(*id).unwrap();
        }
        text += stream.finish();
        prop_assert_eq!(text, gpt2().decode(&ids).unwrap());
    }

    #[test]
    fn byte_streams_equal_lossy_decoding(
        parts in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..4),
                any::<char>().prop_map(|c| c.to_string().into_bytes()),
                (any::<char>(), 0usize..4).prop_map(|(c, n)| c.to_string().bytes().take(n).collect()),
                proptest::sample::select(vec![0xf0u8, 0x9f, 0x98, 0xe2, 0x82, 0xac, 0xed, 0xa0, 0xc3]).prop_map(|b| vec![b]),
            ],
            0..30,
        )
    ) {
        let mut stream = Utf8Stream::new();
        let mut text = String::new();
        for part in &parts {
            text += stream.push(part);
        }
        text += stream.finish();
        prop_assert_eq!(text, String::from_utf8_lossy(&parts.concat()).into_owned());
        prop_assert_eq!(stream.finish(), "");
    }
}

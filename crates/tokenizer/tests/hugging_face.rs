//! Agreement with Hugging Face's library: a file that it wrote is read here with the same ids, and files for
//! `tools/golden/tokenizer_check.py`, which reads ours there.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use verve_tokenizer::train::{TrainOptions, train};
use verve_tokenizer::{SpecialTokens, Tokenizer};

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer").join(name)).unwrap()
}

#[test]
fn a_file_that_hugging_face_wrote_gives_the_same_ids() {
    let samples = common::samples();
    let report: Value = serde_json::from_slice(&golden("ids.json")).unwrap();
    let expected: Vec<Vec<u32>> = serde_json::from_value(report["ids"].clone()).unwrap();
    let theirs = Tokenizer::from_tokenizer_json(&golden("tokenizer.json")).unwrap();
    assert_eq!((theirs.n_vocab(), theirs.end_of_text(), theirs.special_id("<|user|>")), (500, Some(0), Some(1)));
    let ours = Tokenizer::from_tokenizer_json(theirs.to_tokenizer_json().as_bytes()).unwrap();
    assert_eq!(ours.hash(), theirs.hash());
    assert_eq!(samples.len(), expected.len());
    for (text, expected) in samples.iter().zip(&expected) {
        assert_eq!(theirs.encode(text), *expected, "{text:?}");
        assert_eq!(ours.encode(text), *expected, "{text:?}");
        assert_eq!(theirs.decode(expected).unwrap(), *text);
    }
}

/// Writes tokenizers with texts and our ids into the folder that `VERVE_EXPORT` names.
#[test]
#[ignore = "writes files for a check by hand; see tools/golden/README.md"]
fn write_tokenizers_for_hugging_face() {
    let root = PathBuf::from(std::env::var_os("VERVE_EXPORT").unwrap());
    let texts: Vec<String> =
        [common::samples(), common::repository_texts(), common::shared_texts(), common::hostile_texts()].concat();
    let oracle = tiktoken_rs::r50k_base_singleton();
    let ranks = common::rank_file(&common::published_tokens(oracle, common::R50K_TOKENS));
    let trained = |n_vocab| train(TrainOptions { n_vocab, ..TrainOptions::default() }, &texts).unwrap().0;
    for (name, tokenizer) in [
        ("gpt2", Tokenizer::from_tiktoken(ranks.as_bytes(), None).unwrap()),
        ("trained_300", trained(300)),
        ("trained_8192", trained(8192)),
        ("read_and_written", Tokenizer::from_tokenizer_json(&golden("tokenizer.json")).unwrap()),
    ] {
        let folder = root.join(name);
        fs::create_dir_all(&folder).unwrap();
        tokenizer.save(&folder).unwrap();
        // The library has no other way than to look for special tokens in text.
        let ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode_with(text, SpecialTokens::Parse)).collect();
        fs::write(folder.join("texts.json"), serde_json::to_vec(&texts).unwrap()).unwrap();
        fs::write(folder.join("ids.json"), serde_json::to_vec(&ids).unwrap()).unwrap();
    }
}

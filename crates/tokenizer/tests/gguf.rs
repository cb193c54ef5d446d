//! Vocabularies of GGUF files: the same tokenizer back, refusals by name.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use verve_tokenizer::train::{TrainOptions, train};
use verve_tokenizer::{Error, GgufVocab, PreSplit, SpecialTokens, Tokenizer};

fn trained(pre_split: PreSplit) -> Tokenizer {
    let options = TrainOptions { n_vocab: 400, pre_split, ..TrainOptions::default() };
    train(options, common::samples()).unwrap().0
}

fn vocab() -> GgufVocab {
    trained(PreSplit::Gpt2).to_gguf().unwrap()
}

#[test]
fn trained_vocabularies_come_back_the_same() {
    for (split, name) in [(PreSplit::Gpt2, "gpt-2"), (PreSplit::SmolLm, "smollm"), (PreSplit::Llama3, "llama-bpe")] {
        let tokenizer = trained(split);
        let gguf = tokenizer.to_gguf().unwrap();
        assert_eq!((gguf.model.as_str(), gguf.pre.as_deref()), ("gpt2", Some(name)));
        assert_eq!((gguf.eos, gguf.add_bos), (tokenizer.end_of_text(), Some(false)));
        let back = Tokenizer::from_gguf(gguf.clone()).unwrap();
        assert_eq!(back.hash(), tokenizer.hash());
        assert_eq!(back.to_gguf().unwrap(), gguf);
        assert_eq!(back.eos(), tokenizer.end_of_text());
        for text in common::samples() {
            assert_eq!(back.encode(&text), tokenizer.encode(&text));
        }
    }
}

#[test]
fn composing_splitters_compose() {
    let tokenizer = Tokenizer::from_gguf(GgufVocab { pre: Some("qwen2".into()), ..vocab() }).unwrap();
    assert_eq!(tokenizer.encode("e\u{301} 12"), tokenizer.encode("\u{e9} 12"));
    assert_eq!(tokenizer.to_gguf().unwrap().pre.as_deref(), Some("qwen2"));
    // Bytes that are no text still encode.
    let mut ids = Vec::new();
    tokenizer.encode_bytes_into(b"e\xcc\x81\xff", &mut ids);
    assert_eq!(tokenizer.decode_bytes(&ids).unwrap(), b"\xc3\xa9\xff");
}

#[test]
fn bos_and_eos_go_around_a_text_when_asked_for() {
    let end = vocab().eos.unwrap();
    let gguf = GgufVocab { bos: Some(end), add_bos: Some(true), add_eos: Some(true), ..vocab() };
    let tokenizer = Tokenizer::from_gguf(gguf).unwrap();
    assert!(tokenizer.adds_bos() && tokenizer.adds_eos());
    let inner = tokenizer.encode("cats");
    let whole = [&[end], &inner[..], &[end]].concat();
    assert_eq!(tokenizer.encode_with_specials("cats", SpecialTokens::Ordinary), whole);
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    let cases: [(GgufVocab, &str); 8] = [
        (GgufVocab { model: "rwkv".into(), ..vocab() }, "tokenizer.ggml.model \"rwkv\""),
        (GgufVocab { pre: Some("deepseek-llm".into()), ..vocab() }, "tokenizer.ggml.pre \"deepseek-llm\""),
        (GgufVocab { pre: None, ..vocab() }, "tokenizer.ggml.pre missing"),
        (GgufVocab { token_types: Some(vec![1; 3]), ..vocab() }, "token_type: 3 entries for 400 tokens"),
        (GgufVocab { token_types: Some(vec![9; 400]), ..vocab() }, "type 9"),
        (GgufVocab { eos: Some(400), ..vocab() }, "eos token: id 400 of 400"),
        (GgufVocab { merges: Some(vec!["ab".into()]), ..vocab() }, "merge 1: \"ab\": not two tokens"),
        (GgufVocab { tokens: vec!["a b".into(); 400], ..vocab() }, "stands for no byte"),
    ];
    for (gguf, words) in cases {
        let error = Tokenizer::from_gguf(gguf).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. } | Error::Malformed { .. }));
        assert!(error.to_string().contains(words), "{error} should contain {words}");
    }
}

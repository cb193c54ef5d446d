//! Files of the open families, as Hugging Face's library writes them: the same ids, the same text back.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use verve_tokenizer::{ModelKind, SpecialTokens, StreamDecoder, Tokenizer};

const FAMILIES: [&str; 8] = ["llama3", "qwen2", "smollm2", "pythia", "opt", "llama2", "mistral", "gemma"];

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer/families");
    std::fs::read(folder.join(name)).unwrap()
}

fn tokenizer(family: &str) -> Tokenizer {
    Tokenizer::from_tokenizer_json(&golden(&format!("{family}.json"))).unwrap()
}

fn texts() -> Vec<String> {
    serde_json::from_slice(&golden("texts.json")).unwrap()
}

fn ids(family: &str) -> (Vec<Vec<u32>>, Vec<Vec<u32>>, Vec<String>) {
    let report: Value = serde_json::from_slice(&golden(&format!("{family}.ids.json"))).unwrap();
    let list = |key: &str| serde_json::from_value(report[key].clone()).unwrap();
    (list("plain"), list("whole"), serde_json::from_value(report["decoded"].clone()).unwrap())
}

#[test]
fn files_of_the_families_give_the_ids_of_their_library() {
    let mut wrong = Vec::new();
    for family in FAMILIES {
        let theirs = tokenizer(family);
        let ours = Tokenizer::from_tokenizer_json(theirs.to_tokenizer_json().as_bytes()).unwrap();
        assert_eq!(ours.to_tokenizer_json(), theirs.to_tokenizer_json(), "{family}");
        assert_eq!(ours.hash(), theirs.hash(), "{family}");
        let (plain, whole, decoded) = ids(family);
        for (index, text) in texts().iter().enumerate() {
            for tokenizer in [&theirs, &ours] {
                let found = tokenizer.encode_with(text, SpecialTokens::Parse);
                if found != plain[index] {
                    wrong.push(format!("{family} {text:?}: {found:?} for {:?}", plain[index]));
                }
                if tokenizer.encode_with_specials(text, SpecialTokens::Parse) != whole[index] {
                    wrong.push(format!("{family} {text:?}: not {:?} with specials", whole[index]));
                }
            }
            // Two differences: runs of byte tokens that are no text have one U+FFFD for each ill-formed part here and
            // one for each byte there; and there the characters of an added token are read as bytes where they can be.
            // Nor is the prefix given back here that the library puts in front of an added token's own text.
            let is_prefixed = family == "llama2" && text.contains("<word>");
            let back = theirs.decode(&plain[index]).unwrap();
            if back != decoded[index] && !is_prefixed && !decoded[index].contains('\u{fffd}') {
                wrong.push(format!("{family} {text:?}: decoded {back:?} for {:?}", decoded[index]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
}

#[test]
fn a_stream_is_the_whole() {
    for family in FAMILIES {
        let tokenizer = Arc::new(tokenizer(family));
        let mut stream = StreamDecoder::new(tokenizer.clone());
        for ids in ids(family).0 {
            let mut text = String::new();
            for id in &ids {
                text += stream.push(*id).unwrap();
            }
            text += stream.finish();
            assert_eq!(text, tokenizer.decode(&ids).unwrap(), "{family}");
        }
    }
}

#[test]
fn kinds_and_the_tokens_around_a_text_are_read() {
    assert_eq!(tokenizer("llama3").kind(), ModelKind::ByteLevelBpe);
    for family in ["llama2", "mistral", "gemma"] {
        let tokenizer = tokenizer(family);
        assert_eq!(tokenizer.kind(), ModelKind::SentencePieceBpe);
        assert!(tokenizer.adds_bos() && !tokenizer.adds_eos());
        assert_eq!(tokenizer.bos(), Some(1));
    }
    assert!(!tokenizer("pythia").adds_bos());
}

#[test]
fn pieces_go_through_gguf() {
    for family in ["llama2", "gemma"] {
        let tokenizer = tokenizer(family);
        let gguf = tokenizer.to_gguf().unwrap();
        assert_eq!((gguf.model.as_str(), gguf.add_space_prefix), ("llama", Some(family == "llama2")));
        let back = Tokenizer::from_gguf(gguf).unwrap();
        for text in ["the quick brown fox", " don't\n x", "日本 é", "no_spaces"] {
            assert_eq!(back.encode(text), tokenizer.encode(text), "{family} {text:?}");
            assert_eq!(back.decode(&back.encode(text)).unwrap(), text, "{family}");
        }
    }
}

#[test]
fn a_megabyte_without_spaces_and_bytes_that_are_no_text_are_encoded() {
    let tokenizer = tokenizer("llama2");
    let long = "the".repeat(350_000);
    assert_eq!(tokenizer.decode(&tokenizer.encode(&long)).unwrap(), long);
    let mut ids = Vec::new();
    tokenizer.encode_bytes_into(b"a\xff\xc3 b", &mut ids);
    assert_eq!(tokenizer.decode_bytes(&ids).unwrap(), b"a\xff\xc3 b");
}

/// Writes the tokenizers for `tools/golden/tokenizer_families.py check` into the folder that `VERVE_EXPORT` names.
#[test]
#[ignore = "writes files for a check by hand; see tools/golden/README.md"]
fn write_families_for_hugging_face() {
    let root = PathBuf::from(std::env::var_os("VERVE_EXPORT").unwrap());
    for family in FAMILIES {
        tokenizer(family).save(root.join(format!("{family}.json"))).unwrap();
    }
}

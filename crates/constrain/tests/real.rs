//! Real vocabularies: byte-level BPE of 49,152 ids, and SentencePiece of 262,144. `VERVE_TEST_MODELS` names the folder
//! with the files.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "common/gguf.rs"]
mod gguf;

use std::path::PathBuf;
use std::sync::Arc;

use common::{Random, allowed};
use verve_constrain::{Accepted, Constraint, Constraints};
use verve_tokenizer::Tokenizer;

fn tokenizer(name: &str) -> Option<Arc<Tokenizer>> {
    let path = std::env::var_os("VERVE_TEST_MODELS").map(|folder| PathBuf::from(folder).join(name));
    let Some(path) = path.filter(|path| path.is_file()) else {
        eprintln!("skipped: VERVE_TEST_MODELS names no folder with {name}");
        return None;
    };
    Some(Arc::new(gguf::tokenizer(&path).unwrap()))
}

const SCHEMA: &str = r##"{"type":"object","properties":{"name":{"type":"string"},"born":{"type":"string","format":"date"},
    "kind":{"enum":["person","place","a thing of another kind"]},
    "tags":{"type":"array","items":{"type":"string","maxLength":12},"minItems":2},
    "more":{"anyOf":[{"type":"null"},{"$ref":"#"}]}},"required":["name","born","kind","tags"],"additionalProperties":false}"##;

fn texts_within_limits(name: &str) {
    let Some(tokenizer) = tokenizer(name) else { return };
    let end = tokenizer.eos().unwrap();
    let constraints = Constraints::new(&tokenizer, &[end]).unwrap();
    let mut special = vec![0u32; constraints.mask_words()];
    for token in tokenizer.added_tokens().iter().filter(|token| token.special && token.id != end) {
        special[token.id as usize / 32] |= 1 << (token.id % 32);
    }
    let cases = [
        (Constraint::JsonObject, 2),
        (Constraint::json_schema(SCHEMA).unwrap(), 40),
        (Constraint::Regex(r"([A-Z][a-z]+ ){2,}lives in \p{L}+\.".to_owned()), 12),
    ];
    for (constraint, least) in cases {
        let start = constraints.start(&constraint).unwrap();
        for seed in 0..12u64 {
            let mut matcher = start.clone();
            matcher.set_limit(least + 9 * seed as usize).unwrap();
            let mut random = Random(seed);
            let mut mask = vec![0; constraints.mask_words()];
            let mut text = Vec::new();
            while !matcher.is_finished() && matcher.left() != Some(0) {
                matcher.mask(&mut mask).unwrap();
                let ids = allowed(&mask);
                assert!(
                    mask.iter().zip(&special).all(|(mask, special)| mask & special == 0),
                    "special tokens are no text"
                );
                let id = ids[random.below(ids.len())];
                if matcher.accept(id).unwrap() == Accepted::Taken && id != end {
                    text.extend_from_slice(tokenizer.token_bytes(id).unwrap());
                }
            }
            assert!(matcher.may_end().unwrap());
            let text = String::from_utf8(text).unwrap();
            match constraint {
                Constraint::Regex(_) => assert!(text.contains(" lives in ") && text.ends_with('.'), "{text}"),
                _ => assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object(), "{text}"),
            }
        }
    }
}

#[test]
fn smollm2() {
    texts_within_limits("SmolLM2-135M-Instruct.Q4_1.gguf");
}

#[test]
fn gemma3() {
    texts_within_limits("gemma-3-270m-q4_k_m.gguf");
}

#[test]
fn forced_text_is_forced_as_the_tokenizer_writes_it() {
    let Some(tokenizer) = tokenizer("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let constraints = Constraints::new(&tokenizer, &[tokenizer.eos().unwrap()]).unwrap();
    let text = "the quick brown fox jumps over the lazy dog";
    let mut matcher = constraints.start(&Constraint::Regex(format!("{text}( and on)?"))).unwrap();
    let mut ids = Vec::new();
    loop {
        let forced = matcher.forced();
        if forced.is_empty() {
            break;
        }
        for id in forced {
            let _ = matcher.accept(id).unwrap();
            ids.push(id);
        }
    }
    assert!(tokenizer.encode(text).starts_with(&ids) && ids.len() >= 8, "{ids:?}");
}

//! Vocabularies of published GGUF files against SentencePiece and Hugging Face's library.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Instant;

use serde_json::Value;
use verve_tokenizer::{GgufVocab, SpecialTokens, Tokenizer};

fn vocab(value: &Value) -> GgufVocab {
    let list = |key: &str| value[key].as_array().cloned();
    let id = |key: &str| value[key].as_u64().map(|id| id as u32);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    GgufVocab {
        model: text(&value["model"]),
        pre: value["pre"].as_str().map(str::to_owned),
        tokens: list("tokens").unwrap().iter().map(text).collect(),
        scores: list("scores").map(|scores| scores.iter().map(|score| score.as_f64().unwrap() as f32).collect()),
        token_types: list("token_types").map(|types| types.iter().map(|t| t.as_i64().unwrap() as i32).collect()),
        merges: list("merges").map(|merges| merges.iter().map(text).collect()),
        bos: id("bos"),
        eos: id("eos"),
        unk: id("unk"),
        pad: id("pad"),
        add_bos: value["add_bos"].as_bool(),
        add_eos: value["add_eos"].as_bool(),
        add_space_prefix: value["add_space_prefix"].as_bool(),
    }
}

/// Reads `smollm2.json` and `gemma.json` of the folder that `VERVE_TOKENIZERS` names: the GGUF vocabulary with the keys
/// of [`GgufVocab`], texts, the ids that the reference gives them, and what it decodes them to.
#[test]
#[ignore = "needs published model files; see tools/golden/README.md"]
fn published_vocabularies_give_the_ids_of_their_makers_code() {
    let folder = std::path::PathBuf::from(std::env::var_os("VERVE_TOKENIZERS").unwrap());
    // SentencePiece never looks for control tokens in text; Hugging Face's library always does.
    for (name, specials) in [("smollm2", SpecialTokens::Parse), ("gemma", SpecialTokens::Ordinary)] {
        let file = std::fs::read(folder.join(name).with_extension("json")).unwrap();
        let file: Value = serde_json::from_slice(&file).unwrap();
        let begun = Instant::now();
        let tokenizer = Tokenizer::from_gguf(vocab(&file["vocab"])).unwrap();
        println!("{name}: built in {:?}", begun.elapsed());
        let texts: Vec<String> = serde_json::from_value(file["texts"].clone()).unwrap();
        let ids: Vec<Vec<u32>> = serde_json::from_value(file["ids"].clone()).unwrap();
        let decoded: Vec<String> = serde_json::from_value(file["decoded"].clone()).unwrap();
        let mut wrong = 0;
        for ((text, ids), decoded) in texts.iter().zip(&ids).zip(&decoded) {
            let ours = tokenizer.encode_with(text, specials);
            let back = tokenizer.decode(ids).unwrap();
            if ours != *ids || back != *decoded {
                let at = ours.iter().zip(ids).take_while(|(a, b)| a == b).count();
                let show = |ids: &[u32]| tokenizer.decode(&ids[at.min(ids.len())..ids.len().min(at + 6)]).unwrap();
                println!(
                    "{name}: {:?} differs at {at}: {:?} for {:?}",
                    text.chars().take(60).collect::<String>(),
                    show(&ours),
                    show(ids)
                );
                wrong += 1;
            }
        }
        let all = texts.concat();
        let begun = Instant::now();
        let n = tokenizer.encode(&all).len();
        println!(
            "{name}: {} bytes to {n} tokens, {:.1} MB/s",
            all.len(),
            all.len() as f64 / 1e6 / begun.elapsed().as_secs_f64()
        );
        assert_eq!(wrong, 0, "{name}: of {}", texts.len());
        let again = Tokenizer::from_gguf(tokenizer.to_gguf().unwrap()).unwrap();
        assert_eq!(again.hash(), tokenizer.hash());
    }
}

//! Vocabularies of published GGUF files: the ids of SentencePiece and of Hugging Face's library.
//!
//! The folder that `VERVE_TEST_MODELS` names has the files; `tools/golden/tokenizer_real.py` wrote what they are compared
//! with, and writes thousands of texts more into a folder that `VERVE_TOKENIZER_IDS` may name.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use verve_gguf::GgufFile;
use verve_tokenizer::{GgufVocab, SpecialTokens, Tokenizer};

/// The tokenizer of a GGUF file.
fn tokenizer(path: &Path) -> Tokenizer {
    let file = GgufFile::open(path).unwrap();
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| file.count(&key(&format!("{name}_token_id"))).unwrap().map(|id| u32::try_from(id).unwrap());
    let texts = |name: &str| file.texts(&key(name)).unwrap().map(<[String]>::to_vec);
    let vocab = GgufVocab {
        model: file.text(&key("model")).unwrap().unwrap().to_owned(),
        pre: file.text(&key("pre")).unwrap().map(str::to_owned),
        tokens: texts("tokens").unwrap(),
        scores: file.floats(&key("scores")).unwrap().map(<[f32]>::to_vec),
        token_types: file.integers(&key("token_type")).unwrap(),
        merges: texts("merges"),
        bos: id("bos"),
        eos: id("eos"),
        unk: id("unknown"),
        pad: id("padding"),
        add_bos: file.bool(&key("add_bos_token")).unwrap(),
        add_eos: file.bool(&key("add_eos_token")).unwrap(),
        add_space_prefix: file.bool(&key("add_space_prefix")).unwrap(),
    };
    Tokenizer::from_gguf(vocab).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn published_vocabularies_give_the_ids_of_their_makers_code() {
    let Some(models) = std::env::var_os("VERVE_TEST_MODELS").map(PathBuf::from) else {
        println!("skipped: VERVE_TEST_MODELS names no folder with published models; see tools/golden/README.md");
        return;
    };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer/real");
    let more = std::env::var_os("VERVE_TOKENIZER_IDS").map(PathBuf::from);
    // SentencePiece never looks for control tokens in text; Hugging Face's library always does.
    for (name, specials) in
        [("SmolLM2-135M-Instruct.Q4_1", SpecialTokens::Parse), ("gemma-3-270m-q4_k_m", SpecialTokens::Ordinary)]
    {
        let path = models.join(format!("{name}.gguf"));
        if !path.is_file() {
            println!("skipped: VERVE_TEST_MODELS names no folder with {name}.gguf");
            continue;
        }
        let tokenizer = tokenizer(&path);
        for folder in [&golden].into_iter().chain(&more) {
            let texts: Vec<String> = serde_json::from_value(json(&folder.join("texts.json"))).unwrap();
            let report = json(&folder.join(format!("{name}.json")));
            let ids: Vec<Vec<u32>> = serde_json::from_value(report["ids"].clone()).unwrap();
            let decoded: Vec<String> = serde_json::from_value(report["decoded"].clone()).unwrap();
            let mut wrong = Vec::new();
            for ((text, ids), decoded) in texts.iter().zip(&ids).zip(&decoded) {
                let start: String = text.chars().take(60).collect();
                let ours = tokenizer.encode_with(text, specials);
                if ours != *ids {
                    let at = ours.iter().zip(ids).take_while(|(a, b)| a == b).count();
                    let show = |ids: &[u32]| tokenizer.decode(&ids[at.min(ids.len())..ids.len().min(at + 6)]).unwrap();
                    wrong.push(format!("{start:?} differs at {at}: {:?} for {:?}", show(&ours), show(ids)));
                }
                if tokenizer.decode(ids).unwrap() != *decoded {
                    wrong.push(format!("{start:?} is decoded otherwise"));
                }
            }
            println!("{name}: {} texts, {} wrong", texts.len(), wrong.len());
            assert!(wrong.is_empty(), "{name}:\n{}", wrong[..wrong.len().min(12)].join("\n"));
        }
        let again = Tokenizer::from_gguf(tokenizer.to_gguf().unwrap()).unwrap();
        assert_eq!(again.hash(), tokenizer.hash());
    }
}

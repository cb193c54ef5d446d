//! Writing Hugging Face's `tokenizer.json`.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use super::{hf_pieces, hf_rules};
use crate::bytes::spell;
use crate::split::{LLAMA3_PATTERN, PreSplit, QWEN2_PATTERN};
use crate::tokenizer::{Model, Tokenizer};
use crate::vocab::Kind;

/// The content of a `tokenizer.json` with the same ids. Added tokens are listed in the model's vocabulary too, as in
/// GPT-2's own file: the library numbers tokens that it does not find there anew.
pub(super) fn write(tokenizer: &Tokenizer) -> String {
    let added: Vec<Value> = tokenizer
        .added_tokens()
        .iter()
        .map(|token| {
            json!({
                "id": token.id, "content": token.content, "single_word": token.matching.single_word,
                "lstrip": token.matching.lstrip, "rstrip": token.matching.rstrip,
                "normalized": token.matching.normalized, "special": token.special,
            })
        })
        .collect();
    let (around, model) = match tokenizer.model() {
        Model::Bytes(_) => bytes_json(tokenizer),
        Model::Pieces(pieces) => (hf_rules::pieces_json(tokenizer), hf_pieces::model_json(tokenizer, pieces)),
    };
    let [normalizer, pre_tokenizer, decoder] = around;
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": hf_rules::template_json(tokenizer),
        "decoder": decoder,
        "model": model,
    });
    // The alternate form is indented: people read and compare these files.
    format!("{file:#}\n")
}

/// Normaliser, pre-tokenizer and decoder of a byte-level model, and the model.
fn bytes_json(tokenizer: &Tokenizer) -> ([Value; 3], Value) {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let unsplit = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let pattern = |pattern: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, unsplit]})
    };
    let pre_tokenizer = match tokenizer.pre_split() {
        PreSplit::Llama3 => pattern(LLAMA3_PATTERN),
        PreSplit::Qwen2 => pattern(QWEN2_PATTERN),
        PreSplit::SmolLm => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, byte_level,
        ]}),
        PreSplit::Gpt2 | PreSplit::Metaspace | PreSplit::Whole => byte_level.clone(),
    };
    let merges: Vec<String> = tokenizer
        .merges()
        .iter()
        .map(|merge| {
            let name = |id| spell(tokenizer.token_bytes(id).unwrap_or_default());
            format!("{} {}", name(merge.left), name(merge.right))
        })
        .collect();
    let model = json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": tokenizer.vocab().whole_pieces,
            "vocab": serde_json::to_value(VocabById(tokenizer)).unwrap_or_default(),
            "merges": merges,
    });
    ([hf_rules::normalizer_json(tokenizer.rules()), pre_tokenizer, byte_level], model)
}

/// The vocabulary as a map in order of id.
struct VocabById<'a>(&'a Tokenizer);

impl Serialize for VocabById<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (id, kind, bytes) in self.0.vocab().iter() {
            match kind {
                Kind::Unused => {}
                Kind::Added => map.serialize_entry(&String::from_utf8_lossy(bytes), &id)?,
                Kind::Merged | Kind::Unreachable => map.serialize_entry(&spell(bytes), &id)?,
            }
        }
        map.end()
    }
}

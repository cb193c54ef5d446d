//! Tokenizers of GGUF files.

use std::path::Path;

use verve_gguf::{GgufError, GgufFile, Value};
use verve_tokenizer::{GgufVocab, Tokenizer};

/// The tokenizer that a GGUF file holds.
pub fn tokenizer(path: &Path) -> Result<Tokenizer, Box<dyn std::error::Error>> {
    Ok(Tokenizer::from_gguf(vocabulary(&GgufFile::open(path)?)?)?)
}

fn vocabulary(file: &GgufFile) -> Result<GgufVocab, GgufError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| file.value(&key(name)).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    Ok(GgufVocab {
        model: file.text(&key("model"))?.unwrap_or_default().to_owned(),
        pre: file.text(&key("pre"))?.map(str::to_owned),
        tokens: file.texts(&key("tokens"))?.unwrap_or_default().to_vec(),
        scores: file.floats(&key("scores"))?.map(<[f32]>::to_vec),
        token_types: file.integers(&key("token_type"))?,
        merges: file.texts(&key("merges"))?.map(<[String]>::to_vec),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unk: id("unknown_token_id"),
        pad: id("padding_token_id"),
        add_bos: file.bool(&key("add_bos_token"))?,
        add_eos: file.bool(&key("add_eos_token"))?,
        add_space_prefix: file.bool(&key("add_space_prefix"))?,
    })
}

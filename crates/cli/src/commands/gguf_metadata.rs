//! Tokenizers and chat templates in the metadata of GGUF files, in both directions.

use anyhow::Result;
use verve_chat::DEFAULT_NAME;
use verve_gguf::{Array, GgufFile, Value};
use verve_model::formats::GenerationIds;
use verve_tokenizer::{GgufVocab, Tokenizer};

const TEMPLATE: &str = "tokenizer.chat_template";
const TEMPLATE_NAMES: &str = "tokenizer.chat_templates";

/// A token that no text has: what fills up a vocabulary that is smaller than the model's table.
const UNUSED: i32 = 5;
/// Its score, below every real one.
const UNUSED_SCORE: f32 = -1e4;

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

/// A token id; `None` where there is none, which converters also write as the largest number.
pub fn id(file: &GgufFile, name: &str) -> Result<Option<u32>> {
    let id = file.count(&key(&format!("{name}_token_id")))?;
    Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|&id| id != u32::MAX))
}

/// The vocabulary of a file.
pub fn vocabulary(file: &GgufFile) -> Result<GgufVocab> {
    let text = |name: &str| file.text(&key(name)).map(|text| text.map(str::to_owned));
    let texts = |name: &str| file.texts(&key(name)).map(|texts| texts.map(<[String]>::to_vec));
    Ok(GgufVocab {
        model: file.required(&key("model"), text("model")?)?,
        pre: text("pre")?,
        tokens: file.required(&key("tokens"), texts("tokens")?)?,
        scores: file.floats(&key("scores"))?.map(<[f32]>::to_vec),
        token_types: file.integers(&key("token_type"))?,
        merges: texts("merges")?,
        bos: id(file, "bos")?,
        eos: id(file, "eos")?,
        unk: id(file, "unknown")?,
        pad: id(file, "padding")?,
        add_bos: file.bool(&key("add_bos_token"))?,
        add_eos: file.bool(&key("add_eos_token"))?,
        add_space_prefix: file.bool(&key("add_space_prefix"))?,
    })
}

/// The chat templates of a file by name.
pub fn templates(file: &GgufFile) -> Result<Vec<(String, String)>> {
    let mut named = Vec::new();
    if let Some(source) = file.text(TEMPLATE)? {
        named.push((DEFAULT_NAME.to_owned(), source.to_owned()));
    }
    for name in file.texts(TEMPLATE_NAMES)?.unwrap_or_default() {
        if let Some(source) = file.text(&format!("{TEMPLATE}.{name}"))? {
            named.push((name.clone(), source.to_owned()));
        }
    }
    Ok(named)
}

/// The metadata of a tokenizer for a model whose table has `n_vocab` rows, and of the ids that begin and end its texts.
///
/// # Errors
/// A tokenizer that the format cannot describe.
pub fn of_tokenizer(
    tokenizer: &Tokenizer,
    ids: &GenerationIds,
    n_vocab: usize,
) -> verve_tokenizer::Result<Vec<(String, Value)>> {
    let mut vocab = tokenizer.to_gguf()?;
    // Where the tokenizer's files do not say it, the model's may.
    vocab.bos = tokenizer.bos().or(ids.bos).or(vocab.bos);
    Ok(of_vocabulary(vocab, ids, n_vocab))
}

fn of_vocabulary(mut vocab: GgufVocab, ids: &GenerationIds, n_vocab: usize) -> Vec<(String, Value)> {
    let known = vocab.tokens.len();
    vocab.tokens.extend((known..n_vocab).map(|id| format!("[PAD{id}]")));
    if let Some(scores) = &mut vocab.scores {
        scores.resize(vocab.tokens.len(), UNUSED_SCORE);
    }
    if let Some(types) = &mut vocab.token_types {
        types.resize(vocab.tokens.len(), UNUSED);
    }
    // Programs take the first for the end of an answer too; the others have keys of their own.
    let first = vocab.eos.filter(|eos| ids.eos.is_empty() || ids.eos.contains(eos)).or(ids.eos.first().copied());
    let mut others = ids.eos.iter().copied().filter(|id| Some(*id) != first);
    let special = [
        ("bos", vocab.bos),
        ("eos", first),
        ("eot", others.next()),
        ("eom", others.next()),
        ("unknown", vocab.unk),
        ("padding", vocab.pad.or(ids.pad)),
    ];
    let flags = [
        ("add_bos_token", vocab.add_bos),
        ("add_eos_token", vocab.add_eos),
        ("add_space_prefix", vocab.add_space_prefix),
    ];
    let mut out = vec![(key("model"), Value::String(vocab.model))];
    let mut put = |name: &str, value: Option<Value>| out.extend(value.map(|value| (key(name), value)));
    put("pre", vocab.pre.map(Value::String));
    put("tokens", Some(Value::Array(Array::String(vocab.tokens))));
    put("scores", vocab.scores.map(|scores| Value::Array(Array::F32(scores))));
    put("token_type", vocab.token_types.map(|types| Value::Array(Array::I32(types))));
    put("merges", vocab.merges.map(|merges| Value::Array(Array::String(merges))));
    for (name, id) in special {
        put(&format!("{name}_token_id"), id.map(Value::U32));
    }
    for (name, flag) in flags {
        put(name, flag.map(Value::Bool));
    }
    out
}

/// The metadata of chat templates.
pub fn of_templates(named: &[(String, String)]) -> Vec<(String, Value)> {
    let (default, others): (Vec<_>, Vec<_>) = named.iter().partition(|(name, _)| name == DEFAULT_NAME);
    let mut out = Vec::new();
    if !others.is_empty() {
        let names = others.iter().map(|(name, _)| name.clone()).collect();
        out.push((TEMPLATE_NAMES.to_owned(), Value::Array(Array::String(names))));
    }
    out.extend(others.into_iter().map(|(name, source)| (format!("{TEMPLATE}.{name}"), source.as_str().into())));
    out.extend(default.first().map(|(_, source)| (TEMPLATE.to_owned(), source.as_str().into())));
    out
}

/// What a file says about its model for people: name, author, licence. Not what follows from its tensors.
pub fn about(file: &GgufFile) -> Vec<(String, Value)> {
    const OURS: [&str; 5] = ["architecture", "type", "file_type", "quantization_version", "alignment"];
    let is_about = |key: &str| key.strip_prefix("general.").is_some_and(|name| !OURS.contains(&name));
    file.metadata().iter().filter(|(key, _)| is_about(key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_is_filled_up_and_keeps_all_ends() {
        let vocab = GgufVocab {
            model: "llama".to_owned(),
            tokens: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
            scores: Some(vec![0.0, -1.0, -2.0]),
            token_types: Some(vec![1, 1, 3]),
            bos: Some(0),
            eos: Some(2),
            ..GgufVocab::default()
        };
        let ids = GenerationIds { bos: None, eos: vec![1, 2], pad: None };
        let found = of_vocabulary(vocab, &ids, 4);
        let value = |name: &str| found.iter().find(|(found, _)| *found == key(name)).map(|(_, value)| value.clone());
        assert_eq!(value("eos_token_id"), Some(Value::U32(2)));
        assert_eq!(value("eot_token_id"), Some(Value::U32(1)));
        assert_eq!(value("bos_token_id"), Some(Value::U32(0)));
        assert_eq!(value("eom_token_id"), None);
        assert_eq!(value("token_type").and_then(|types| types.as_i32s()), Some(vec![1, 1, 3, 5]));
        assert_eq!(value("scores").and_then(|scores| scores.as_f32s().map(<[f32]>::len)), Some(4));
        assert_eq!(value("tokens").and_then(|texts| texts.as_strings().map(|t| t[3].clone())), Some("[PAD3]".into()));
    }

    #[test]
    fn templates_keep_their_names() {
        let named = [("tool_use", "T"), (DEFAULT_NAME, "D")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let found = of_templates(&named);
        assert_eq!(found[1], ("tokenizer.chat_template.tool_use".to_owned(), "T".into()));
        assert_eq!(found[2], ("tokenizer.chat_template".to_owned(), "D".into()));
        assert!(of_templates(&[]).is_empty());
    }
}

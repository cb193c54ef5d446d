//! Reading Hugging Face's `tokenizer.json`. What would change ids and is not reproduced exactly is refused by name.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::hf_pieces;
use super::hf_rules;
use super::pair::{Spelled, shorten, split_pair};
use crate::error::{Error, Result};
use crate::rules::{Rules, Step};
use crate::split::PreSplit;
use crate::tokenizer::Tokenizer;
use crate::vocab::{AddedToken, Matching};

/// The parts of the file that decide ids. `truncation` and `padding` are settings of a caller, not of the tokenizer:
/// texts are never cut or filled up here.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Value,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) fuse_unk: bool,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    pub(super) vocab: HashMap<String, u32>,
    pub(super) merges: Vec<Pair>,
}

/// A unigram model: pieces with scores in order of id.
#[derive(Deserialize)]
pub(super) struct UnigramModel {
    #[serde(default)]
    pub(super) unk_id: Option<u32>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    pub(super) vocab: Vec<(String, f64)>,
}

impl UnigramModel {
    fn ids(&self) -> HashMap<String, u32> {
        self.vocab.iter().zip(0..).map(|((text, _), id)| (text.clone(), id)).collect()
    }
}

/// A merge, written as "left right" or as a list of two.
pub(super) struct Pair(pub(super) String, pub(super) String);

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct PairVisitor;
        impl<'de> Visitor<'de> for PairVisitor {
            type Value = Pair;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge as \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Pair, E> {
                let (left, right) = split_pair(text).ok_or_else(|| {
                    E::custom(format!("merge {:?} is not two tokens with a space between", shorten(text)))
                })?;
                Ok(Pair(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Pair, A::Error> {
                let count = || A::Error::custom("a merge as a list has two tokens");
                let left = seq.next_element()?.ok_or_else(count)?;
                let right = seq.next_element()?.ok_or_else(count)?;
                if seq.next_element::<serde::de::IgnoredAny>()?.is_some() {
                    return Err(count());
                }
                Ok(Pair(left, right))
            }
        }
        deserializer.deserialize_any(PairVisitor)
    }
}

/// Reads a `tokenizer.json` into a tokenizer.
pub(super) fn parse(origin: &str, content: &[u8]) -> Result<Tokenizer> {
    let file: File = serde_json::from_slice(content)
        .map_err(|error| Error::malformed(origin, "tokenizer.json", error.to_string()))?;
    let model_type = type_name(&file.model);
    // Files written before the type was recorded have none.
    if !matches!(model_type.as_str(), "BPE" | "Unigram" | "none") {
        return Err(Error::unsupported(origin, "model type", model_type, "BPE, Unigram"));
    }
    let mut rules = Rules { normalizer: hf_rules::normalizer(origin, &file.normalizer)?, ..Rules::default() };
    hf_rules::template(origin, &file.post_processor, &mut rules)?;
    if model_type == "Unigram" {
        let split = hf_rules::pieces_rules(origin, &file.pre_tokenizer, &file.decoder, &mut rules)?;
        let model = UnigramModel::deserialize(file.model)
            .map_err(|error| Error::malformed(origin, "model", error.to_string()))?;
        let added = added_tokens(origin, file.added_tokens, &model.ids(), &rules)?;
        return hf_pieces::parse_unigram(origin, &model, added, split, rules);
    }
    let model = Model::deserialize(file.model).map_err(|error| Error::malformed(origin, "model", error.to_string()))?;
    check_model(origin, &model)?;
    let added = added_tokens(origin, file.added_tokens, &model.vocab, &rules)?;
    // Byte-level files say so in at least one of these; pieces of text need a decoder that puts them together.
    let is_bytes = file.decoder.is_null() || names_byte_level(&file.decoder) || names_byte_level(&file.pre_tokenizer);
    if !is_bytes {
        let split = hf_rules::pieces_rules(origin, &file.pre_tokenizer, &file.decoder, &mut rules)?;
        return hf_pieces::parse(origin, &model, added, split, rules);
    }
    if rules.normalizer.iter().any(|step| !matches!(step, Step::Form(_))) {
        let found = type_name(&file.normalizer);
        return Err(Error::unsupported(origin, "normalizer", found, "a normal form in a byte-level file"));
    }
    let split = pre_split(origin, &file.pre_tokenizer)?;
    // A decoder does not change what text encodes to, but another kind shows that the file means more than ids say.
    if !file.decoder.is_null() && type_name(&file.decoder) != "ByteLevel" {
        return Err(Error::unsupported(origin, "decoder", type_name(&file.decoder), "ByteLevel, or none"));
    }
    let merges: Vec<(&str, &str)> =
        model.merges.iter().map(|Pair(left, right)| (left.as_str(), right.as_str())).collect();
    let spelled = Spelled { vocab: &model.vocab, merges: &merges, added, whole_pieces: model.ignore_merges, rules };
    Tokenizer::from_parts(origin, spelled.into_parts(origin, split)?)
}

/// Whether a part is `ByteLevel` or a sequence with it.
fn names_byte_level(part: &Value) -> bool {
    let steps = ["pretokenizers", "decoders"].iter().filter_map(|key| part.get(key)?.as_array()).flatten();
    type_name(part) == "ByteLevel" || steps.into_iter().any(|step| type_name(step) == "ByteLevel")
}

/// The `type` of a part, or a word for what stands in its place.
pub(super) fn type_name(part: &Value) -> String {
    match part.get("type") {
        Some(Value::String(name)) => shorten(name),
        _ if part.is_null() || part.is_object() => "none".to_owned(),
        _ => "of unknown form".to_owned(),
    }
}

/// The splitter that a `pre_tokenizer` describes.
fn pre_split(origin: &str, part: &Value) -> Result<PreSplit> {
    const SUPPORTED: &str = "ByteLevel with the pattern of gpt2, smollm, llama3 or qwen2 and add_prefix_space false";
    let refuse = |found: String| Err(Error::unsupported(origin, "pre_tokenizer", found, SUPPORTED));
    let steps: Vec<&Value> = match part.get("pretokenizers") {
        Some(Value::Array(steps)) if type_name(part) == "Sequence" => steps.iter().collect(),
        _ => vec![part],
    };
    // ByteLevel splits by GPT-2's pattern unless it is told not to, because a step before it has split.
    let mut pattern = None;
    let mut digits = false;
    let mut is_bytes = false;
    for step in steps {
        let name = type_name(step);
        let flag = |key: &str, default: bool| step.get(key).map_or(default, |value| value == &Value::Bool(true));
        match name.as_str() {
            "ByteLevel" if is_bytes => return refuse("ByteLevel twice".to_owned()),
            "ByteLevel" => {
                if flag("add_prefix_space", true) {
                    return refuse("ByteLevel with add_prefix_space true".to_owned());
                }
                match (flag("use_regex", true), pattern) {
                    (true, None | Some(PreSplit::Gpt2)) => pattern = Some(PreSplit::Gpt2),
                    (true, Some(other)) => return refuse(format!("{} and GPT-2's pattern behind it", other.name())),
                    (false, _) => {}
                }
                is_bytes = true;
            }
            "Digits" if !is_bytes && pattern.is_none() && !digits => {
                if !flag("individual_digits", false) {
                    return refuse("Digits with individual_digits false".to_owned());
                }
                digits = true;
            }
            "Split" if !is_bytes && pattern.is_none() => {
                let regex = step.get("pattern").and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str);
                let behavior = step.get("behavior").and_then(Value::as_str);
                let known = regex.and_then(PreSplit::of_pattern);
                if known.is_none() || behavior != Some("Isolated") || flag("invert", false) {
                    let regex = regex.map_or_else(|| "without a regular expression".to_owned(), str::to_owned);
                    return refuse(format!("Split {regex} ({})", behavior.unwrap_or("no behavior")));
                }
                pattern = known;
            }
            _ => return refuse(name),
        }
    }
    match (is_bytes, pattern, digits) {
        (true, Some(PreSplit::Gpt2), true) => Ok(PreSplit::SmolLm),
        (true, Some(other), true) => refuse(format!("Digits with the pattern of {}", other.name())),
        (true, Some(split), false) => Ok(split),
        (true, None, _) => refuse("ByteLevel with use_regex false".to_owned()),
        (false, ..) => refuse("without ByteLevel".to_owned()),
    }
}

fn check_model(origin: &str, model: &Model) -> Result<()> {
    if let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0) {
        return Err(Error::unsupported(
            origin,
            "model.dropout",
            dropout.to_string(),
            "none: encoding is deterministic",
        ));
    }
    let affixes = [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (field, affix) in affixes {
        if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
            return Err(Error::unsupported(origin, field, format!("{affix:?}"), "none, or empty"));
        }
    }
    Ok(())
}

fn added_tokens(
    origin: &str,
    listed: Vec<Added>,
    vocab: &HashMap<String, u32>,
    rules: &Rules,
) -> Result<Vec<AddedToken>> {
    let mut added = Vec::with_capacity(listed.len());
    for token in listed {
        if let Some(id) = vocab.get(&token.content).filter(|id| **id != token.id) {
            let place = format!("added token {:?}", shorten(&token.content));
            let problem = format!("id {}, but the model's vocabulary has it as {id}", token.id);
            return Err(Error::malformed(origin, place, problem));
        }
        let matching = Matching {
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            // Without a normaliser there is no other text to look in.
            normalized: token.normalized && !rules.normalizer.is_empty(),
        };
        added.push(AddedToken { content: token.content, id: token.id, special: token.special, matching });
    }
    Ok(added)
}

//! The parts of a `tokenizer.json` around the model, read and written.

use std::sync::Arc;

use serde_json::{Value, json};

use super::hf_read::type_name;
use crate::base64;
use crate::charsmap::Charsmap;
use crate::error::{Error, Result};
use crate::rules::{Form, Prefix, Rules, Scheme, Step, Strip};
use crate::split::{META, PreSplit};
use crate::tokenizer::Tokenizer;

/// The steps of a part: those of a sequence, or itself.
fn steps<'a>(part: &'a Value, key: &str) -> Vec<&'a Value> {
    match part.get(key) {
        Some(Value::Array(steps)) if type_name(part) == "Sequence" => steps.iter().collect(),
        _ if part.is_null() => Vec::new(),
        _ => vec![part],
    }
}

fn text<'a>(part: &'a Value, key: &str) -> Option<&'a str> {
    part.get(key).and_then(Value::as_str)
}

/// Patterns that are known, as files write them.
const SPACES: &str = " {2,}";
const EDGE_SPACES: &str = "\\A +|[ \u{2581}]+\\z";

/// A pattern that is a regular expression.
fn regex(part: &Value) -> Option<&str> {
    part.get("pattern").and_then(|pattern| text(pattern, "Regex"))
}

/// A pattern that is a plain text.
fn plain_pattern(part: &Value) -> Option<&str> {
    part.get("pattern").and_then(|pattern| text(pattern, "String")).filter(|pattern| !pattern.is_empty())
}

/// The steps of a `normalizer`.
pub(super) fn normalizer(origin: &str, part: &Value) -> Result<Vec<Step>> {
    let mut out = Vec::new();
    for step in steps(part, "normalizers") {
        let name = type_name(step);
        let read = match name.as_str() {
            "NFC" => Some(Step::Form(Form::Nfc)),
            "NFD" => Some(Step::Form(Form::Nfd)),
            "NFKC" => Some(Step::Form(Form::Nfkc)),
            "NFKD" => Some(Step::Form(Form::Nfkd)),
            "Prepend" => text(step, "prepend").map(|prefix| Step::Prepend(prefix.to_owned())),
            "Replace" => match (plain_pattern(step), regex(step), text(step, "content")) {
                (Some(from), _, Some(to)) => Some(Step::Replace { from: from.to_owned(), to: to.to_owned() }),
                (_, Some(SPACES), Some(to)) => Some(Step::Squeeze(to.to_owned())),
                (_, Some(EDGE_SPACES), Some("")) => Some(Step::TrimSpaces),
                _ => None,
            },
            "Strip" => {
                let flag = |key: &str| step.get(key).and_then(Value::as_bool);
                flag("strip_left").zip(flag("strip_right")).map(|(left, right)| Step::Strip { left, right })
            }
            "Precompiled" => {
                let wrong = |problem: String| Error::malformed(origin, "normalizer.precompiled_charsmap", problem);
                match step.get("precompiled_charsmap") {
                    // A map of nothing is written so.
                    None | Some(Value::Null) => continue,
                    Some(Value::String(text)) if text.is_empty() => continue,
                    Some(Value::String(text)) => {
                        let blob = base64::decode(text).ok_or_else(|| wrong("is not base64".to_owned()))?;
                        Some(Step::Charsmap(Arc::new(Charsmap::new(&blob).map_err(wrong)?)))
                    }
                    Some(_) => None,
                }
            }
            _ => None,
        };
        let supported = "NFC, NFD, NFKC, NFKD, Prepend, Strip, Precompiled, Replace of a plain text or of \" {2,}\"";
        out.push(read.ok_or_else(|| Error::unsupported(origin, "normalizer", name, supported))?);
    }
    Ok(out)
}

/// The `normalizer` with the same steps.
pub(super) fn normalizer_json(rules: &Rules) -> Value {
    let mut steps: Vec<Value> = rules
        .normalizer
        .iter()
        .map(|step| match step {
            Step::Form(Form::Nfc) => json!({"type": "NFC"}),
            Step::Form(Form::Nfd) => json!({"type": "NFD"}),
            Step::Form(Form::Nfkc) => json!({"type": "NFKC"}),
            Step::Form(Form::Nfkd) => json!({"type": "NFKD"}),
            Step::Prepend(prefix) | Step::Dummy(prefix) => json!({"type": "Prepend", "prepend": prefix}),
            Step::Replace { from, to } => json!({"type": "Replace", "pattern": {"String": from}, "content": to}),
            Step::Squeeze(to) => json!({"type": "Replace", "pattern": {"Regex": SPACES}, "content": to}),
            Step::TrimSpaces => json!({"type": "Replace", "pattern": {"Regex": EDGE_SPACES}, "content": ""}),
            Step::Strip { left, right } => json!({"type": "Strip", "strip_left": left, "strip_right": right}),
            Step::Charsmap(map) => {
                json!({"type": "Precompiled", "precompiled_charsmap": base64::encode(map.blob())})
            }
        })
        .collect();
    match steps.len() {
        0 => Value::Null,
        1 => steps.remove(0),
        _ => json!({"type": "Sequence", "normalizers": steps}),
    }
}

/// Reads the tokens that a `post_processor` puts around a text.
pub(super) fn template(origin: &str, part: &Value, rules: &mut Rules) -> Result<()> {
    for step in steps(part, "processors") {
        let name = type_name(step);
        match name.as_str() {
            "ByteLevel" => {}
            "TemplateProcessing" => single_template(origin, step, rules)?,
            _ => {
                return Err(Error::unsupported(
                    origin,
                    "post_processor",
                    name,
                    "ByteLevel, TemplateProcessing, or none",
                ));
            }
        }
    }
    rules.bos = rules.front.first().copied();
    rules.eos = rules.back.last().copied();
    Ok(())
}

fn single_template(origin: &str, part: &Value, rules: &mut Rules) -> Result<()> {
    let supported = "a template of special tokens around one text";
    let refuse =
        |what: &str| Error::unsupported(origin, "post_processor", format!("TemplateProcessing {what}"), supported);
    let single = part.get("single").and_then(Value::as_array).ok_or_else(|| refuse("without single"))?;
    let mut text_seen = false;
    for item in single {
        if item.get("Sequence").is_some_and(|sequence| text(sequence, "id") == Some("A")) && !text_seen {
            text_seen = true;
            continue;
        }
        let name =
            item.get("SpecialToken").and_then(|token| text(token, "id")).ok_or_else(|| refuse("of other items"))?;
        let listed = part.get("special_tokens").and_then(|tokens| tokens.get(name)?.get("ids")?.as_array());
        for id in listed.ok_or_else(|| refuse("with a token that it does not list"))? {
            let id =
                id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| refuse("with an id that is none"))?;
            if text_seen { rules.back.push(id) } else { rules.front.push(id) }
        }
    }
    if text_seen { Ok(()) } else { Err(refuse("without a text")) }
}

/// The `post_processor` that puts the same tokens around a text.
pub(super) fn template_json(tokenizer: &Tokenizer) -> Value {
    let rules = tokenizer.rules();
    if rules.front.is_empty() && rules.back.is_empty() {
        return Value::Null;
    }
    let name = |id: &u32| String::from_utf8_lossy(tokenizer.token_bytes(*id).unwrap_or_default()).into_owned();
    let item = |id: &u32| json!({"SpecialToken": {"id": name(id), "type_id": 0}});
    let text = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    let mut single: Vec<Value> = rules.front.iter().map(item).collect();
    single.push(text("A", 0));
    single.extend(rules.back.iter().map(item));
    let mut pair = single.clone();
    pair.extend(rules.front.iter().map(|id| json!({"SpecialToken": {"id": name(id), "type_id": 1}})));
    pair.push(text("B", 1));
    pair.extend(rules.back.iter().map(|id| json!({"SpecialToken": {"id": name(id), "type_id": 1}})));
    let tokens: serde_json::Map<String, Value> = rules
        .front
        .iter()
        .chain(&rules.back)
        .map(|id| (name(id), json!({"id": name(id), "ids": [id], "tokens": [name(id)]})))
        .collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

/// Reads the `pre_tokenizer` and the `decoder` of a model of pieces; returns how text is cut.
pub(super) fn pieces_rules(origin: &str, pre: &Value, decoder: &Value, rules: &mut Rules) -> Result<PreSplit> {
    let mut split = PreSplit::Whole;
    let meta = Step::Replace { from: " ".to_owned(), to: META.to_owned() };
    let mut by_words = false;
    let mut found = Vec::new();
    for step in steps(pre, "pretokenizers") {
        let name = type_name(step);
        let cuts = step.get("split").and_then(Value::as_bool).unwrap_or(true);
        let is_known = match (name.as_str(), scheme(step)) {
            // Gemma's files cut at spaces, of which their normaliser leaves none.
            ("Split", _) => plain_pattern(step) == Some(" ") && rules.normalizer.contains(&meta),
            ("WhitespaceSplit", _) => {
                by_words = found.is_empty();
                by_words
            }
            ("Metaspace", Some(scheme)) if rules.prefix == Prefix::None => {
                if cuts {
                    split = PreSplit::Metaspace;
                }
                rules.prefix = match scheme {
                    _ if by_words => Prefix::Words,
                    // No spaces are left to become the mark.
                    Scheme::Never if rules.normalizer.last() == Some(&meta) => Prefix::None,
                    scheme => Prefix::Meta(scheme),
                };
                // Words are put together again, each marked by the prefix that it got.
                !by_words || (cuts && scheme == Scheme::Always)
            }
            _ => false,
        };
        found.push(if is_known { name.clone() } else { format!("{name} (in this form or place)") });
        if !is_known {
            return Err(Error::unsupported(origin, "pre_tokenizer", found.join(", "), PRE_TOKENIZERS));
        }
    }
    if by_words && rules.prefix != Prefix::Words {
        return Err(Error::unsupported(origin, "pre_tokenizer", found.join(", "), PRE_TOKENIZERS));
    }
    rules.strip = strip(origin, decoder)?;
    Ok(split)
}

/// What pre-tokenizers of pieces may be.
const PRE_TOKENIZERS: &str = "Metaspace, perhaps with WhitespaceSplit in front, or none";

/// Which texts a `Metaspace` gives a prefix.
fn scheme(step: &Value) -> Option<Scheme> {
    if text(step, "replacement") != Some(META) {
        return None;
    }
    let always = match step.get("add_prefix_space").and_then(Value::as_bool) {
        Some(false) => Scheme::Never,
        _ => Scheme::Always,
    };
    match text(step, "prepend_scheme") {
        None => Some(always),
        Some("always") => Some(Scheme::Always),
        Some("first") => Some(Scheme::First),
        Some("never") => Some(Scheme::Never),
        Some(_) => None,
    }
}

/// What the `decoder` of a model of pieces drops at the start of a text.
fn strip(origin: &str, decoder: &Value) -> Result<Strip> {
    let mut names = Vec::new();
    for step in steps(decoder, "decoders") {
        let name = type_name(step);
        let known = match name.as_str() {
            "Replace" => plain_pattern(step) == Some(META) && text(step, "content") == Some(" "),
            "Metaspace" => scheme(step).is_some(),
            "ByteFallback" | "Fuse" => true,
            "Strip" => {
                let count = |key: &str| step.get(key).and_then(Value::as_u64);
                text(step, "content") == Some(" ") && count("start") == Some(1) && count("stop") == Some(0)
            }
            _ => false,
        };
        names.push(if known { name } else { format!("{name} of another form") });
    }
    match names.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["Metaspace"] if steps(decoder, "decoders").into_iter().any(|step| scheme(step) == Some(Scheme::Never)) => {
            Ok(Strip::None)
        }
        ["Metaspace"] => Ok(Strip::FirstToken),
        ["Replace"] | ["Replace", "Fuse"] | ["Replace", "ByteFallback", "Fuse"] => Ok(Strip::None),
        ["Replace", "ByteFallback", "Fuse", "Strip"] => Ok(Strip::Space),
        _ => {
            let supported = "ByteLevel, Metaspace, or Replace, ByteFallback, Fuse and perhaps Strip";
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(Error::unsupported(origin, "decoder", found, supported))
        }
    }
}

/// The parts around a model of pieces: normaliser, pre-tokenizer, decoder.
pub(super) fn pieces_json(tokenizer: &Tokenizer) -> [Value; 3] {
    let rules = tokenizer.rules();
    let cuts = tokenizer.pre_split() == PreSplit::Metaspace;
    let metaspace =
        |scheme: &str| json!({"type": "Metaspace", "replacement": META, "prepend_scheme": scheme, "split": cuts});
    let pre = match rules.prefix {
        Prefix::None if cuts => metaspace("never"),
        Prefix::None => Value::Null,
        Prefix::Meta(Scheme::Always) => metaspace("always"),
        Prefix::Meta(Scheme::First) => metaspace("first"),
        Prefix::Meta(Scheme::Never) => metaspace("never"),
        Prefix::Words => {
            json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace("always")]})
        }
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": META}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let decoder = match rules.strip {
        Strip::FirstToken => metaspace("always"),
        Strip::None => json!({"type": "Sequence", "decoders": decoders}),
        Strip::Space => {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            json!({"type": "Sequence", "decoders": decoders})
        }
    };
    [normalizer_json(rules), pre, decoder]
}

//! The parts of a `tokenizer.json` around the model, read and written.

use serde_json::{Value, json};

use super::hf_read::type_name;
use crate::error::{Error, Result};
use crate::rules::{Form, Prefix, Rules, Scheme, Step, Strip};
use crate::split::META;
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
            "Replace" => plain_pattern(step)
                .zip(text(step, "content"))
                .map(|(from, to)| Step::Replace { from: from.to_owned(), to: to.to_owned() }),
            _ => None,
        };
        let supported = "NFC, NFD, NFKC, NFKD, Prepend and Replace of a plain text";
        out.push(read.ok_or_else(|| Error::unsupported(origin, "normalizer", name, supported))?);
    }
    Ok(out)
}

fn normalizer_json(rules: &Rules) -> Value {
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

/// Reads the `pre_tokenizer` and the `decoder` of a model of pieces.
pub(super) fn pieces_rules(origin: &str, pre: &Value, decoder: &Value, rules: &mut Rules) -> Result<()> {
    for step in steps(pre, "pretokenizers") {
        let name = type_name(step);
        let split = step.get("split").and_then(Value::as_bool).unwrap_or(true);
        let scheme = match text(step, "prepend_scheme") {
            Some("always") => Some(Scheme::Always),
            Some("first") => Some(Scheme::First),
            Some("never") => Some(Scheme::Never),
            _ => None,
        };
        let meta = Step::Replace { from: " ".to_owned(), to: META.to_owned() };
        match (name.as_str(), scheme) {
            // Gemma's files cut at spaces, of which their normaliser leaves none.
            ("Split", _) if plain_pattern(step) == Some(" ") && rules.normalizer.contains(&meta) => {}
            ("Metaspace", Some(scheme))
                if !split && text(step, "replacement") == Some(META) && rules.prefix == Prefix::None =>
            {
                rules.prefix = Prefix::Meta(scheme);
            }
            _ => {
                let found =
                    format!("{name}{}", if name == "Metaspace" { " that splits, or of another form" } else { "" });
                return Err(Error::unsupported(origin, "pre_tokenizer", found, "Metaspace without split, or none"));
            }
        }
    }
    let mut names = Vec::new();
    for step in steps(decoder, "decoders") {
        let name = type_name(step);
        let known = match name.as_str() {
            "Replace" => plain_pattern(step) == Some(META) && text(step, "content") == Some(" "),
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
        ["Replace", "ByteFallback", "Fuse"] => {}
        ["Replace", "ByteFallback", "Fuse", "Strip"] => rules.strip = Strip::Space,
        _ => {
            let supported = "ByteLevel, or Replace, ByteFallback, Fuse and perhaps Strip";
            return Err(Error::unsupported(origin, "decoder", names.join(", "), supported));
        }
    }
    Ok(())
}

/// The parts around a model of pieces: normaliser, pre-tokenizer, decoder.
pub(super) fn pieces_json(rules: &Rules) -> [Value; 3] {
    let scheme = match rules.prefix {
        Prefix::None => None,
        Prefix::Meta(Scheme::Always) => Some("always"),
        Prefix::Meta(Scheme::First) => Some("first"),
        Prefix::Meta(Scheme::Never) => Some("never"),
    };
    let pre = scheme.map_or(
        Value::Null,
        |scheme| json!({"type": "Metaspace", "replacement": META, "prepend_scheme": scheme, "split": false}),
    );
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": META}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if rules.strip == Strip::Space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    [normalizer_json(rules), pre, json!({"type": "Sequence", "decoders": decoders})]
}

/// The normaliser of a byte-level model.
pub(super) fn forms_json(rules: &Rules) -> Value {
    normalizer_json(rules)
}

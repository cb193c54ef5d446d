//! Short texts that satisfy parts of a schema.
//!
//! They are hints: the search of endings tries them and keeps only what the grammar accepts, so that a text that is
//! wrong or not the shortest costs tokens at most.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::formats;
use super::rewrite::{Rewritten, names, target};

/// Longest hint, in bytes.
const MAX_HINT: usize = 4096;
/// Most hints.
const MAX_HINTS: usize = 400;
/// Most rounds in which definitions learn from each other.
const MAX_ROUNDS: usize = 8;

/// Texts of parts of a schema, short ones first.
pub(super) fn hints(schema: &Rewritten) -> Vec<String> {
    let mut texts = Texts { of: vec![None; schema.definitions.len()] };
    for round in 0..MAX_ROUNDS {
        let mut changed = false;
        for step in 0..texts.of.len() {
            // Chains resolve in one round, whichever way they run.
            let index = if round % 2 == 0 { texts.of.len() - 1 - step } else { step };
            let text = texts.shortest(&schema.definitions[index].0);
            if text.is_some() && text != texts.of[index] {
                texts.of[index] = text;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let mut found = HashSet::new();
    texts.collect(&schema.root, &mut found);
    schema.definitions.iter().for_each(|(body, _)| texts.collect(body, &mut found));
    let mut hints: Vec<String> = found.into_iter().collect();
    hints.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    hints.truncate(MAX_HINTS);
    hints
}

struct Texts {
    /// The shortest text known of each definition.
    of: Vec<Option<String>>,
}

impl Texts {
    /// The shortest text of a schema that is easy to find.
    fn shortest(&self, schema: &Value) -> Option<String> {
        let Value::Object(map) = schema else {
            return (schema == &Value::Bool(true)).then(|| "0".to_owned());
        };
        if let Some(value) = map.get("const") {
            return short(value.to_string());
        }
        if let Some(values) = map.get("enum").and_then(Value::as_array) {
            return values.iter().filter_map(|value| short(value.to_string())).min_by_key(String::len);
        }
        if let Some(index) = map.get("$ref").and_then(target) {
            return self.of[index].clone();
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(options) = map.get(key).and_then(Value::as_array) {
                return options.iter().filter_map(|option| self.shortest(option)).min_by_key(String::len);
            }
        }
        match map.get("type") {
            Some(types) => names(types).filter_map(|name| self.of_type(map, name)).min_by_key(String::len),
            None => match map.get("allOf").and_then(Value::as_array) {
                Some(all) => all.iter().filter_map(|part| self.shortest(part)).max_by_key(String::len),
                None => Some("0".to_owned()),
            },
        }
    }

    fn of_type(&self, map: &Map<String, Value>, name: &str) -> Option<String> {
        match name {
            "null" => Some("null".to_owned()),
            "boolean" => Some("true".to_owned()),
            "string" => {
                if let Some(format) = map.get("format").and_then(Value::as_str) {
                    return formats::example(format).map(|text| format!("\"{text}\""));
                }
                // Formats that became patterns brought an example with them.
                let parts = map.get("allOf").and_then(Value::as_array).into_iter().flatten();
                if let Some(example) = parts.filter_map(|part| part.get("examples")?.get(0)).next() {
                    return short(example.to_string());
                }
                let least = map.get("minLength").and_then(Value::as_u64).unwrap_or(0) as usize;
                short(format!("\"{}\"", "a".repeat(least)))
            }
            "array" => self.array(map),
            "object" => self.object(map),
            _ => Some(number(map)),
        }
    }

    fn array(&self, map: &Map<String, Value>) -> Option<String> {
        let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
        let first = map.get("prefixItems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut text = "[".to_owned();
        for at in 0..least {
            let item = match first.get(at).or(map.get("items")) {
                Some(schema) => self.shortest(schema)?,
                None => "0".to_owned(),
            };
            if at > 0 {
                text.push(',');
            }
            text.push_str(&item);
            if text.len() > MAX_HINT {
                return None;
            }
        }
        short(text + "]")
    }

    fn object(&self, map: &Map<String, Value>) -> Option<String> {
        let mut text = "{".to_owned();
        for (name, schema) in required(map) {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&Value::from(name).to_string());
            text.push(':');
            text.push_str(&schema.map_or(Some("0".to_owned()), |schema| self.shortest(schema))?);
            if text.len() > MAX_HINT {
                return None;
            }
        }
        short(text + "}")
    }

    /// Adds the texts of a schema and of all schemas in it.
    fn collect(&self, schema: &Value, into: &mut HashSet<String>) {
        let Value::Object(map) = schema else { return };
        into.extend(self.shortest(schema));
        for (name, schema) in required(map) {
            let name = Value::from(name).to_string();
            let value = schema.map_or(Some("0".to_owned()), |schema| self.shortest(schema));
            for text in [Some(String::new()), value].into_iter().flatten() {
                into.extend(short(format!("{name}:{text}")));
                into.extend(short(format!(",{name}:{text}")));
            }
        }
        if map.get("minItems").and_then(Value::as_u64).is_some_and(|least| least > 1) {
            let items = map.get("prefixItems").and_then(Value::as_array).into_iter().flatten().chain(map.get("items"));
            into.extend(items.take(8).filter_map(|item| short(format!(",{}", self.shortest(item)?))));
        }
        if let Some(values) = map.get("enum").and_then(Value::as_array) {
            into.extend(values.iter().take(MAX_HINTS).filter_map(|value| short(value.to_string())));
        }
        for (key, value) in map {
            match (key.as_str(), value) {
                ("const" | "enum", _) => {}
                ("properties" | "patternProperties", Value::Object(schemas)) => {
                    schemas.values().for_each(|schema| self.collect(schema, into));
                }
                (_, Value::Array(schemas)) => schemas.iter().for_each(|schema| self.collect(schema, into)),
                _ => self.collect(value, into),
            }
        }
    }
}

/// Required properties in the order in which they come in a text, with the schemas that are listed for them.
fn required(map: &Map<String, Value>) -> Vec<(&str, Option<&Value>)> {
    let names: Vec<&str> =
        map.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let wanted: HashSet<&str> = names.iter().copied().collect();
    let properties = map.get("properties").and_then(Value::as_object);
    let listed = properties.into_iter().flatten().filter(|(name, _)| wanted.contains(name.as_str()));
    let listed: Vec<_> = listed.map(|(name, schema)| (name.as_str(), Some(schema))).collect();
    let known: HashSet<&str> = listed.iter().map(|(name, _)| *name).collect();
    let mut seen = HashSet::new();
    let others = names.into_iter().filter(|name| !known.contains(name) && seen.insert(*name)).map(|name| (name, None));
    listed.into_iter().chain(others).collect()
}

/// A number within the bounds, of few digits.
fn number(map: &Map<String, Value>) -> String {
    let bound = |key: &str| map.get(key).and_then(Value::as_f64);
    let low = bound("minimum").or(bound("exclusiveMinimum").map(|low| low + 1.0));
    let high = bound("maximum").or(bound("exclusiveMaximum").map(|high| high - 1.0));
    let step = bound("multipleOf").unwrap_or(1.0).max(f64::MIN_POSITIVE);
    let nearest = match (low, high) {
        (Some(low), _) if low > 0.0 => (low / step).ceil() * step,
        (_, Some(high)) if high < 0.0 => (high / step).floor() * step,
        _ => 0.0,
    };
    format!("{nearest}")
}

fn short(text: String) -> Option<String> {
    (text.len() <= MAX_HINT).then_some(text)
}

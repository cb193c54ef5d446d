//! Recursion that never ends.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::rewrite::{Rewritten, names, target};
use crate::error::Result;

/// Refuses a schema in which a reference leads into itself without a way out: every value of it would have to hold
/// another one.
pub(super) fn check(schema: &Rewritten) -> Result<()> {
    let n = schema.definitions.len();
    let mut users = vec![BTreeSet::new(); n];
    for (user, (body, _)) in schema.definitions.iter().enumerate() {
        references(body, &mut |index| {
            users[index].insert(user);
        });
    }
    // The least set of definitions that have a finite value.
    let mut finite = vec![false; n];
    let mut waiting: Vec<usize> = (0..n).collect();
    while let Some(index) = waiting.pop() {
        if !finite[index] && is_finite(&schema.definitions[index].0, &finite) {
            finite[index] = true;
            waiting.extend(&users[index]);
        }
    }
    match schema.references.iter().find(|(_, index)| !finite[*index]) {
        Some((path, _)) => Err(path.unsatisfiable(
            "the reference leads back to itself without an end; let something on the way be optional, empty or null",
        )),
        None => Ok(()),
    }
}

fn references(schema: &Value, found: &mut impl FnMut(usize)) {
    match schema {
        Value::Object(map) => {
            if let Some(index) = map.get("$ref").and_then(target) {
                found(index);
            }
            for (key, value) in map {
                if key != "const" && key != "enum" {
                    references(value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// Whether a schema has a finite value, given the definitions known to have one.
fn is_finite(schema: &Value, known: &[bool]) -> bool {
    let Value::Object(map) = schema else { return schema != &Value::Bool(false) };
    let list = |key: &str| map.get(key).and_then(Value::as_array).map(Vec::as_slice);
    map.get("$ref").and_then(target).is_none_or(|index| known[index])
        && list("allOf").unwrap_or_default().iter().all(|schema| is_finite(schema, known))
        && ["anyOf", "oneOf"]
            .iter()
            .filter_map(|key| list(key))
            .all(|options| options.iter().any(|schema| is_finite(schema, known)))
        && (map.contains_key("const")
            || map.contains_key("enum")
            || map.get("type").is_none_or(|types| names(types).any(|name| type_is_finite(map, name, known))))
}

fn type_is_finite(map: &Map<String, Value>, name: &str, known: &[bool]) -> bool {
    let otherwise = |key: &str| map.get(key).is_none_or(|schema| is_finite(schema, known));
    match name {
        "object" => {
            let required = map.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let properties = map.get("properties").and_then(Value::as_object);
            required.iter().filter_map(Value::as_str).all(|name| {
                match properties.and_then(|properties| properties.get(name)) {
                    Some(schema) => is_finite(schema, known),
                    // A pattern may apply instead; then the engine decides.
                    None => map.contains_key("patternProperties") || otherwise("additionalProperties"),
                }
            })
        }
        "array" => {
            let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
            let first = map.get("prefixItems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            first.iter().take(least).all(|schema| is_finite(schema, known))
                && (least <= first.len() || otherwise("items"))
        }
        _ => true,
    }
}

//! JSON schemas: what can be enforced, brought into the form that the grammar engine takes.
//!
//! The engine ignores keywords that it does not know and names no place in its errors. [`prepare`] therefore reads the
//! schema first: it bounds its size, refuses with its path whatever would not be enforced, follows references, finds
//! recursion that never ends, and writes a schema of plain keywords in which every reference points into `$defs`.

mod ending;
mod formats;
mod instance;
mod measure;
mod path;
mod rewrite;

use serde_json::{Map, Value, json};

use crate::error::{ConstrainError, Result};
pub(crate) use path::Path;

/// Longest schema, in bytes of its text, white space aside.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// Most values (objects, arrays, strings, numbers) in a schema.
pub(crate) const MAX_VALUES: usize = 50_000;
/// Most levels of objects and arrays inside each other.
pub(crate) const MAX_DEPTH: usize = 64;
/// Most options in one `enum`, `anyOf`, `oneOf` or `allOf`.
pub(crate) const MAX_OPTIONS: usize = 10_000;
/// Highest lower bound on a length: characters, items, properties.
pub(crate) const MAX_AT_LEAST: u64 = 4096;
/// Upper bounds on lengths from here on bound nothing that can be generated, and are dropped.
pub(crate) const ANY_LENGTH: u64 = 1 << 28;
/// Highest upper bound on the length of a string below [`ANY_LENGTH`].
pub(crate) const MAX_AT_MOST: u64 = 1 << 20;

/// White space between two parts of JSON: a space, or a new line with indentation.
const WHITE_SPACE: &str = r" |\n {0,32}|\n\t{0,8}";

/// A schema that the grammar engine can be trusted with.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The schema, rewritten.
    pub(crate) schema: Value,
    /// Texts that end something in few tokens, for the search of endings.
    pub(crate) hints: Vec<String>,
    /// Where each entry of `$defs` stood in the original.
    pub(crate) places: Vec<Path>,
}

/// Refuses the text of a schema that is too long to be read.
pub(crate) fn check_length(bytes: usize) -> Result<()> {
    // Room for white space and indentation.
    let limit = 4 * MAX_BYTES;
    if bytes > limit {
        let (found, limit) = (bytes as u64, limit as u64);
        return Err(ConstrainError::TooLarge { place: "JSON schema".to_owned(), what: "bytes", found, limit });
    }
    Ok(())
}

/// Checks and rewrites a schema.
pub(crate) fn prepare(schema: &Value) -> Result<Prepared> {
    measure::measure(schema)?;
    let rewritten = rewrite::rewrite(schema)?;
    ending::check(&rewritten)?;
    let hints = instance::hints(&rewritten);
    let mut top = match rewritten.root {
        Value::Object(map) => map,
        Value::Bool(false) => return Err(Path::root().unsatisfiable("the schema is `false`")),
        _ => Map::new(),
    };
    let (bodies, places): (Vec<Value>, Vec<Path>) = rewritten.definitions.into_iter().unzip();
    let definitions: Map<String, Value> =
        bodies.into_iter().enumerate().map(|(index, body)| (rewrite::name(index), body)).collect();
    if !definitions.is_empty() {
        top.insert("$defs".to_owned(), Value::Object(definitions));
    }
    Ok(Prepared { schema: with_options(top), hints, places })
}

/// The schema of any JSON object.
pub(crate) fn any_object() -> Value {
    with_options(Map::from_iter([("type".to_owned(), json!("object"))]))
}

/// A schema with the engine's options for it.
pub(crate) fn with_options(mut schema: Map<String, Value>) -> Value {
    schema.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": WHITE_SPACE }));
    Value::Object(schema)
}

/// The schemas right inside a schema (rewritten, of `prepared`), with their places given the schema's own. A reference
/// leads to what it names.
pub(crate) fn children<'a>(prepared: &'a Prepared, schema: &'a Value, path: &Path) -> Vec<(&'a Value, Path)> {
    let Value::Object(map) = schema else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in map {
        let path = path.key(key);
        match (key.as_str(), value) {
            ("$ref", _) => {
                if let Some(index) = rewrite::target(value)
                    && let Some(body) = prepared.schema.get("$defs").and_then(|all| all.get(rewrite::name(index)))
                {
                    found.push((body, prepared.places[index].clone()));
                }
            }
            ("properties" | "patternProperties", Value::Object(schemas)) => {
                found.extend(schemas.iter().map(|(name, schema)| (schema, path.key(name))));
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(schemas)) => {
                found.extend(schemas.iter().enumerate().map(|(at, schema)| (schema, path.index(at))));
            }
            ("items" | "additionalProperties", _) => found.push((value, path)),
            _ => {}
        }
    }
    // A schema of `false` fails on its own, and may be meant.
    found.retain(|(schema, _)| schema.is_object());
    found
}

/// A schema out of `prepared` that stands on its own.
pub(crate) fn alone(prepared: &Prepared, schema: &Value) -> Value {
    let mut map = schema.as_object().cloned().unwrap_or_default();
    if let Some(definitions) = prepared.schema.get("$defs") {
        map.insert("$defs".to_owned(), definitions.clone());
    }
    with_options(map)
}

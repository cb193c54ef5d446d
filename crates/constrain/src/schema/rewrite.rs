//! From a schema as it came in to one of keywords that are enforced.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::formats::{self, Format};
use super::{ANY_LENGTH, MAX_AT_LEAST, MAX_AT_MOST, MAX_OPTIONS, Path};
use crate::constraint::check_regex;
use crate::error::Result;

/// A schema whose references all point into its list of definitions.
#[derive(Debug)]
pub(super) struct Rewritten {
    /// The schema itself.
    pub(super) root: Value,
    /// What `#/$defs/d0`, `#/$defs/d1`, ... stand for, and where each stood in the original.
    pub(super) definitions: Vec<(Value, Path)>,
    /// Where each reference stands, and the definition it names.
    pub(super) references: Vec<(Path, usize)>,
}

/// Most distinct targets of references.
const MAX_DEFINITIONS: usize = 1000;
/// Integers up to here are exact in every reader of JSON.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
/// Say something about a schema and restrict nothing.
const ANNOTATIONS: [&str; 17] = [
    "$schema",
    "$comment",
    "$anchor",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentMediaType",
    "contentEncoding",
    "discriminator",
    "externalDocs",
];
/// Keywords of JSON Schema that restrict and that nothing here enforces.
const UNSUPPORTED: [&str; 23] = [
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "unevaluatedItems",
    "unevaluatedProperties",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "contentSchema",
    "nullable",
    "divisibleBy",
    "extends",
];
const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];

/// Name of a definition in the rewritten schema.
pub(super) fn name(index: usize) -> String {
    format!("d{index}")
}

/// The definition that a rewritten `$ref` names.
pub(super) fn target(reference: &Value) -> Option<usize> {
    reference.as_str()?.strip_prefix("#/$defs/d")?.parse().ok()
}

/// Rewrites a schema and everything that it refers to.
pub(super) fn rewrite(schema: &Value) -> Result<Rewritten> {
    let mut rewriter = Rewriter { schema, index: HashMap::new(), waiting: Vec::new(), references: Vec::new() };
    let root = rewriter.node(schema, &Path::root())?;
    let mut definitions = Vec::new();
    while let Some((body, path)) = rewriter.waiting.get(definitions.len()).cloned() {
        definitions.push((rewriter.node(body, &path)?, path));
    }
    Ok(Rewritten { root, definitions, references: rewriter.references })
}

struct Rewriter<'a> {
    schema: &'a Value,
    /// Number of a definition by the pointer to it.
    index: HashMap<Vec<String>, usize>,
    /// Definitions in order of number, as they came in.
    waiting: Vec<(&'a Value, Path)>,
    references: Vec<(Path, usize)>,
}

impl<'a> Rewriter<'a> {
    fn node(&mut self, schema: &'a Value, path: &Path) -> Result<Value> {
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            other => return Err(path.refused(format!("a schema is an object, true or false; found {}", kind(other)))),
        };
        let mut out = Map::new();
        for (key, value) in map {
            self.keyword(map, key, value, &path.key(key), &mut out)?;
        }
        check_bounds(map, path)?;
        check_required(map, path)?;
        Ok(Value::Object(out))
    }

    fn keyword(
        &mut self,
        map: &'a Map<String, Value>,
        key: &str,
        value: &'a Value,
        path: &Path,
        out: &mut Map<String, Value>,
    ) -> Result<()> {
        let at_root = std::ptr::eq(map, self.schema.as_object().unwrap_or(map));
        let mut put = |key: &str, value: Value| {
            out.insert(key.to_owned(), value);
        };
        match key {
            "$id" | "id" if at_root && value.is_string() => {}
            "$id" | "id" => return Err(path.refused("only the outermost schema may have an id")),
            "$ref" => {
                let index = self.reference(value, path)?;
                put("$ref", json!(format!("#/$defs/{}", name(index))));
            }
            "allOf" | "anyOf" | "oneOf" => {
                let options = nodes(value, path)?;
                if options.is_empty() {
                    return Err(path.refused("needs at least one schema"));
                }
                put(key, self.list(options, path)?);
            }
            "prefixItems" => put(key, self.list(nodes(value, path)?, path)?),
            "items" if value.is_array() => {
                if map.contains_key("prefixItems") {
                    return Err(path.refused("a list of schemas here and `prefixItems` contradict each other"));
                }
                put("prefixItems", self.list(nodes(value, path)?, path)?);
            }
            "items" | "additionalProperties" => put(key, self.node(value, path)?),
            // Without a list in `items` it means nothing.
            "additionalItems" if !map.get("items").is_some_and(Value::is_array) => {}
            "additionalItems" => put("items", self.node(value, path)?),
            "properties" | "patternProperties" => {
                let Value::Object(schemas) = value else {
                    return Err(path.refused(format!("expected an object of schemas; found {}", kind(value))));
                };
                let mut inner = Map::new();
                for (name, schema) in schemas {
                    let path = path.key(name);
                    if key == "patternProperties" {
                        check_regex(&format!("JSON schema: {path}"), name)?;
                    }
                    inner.insert(name.clone(), self.node(schema, &path)?);
                }
                put(key, Value::Object(inner));
            }
            "required" => put(key, required(value, path)?),
            "const" => put(key, literal(value, path)?.clone()),
            "enum" => put(key, options(value, path)?),
            "type" => put(key, types(value, path)?),
            "minLength" | "minItems" | "minProperties" => {
                let least = count(value, path)?;
                if least > MAX_AT_LEAST {
                    return Err(path.too_large("as the least length", least, MAX_AT_LEAST));
                }
                put(key, json!(least));
            }
            "maxLength" | "maxItems" | "maxProperties" => {
                let most = count(value, path)?;
                if most < ANY_LENGTH {
                    if most > MAX_AT_MOST {
                        return Err(path.too_large("as the greatest length", most, MAX_AT_MOST));
                    }
                    put(key, json!(most));
                }
            }
            "pattern" => {
                let Some(pattern) = value.as_str() else {
                    return Err(path.refused(format!("expected a regular expression; found {}", kind(value))));
                };
                check_regex(&format!("JSON schema: {path}"), pattern)?;
                put(key, value.clone());
            }
            "format" => format(map, value, path, out)?,
            "minimum" | "maximum" | "multipleOf" => put(key, number(value, path)?.clone()),
            "exclusiveMinimum" | "exclusiveMaximum" if value.is_boolean() => put(key, value.clone()),
            "exclusiveMinimum" | "exclusiveMaximum" => put(key, number(value, path)?.clone()),
            "nullable" if value == &Value::Bool(false) => {}
            "uniqueItems" if value == &Value::Bool(false) => {}
            _ if ANNOTATIONS.contains(&key) => {}
            _ if key.starts_with("x-") && key != "x-guidance" => {}
            "nullable" => return Err(path.refused("not JSON Schema; add \"null\" to `type` instead")),
            _ if UNSUPPORTED.contains(&key) => {
                return Err(path.refused("this keyword cannot be enforced; remove it, or say the same without it"));
            }
            _ => return Err(path.refused("unknown keyword; check its spelling, or begin it with `x-` if it is a note")),
        }
        Ok(())
    }

    fn list(&mut self, schemas: &'a [Value], path: &Path) -> Result<Value> {
        schemas.iter().enumerate().map(|(at, schema)| self.node(schema, &path.index(at))).collect()
    }

    /// The number of the definition that a reference names.
    fn reference(&mut self, value: &'a Value, path: &Path) -> Result<usize> {
        let Some(text) = value.as_str() else {
            return Err(path.refused(format!("expected a string; found {}", kind(value))));
        };
        let shown: String = text.chars().take(80).collect();
        let Some(pointer) = text.strip_prefix('#') else {
            return Err(
                path.refused(format!("{shown:?} is elsewhere; only references into this schema (#/...) are followed"))
            );
        };
        let steps = steps(pointer).ok_or_else(|| {
            path.refused(format!("{shown:?} is no pointer into this schema; write it as \"#/$defs/name\""))
        })?;
        let mut schema = self.schema;
        let mut place = Path::root();
        for step in &steps {
            let (next, there) = match schema {
                Value::Object(map) => (map.get(step), place.key(step)),
                Value::Array(items) => {
                    let index = step.parse().unwrap_or(usize::MAX);
                    (items.get(index), place.index(index))
                }
                _ => (None, place.key(step)),
            };
            let Some(next) = next else {
                return Err(path.refused(format!("{shown:?} names nothing: there is no {there}")));
            };
            (schema, place) = (next, there);
        }
        let next = self.waiting.len();
        let index = *self.index.entry(steps).or_insert(next);
        if index == next {
            if next == MAX_DEFINITIONS {
                return Err(path.too_large("schemas that references name", next as u64 + 1, MAX_DEFINITIONS as u64));
            }
            self.waiting.push((schema, place));
        }
        self.references.push((path.clone(), index));
        Ok(index)
    }
}

/// Steps of a JSON pointer that stands in a fragment; `None` if it is none.
fn steps(fragment: &str) -> Option<Vec<String>> {
    if fragment.is_empty() || fragment == "/" {
        return Some(Vec::new());
    }
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    let steps = text.strip_prefix('/')?;
    Some(steps.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn nodes<'a>(value: &'a Value, path: &Path) -> Result<&'a [Value]> {
    let Value::Array(schemas) = value else {
        return Err(path.refused(format!("expected an array of schemas; found {}", kind(value))));
    };
    if schemas.len() > MAX_OPTIONS {
        return Err(path.too_large("schemas", schemas.len() as u64, MAX_OPTIONS as u64));
    }
    Ok(schemas)
}

fn options(value: &Value, path: &Path) -> Result<Value> {
    let Value::Array(values) = value else {
        return Err(path.refused(format!("expected an array; found {}", kind(value))));
    };
    if values.is_empty() {
        return Err(path.unsatisfiable("there is nothing to choose from"));
    }
    if values.len() > MAX_OPTIONS {
        return Err(path.too_large("values", values.len() as u64, MAX_OPTIONS as u64));
    }
    for (at, value) in values.iter().enumerate() {
        literal(value, &path.index(at))?;
    }
    Ok(value.clone())
}

/// A value that is to appear as it is.
fn literal<'a>(value: &'a Value, path: &Path) -> Result<&'a Value> {
    match value {
        Value::Number(_) => number(value, path).map(|_| value),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(at, item)| literal(item, &path.index(at)).map(|_| ()))?;
            Ok(value)
        }
        Value::Object(map) => {
            map.iter().try_for_each(|(key, item)| literal(item, &path.key(key)).map(|_| ()))?;
            Ok(value)
        }
        _ => Ok(value),
    }
}

fn number<'a>(value: &'a Value, path: &Path) -> Result<&'a Value> {
    let Some(number) = value.as_f64() else {
        return Err(path.refused(format!("expected a number; found {}", kind(value))));
    };
    if number.abs() > MAX_EXACT {
        return Err(path.refused(format!("{value} is beyond 2^53, where numbers are no longer exact")));
    }
    Ok(value)
}

fn count(value: &Value, path: &Path) -> Result<u64> {
    let whole = value.as_f64().filter(|number| *number >= 0.0 && number.fract() == 0.0);
    value
        .as_u64()
        .or(whole.map(|number| number as u64))
        .ok_or_else(|| path.refused(format!("expected a whole number, zero or more; found {value}")))
}

fn types(value: &Value, path: &Path) -> Result<Value> {
    let one = |value: &Value, path: &Path| match value.as_str() {
        Some(name) if TYPES.contains(&name) => Ok(()),
        _ => Err(path.refused(format!("expected one of {}; found {value:.80}", TYPES.join(", ")))),
    };
    match value {
        Value::Array(names) if names.is_empty() => return Err(path.unsatisfiable("no type is allowed")),
        Value::Array(names) => names.iter().enumerate().try_for_each(|(at, name)| one(name, &path.index(at)))?,
        _ => one(value, path)?,
    }
    // A name twice would make the same option twice.
    let mut names: Vec<&str> = names(value).collect();
    names.sort_unstable();
    names.dedup();
    if names.contains(&"number") {
        names.retain(|name| *name != "integer");
    }
    Ok(if let [name] = names[..] { json!(name) } else { json!(names) })
}

/// Names in a `type`.
pub(super) fn names(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    value.as_str().into_iter().chain(list.iter().filter_map(Value::as_str))
}

/// Whether a schema's `type` leaves nothing but the given types.
fn only(map: &Map<String, Value>, of: &[&str]) -> bool {
    map.get("type").is_some_and(|types| names(types).all(|name| of.contains(&name)))
}

fn required(value: &Value, path: &Path) -> Result<Value> {
    let Value::Array(names) = value else {
        return Err(path.refused(format!("expected an array of names; found {}", kind(value))));
    };
    if let Some(at) = names.iter().position(|name| !name.is_string()) {
        return Err(path.index(at).refused(format!("expected a name; found {}", kind(&names[at]))));
    }
    Ok(value.clone())
}

fn format(map: &Map<String, Value>, value: &Value, path: &Path, out: &mut Map<String, Value>) -> Result<()> {
    // It says something about strings only.
    if map.get("type").is_some_and(|types| names(types).all(|name| name != "string")) {
        return Ok(());
    }
    let name = value.as_str().unwrap_or_default();
    match formats::format(name) {
        Some(Format::Known) => {
            out.insert("format".to_owned(), value.clone());
            Ok(())
        }
        Some(Format::Pattern(pattern)) => {
            let pattern = json!([{ "type": "string", "pattern": pattern, "examples": [formats::example(name)] }]);
            let strings_only = only(map, &["string"]);
            match out.get_mut("allOf").and_then(Value::as_array_mut) {
                _ if !strings_only => return Err(path.refused("needs `type` to be \"string\" and nothing else")),
                Some(all) => all.extend(pattern.as_array().cloned().unwrap_or_default()),
                None => {
                    out.insert("allOf".to_owned(), pattern);
                }
            }
            Ok(())
        }
        None => Err(path.refused(format!("format {value:.80} cannot be enforced; those that can: {}", formats::NAMES))),
    }
}

/// Refuses bounds that exclude each other where no other type is left.
fn check_bounds(map: &Map<String, Value>, path: &Path) -> Result<()> {
    let pairs: [(&str, &str, &[&str]); 4] = [
        ("minLength", "maxLength", &["string"]),
        ("minItems", "maxItems", &["array"]),
        ("minProperties", "maxProperties", &["object"]),
        ("minimum", "maximum", &["number", "integer"]),
    ];
    for (low, high, types) in pairs {
        let bounds = map.get(low).and_then(Value::as_f64).zip(map.get(high).and_then(Value::as_f64));
        if let Some((least, most)) = bounds
            && least > most
            && only(map, types)
        {
            return Err(path.unsatisfiable(format!("{low} {least} is above {high} {most}")));
        }
    }
    if map.get("multipleOf").and_then(Value::as_f64).is_some_and(|step| step <= 0.0) {
        return Err(path.key("multipleOf").refused("must be above zero"));
    }
    Ok(())
}

/// Refuses required properties that nothing may be.
fn check_required(map: &Map<String, Value>, path: &Path) -> Result<()> {
    let closed = map.get("additionalProperties") == Some(&Value::Bool(false)) && !map.contains_key("patternProperties");
    let Some(names) = map.get("required").and_then(Value::as_array).filter(|_| only(map, &["object"])) else {
        return Ok(());
    };
    let properties = map.get("properties").and_then(Value::as_object);
    for (at, name) in names.iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        let schema = properties.and_then(|properties| properties.get(name));
        let path = path.key("required").index(at);
        match schema {
            None if closed => {
                return Err(path.unsatisfiable(format!(
                    "{name:?} is required, but `properties` does not list it and `additionalProperties` is false"
                )));
            }
            Some(Value::Bool(false)) => {
                return Err(path.unsatisfiable(format!("{name:?} is required, but its schema is false")));
            }
            _ => {}
        }
    }
    Ok(())
}

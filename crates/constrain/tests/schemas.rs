//! Random schemas, random limits, random models: the text parses and satisfies the schema, always.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Random, allowed, vocabulary};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use verve_constrain::{Accepted, ConstrainError, Constraint, Constraints};

/// A schema of the kinds that [`satisfies`] knows.
fn random_schema(random: &mut Random, depth: usize) -> Value {
    let kinds = if depth == 0 { 7 } else { 11 };
    match random.below(kinds) {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": "null"}),
        2 => {
            let low = random.below(2000) as i64 - 1000;
            json!({"type": "integer", "minimum": low, "maximum": low + random.below(300) as i64})
        }
        3 => json!({"type": "number"}),
        4 => json!({"type": "string"}),
        5 => {
            let least = random.below(30);
            json!({"type": "string", "minLength": least, "maxLength": least + random.below(20)})
        }
        6 => {
            let texts = ["red", "a \"quoted\" word", "日本", "", "green and blue\n", "redder"];
            let count = 1 + random.below(4);
            let mut values: Vec<Value> = (0..count).map(|_| json!(texts[random.below(texts.len())])).collect();
            values.push(json!(random.below(1000)));
            json!({ "enum": values })
        }
        7 => {
            let least = random.below(3);
            json!({"type": "array", "items": random_schema(random, depth - 1), "minItems": least, "maxItems": least + random.below(3)})
        }
        8 => json!({"anyOf": [random_schema(random, depth - 1), random_schema(random, depth - 1)]}),
        _ => {
            let names = ["a", "name", "a rather long name of a property", "\"", "é", "items", "value"];
            let mut properties = Map::new();
            let mut required = Vec::new();
            for _ in 0..random.below(5) {
                let name = names[random.below(names.len())];
                properties.insert(name.to_owned(), random_schema(random, depth - 1));
                if random.below(2) == 0 && !required.contains(&name) {
                    required.push(name);
                }
            }
            let mut schema = json!({"type": "object", "properties": properties, "required": required});
            if random.below(2) == 0 {
                schema["additionalProperties"] = json!(false);
            }
            schema
        }
    }
}

fn satisfies(schema: &Value, value: &Value) -> bool {
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().any(|schema| satisfies(schema, value));
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    let within = |size: usize, low: &str, high: &str| {
        schema[low].as_u64().is_none_or(|low| size as u64 >= low)
            && schema[high].as_u64().is_none_or(|high| size as u64 <= high)
    };
    match schema["type"].as_str().unwrap() {
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value
            .as_i64()
            .is_some_and(|n| schema["minimum"].as_i64().unwrap() <= n && n <= schema["maximum"].as_i64().unwrap()),
        "string" => value.as_str().is_some_and(|text| within(text.chars().count(), "minLength", "maxLength")),
        "array" => value.as_array().is_some_and(|items| {
            within(items.len(), "minItems", "maxItems") && items.iter().all(|item| satisfies(&schema["items"], item))
        }),
        "object" => value.as_object().is_some_and(|map| {
            let listed = schema["properties"].as_object().unwrap();
            let all = map.iter().all(|(name, value)| match listed.get(name) {
                Some(schema) => satisfies(schema, value),
                None => schema["additionalProperties"] != json!(false),
            });
            all && schema["required"].as_array().unwrap().iter().all(|name| map.contains_key(name.as_str().unwrap()))
        }),
        other => panic!("{other}"),
    }
}

/// How a model picks among the tokens that may come.
#[derive(Debug, Clone, Copy)]
enum Model {
    /// Any.
    Uniform,
    /// Long tokens rather than short ones.
    Long,
    /// Never what closes a string or an object, if it can help it.
    Endless,
}

fn pick(model: Model, ids: &[u32], tokens: &[Vec<u8>], random: &mut Random) -> u32 {
    let mut any = || ids[random.below(ids.len())];
    match model {
        Model::Uniform => any(),
        Model::Long => (0..4).map(|_| any()).max_by_key(|&id| tokens[id as usize].len()).unwrap(),
        Model::Endless => (0..20)
            .map(|_| any())
            .min_by_key(|&id| tokens[id as usize].iter().filter(|b| b"}]\"".contains(b)).count())
            .unwrap(),
    }
}

fn run(constraints: &Constraints, tokens: &[Vec<u8>], seed: u64, limit: usize, model: Model) {
    let mut random = Random(seed);
    let schema = random_schema(&mut random, 3);
    let mut matcher = constraints.start(&Constraint::JsonSchema(schema.clone())).unwrap();
    let limit = match matcher.set_limit(limit) {
        Ok(()) => limit,
        Err(ConstrainError::LimitTooSmall { needed, left }) => {
            assert!(needed > left && left == limit);
            matcher.set_limit(needed).unwrap();
            needed
        }
        Err(error) => panic!("{error}: {schema}"),
    };
    let mut mask = vec![0; constraints.mask_words()];
    let mut text = Vec::new();
    let mut taken = 0;
    while !matcher.is_finished() && matcher.left() != Some(0) {
        matcher.mask(&mut mask).unwrap();
        let ids = allowed(&mask);
        let id = pick(model, &ids, tokens, &mut random);
        if matcher.accept(id).unwrap() == Accepted::Taken && !tokens[id as usize].is_empty() {
            text.extend_from_slice(&tokens[id as usize]);
            taken += 1;
        }
    }
    assert!(taken <= limit && matcher.may_end().unwrap());
    let text = String::from_utf8(text).unwrap();
    match serde_json::from_str::<Value>(&text) {
        Ok(value) => assert!(satisfies(&schema, &value), "{schema}\n{text}"),
        // 1e999 is JSON, but more than this reader takes.
        Err(error) => assert!(error.to_string().contains("out of range"), "{error}: {schema}\n{text}"),
    }
}

fn model() -> impl Strategy<Value = Model> {
    prop_oneof![Just(Model::Uniform), Just(Model::Long), Just(Model::Endless)]
}

thread_local! {
    static CONSTRAINTS: Constraints = common::constraints();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("CASES").map_or(300, |n| n.parse().unwrap()), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn texts_satisfy_their_schema_within_any_limit(seed in any::<u64>(), limit in 1usize..150, model in model()) {
        CONSTRAINTS.with(|constraints| run(constraints, &vocabulary(), seed, limit, model));
    }
}

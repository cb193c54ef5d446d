//! Constraints that are wrong, huge, endless or impossible: one clear error each, with its place.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Random, allowed, constraints};
use serde_json::{Value, json};
use verve_constrain::{ConstrainError, Constraint, Constraints};

/// The error of a constraint, at its start or within the first tokens.
fn error(constraints: &Constraints, constraint: &Constraint) -> ConstrainError {
    match constraints.start(constraint) {
        Err(error) => error,
        Ok(_) => panic!("this compiled: {constraint:.200?}"),
    }
}

fn schema_error(constraints: &Constraints, schema: Value) -> String {
    let error = error(constraints, &Constraint::JsonSchema(schema)).to_string();
    assert!(error.len() < 600, "{error}");
    assert!(!error.contains('\n'), "{error}");
    println!("{error}");
    error
}

/// Takes some random steps: the constraint may compile, but then it must work or fail with an error.
fn walk(constraints: &Constraints, constraint: &Constraint) {
    let mut matcher = match constraints.start(constraint) {
        Ok(matcher) => matcher,
        Err(error) => {
            println!("{error}");
            return;
        }
    };
    let mut mask = vec![0; constraints.mask_words()];
    let mut random = Random(3);
    for _ in 0..40 {
        if matcher.is_finished() {
            break;
        }
        if let Err(error) = matcher.mask(&mut mask) {
            assert!(matches!(error, ConstrainError::TooCostly { .. } | ConstrainError::DeadEnd), "{error:?}");
            println!("{error}");
            return;
        }
        let ids = allowed(&mask);
        if let Err(error) = matcher.accept(ids[random.below(ids.len())]) {
            assert!(matches!(error, ConstrainError::TooCostly { .. }), "{error:?}");
            return;
        }
    }
}

#[test]
fn keywords_that_are_not_enforced_are_refused_with_their_path() {
    let constraints = constraints();
    let keywords = [
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "uniqueItems",
        "unevaluatedItems",
        "unevaluatedProperties",
        "propertyNames",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "$dynamicRef",
        "$recursiveRef",
        "minlength",
        "x-guidance",
        "enums",
        "nullable",
    ];
    for keyword in keywords {
        let schema = json!({"type": "object", "properties": {"a b": {"items": {keyword: true}, "type": "array"}}});
        let error = schema_error(&constraints, schema);
        assert!(error.contains(&format!("$.properties[\"a b\"].items.{keyword}:")), "{error}");
    }
    for (harmless, value) in
        [("title", json!("t")), ("description", json!(1)), ("x-order", json!({})), ("uniqueItems", json!(false))]
    {
        constraints.start(&Constraint::JsonSchema(json!({harmless: value}))).unwrap();
    }
}

#[test]
fn malformed_schemas_are_refused_with_their_path() {
    let constraints = constraints();
    let cases = [
        (json!(null), "$: "),
        (json!([1]), "$: "),
        (json!("string"), "$: "),
        (json!({"type": "str"}), "$.type: "),
        (json!({"type": ["string", 3]}), "$.type[1]: "),
        (json!({"properties": ["a"]}), "$.properties: "),
        (json!({"properties": {"a": 3}}), "$.properties.a: "),
        (json!({"items": 3}), "$.items: "),
        (json!({"required": "a"}), "$.required: "),
        (json!({"required": ["a", 1]}), "$.required[1]: "),
        (json!({"anyOf": {}}), "$.anyOf: "),
        (json!({"anyOf": []}), "$.anyOf: "),
        (json!({"anyOf": [true, 1]}), "$.anyOf[1]: "),
        (json!({"enum": "a"}), "$.enum: "),
        (json!({"minLength": -1}), "$.minLength: "),
        (json!({"minLength": 1.5}), "$.minLength: "),
        (json!({"maxItems": "3"}), "$.maxItems: "),
        (json!({"minimum": "3"}), "$.minimum: "),
        (json!({"multipleOf": 0, "type": "number"}), "$.multipleOf: "),
        (json!({"pattern": 3}), "$.pattern: "),
        (json!({"type": "string", "pattern": "("}), "$.pattern: "),
        (json!({"items": {"type": "string", "pattern": "a(?=b)"}}), "$.items.pattern: "),
        (json!({"type": "string", "format": "credit-card"}), "$.format: "),
        (json!({"const": 9_007_199_254_740_995_i64}), "$.const: "),
        (json!({"$ref": "https://example.com/schema.json"}), "$.$ref: "),
        (json!({"$ref": "#/$defs/none"}), "$.$ref: "),
        (json!({"$ref": "#anchor"}), "$.$ref: "),
        (json!({"$ref": 1}), "$.$ref: "),
        (json!({"items": {"$id": "b"}}), "$.items.$id: "),
        (json!({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}), "$.oneOf: "),
    ];
    for (schema, path) in cases {
        let error = schema_error(&constraints, schema.clone());
        assert!(error.contains(&format!("JSON schema: {path}")), "{schema}: {error}");
    }
    for text in ["", "{", "{\"type\": }", "[[[["] {
        let error = Constraint::json_schema(text).unwrap_err();
        assert!(error.to_string().starts_with("JSON schema: $: no JSON"), "{error}");
    }
}

#[test]
fn what_nothing_satisfies_is_said_so_with_its_path() {
    let constraints = constraints();
    let cases = [
        (json!(false), "$: "),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), "$: "),
        (json!({"items": {"type": "number", "minimum": 3, "maximum": 2}, "type": "array", "minItems": 1}), "$.items: "),
        (json!({"type": "integer", "minimum": 1.2, "maximum": 1.8}), "$: "),
        (json!({"type": "string", "minLength": 3, "maxLength": 2}), "$: "),
        (json!({"enum": []}), "$.enum: "),
        (json!({"type": []}), "$.type: "),
        (json!({"type": "string", "const": 1}), "$: "),
        (json!({"allOf": [{"type": "string"}, {"type": "integer"}]}), "$: "),
        (json!({"type": "object", "required": ["a"], "additionalProperties": false}), "$.required[0]: "),
        (json!({"type": "object", "required": ["a"], "properties": {"a": false}}), "$.required[0]: "),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "pattern": "^aaa$", "maxLength": 2}}}),
            "$.properties.a: ",
        ),
        (
            json!({"$ref": "#/$defs/x", "$defs": {"x": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0.1, "maximum": 0.2}}}}),
            "$.$defs.x.items: ",
        ),
        (json!({"$ref": "#"}), "$.$ref: "),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}), "$.$ref: "),
        (
            json!({"type": "object", "properties": {"child": {"$ref": "#"}}, "required": ["child"]}),
            "$.properties.child.$ref: ",
        ),
        (json!({"type": "array", "items": {"$ref": "#"}, "minItems": 1}), "$.items.$ref: "),
    ];
    for (schema, path) in cases {
        let error = schema_error(&constraints, schema.clone());
        assert!(error.contains("nothing satisfies"), "{schema}: {error}");
        assert!(error.contains(&format!("JSON schema: {path}")), "{schema}: {error}");
    }
}

#[test]
fn huge_schemas_are_refused_before_they_are_compiled() {
    let constraints = constraints();
    let mut deep = json!({"type": "string"});
    for _ in 0..10_000 {
        deep = Value::Object([("items".to_owned(), deep)].into_iter().collect());
    }
    assert!(schema_error(&constraints, deep).contains("levels inside each other"));
    let nested = "{\"items\":".repeat(10_000) + "true" + &"}".repeat(10_000);
    assert!(Constraint::json_schema(&nested).unwrap_err().to_string().contains("recursion limit"));
    let many: Vec<u32> = (0..1_000_000).collect();
    assert!(schema_error(&constraints, json!({"properties": {"n": {"enum": many}}})).contains("$.properties.n.enum: "));
    let many: Vec<u32> = (0..20_000).collect();
    assert!(schema_error(&constraints, json!({"enum": many})).contains("20000 values; at most 10000"));
    assert!(schema_error(&constraints, json!({"const": "x".repeat(2 << 20)})).contains("bytes in all"));
    for key in ["minLength", "minItems", "minProperties"] {
        let error = schema_error(&constraints, json!({"items": {key: 1_000_000_000}}));
        assert!(error.contains(&format!("$.items.{key}: 1000000000")), "{error}");
    }
    let error = schema_error(&constraints, json!({"type": "string", "pattern": "(x{1000}){1000}"}));
    assert!(error.contains("$.pattern: 1000000 repetitions"), "{error}");
    let many: serde_json::Map<String, Value> =
        (0..2000).map(|n| (format!("p{n}"), json!({"$ref": format!("#/$defs/d{n}")}))).collect();
    let definitions: serde_json::Map<String, Value> = (0..2000).map(|n| (format!("d{n}"), json!(true))).collect();
    let error = schema_error(&constraints, json!({"properties": many, "$defs": definitions}));
    assert!(error.contains("schemas that references name"), "{error}");
    assert!(matches!(Constraint::json_schema(&" ".repeat(20 << 20)), Err(ConstrainError::TooLarge { .. })));
}

/// `d0` is made of two `d1`, which are made of two `d2`, ...
fn doubling(levels: usize, node: impl Fn(Value) -> Value) -> Value {
    let mut definitions = serde_json::Map::new();
    for level in 0..levels {
        definitions.insert(format!("d{level}"), node(json!({"$ref": format!("#/$defs/d{}", level + 1)})));
    }
    definitions.insert(format!("d{levels}"), json!({"type": "integer"}));
    json!({"$ref": "#/$defs/d0", "$defs": definitions})
}

#[test]
fn references_that_double_take_bounded_work() {
    let constraints = constraints();
    walk(&constraints, &Constraint::JsonSchema(doubling(60, |next| json!({"allOf": [next, next]}))));
    walk(&constraints, &Constraint::JsonSchema(doubling(60, |next| json!({"anyOf": [next, next]}))));
    let objects =
        doubling(60, |next| json!({"type": "object", "properties": {"a": next, "b": next}, "required": ["a", "b"]}));
    walk(&constraints, &Constraint::JsonSchema(objects.clone()));
    let mut matcher = constraints.start(&Constraint::JsonSchema(objects)).unwrap();
    let error = matcher.set_limit(1000).unwrap_err();
    assert!(matches!(error, ConstrainError::NoEnding { left: 1000 } | ConstrainError::LimitTooSmall { .. }), "{error}");
}

#[test]
fn lengths_that_fit_no_text_do_not_matter() {
    let constraints = constraints();
    let long = json!({"type": "string", "maxLength": 1_000_000_000});
    assert!(common::matches(&constraints, &Constraint::JsonSchema(long), "\"abc\""));
    let long = json!({"type": "array", "maxItems": 1_000_000_000, "items": {"type": "integer"}});
    assert!(common::matches(&constraints, &Constraint::JsonSchema(long), "[1,2]"));
    for most in [65_535, 1_000_000] {
        walk(&constraints, &Constraint::JsonSchema(json!({"type": "string", "maxLength": most})));
        walk(&constraints, &Constraint::JsonSchema(json!({"type": "array", "maxItems": most})));
    }
    walk(&constraints, &Constraint::JsonSchema(json!({"type": "string", "minLength": 4096})));
}

#[test]
fn costly_regular_expressions_work_or_fail_alone() {
    let constraints = constraints();
    let patterns = [
        "(a+)+b",
        "(a|a)*b",
        "(.*a){50}",
        "(a?){100}a{100}",
        ".*a.{200}",
        "(.*)(.*)(.*)(.*)x",
        "[a-z]{4000}",
        r"\p{L}{300}",
        r"(\w+\s?){1,100}",
        "(a|b|ab)*c{50,1000}",
        "(?i)(abc|def){1,500}x",
    ];
    for pattern in patterns {
        println!("{pattern}");
        walk(&constraints, &Constraint::Regex(pattern.to_owned()));
        walk(&constraints, &Constraint::JsonSchema(json!({"type": "string", "pattern": pattern})));
    }
}

#[test]
fn bad_regular_expressions_are_refused() {
    let constraints = constraints();
    let deep = "(".repeat(5000) + "a" + &")".repeat(5000);
    let cases = [
        ("(", "regular expression: "),
        ("a(?=b)", "regular expression: "),
        ("a{2,1}", "regular expression: "),
        (r"(a)\1", "regular expression: "),
        (&"a".repeat(20_000), "bytes of regular expression"),
        (&deep, "brackets inside each other"),
        ("a{1000000}", "1000000 repetitions"),
        ("((a{20}){20}){20}", "8000 repetitions"),
    ];
    for (pattern, message) in cases {
        let error = error(&constraints, &Constraint::Regex(pattern.to_owned())).to_string();
        println!("{error}");
        assert!(error.contains(message), "{error}");
        assert!(error.len() < 500 && !error.contains('\n'), "{error}");
    }
}

#[test]
fn bad_grammars_are_refused() {
    let constraints = constraints();
    let deep = format!("start: {}\"a\"{}", "(".repeat(5000), ")".repeat(5000));
    let long = format!("start: {}", "\"a\" ".repeat(100_000));
    let cases = [
        "",
        "nothing",
        "start: missing",
        "start: \"a",
        "start: \"a\"{1000000}",
        &deep,
        &long,
        "start: %json {\"type\": \"object\"}",
        "start: /(/",
        "%import nothing.AT_ALL\nstart: AT_ALL",
        "start: \"\\q\"",
        "start: a\na: b\nb: a",
    ];
    for grammar in cases {
        match constraints.start(&Constraint::Grammar(grammar.to_owned())) {
            Err(error) => {
                println!("{error}");
                let error = error.to_string();
                assert!(error.starts_with("grammar: ") && error.len() < 500 && !error.contains('\n'), "{error}");
            }
            Ok(mut matcher) => {
                // What compiles must at least say that it leads nowhere.
                println!("compiled: {grammar:.80}");
                let mut mask = vec![0; constraints.mask_words()];
                if matcher.mask(&mut mask).is_ok() {
                    let _ = matcher.set_limit(100).map_err(|error| println!("{error}"));
                }
            }
        }
    }
}

#[test]
fn a_grammar_without_an_end_has_no_limit() {
    let constraints = constraints();
    let mut endless = match constraints.start(&Constraint::Grammar("start: start \"a\" | \"a\" start".to_owned())) {
        Ok(matcher) => matcher,
        Err(error) => {
            assert!(matches!(error, ConstrainError::Grammar { .. }), "{error}");
            return;
        }
    };
    assert!(endless.set_limit(1000).is_err());
}

//! What constraints let through.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{allowed, constraints, end, mask, matches, schema};
use verve_constrain::{Accepted, ConstrainError, Constraint, Constraints};

#[test]
fn a_json_object_is_any_object_and_nothing_else() {
    let constraints = constraints();
    for text in
        [r#"{}"#, r#"{"a":1}"#, "{\"a\": [1, {\"b\": null}],\n  \"é\": \"日本\"}", r#"{"x":-1.5e10,"y":"\n\\\""}"#]
    {
        assert!(matches(&constraints, &Constraint::JsonObject, text), "{text}");
    }
    for text in ["", "[]", "1", "{", r#"{"a"}"#, r#"{"a":01}"#, "{\"a\":\"\n\"}", "{ }x", r#"{"a":1,}"#] {
        assert!(!matches(&constraints, &Constraint::JsonObject, text), "{text}");
    }
}

#[test]
fn a_schema_holds_types_bounds_enums_and_order() {
    let constraints = constraints();
    let schema = schema(
        r#"{"type":"object","properties":{"name":{"type":"string","minLength":1,"maxLength":3},
            "age":{"type":"integer","minimum":0,"maximum":120},"colour":{"enum":["red","green"]},
            "tags":{"type":"array","items":{"type":"string"},"minItems":1,"maxItems":2}},
            "required":["name","age"],"additionalProperties":false}"#,
    );
    for text in [
        r#"{"name":"a","age":3}"#,
        r#"{"name":"日本","age":120,"colour":"red"}"#,
        "{\"name\": \"abc\",\n  \"age\": 0, \"tags\": [\"x\",\"\"]}",
    ] {
        assert!(matches(&constraints, &schema, text), "{text}");
    }
    for text in [
        r#"{}"#,
        r#"{"age":3,"name":"a"}"#,
        r#"{"name":"","age":3}"#,
        r#"{"name":"abcd","age":3}"#,
        r#"{"name":"a","age":121}"#,
        r#"{"name":"a","age":1.5}"#,
        r#"{"name":"a","age":3,"colour":"blue"}"#,
        r#"{"name":"a","age":3,"tags":[]}"#,
        r#"{"name":"a","age":3,"tags":["a","b","c"]}"#,
        r#"{"name":"a","age":3,"more":1}"#,
    ] {
        assert!(!matches(&constraints, &schema, text), "{text}");
    }
}

#[test]
fn references_are_followed_by_pointer_whatever_their_names() {
    let constraints = constraints();
    let schema = schema(
        r##"{"$defs":{"a/b c~":{"type":"object","properties":{"next":{"$ref":"#/$defs/a~1b%20c~0"},"v":{"type":"integer"}},
            "required":["v"],"additionalProperties":false}},"type":"array","items":{"$ref":"#/$defs/a~1b%20c~0"}}"##,
    );
    assert!(matches(&constraints, &schema, r#"[{"next":{"next":{"v":1},"v":2},"v":3},{"v":4}]"#));
    assert!(!matches(&constraints, &schema, r#"[{"next":{"next":{},"v":2},"v":3}]"#));
    let tree = self::schema(
        r##"{"type":"object","properties":{"children":{"type":"array","items":{"$ref":"#"}}},"additionalProperties":false}"##,
    );
    assert!(matches(&constraints, &tree, r#"{"children":[{},{"children":[]}]}"#));
    assert!(!matches(&constraints, &tree, r#"{"children":[1]}"#));
}

#[test]
fn a_list_in_items_is_a_tuple() {
    let constraints = constraints();
    let tuple = schema(
        r#"{"type":"array","items":[{"type":"integer"},{"type":"string"}],"additionalItems":false,"minItems":2}"#,
    );
    assert!(matches(&constraints, &tuple, r#"[1,"a"]"#));
    assert!(!matches(&constraints, &tuple, r#"["a",1]"#));
    assert!(!matches(&constraints, &tuple, r#"[1,"a",2]"#));
    let rest = schema(
        r#"{"type":"array","prefixItems":[{"type":"integer"}],"items":{"type":"string"},"additionalItems":false}"#,
    );
    assert!(matches(&constraints, &rest, r#"[1,"a"]"#), "without a list in `items`, `additionalItems` means nothing");
    assert!(!matches(&constraints, &rest, r#"["a"]"#));
}

#[test]
fn dates_know_leap_years() {
    let constraints = constraints();
    let date = schema(r#"{"type":"string","format":"date"}"#);
    for day in ["2024-02-29", "2000-02-29", "2023-02-28", "1999-12-31"] {
        assert!(matches(&constraints, &date, &format!("\"{day}\"")), "{day}");
    }
    for day in ["2023-02-29", "1900-02-29", "2024-13-01", "2024-04-31", "24-01-01", "2024-01-01x"] {
        assert!(!matches(&constraints, &date, &format!("\"{day}\"")), "{day}");
    }
    let time = schema(r#"{"type":"string","format":"date-time","maxLength":20}"#);
    assert!(matches(&constraints, &time, r#""2024-02-29T23:59:59Z""#));
    assert!(!matches(&constraints, &time, r#""2024-02-29T23:59:59.5Z""#), "other keywords hold too");
    assert!(!matches(&constraints, &time, r#""2024-02-29T24:00:00Z""#));
}

#[test]
fn strings_hold_any_character_and_only_whole_ones() {
    let constraints = constraints();
    let text = schema(r#"{"type":"string"}"#);
    for good in ["\"\"", "\"é日本🎉\"", r#""\u0001\t\"\\""#, "\"\u{10ffff}\""] {
        assert!(matches(&constraints, &text, good), "{good}");
    }
    for bad in ["\"\u{1}\"", r#""\x""#, "\"a"] {
        assert!(!matches(&constraints, &text, bad), "{bad}");
    }
    // Half of a character cannot be closed.
    let mut matcher = constraints.start(&text).unwrap();
    assert_eq!(matcher.accept(u32::from(b'"')), Ok(Accepted::Taken));
    assert_eq!(matcher.accept(0xe6), Ok(Accepted::Taken));
    assert_eq!(matcher.accept(u32::from(b'"')), Err(ConstrainError::NotAllowed { id: u32::from(b'"') }));
    for byte in "日".bytes().skip(1) {
        assert_eq!(matcher.accept(u32::from(byte)), Ok(Accepted::Taken));
    }
    assert_eq!(matcher.accept(u32::from(b'"')), Ok(Accepted::Taken));
    assert!(matcher.is_finished());
    let long = schema(r#"{"type":"string","maxLength":2,"minLength":2}"#);
    assert!(matches(&constraints, &long, "\"日🎉\""), "characters are counted, not bytes");
    assert!(!matches(&constraints, &long, "\"é\""));
}

#[test]
fn white_space_between_parts_is_bounded() {
    let constraints = constraints();
    let object = Constraint::JsonObject;
    assert!(matches(&constraints, &object, "{\n    \"a\": {\n\t\t\"b\": 1\n    }\n}"));
    assert!(!matches(&constraints, &object, "{  \"a\":1}"));
    assert!(!matches(&constraints, &object, "{\n\n\"a\":1}"));
    assert!(!matches(&constraints, &object, &format!("{{\n{}}}", " ".repeat(33))));
    // The longest run is short, whatever the model wants.
    let mut matcher = constraints.start(&object).unwrap();
    assert_eq!(matcher.accept(u32::from(b'{')), Ok(Accepted::Taken));
    let mut run = 0;
    while let Some(&space) = mask(&mut matcher, &constraints).iter().find(|&&id| [10, 32].contains(&id)) {
        assert_eq!(matcher.accept(space), Ok(Accepted::Taken));
        run += 1;
    }
    assert!(run <= 33, "{run}");
}

#[test]
fn regular_expressions_match_the_whole_text() {
    let constraints = constraints();
    let number = Constraint::Regex(r"[+-]?\d{2,3}(\.\d+)?".to_owned());
    for text in ["12", "-123", "+99.75"] {
        assert!(matches(&constraints, &number, text), "{text}");
    }
    for text in ["1", "1234", "12.", "x12"] {
        assert!(!matches(&constraints, &number, text), "{text}");
    }
    let words = Constraint::Regex(r"(é|日本|/path)+ end".to_owned());
    assert!(matches(&constraints, &words, "é日本/path end"));
    assert!(!matches(&constraints, &words, " end"));
    assert!(matches(&constraints, &Constraint::Regex(String::new()), ""));
    assert!(!matches(&constraints, &Constraint::Regex(String::new()), "a"));
}

#[test]
fn grammars_nest() {
    let constraints = constraints();
    let sums =
        Constraint::Grammar("start: sum\nsum: term (\"+\" term)*\nterm: /[0-9]+/ | \"(\" sum \")\"\n".to_owned());
    for text in ["1", "1+22", "(1+(2+3))+4"] {
        assert!(matches(&constraints, &sums, text), "{text}");
    }
    for text in ["", "1+", "(1", "1)", "1++2"] {
        assert!(!matches(&constraints, &sums, text), "{text}");
    }
}

#[test]
fn masks_and_accept_agree_and_the_end_is_allowed_where_the_text_may_end() {
    let constraints = constraints();
    let sums = Constraint::Regex("ab?".to_owned());
    let mut matcher = constraints.start(&sums).unwrap();
    assert_eq!(mask(&mut matcher, &constraints), [u32::from(b'a')]);
    assert!(!matcher.may_end().unwrap());
    for id in 0..constraints.n_vocab() as u32 + 40 {
        if id != u32::from(b'a') {
            assert_eq!(matcher.accept(id), Err(ConstrainError::NotAllowed { id }));
        }
    }
    assert_eq!(matcher.accept(u32::from(b'a')), Ok(Accepted::Taken));
    assert_eq!(mask(&mut matcher, &constraints), [u32::from(b'b'), end()]);
    assert!(matcher.may_end().unwrap() && !matcher.is_finished());
    let mut other = matcher.clone();
    assert_eq!(other.accept(end()), Ok(Accepted::Taken));
    assert!(other.is_finished() && !matcher.is_finished());
    assert_eq!(other.accept(end()), Err(ConstrainError::NotAllowed { id: end() }));
    assert_eq!(matcher.accept(u32::from(b'b')), Ok(Accepted::Taken));
    assert!(matcher.is_finished() && matcher.may_end().unwrap());
    assert_eq!(mask(&mut matcher, &constraints), [end()]);
    assert_eq!(matcher.accept(end()), Ok(Accepted::Taken));
    assert!(matcher.is_finished() && matcher.may_end().unwrap());
    assert_eq!(matcher.accepted().collect::<Vec<_>>(), [u32::from(b'a'), u32::from(b'b'), end()]);
}

#[test]
fn rollback_returns_to_the_same_masks() {
    let constraints = constraints();
    let schema = schema(
        r#"{"type":"object","properties":{"name":{"type":"string"},"n":{"enum":["red","green"]}},"required":["name","n"]}"#,
    );
    let text = r#"{"name":"ab","n":"red"}"#;
    let mut matcher = constraints.start(&schema).unwrap();
    let mut masks = Vec::new();
    for byte in text.bytes() {
        masks.push(mask(&mut matcher, &constraints));
        assert_eq!(matcher.accept(u32::from(byte)), Ok(Accepted::Taken));
    }
    assert!(matcher.is_finished());
    assert_eq!(matcher.accept(end()), Ok(Accepted::Taken));
    assert!(matches!(matcher.rollback(text.len() + 2), Err(ConstrainError::Rollback { .. })));
    for at in (0..text.len()).rev().step_by(3) {
        let taken = matcher.accepted().len();
        matcher.rollback(taken - at).unwrap();
        assert_eq!(mask(&mut matcher, &constraints), masks[at], "{at}");
        assert!(!matcher.is_finished());
    }
    let left: Vec<u32> = text.bytes().skip(matcher.accepted().len()).map(u32::from).collect();
    assert_eq!(matcher.validate(&left).unwrap(), left.len());
    assert_eq!(matcher.validate(&[left.clone(), vec![end(), 5]].concat()).unwrap(), left.len() + 1);
    assert_eq!(matcher.validate(&[&left[..2], &[0]].concat()).unwrap(), 2);
    left.iter().for_each(|&id| assert_eq!(matcher.accept(id), Ok(Accepted::Taken)));
    assert!(matcher.is_finished());
}

#[test]
fn a_mask_may_be_longer_than_the_vocabulary() {
    let constraints = constraints();
    let mut matcher = constraints.start(&Constraint::Regex("(?s:.*)".to_owned())).unwrap();
    let mut mask = vec![u32::MAX; constraints.mask_words() + 3];
    matcher.mask(&mut mask).unwrap();
    let ids = allowed(&mask);
    assert!(ids.len() > 200 && ids.iter().all(|&id| (id as usize) < constraints.n_vocab()));
}

#[test]
fn a_vocabulary_needs_an_end() {
    assert!(matches!(Constraints::from_bytes([b"a"], &[]), Err(ConstrainError::Vocabulary { .. })));
    assert!(matches!(Constraints::from_bytes([b"a"], &[1]), Err(ConstrainError::Vocabulary { .. })));
}

#[test]
fn constraints_are_shared_and_matchers_sent_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    fn sent<T: Send + Clone>() {}
    shared::<Constraints>();
    sent::<verve_constrain::Matcher>();
    let constraints = constraints();
    let tables: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let work = || mask(&mut constraints.start(&Constraint::JsonObject).unwrap(), &constraints);
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(tables.iter().all(|table| !table.is_empty() && *table == tables[0]));
}

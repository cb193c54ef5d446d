//! Texts are complete before their tokens run out.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Random, allowed, constraints, end, schema, vocabulary};
use verve_constrain::{Accepted, ConstrainError, Constraint, Constraints, Matcher};

/// Picks among the allowed tokens at random, long ones more often than not, until the text ends. Returns the text.
fn generate(constraints: &Constraints, matcher: &mut Matcher, random: &mut Random) -> Vec<u8> {
    let tokens = vocabulary();
    let mut mask = vec![0; constraints.mask_words()];
    let mut text = Vec::new();
    let mut turned_down = 0;
    while !matcher.is_finished() && (matcher.left() != Some(0)) {
        matcher.mask(&mut mask).unwrap();
        let ids = allowed(&mask);
        assert!(!ids.is_empty());
        let pick = (0..3).map(|_| ids[random.below(ids.len())]).max_by_key(|&id| tokens[id as usize].len()).unwrap();
        match matcher.accept(pick).unwrap() {
            Accepted::Taken => {
                text.extend_from_slice(&tokens[pick as usize]);
                turned_down = 0;
            }
            Accepted::TooLong => turned_down += 1,
        }
        assert!(turned_down <= 12);
    }
    assert!(matcher.may_end().unwrap(), "{}", String::from_utf8_lossy(&text));
    text
}

#[test]
fn the_error_says_how_many_tokens_the_shortest_text_takes() {
    let constraints = constraints();
    let object = schema(
        r#"{"type":"object","properties":{"a_required_name":{"type":"integer"},"other":{"enum":["red","green"]}},
            "required":["a_required_name","other"],"additionalProperties":false}"#,
    );
    let mut matcher = constraints.start(&object).unwrap();
    let Err(ConstrainError::LimitTooSmall { needed, left: 3 }) = matcher.set_limit(3) else {
        panic!("three tokens cannot be enough")
    };
    assert!(needed > 10, "{needed}");
    assert!(matches!(matcher.set_limit(needed - 1), Err(ConstrainError::LimitTooSmall { .. })));
    matcher.set_limit(needed).unwrap();
    let text = generate(&constraints, &mut matcher, &mut Random(1));
    assert_eq!(String::from_utf8(text).unwrap(), r#"{"a_required_name":0,"other":"red"}"#);
    assert_eq!(matcher.left(), Some(0));
}

#[test]
fn every_limit_from_the_least_on_is_kept() {
    let constraints = constraints();
    let cases = [
        Constraint::JsonObject,
        schema(r#"{"type":"string","minLength":20}"#),
        schema(r#"{"type":"string","pattern":"^[a-z]{3,9}-[0-9]{4}(x|yy)$"}"#),
        schema(r#"{"type":"array","items":{"type":"integer","minimum":1000},"minItems":3}"#),
        schema(
            r#"{"anyOf":[{"type":"null"},{"type":"object","properties":{"deep":{"type":"array","items":{"type":"object","properties":{"k":{"type":"number"},"long_name_of_a_thing":{"type":"boolean"}},"required":["k","long_name_of_a_thing"]}}},"required":["deep"]}]}"#,
        ),
        Constraint::Regex(r"([a-z]+ ){4,}end(ing)?!".to_owned()),
        Constraint::Regex(r"(ab|cdefg)*xyz".to_owned()),
        Constraint::Grammar("start: sum\nsum: term (\"+\" term)*\nterm: /[0-9]+/ | \"(\" sum \")\"\n".to_owned()),
    ];
    for (case, constraint) in cases.iter().enumerate() {
        let start = constraints.start(constraint).unwrap();
        let mut least = None;
        for limit in (0..24).chain((24..100).step_by(7)) {
            let mut matcher = start.clone();
            match matcher.set_limit(limit) {
                Ok(()) => {
                    let _ = least.get_or_insert(limit);
                }
                Err(ConstrainError::LimitTooSmall { needed, left }) => {
                    assert!(left == limit && needed > limit && least.is_none(), "{constraint:?} {limit} {needed}");
                    continue;
                }
                Err(error) => panic!("{constraint:?}: {error}"),
            }
            let mut random = Random((case * 1000 + limit) as u64);
            let text = generate(&constraints, &mut matcher, &mut random);
            assert!(matcher.accepted().filter(|&id| id != end()).count() <= limit);
            let text = String::from_utf8(text).unwrap();
            assert!(common::matches(&constraints, constraint, &text), "{constraint:?}: {text}");
        }
        assert!(least.is_some(), "{constraint:?}");
    }
}

#[test]
fn rollback_under_a_limit_repeats_what_happened() {
    let constraints = constraints();
    let mut plain = constraints.start(&Constraint::JsonObject).unwrap();
    plain.set_limit(40).unwrap();
    let mut back_and_forth = plain.clone();
    let whole = generate(&constraints, &mut plain, &mut Random(7));
    // The same choices again, with detours that are taken back.
    let ids: Vec<u32> = plain.accepted().collect();
    let mut mask = vec![0; constraints.mask_words()];
    for (at, &id) in ids.iter().enumerate() {
        let mut detour = 0;
        let mut random = Random(at as u64);
        while detour < 3 && !back_and_forth.is_finished() && back_and_forth.left() != Some(0) {
            back_and_forth.mask(&mut mask).unwrap();
            let allowed = allowed(&mask);
            if back_and_forth.accept(allowed[random.below(allowed.len())]).unwrap() == Accepted::Taken {
                detour += 1;
            }
        }
        back_and_forth.rollback(detour).unwrap();
        assert_eq!(back_and_forth.left(), Some(40 - at));
        assert_eq!(back_and_forth.accept(id), Ok(Accepted::Taken));
    }
    assert_eq!(back_and_forth.accepted().collect::<Vec<_>>(), ids);
    assert!(back_and_forth.may_end().unwrap());
    assert!(serde_json::from_slice::<serde_json::Value>(&whole).is_ok());
}

#[test]
fn open_brackets_of_a_grammar_are_closed() {
    let constraints = constraints();
    let sums = "start: sum\nsum: term ((\"+\"|\"*\") term)*\nterm: /[0-9]+/ | \"(\" sum \")\"\n";
    let mut matcher = constraints.start(&Constraint::Grammar(sums.to_owned())).unwrap();
    matcher.set_limit(60).unwrap();
    // Twenty brackets are open, and something must stand in them.
    for &byte in b"1+(2*(((((((((((((((((((" {
        assert_eq!(matcher.accept(u32::from(byte)), Ok(Accepted::Taken), "{:?}", matcher.left());
    }
    let text = generate(&constraints, &mut matcher, &mut Random(5));
    assert!(text.ends_with(b"))"));
}

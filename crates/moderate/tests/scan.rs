//! Answers in pieces: nothing refused is sent, nothing is held for longer than needed, and the cuts do not matter.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::OnceLock;

use common::{chain, filter, stream};
use proptest::prelude::*;
use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};
use verve_moderate::{Chain, Stage};

/// What comes out for each piece.
fn steps(chain: &Chain, pieces: &[&str]) -> Vec<String> {
    let mut scan = chain.output_scan();
    let mut out: Vec<String> = pieces.iter().map(|p| scan.push(p).unwrap()).collect();
    out.push(scan.finish().unwrap());
    out
}

#[test]
fn only_what_may_become_a_match_waits() {
    let words = filter("words = ['kill', 'blue moon rising']");
    assert_eq!(steps(&words, &["ki", "te", "s"]), ["", "kite", "s", ""]);
    assert_eq!(steps(&words, &["skill"]), ["skill", ""]);
    assert_eq!(steps(&words, &["The", " b", "lue", " sky"]), ["The", " ", "", "blue sky", ""]);
    assert_eq!(steps(&words, &["blue moon ", "blue moon ", "x"]), ["", "blue moon ", "blue moon x", ""]);
    assert_eq!(steps(&words, &["kill", "s"]), ["", "kills", ""]);
    let patterns = filter(r"patterns = ['ab{2,4}c', '\bäh\b']");
    assert_eq!(steps(&patterns, &["xa", "b", "b", "d"]), ["x", "", "", "abbd", ""]);
    assert_eq!(steps(&patterns, &["oäh", " ä", "h", "m"]), ["oäh", " ", "", "ähm", ""]);
    let card = filter("builtin = ['card-number']");
    assert_eq!(steps(&card, &["In 19", "45 ", "4000", " men"]), ["In 19", "45 ", "", "4000 men", ""]);
    // Filters that only record keep nothing waiting.
    let record = filter("words = ['kill']\naction = 'record'");
    assert_eq!(steps(&record, &["ki", "ll"]), ["ki", "ll", ""]);
}

#[test]
fn what_is_refused_is_never_sent() {
    let words = filter("words = ['kill', 'blue moon']");
    let refused = |chain: &Chain, pieces: &[&str]| {
        let mut scan = chain.output_scan();
        let (sent, refusal) = stream(&mut scan, pieces.iter().copied());
        let finding = refusal.expect("refused").finding;
        // It stays refused.
        assert_eq!(scan.push("more").unwrap_err().finding, finding);
        assert_eq!(scan.finish().unwrap_err().safe, "");
        sent
    };
    assert_eq!(refused(&words, &["I will ki", "ll it"]), "I will ");
    assert_eq!(refused(&words, &["I will kill"]), "I will ");
    assert_eq!(refused(&words, &["blue ", "blue", " mo\u{301}", "on."]), "blue ");
    assert_eq!(refused(&words, &["ＫＩ", "ＬＬ", "!"]), "");
    let patterns = filter(r"patterns = ['\bno\b', 'x.{0,5}y']");
    assert_eq!(refused(&patterns, &["now, n", "o"]), "now, ");
    assert_eq!(refused(&patterns, &["a x12", "345y"]), "a ");
    let card = filter("builtin = ['card-number']");
    assert_eq!(refused(&card, &["No. 7: 4111 1111", " 1111 11", "11"]), "No. 7: ");
    let repeated = filter("patterns = ['a{1,3}b']");
    assert_eq!(refused(&repeated, &["xa", "aab"]), "x");
    // The match that ends first counts; one that began before it is not sent either.
    let two = filter("patterns = ['abcdefgh', 'cd']");
    assert_eq!(refused(&two, &["xxab", "cde"]), "xx");
}

#[test]
fn findings_that_are_recorded_come_once() {
    let chain = chain(
        "[[filters]]\nname='a'\nreason_code='x'\naction='record'\nwords=['one']\n\
         [[filters]]\nname='b'\nreason_code='y'\naction='record'\npatterns=['o[n]e']\n\
         [[filters]]\nname='c'\nreason_code='z'\nstage='input'\nwords=['one']",
    );
    let mut scan = chain.output_scan();
    let (sent, refusal) = stream(&mut scan, ["one o", "ne one"]);
    assert_eq!((sent.as_str(), refusal), ("one one one", None));
    let filters: Vec<_> = scan.records().iter().map(|f| f.filter.as_str()).collect();
    assert_eq!(filters.len(), 2);
    assert!(filters.contains(&"a") && filters.contains(&"b"));
}

/// A chain with everything in it that can be scanned.
fn everything() -> Chain {
    static CHAIN: OnceLock<Chain> = OnceLock::new();
    CHAIN.get_or_init(make_everything).clone()
}

fn make_everything() -> Chain {
    chain(
        r#"
        [[filters]]
        name = "words"
        reason_code = "w"
        words = ["ab", "a b a", "ba ba", "b1", "äa", "自a"]
        [[filters]]
        name = "patterns"
        reason_code = "p"
        patterns = [@]
        [[filters]]
        name = "numbers"
        reason_code = "n"
        builtin = ["card-number", "iban", "email", "api-key", "private-key"]
        [[filters]]
        name = "record"
        reason_code = "r"
        action = "record"
        words = ["b"]
        "#
        .replace('@', &PATTERNS.map(|p| format!("'{p}'")).join(", "))
        .as_str(),
    )
}

/// Expressions with assertions of every kind and characters of several bytes.
const PATTERNS: [&str; 8] =
    ["b{1,3}A", r"\b1a{1,3}\b", r"^\s{0,2}b1", "ä.{1,2}ä$", "(?m)a$", r"(?-u:\b)1-1", "a[^ab]{2,3}b", "(?i)ÄB|B1-"];

/// Where the matches begin that end first, found by trying all places.
fn first_match(text: &str) -> Option<(usize, usize)> {
    static REGEX: OnceLock<Regex> = OnceLock::new();
    let regex = REGEX.get_or_init(|| Regex::new_many(&PATTERNS).unwrap());
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    for end in &places {
        for start in places.iter().take_while(|s| *s < end) {
            // Assertions see what stands around the range.
            let input = Input::new(text).range(*start..*end).anchored(Anchored::Yes);
            if regex.is_match(input) {
                return Some((*start, *end));
            }
        }
    }
    None
}

/// Text of few characters, so that matches and near misses are common.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        12 => prop::sample::select(vec!["a", "b", "1", " ", "-", "ä", "\n", ".", "A", "B"]).prop_map(String::from),
        2 => prop::sample::select(vec!["\u{200b}", "\u{301}", "ａ", "自", "½", "ﬁ", "ß"]).prop_map(String::from),
        1 => prop::sample::select(vec![
            "4111", " 1111", "4111 1111 1111 1111", "4111-1111-1111-111", "DE89 3704 0044 0532 0130 00", "DE89", "x@y.example",
            "x@y", "-----BEGIN ", "PRIVATE KEY-----",
        ])
        .prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn cuts_do_not_matter(text in text(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let chain = everything();
        let mut whole = chain.output_scan();
        let (sent, refusal) = stream(&mut whole, [text.as_str()]);
        let mut places: Vec<usize> = cuts.iter().map(|c| c.index(text.len() + 1)).collect();
        places.extend([0, text.len()]);
        places.retain(|p| text.is_char_boundary(*p));
        places.sort_unstable();
        let pieces = places.windows(2).map(|w| &text[w[0]..w[1]]);
        let mut scan = chain.output_scan();
        let (sent_in_pieces, refusal_in_pieces) = stream(&mut scan, pieces);
        prop_assert_eq!(&sent, &sent_in_pieces);
        let finding = |r: &Option<verve_moderate::Refusal>| r.as_ref().map(|r| r.finding.clone());
        prop_assert_eq!(finding(&refusal), finding(&refusal_in_pieces));
        prop_assert_eq!(whole.records(), scan.records());
        let mut each = chain.output_scan();
        let characters: Vec<String> = text.chars().map(String::from).collect();
        let (sent_by_character, _) = stream(&mut each, characters.iter().map(String::as_str));
        prop_assert_eq!(&sent, &sent_by_character);
    }

    #[test]
    fn a_scan_refuses_what_a_check_refuses(text in text()) {
        // Two ways to the same answer: expressions are searched in whole texts by another engine.
        let chain = everything();
        let (sent, refusal) = stream(&mut chain.output_scan(), [text.as_str()]);
        let verdict = chain.check(Stage::Output, &text);
        prop_assert_eq!(verdict.refused.is_some(), refusal.is_some(), "{:?} {:?}", verdict.refused, refusal);
        if refusal.is_none() {
            prop_assert_eq!(&sent, &text);
        } else {
            prop_assert!(text.starts_with(&sent));
        }
    }

    #[test]
    fn a_refused_match_is_not_even_begun(text in text()) {
        let patterns = PATTERNS.map(|p| format!("'{p}'")).join(", ");
        static CHAIN: OnceLock<Chain> = OnceLock::new();
        let chain = CHAIN.get_or_init(|| filter(&format!("patterns = [{patterns}]")));
        let (sent, refusal) = stream(&mut chain.output_scan(), [text.as_str()]);
        match first_match(&text) {
            None => prop_assert!(refusal.is_none() && sent == text),
            Some((start, end)) => {
                prop_assert!(refusal.is_some(), "{start}..{end}");
                prop_assert!(sent.len() <= start && text.starts_with(&sent), "{sent:?} of {start}..{end}");
                // What began earlier and was cut off is not longer than the longest of the expressions.
                prop_assert!(start - sent.len() <= 16, "{sent:?} of {start}..{end}");
            }
        }
    }

    #[test]
    fn what_was_sent_is_the_text_before_a_match(prefix in "[c-z .,]{0,20}", suffix in "[c-z .,]{0,20}", cut in 0usize..40) {
        // The prefix cannot begin a match, so all of it and no more is sent.
        let chain = filter("words = ['ab ba']");
        let text = format!("{prefix} ab  ba {suffix}");
        let cut = cut.min(text.len());
        let (sent, refusal) = stream(&mut chain.output_scan(), [&text[..cut], &text[cut..]]);
        prop_assert!(refusal.is_some());
        prop_assert_eq!(sent, format!("{prefix} "));
    }
}

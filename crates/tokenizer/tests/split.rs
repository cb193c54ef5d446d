//! The splitter against the pattern it stands for, run by a regular expression engine.

#![allow(clippy::unwrap_used)]

mod common;

use fancy_regex::Regex;
use proptest::prelude::*;
use verve_tokenizer::PreSplit;

const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

fn expected<'a>(pattern: &Regex, text: &'a str) -> Vec<&'a str> {
    pattern.find_iter(text).map(|found| found.unwrap().as_str()).collect()
}

fn pieces(text: &str) -> Vec<&str> {
    PreSplit::Gpt2.pieces(text.as_bytes()).map(|piece| std::str::from_utf8(piece).unwrap()).collect()
}

/// The class of every code point, seen through the splitter: what it sticks to.
#[test]
fn every_code_point_has_the_class_of_the_oracle() {
    let all: Vec<char> = ('\0'..=char::MAX).collect();
    let text: String = all.iter().collect();
    let mut classes = vec!['o'; text.len()];
    for (class, pattern) in [('l', r"\p{L}+"), ('n', r"\p{N}+"), ('s', r"\s+")] {
        for found in Regex::new(pattern).unwrap().find_iter(&text) {
            let found = found.unwrap();
            classes[found.start()..found.end()].fill(class);
        }
    }
    let mut at = 0;
    let mut counts = [0; 4];
    for character in all {
        let sticks = |to: &str| pieces(&format!("{to}{character}")).len() == 1;
        let found = match (sticks("a"), sticks("1"), sticks("!"), sticks("\n")) {
            (true, false, false, false) => 'l',
            (false, true, false, false) => 'n',
            (false, false, true, false) => 'o',
            (false, false, false, true) => 's',
            other => panic!("U+{:04X} sticks to {other:?}", u32::from(character)),
        };
        assert_eq!(found, classes[at], "U+{:04X}", u32::from(character));
        counts["lnos".find(found).unwrap()] += 1;
        at += character.len_utf8();
    }
    assert!(counts.iter().all(|count| *count >= 25), "{counts:?}");
}

#[test]
fn equals_the_pattern_on_hostile_and_shared_text() {
    let pattern = Regex::new(PATTERN).unwrap();
    for text in common::hostile_texts().iter().chain(&common::shared_texts()) {
        assert!(pieces(text) == expected(&pattern, text), "{:?}", text.chars().take(80).collect::<String>());
    }
}

#[test]
fn contractions_are_only_seen_at_the_start_of_a_piece() {
    assert_eq!(
        pieces("it's 'tis !'s 'LL we'll'd"),
        ["it", "'s", " '", "tis", " !'", "s", " '", "LL", " we", "'ll", "'d"]
    );
    assert_eq!(pieces("a  b\n\n c \n"), ["a", " ", " b", "\n\n", " c", " \n"]);
}

#[test]
fn ill_formed_bytes_are_characters_of_their_own() {
    let text = b"ab\xff\xc3(\xe2\x82 \xf0\x9f\x98\x80\xed\xa0\x80 x\xc3";
    let pieces: Vec<&[u8]> = PreSplit::Gpt2.pieces(text).collect();
    let expected: [&[u8]; 5] = [b"ab", b"\xff\xc3(\xe2\x82", b" \xf0\x9f\x98\x80\xed\xa0\x80", b" x", b"\xc3"];
    assert_eq!(pieces, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn equals_the_pattern(text in common::any_text()) {
        thread_local!(static ORACLE: Regex = Regex::new(PATTERN).unwrap());
        ORACLE.with(|pattern| assert_eq!(pieces(&text), expected(pattern, &text)));
    }

    #[test]
    fn pieces_of_any_bytes_join_to_them(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let pieces: Vec<&[u8]> = PreSplit::Gpt2.pieces(&bytes).collect();
        prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
        prop_assert_eq!(pieces.concat(), bytes);
    }
}

//! The splitter against the pattern it stands for, run by a regular expression engine.

#![allow(clippy::unwrap_used)]

mod common;

use fancy_regex::Regex;
use proptest::prelude::*;
use verve_tokenizer::PreSplit;

const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What each splitter stands for.
struct Oracle {
    gpt2: Regex,
    llama3: Regex,
    qwen2: Regex,
    number: Regex,
}

impl Oracle {
    fn new() -> Self {
        let regex = |pattern| Regex::new(pattern).unwrap();
        Self { gpt2: regex(PATTERN), llama3: regex(LLAMA3), qwen2: regex(QWEN2), number: regex(r"\p{N}") }
    }

    fn check(&self, text: &str) {
        let short = || text.chars().take(80).collect::<String>();
        for (split, pattern) in
            [(PreSplit::Gpt2, &self.gpt2), (PreSplit::Llama3, &self.llama3), (PreSplit::Qwen2, &self.qwen2)]
        {
            assert!(pieces_of(split, text) == expected(pattern, text), "{split:?} {:?}", short());
        }
        // Every number alone, and the pattern on what lies between.
        let mut parts = Vec::new();
        let mut done = 0;
        for found in self.number.find_iter(text).map(Result::unwrap) {
            parts.extend(expected(&self.gpt2, &text[done..found.start()]));
            parts.push(found.as_str());
            done = found.end();
        }
        parts.extend(expected(&self.gpt2, &text[done..]));
        assert!(pieces_of(PreSplit::SmolLm, text) == parts, "smollm {:?}", short());
    }
}

fn pieces_of(split: PreSplit, text: &str) -> Vec<&str> {
    split.pieces(text.as_bytes()).map(|piece| std::str::from_utf8(piece).unwrap()).collect()
}

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
    let oracle = Oracle::new();
    for text in common::hostile_texts().iter().chain(&common::shared_texts()).chain(&common::samples()) {
        oracle.check(text);
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
    fn equals_the_patterns(text in common::any_text()) {
        thread_local!(static ORACLE: Oracle = Oracle::new());
        ORACLE.with(|oracle| oracle.check(&text));
    }

    #[test]
    fn pieces_of_any_bytes_join_to_them(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for split in [PreSplit::Gpt2, PreSplit::SmolLm, PreSplit::Llama3, PreSplit::Qwen2, PreSplit::Metaspace] {
            let pieces: Vec<&[u8]> = split.pieces(&bytes).collect();
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
            prop_assert_eq!(pieces.concat(), &bytes[..]);
        }
    }
}

//! Oracles and generators shared by the tests.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::PathBuf;

use proptest::prelude::*;

/// A file of the shared test texts, if they are on this machine.
pub fn shared_text(name: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            println!("skipped: {} cannot be read ({error})", path.display());
            None
        }
    }
}

/// The shared test texts that are on this machine.
pub fn shared_texts() -> Vec<String> {
    ["speeches-en.txt", "genesis-fr.txt", "udhr-sample.jsonl"].iter().filter_map(|name| shared_text(name)).collect()
}

/// A few lines in each of many scripts, and what splitters get wrong.
pub fn samples() -> Vec<String> {
    serde_json::from_str(include_str!("../../../../tests/golden/tokenizer/samples.json")).unwrap()
}

/// The documents of this repository and the source of this crate.
pub fn repository_texts() -> Vec<String> {
    let crate_root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![crate_root.join("src"), crate_root.join("../../docs"), crate_root.join("../..")];
    let mut texts = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let is_text = path.extension().is_some_and(|ending| ending == "md" || ending == "rs");
            if path.is_dir() && folder.starts_with(crate_root.join("src")) {
                folders.push(path);
            } else if is_text && path.is_file() {
                texts.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }
    assert!(texts.len() > 15 && texts.concat().len() > 50_000);
    texts
}

/// Number of ordinary tokens of r50k_base.
pub const R50K_TOKENS: u32 = 50_256;

/// The tokens of a published vocabulary, taken from the oracle; `None` for ids it does not have.
pub fn published_tokens(oracle: &tiktoken_rs::CoreBPE, n: u32) -> Vec<Option<Vec<u8>>> {
    (0..n).map(|id| oracle.decode_bytes(&[id]).ok()).collect()
}

/// A rank file with these tokens.
pub fn rank_file(tokens: &[Option<Vec<u8>>]) -> String {
    let mut file = String::new();
    for (id, bytes) in tokens.iter().enumerate() {
        if let Some(bytes) = bytes {
            file += &format!("{} {id}\n", base64(bytes));
        }
    }
    file
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = (0..3).fold(0usize, |word, i| word << 8 | group.get(i).map_or(0, |byte| usize::from(*byte)));
        for i in 0..4 {
            let digit = DIGITS[word >> (18 - 6 * i) & 63];
            text.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// GPT-2's printable character for a byte, from the published rule.
pub fn byte_char(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let n = (0..byte).filter(|other| !printable(*other)).count();
    char::from_u32(256 + n as u32).unwrap()
}

/// A spelled token.
pub fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| byte_char(*byte)).collect()
}

/// Byte pair encoding as it is defined, word for word: quadratic and simple.
pub struct NaiveBpe {
    /// Rank of each mergeable pair of tokens.
    pub ranks: HashMap<(Vec<u8>, Vec<u8>), usize>,
    pub ids: HashMap<Vec<u8>, u32>,
}

impl NaiveBpe {
    pub fn encode_piece(&self, piece: &[u8]) -> Vec<u32> {
        let mut parts: Vec<Vec<u8>> = piece.iter().map(|byte| vec![*byte]).collect();
        loop {
            let best = parts
                .windows(2)
                .enumerate()
                .filter_map(|(at, pair)| Some((*self.ranks.get(&(pair[0].clone(), pair[1].clone()))?, at)))
                .min();
            let Some((_, at)) = best else { break };
            let right = parts.remove(at + 1);
            parts[at].extend(right);
        }
        parts.iter().map(|part| self.ids[part]).collect()
    }
}

/// Characters around which splitters and decoders go wrong.
const CHARACTERS: &str = "aAzZéñßΩжש日本한ีक्ो\u{301}\u{200d}\u{fe0f}0 9٣Ⅷ½²!.,-_#<|>'’\"\\/$€™😀🏽 \u{a0}\u{2003}\u{85}\u{3000}\u{feff}\u{1680}\t\n\r\u{b}\u{1c}\0\u{10ffff}";

/// Short texts that meet alternatives of the split pattern.
const FRAGMENTS: [&str; 32] = [
    "'S",
    "'LL",
    "'\u{17f}",
    "'vE",
    " \r\n x",
    "!\n\n",
    "12345",
    "\u{2581}",
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    "'S",
    "'l",
    "'r",
    "  ",
    "\n\n",
    " \n ",
    "\r\n",
    " '",
    " 's",
    "don't",
    " 123",
    "<|endoftext|>",
    " Hello",
    "1st",
    "x=1;",
    "   \t ",
    "...",
];

/// Text of all kinds.
pub fn any_text() -> impl Strategy<Value = String> {
    let characters: Vec<char> = CHARACTERS.chars().collect();
    let part = prop_oneof![
        4 => proptest::sample::select(characters).prop_map(String::from),
        3 => proptest::sample::select(FRAGMENTS.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => ("[a-z ]", 1usize..90).prop_map(|(text, n)| text.repeat(n)),
        2 => "[a-zA-Z ]{1,20}",
    ];
    proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

/// Texts made to be slow or confusing.
pub fn hostile_texts() -> Vec<String> {
    let mut texts: Vec<String> =
        ["a", "ab", "abc", " ", "\n", "\r\n ", "0", "'", "'s", "é", "日", "😀", "A", "-=", "<|", "\u{301}"]
            .iter()
            .flat_map(|unit| [1, 2, 63, 64, 65, 129, 1000].map(|n| unit.repeat(n)))
            .collect();
    texts.push(String::new());
    let mut state = 1u64;
    let mut letters = String::new();
    for _ in 0..3000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        letters.push(char::from(b"etaoinshr"[(state >> 40) as usize % 9]));
    }
    texts.push(letters);
    texts
}

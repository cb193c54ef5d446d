//! A small vocabulary and models that pick at random.
#![allow(clippy::unwrap_used, dead_code, reason = "tests")]

use verve_constrain::{Constraint, Constraints, Matcher};

/// Every byte, some longer pieces of JSON and words, and one end token.
pub fn vocabulary() -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    let pieces = [
        "{\"", "\":", "\",", "\"}", "\"]", "}}", "]}", "],", "},", ", \"", ": \"", "[\"", "\"\"", "{}", "[]", "true",
        "false", "null", "name", "value", "items", "the", " the", " quick", "aaaa", "aaaaaaaa", "00", "123", "  ",
        "\n  ", "\\u", "é", "日本", "\":\"", "\"},{\"", "[[", "{\"a\":", "red", "green", "blue",
    ];
    tokens.extend(pieces.iter().map(|text| text.as_bytes().to_vec()));
    tokens.push(Vec::new());
    tokens
}

pub fn end() -> u32 {
    vocabulary().len() as u32 - 1
}

pub fn constraints() -> Constraints {
    Constraints::from_bytes(vocabulary(), &[end()]).unwrap()
}

pub fn schema(text: &str) -> Constraint {
    Constraint::json_schema(text).unwrap()
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

pub fn allowed(mask: &[u32]) -> Vec<u32> {
    (0..mask.len() as u32 * 32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

pub fn mask(matcher: &mut Matcher, constraints: &Constraints) -> Vec<u32> {
    let mut mask = vec![0; constraints.mask_words()];
    matcher.mask(&mut mask).unwrap();
    allowed(&mask)
}

/// Whether a text, cut into single bytes, satisfies the constraint.
pub fn matches(constraints: &Constraints, constraint: &Constraint, text: &str) -> bool {
    let mut matcher = constraints.start(constraint).unwrap();
    for byte in text.bytes() {
        if matcher.accept(u32::from(byte)).is_err() {
            return false;
        }
    }
    matcher.may_end().unwrap()
}

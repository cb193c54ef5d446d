//! The character map of SentencePiece models: a trie of replacements, longest match first.
//!
//! The file form is a length, a double-array trie of 32-bit units as Darts-clone writes it, and the replacements as
//! texts that end with a zero byte. It is read into a plain table once; a unit that leads nowhere is refused then.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// Most replacements and longest key of a map. `nmt_nfkc_cf`, the largest published, has some hundred thousand of
/// at most 50 bytes.
const MAX_ENTRIES: usize = 1 << 20;
const MAX_KEY: usize = 128;

/// Replacements by what they replace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Charsmap {
    /// The map as the file has it.
    pub(crate) raw: Vec<u8>,
    entries: HashMap<Box<[u8]>, Box<[u8]>>,
    longest: usize,
    /// Which bytes replaced texts start with.
    starts: Vec<bool>,
}

impl Charsmap {
    /// Reads the file form.
    pub(crate) fn parse(origin: &str, raw: &[u8]) -> Result<Self> {
        let bad = |problem: &str| Error::malformed(origin, "precompiled_charsmap", problem);
        let length = raw.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        let length = length.ok_or_else(|| bad("shorter than its header"))?;
        let trie = raw.get(4..).and_then(|rest| rest.get(..length)).ok_or_else(|| bad("the trie ends early"))?;
        let texts = &raw[4 + length..];
        let units: Vec<u32> = trie.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let mut entries = HashMap::new();
        // Every node that is reached once is looked at with all 256 bytes; a unit belongs to one node only.
        let mut seen = vec![false; units.len()];
        let mut open = vec![(0usize, Vec::new())];
        while let Some((node, key)) = open.pop() {
            let unit = *units.get(node).ok_or_else(|| bad("a node outside the trie"))?;
            if std::mem::replace(&mut seen[node], true) || key.len() > MAX_KEY || entries.len() > MAX_ENTRIES {
                return Err(bad("the trie has a cycle, or is larger than any published one"));
            }
            let children = node ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = *units.get(children).ok_or_else(|| bad("a value outside the trie"))? & 0x7fff_ffff;
                let text = texts.get(value as usize..).ok_or_else(|| bad("a replacement outside the texts"))?;
                let end = text.iter().position(|byte| *byte == 0).ok_or_else(|| bad("a replacement has no end"))?;
                entries.insert(key.clone().into_boxed_slice(), text[..end].into());
            }
            for byte in 1..=255u8 {
                let child = children ^ usize::from(byte);
                if units.get(child).is_some_and(|unit| unit & (1 << 31 | 0xff) == u32::from(byte)) {
                    open.push((child, [key.as_slice(), &[byte]].concat()));
                }
            }
        }
        let longest = entries.keys().map(|key: &Box<[u8]>| key.len()).max().unwrap_or(0);
        let mut starts = vec![false; 256];
        for first in entries.keys().filter_map(|key| key.first()) {
            starts[usize::from(*first)] = true;
        }
        Ok(Self { raw: raw.to_vec(), entries, longest, starts })
    }

    /// The longest replaced text at the start of `text`, and what replaces it.
    pub(crate) fn longest_match(&self, text: &[u8]) -> Option<(usize, &[u8])> {
        if !self.starts[usize::from(*text.first()?)] {
            return None;
        }
        (1..=self.longest.min(text.len()))
            .rev()
            .find_map(|length| Some((length, &**self.entries.get(&text[..length])?)))
    }

    /// Text with all replacements made, as SentencePiece makes them: longest match at each character.
    pub(crate) fn apply(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        for chunk in text.utf8_chunks() {
            let part = chunk.valid();
            let mut at = 0;
            while at < part.len() {
                if let Some((length, to)) = self.longest_match(&part.as_bytes()[at..]) {
                    out.extend_from_slice(to);
                    at += length;
                } else {
                    let length = part[at..].chars().next().map_or(1, char::len_utf8);
                    out.extend_from_slice(&part.as_bytes()[at..at + length]);
                    at += length;
                }
            }
            out.extend_from_slice(chunk.invalid());
        }
        out
    }
}

/// Where a unit's children are, relative to it (Darts-clone's packing: 21 bits, or those times 256).
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

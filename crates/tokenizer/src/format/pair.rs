//! GPT-2's two files: `vocab.json` (spelled token to id) and `merges.txt` (one spelled pair a line, first is first).

use std::collections::{HashMap, HashSet};

use crate::bytes::unspell;
use crate::error::{Error, Result};
use crate::rules::Rules;
use crate::split::PreSplit;
use crate::tokenizer::Tokenizer;
use crate::vocab::{AddedToken, Parts};

/// Reads the two files into a tokenizer.
pub(super) fn parse(origin: &str, vocab: &[u8], merges: &[u8]) -> Result<Tokenizer> {
    let vocab: HashMap<String, u32> = serde_json::from_slice(vocab)
        .map_err(|error| Error::malformed(origin, "vocabulary (a JSON object of token to id)", error.to_string()))?;
    let lines = merge_lines(origin, merges)?;
    let made: HashSet<String> = lines.iter().map(|(left, right)| format!("{left}{right}")).collect();
    let is_special =
        |name: &str| name.len() > 2 && name.starts_with('<') && name.ends_with('>') && !made.contains(name);
    let mut added: Vec<AddedToken> = vocab
        .iter()
        .filter(|(name, _)| is_special(name))
        .map(|(name, id)| AddedToken::special(name.clone(), *id))
        .collect();
    added.sort_by_key(|token| token.id);
    let spelled = Spelled { vocab: &vocab, merges: &lines, added, whole_pieces: false, rules: Rules::default() };
    Tokenizer::from_parts(origin, spelled.into_parts(origin, PreSplit::Gpt2)?)
}

/// Lines of `merges.txt`; the line `#version: ...` is a comment.
fn merge_lines<'a>(origin: &str, merges: &'a [u8]) -> Result<Vec<(&'a str, &'a str)>> {
    let text = std::str::from_utf8(merges)
        .map_err(|error| Error::malformed(origin, "merges", format!("not UTF-8 text: {error}")))?;
    let mut pairs = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.starts_with("#version") || line.trim().is_empty() {
            continue;
        }
        pairs.push(split_pair(line).ok_or_else(|| {
            let place = format!("merges, line {number}");
            Error::malformed(origin, place, format!("{:?}; expected two tokens with one space between", shorten(line)))
        })?);
    }
    Ok(pairs)
}

/// The two tokens of a merge written as "left right".
pub(super) fn split_pair(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
}

/// The start of a text for a message.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

/// A vocabulary with tokens and merges in their printable spelling.
pub(super) struct Spelled<'a> {
    /// Token to id; may list added tokens too, as they are written.
    pub(super) vocab: &'a HashMap<String, u32>,
    pub(super) merges: &'a [(&'a str, &'a str)],
    pub(super) added: Vec<AddedToken>,
    pub(super) whole_pieces: bool,
    pub(super) rules: Rules,
}

impl Spelled<'_> {
    /// Turns spellings into bytes and names into ids.
    pub(super) fn into_parts(self, origin: &str, split: PreSplit) -> Result<Parts> {
        let added_names: HashSet<&str> = self.added.iter().map(|token| token.content.as_str()).collect();
        let mut tokens = Vec::with_capacity(self.vocab.len());
        for (name, id) in self.vocab.iter().filter(|(name, _)| !added_names.contains(name.as_str())) {
            let bytes = unspell(name).map_err(|character| {
                let place = format!("token {:?}", shorten(name));
                Error::malformed(origin, place, format!("{character:?} stands for no byte in a byte-level vocabulary"))
            })?;
            tokens.push((bytes, *id));
        }
        let mut merges = Vec::with_capacity(self.merges.len());
        for ((left, right), number) in self.merges.iter().zip(1..) {
            let find = |name: &str| {
                self.vocab.get(name).copied().ok_or_else(|| {
                    let place = format!("merge {number}");
                    Error::malformed(origin, place, format!("token {:?} is not in the vocabulary", shorten(name)))
                })
            };
            merges.push((find(left)?, find(right)?));
        }
        Ok(Parts { split, tokens, merges, added: self.added, whole_pieces: self.whole_pieces, rules: self.rules })
    }
}

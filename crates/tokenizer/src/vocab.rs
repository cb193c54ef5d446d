//! From the parts that files hold to a tokenizer's canonical vocabulary.
//!
//! Files of different formats say the same thing in different words. A tiktoken file has no merges, only ranks; a
//! `tokenizer.json` may list several pairs that make the same token. What decides the ids is, for each token, the one
//! pair that is left before the last merge when the token's own bytes are merged alone: pieces of text reach a token
//! through that pair or not at all, because merges inside the bytes of a token never depend on what stands around it
//! as long as no merge crosses its edges, and none did if the token came about. Dropping all other merges therefore
//! changes no id, and makes one list out of all the forms.

use std::collections::{HashMap, HashSet};

use crate::bytes::{byte_to_char, spell};
use crate::encode::{LongScratch, Merge, MergeTable, NONE};
use crate::error::{Error, Result};
use crate::rules::Rules;
use crate::split::PreSplit;

/// Most token ids a vocabulary may have.
pub(crate) const MAX_VOCAB: usize = 1 << 22;
/// Longest token in bytes.
pub(crate) const MAX_TOKEN_BYTES: usize = 1 << 16;

/// A token that is matched in the text as it is written, before any splitting or merging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    /// Its text.
    pub content: String,
    /// Its id.
    pub id: u32,
    /// Whether it steers a model (end of text, role marks). Special tokens are only found in text when asked for;
    /// other added tokens (such as runs of spaces in code models) always are.
    pub special: bool,
    /// How it is found in text.
    pub matching: Matching,
}

impl AddedToken {
    /// A special token, found exactly as it is written.
    pub fn special(content: impl Into<String>, id: u32) -> Self {
        Self { content: content.into(), id, special: true, matching: Matching::default() }
    }
}

/// How an added token is found in text, in the terms of Hugging Face's files. By default exactly as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// Only where no word character (letter, mark, digit, connector) touches it.
    pub single_word: bool,
    /// White space in front of it belongs to it.
    pub lstrip: bool,
    /// White space behind it belongs to it.
    pub rstrip: bool,
    /// It is looked for, itself normalised, in the text after the normaliser.
    pub normalized: bool,
}

/// What a file says, before checks.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) split: PreSplit,
    /// Ordinary tokens: bytes and id.
    pub(crate) tokens: Vec<(Vec<u8>, u32)>,
    /// Pairs of ids in order of priority; of equal pairs the last counts.
    pub(crate) merges: Vec<(u32, u32)>,
    /// Added tokens; their ids are not in `tokens`.
    pub(crate) added: Vec<AddedToken>,
    /// Whether a piece that is a token as a whole becomes it even if merging would not make it.
    pub(crate) whole_pieces: bool,
    /// What happens around the model.
    pub(crate) rules: Rules,
}

/// What an id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No token has this id.
    Unused,
    /// Made by merging.
    Merged,
    /// A token that merging never makes.
    Unreachable,
    /// Matched as written.
    Added,
}

/// A checked vocabulary in canonical form.
#[derive(Debug)]
pub(crate) struct Vocab {
    /// Bytes of all tokens, one after the other in order of id.
    blob: Vec<u8>,
    /// Where each id's bytes start, and the end.
    offsets: Vec<u32>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) added: Vec<AddedToken>,
    pub(crate) whole_pieces: bool,
}

impl Vocab {
    /// Checks the parts and brings them into canonical form, with the merges. `origin` names the source in errors.
    pub(crate) fn new(origin: &str, parts: Parts) -> Result<(Self, MergeTable)> {
        let n_vocab = check_ids(origin, &parts.tokens, &parts.added)?;
        check_not_added(origin, &parts)?;
        let mut bytes_of: Vec<&[u8]> = vec![&[]; n_vocab];
        let mut kinds = vec![Kind::Unused; n_vocab];
        for (bytes, id) in &parts.tokens {
            bytes_of[*id as usize] = bytes;
            kinds[*id as usize] = Kind::Unreachable;
        }
        for token in &parts.added {
            bytes_of[token.id as usize] = token.content.as_bytes();
            kinds[token.id as usize] = Kind::Added;
        }
        let id_of: HashMap<&[u8], u32> = parts.tokens.iter().map(|(bytes, id)| (bytes.as_slice(), *id)).collect();
        let byte_tokens = byte_tokens(origin, &id_of)?;
        let merges = resolve_merges(origin, &parts.merges, &kinds, &bytes_of, &id_of)?;

        let all = MergeTable::new(merges, byte_tokens, n_vocab);
        let (live, reachable) = live_merges(&all, &parts.tokens);
        for id in reachable {
            kinds[id as usize] = Kind::Merged;
        }
        let table = MergeTable::new(live, byte_tokens, n_vocab);
        let whole_pieces = parts.whole_pieces && kinds.contains(&Kind::Unreachable);

        Ok((Self::packed(bytes_of.into_iter(), kinds, parts.added.clone(), whole_pieces), table))
    }

    /// A vocabulary from the bytes and the kind of every id, checked before.
    pub(crate) fn packed<'a>(
        bytes_of: impl Iterator<Item = &'a [u8]>,
        kinds: Vec<Kind>,
        mut added: Vec<AddedToken>,
        whole_pieces: bool,
    ) -> Self {
        let mut offsets = Vec::with_capacity(kinds.len() + 1);
        let mut blob = Vec::new();
        for bytes in bytes_of {
            offsets.push(blob.len() as u32);
            blob.extend_from_slice(bytes);
        }
        offsets.push(blob.len() as u32);
        added.sort_by_key(|token| token.id);
        Self { blob, offsets, kinds, added, whole_pieces }
    }

    pub(crate) fn n_vocab(&self) -> usize {
        self.kinds.len()
    }

    /// Bytes of a token; empty for unused ids, `None` past the end.
    pub(crate) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let start = *self.offsets.get(id as usize)? as usize;
        let end = *self.offsets.get(id as usize + 1)? as usize;
        self.blob.get(start..end)
    }

    /// Ids in order with kind and bytes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Kind, &[u8])> {
        (0u32..).zip(&self.kinds).map(|(id, kind)| (id, *kind, self.bytes(id).unwrap_or_default()))
    }
}

/// Checks sizes, ids and names; returns the number of ids.
pub(crate) fn check_ids(origin: &str, tokens: &[(Vec<u8>, u32)], added: &[AddedToken]) -> Result<usize> {
    let count = tokens.len() + added.len();
    let added_bytes = added.iter().map(|token| (token.content.as_bytes(), token.id));
    let all = || tokens.iter().map(|(bytes, id)| (bytes.as_slice(), *id)).chain(added_bytes.clone());
    // Some room for unused ids, but not so much that one absurd id costs gigabytes.
    let limit = (2 * count + 1024).min(MAX_VOCAB);
    let mut seen = HashSet::with_capacity(count);
    let mut total = 0usize;
    for (bytes, id) in all() {
        if bytes.is_empty() || bytes.len() > MAX_TOKEN_BYTES {
            let problem = format!("{} bytes long; expected 1 to {MAX_TOKEN_BYTES}", bytes.len());
            return Err(Error::malformed(origin, place(bytes), problem));
        }
        if id as usize >= limit {
            let problem = format!("id {id} is out of proportion to {count} tokens (limit {limit})");
            return Err(Error::malformed(origin, place(bytes), problem));
        }
        if !seen.insert(id) {
            return Err(Error::malformed(origin, place(bytes), format!("id {id} is used twice")));
        }
        total += bytes.len();
    }
    if u32::try_from(total).is_err() {
        return Err(Error::malformed(origin, "vocabulary", format!("{total} bytes of tokens; at most 4 GiB")));
    }
    let spelled: HashSet<&str> = added.iter().map(|token| token.content.as_str()).collect();
    if spelled.len() < added.len() {
        return Err(Error::malformed(origin, "added tokens", "two have the same text"));
    }
    let mut distinct = HashSet::with_capacity(tokens.len());
    if let Some((bytes, _)) = tokens.iter().find(|(bytes, _)| !distinct.insert(bytes.as_slice())) {
        return Err(Error::malformed(origin, place(bytes), "listed twice"));
    }
    Ok(all().map(|(_, id)| id as usize + 1).max().unwrap_or(0))
}

/// A token in an error message.
fn place(bytes: &[u8]) -> String {
    format!("token {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(80)]))
}

/// Files could not say which one is meant if an ordinary token were written like an added one.
fn check_not_added(origin: &str, parts: &Parts) -> Result<()> {
    let spelled: HashSet<&str> = parts.added.iter().map(|token| token.content.as_str()).collect();
    for (bytes, _) in &parts.tokens {
        if !spelled.is_empty() && spelled.contains(spell(bytes).as_str()) {
            let problem = "is an ordinary token and an added token with another id";
            return Err(Error::malformed(origin, place(bytes), problem));
        }
    }
    Ok(())
}

/// The token of each byte; [`NONE`] for a byte without.
fn byte_tokens(origin: &str, id_of: &HashMap<&[u8], u32>) -> Result<[u32; 256]> {
    let mut tokens = [NONE; 256];
    for (token, byte) in tokens.iter_mut().zip(0..=255u8) {
        match id_of.get([byte].as_slice()) {
            Some(id) => *token = *id,
            None if may_lack(byte) => {}
            None => {
                let place = format!("byte 0x{byte:02x} (written {:?})", byte_to_char(byte));
                let problem = "no ordinary token for it; byte-level BPE needs one for each byte of text";
                return Err(Error::malformed(origin, place, problem));
            }
        }
    }
    Ok(tokens)
}

/// Whether a vocabulary may be without a byte: control characters, and bytes that are in no UTF-8 text or only in
/// planes without characters. SmolLM2's lacks 21 of them. Text loses them, as it does in Hugging Face's library.
fn may_lack(byte: u8) -> bool {
    matches!(byte, 1..=8 | 11 | 12 | 14..=31 | 0x7f | 0xc0 | 0xc1 | 0xf1 | 0xf2 | 0xf5..=0xff)
}

/// Finds the token that each pair makes. Pairs with an added token, or that make one, are dropped: ordinary text must
/// not turn into added tokens.
fn resolve_merges(
    origin: &str,
    pairs: &[(u32, u32)],
    kinds: &[Kind],
    bytes_of: &[&[u8]],
    id_of: &HashMap<&[u8], u32>,
) -> Result<Vec<Merge>> {
    let added: HashSet<&[u8]> =
        kinds.iter().zip(bytes_of).filter(|(kind, _)| **kind == Kind::Added).map(|(_, bytes)| *bytes).collect();
    let mut merges = Vec::with_capacity(pairs.len());
    let mut joined = Vec::new();
    for ((left, right), number) in pairs.iter().zip(1..) {
        if kinds[*left as usize] == Kind::Added || kinds[*right as usize] == Kind::Added {
            continue;
        }
        joined.clear();
        joined.extend_from_slice(bytes_of[*left as usize]);
        joined.extend_from_slice(bytes_of[*right as usize]);
        match id_of.get(joined.as_slice()) {
            Some(merged) => merges.push(Merge { left: *left, right: *right, merged: *merged }),
            None if added.contains(joined.as_slice()) => {}
            None => {
                let place = format!("merge {number}");
                let problem = format!("makes {:?}, which is not in the vocabulary", String::from_utf8_lossy(&joined));
                return Err(Error::malformed(origin, place, problem));
            }
        }
    }
    // Of equal pairs the last counts, as in every reader of these files.
    let mut seen = HashSet::with_capacity(merges.len());
    let mut kept: Vec<Merge> =
        merges.into_iter().rev().filter(|merge| seen.insert((merge.left, merge.right))).collect();
    kept.reverse();
    Ok(kept)
}

/// The merges that are ever done, in order, and the tokens that are ever made.
fn live_merges(table: &MergeTable, tokens: &[(Vec<u8>, u32)]) -> (Vec<Merge>, Vec<u32>) {
    let mut long = LongScratch::default();
    let mut out = Vec::new();
    let mut live = vec![false; table.merges().len()];
    let mut reachable = Vec::with_capacity(tokens.len());
    for (bytes, id) in tokens {
        out.clear();
        let outcome = table.merge_piece(bytes, &mut long, &mut out);
        if out == [*id] {
            reachable.push(*id);
            if let Some(used) = live.get_mut(outcome.last_rank as usize) {
                *used = true;
            }
        }
    }
    let merges = table.merges().iter().zip(live).filter(|(_, used)| *used).map(|(merge, _)| *merge).collect();
    (merges, reachable)
}

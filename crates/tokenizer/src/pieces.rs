//! Models of pieces of text: SentencePiece's BPE with its merges by score or with a list of merges, and unigram models.
//!
//! Ordinary text never becomes a special token or a byte's piece (`<0x0A>`), however it is written: such pieces are no
//! part of the model. Hugging Face's library does the same for BPE; for unigram models it matches them in text.

use std::collections::{HashMap, HashSet};

use crate::encode::{CharTable, Fallback, Merge, PairTable, Queue, SymbolBpe, SymbolParts, Unigram, UnigramParts};
use crate::error::{Error, Result};
use crate::rules::Rules;
use crate::split::{META, PreSplit};
use crate::vocab::{AddedToken, Kind, Vocab, check_ids};

/// Longest piece that is merged from others, in bytes. Each is cut in two at every place, which takes time with the
/// square of its length; published ones have at most a few dozen.
pub(crate) const MAX_PIECE: usize = 1 << 10;
/// Most bytes of all pieces together, for the same reason.
const MAX_TOTAL: usize = 1 << 25;

/// One piece of a vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Its text, with `▁` for spaces; `<0x41>` for the byte 0x41.
    pub(crate) text: String,
    pub(crate) id: u32,
    /// The byte that it stands for, where pieces stand for bytes.
    pub(crate) byte: Option<u8>,
    pub(crate) score: f64,
}

/// How pieces are chosen.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// BPE: two neighbours merge whose joined text is a piece, the highest score first.
    Scores,
    /// BPE with a list of pairs; whether a text that is a piece as a whole becomes it in any case.
    Merges { pairs: Vec<(u32, u32)>, whole_pieces: bool },
    /// Unigram: the pieces whose scores add up to most. `min_score` is the lowest of all pieces, special ones too.
    Unigram { min_score: f64 },
}

/// What a file says, before checks.
#[derive(Debug)]
pub(crate) struct PieceParts {
    /// All pieces but special tokens.
    pub(crate) pieces: Vec<Piece>,
    pub(crate) added: Vec<AddedToken>,
    pub(crate) choice: Choice,
    pub(crate) split: PreSplit,
    pub(crate) fuse_unk: bool,
    pub(crate) byte_fallback: bool,
    pub(crate) rules: Rules,
}

/// The byte of a piece `<0xAB>`.
pub(crate) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_upper_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'A'..=b'F');
    (digits.len() == 2 && digits.bytes().all(is_upper_hex)).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// A model of pieces with what files need to know of it.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// Text of each id, empty for unused ones.
    pub(crate) texts: Vec<Box<str>>,
    /// Score of each id; empty for models without.
    pub(crate) scores: Vec<f64>,
    pub(crate) encoder: PieceEncoder,
}

/// What turns prepared text into pieces.
#[derive(Debug)]
pub(crate) enum PieceEncoder {
    Bpe(SymbolBpe),
    Unigram(Unigram),
}

impl PieceEncoder {
    pub(crate) fn encode_into(&self, text: &[u8], out: &mut Vec<u32>) {
        match self {
            Self::Bpe(bpe) => bpe.encode_into(text, out),
            Self::Unigram(unigram) => unigram.encode_into(text, out),
        }
    }

    pub(crate) fn split(&self) -> PreSplit {
        match self {
            Self::Bpe(bpe) => bpe.split(),
            Self::Unigram(unigram) => unigram.split(),
        }
    }

    /// Merges in order; unigram models have none.
    pub(crate) fn merges(&self) -> &[Merge] {
        match self {
            Self::Bpe(bpe) => bpe.merges(),
            Self::Unigram(_) => &[],
        }
    }

    pub(crate) fn fallback(&self) -> &Fallback {
        match self {
            Self::Bpe(bpe) => bpe.fallback(),
            Self::Unigram(unigram) => unigram.fallback(),
        }
    }

    /// Whether whole pieces are looked up first.
    pub(crate) fn whole_pieces(&self) -> bool {
        match self {
            Self::Bpe(bpe) => bpe.whole_pieces(),
            Self::Unigram(_) => false,
        }
    }
}

/// Checks the parts and builds the vocabulary and the model. `origin` names the source in errors.
pub(crate) fn build(origin: &str, parts: PieceParts) -> Result<(Vocab, Pieces)> {
    let in_model: HashSet<u32> = parts.pieces.iter().map(|piece| piece.id).collect();
    let only_added: Vec<AddedToken> =
        parts.added.iter().filter(|token| !in_model.contains(&token.id)).cloned().collect();
    let listed: Vec<(Vec<u8>, u32)> =
        parts.pieces.iter().map(|piece| (piece.text.clone().into_bytes(), piece.id)).collect();
    let n_vocab = check_ids(origin, &listed, &only_added)?;
    check_overlap(origin, &parts)?;

    let mut texts = vec![Box::<str>::default(); n_vocab];
    let mut bytes_of = vec![Vec::new(); n_vocab];
    let mut kinds = vec![Kind::Unused; n_vocab];
    for piece in &parts.pieces {
        texts[piece.id as usize] = piece.text.as_str().into();
        bytes_of[piece.id as usize] = match piece.byte {
            Some(byte) => vec![byte],
            None => piece.text.replace(META, " ").into_bytes(),
        };
        kinds[piece.id as usize] = if piece.byte.is_some() { Kind::Merged } else { Kind::Unreachable };
    }
    let fallback = fallback(origin, &parts)?;
    check_pieces(origin, &parts)?;
    let model = match parts.choice {
        Choice::Unigram { min_score } => PieceEncoder::Unigram(unigram(&parts, min_score, fallback, &mut kinds)),
        Choice::Scores | Choice::Merges { .. } => {
            PieceEncoder::Bpe(symbols(origin, &parts, n_vocab, fallback, &mut kinds)?)
        }
    };
    for token in &parts.added {
        texts[token.id as usize] = token.content.as_str().into();
        bytes_of[token.id as usize] = token.content.replace(META, " ").into_bytes();
        kinds[token.id as usize] = Kind::Added;
    }
    let mut scores = Vec::new();
    if !matches!(parts.choice, Choice::Merges { .. }) {
        scores = vec![0.0; n_vocab];
        for piece in &parts.pieces {
            scores[piece.id as usize] = piece.score;
        }
    }
    let vocab = Vocab::packed(bytes_of.iter().map(Vec::as_slice), kinds, parts.added, model.whole_pieces());
    Ok((vocab, Pieces { texts, scores, encoder: model }))
}

/// An added token that is a piece too must be the same one.
fn check_overlap(origin: &str, parts: &PieceParts) -> Result<()> {
    let ids: HashMap<&str, u32> = parts.pieces.iter().map(|piece| (piece.text.as_str(), piece.id)).collect();
    let texts: HashMap<u32, &str> = parts.pieces.iter().map(|piece| (piece.id, piece.text.as_str())).collect();
    let mut seen = HashSet::new();
    let mut contents = HashSet::new();
    for token in &parts.added {
        let other = ids.get(token.content.as_str()).is_some_and(|id| *id != token.id)
            || texts.get(&token.id).is_some_and(|text| *text != token.content);
        if other || !seen.insert(token.id) || !contents.insert(token.content.as_str()) {
            let place = format!("added token {:?}", token.content.chars().take(60).collect::<String>());
            return Err(Error::malformed(
                origin,
                place,
                format!("id {} is another token's, or it is listed twice", token.id),
            ));
        }
    }
    Ok(())
}

fn fallback(origin: &str, parts: &PieceParts) -> Result<Fallback> {
    let mut fallback = Fallback { bytes: None, unk: parts.rules.unk, fuse_unk: parts.fuse_unk };
    if parts.byte_fallback {
        let mut ids = Box::new([u32::MAX; 256]);
        for piece in &parts.pieces {
            if let Some(byte) = piece.byte {
                ids[usize::from(byte)] = piece.id;
            }
        }
        if let Some(byte) = ids.iter().position(|id| *id == u32::MAX) {
            let place = format!("byte piece <0x{byte:02X}>");
            return Err(Error::malformed(origin, place, "missing; byte fallback needs one for each of 256 bytes"));
        }
        fallback.bytes = Some(ids);
    }
    Ok(fallback)
}

/// Checks sizes and scores of the pieces that text may become.
fn check_pieces(origin: &str, parts: &PieceParts) -> Result<()> {
    let mut total = 0;
    for piece in &parts.pieces {
        total += piece.text.len();
        if piece.text.len() > MAX_PIECE || total > MAX_TOTAL {
            let problem = format!("{total} bytes up to here; limits are {MAX_PIECE} for a piece, {MAX_TOTAL} in all");
            return Err(Error::malformed(origin, format!("piece {}", piece.id), problem));
        }
        if !piece.score.is_finite() {
            return Err(Error::malformed(origin, format!("score of piece {}", piece.id), piece.score.to_string()));
        }
    }
    Ok(())
}

/// The unigram model; marks its pieces.
fn unigram(parts: &PieceParts, min_score: f64, fallback: Fallback, kinds: &mut [Kind]) -> Unigram {
    let pieces: Vec<(&str, u32, f64)> = parts
        .pieces
        .iter()
        .filter(|piece| piece.byte.is_none())
        .map(|piece| (piece.text.as_str(), piece.id, piece.score))
        .collect();
    for (_, id, _) in &pieces {
        kinds[*id as usize] = Kind::Merged;
    }
    Unigram::new(&UnigramParts { split: parts.split, pieces, min_score, fallback })
}

/// The BPE model; marks the pieces that merging makes.
fn symbols(
    origin: &str,
    parts: &PieceParts,
    n_vocab: usize,
    fallback: Fallback,
    kinds: &mut [Kind],
) -> Result<SymbolBpe> {
    let mergeable = |piece: &&Piece| piece.byte.is_none() || matches!(parts.choice, Choice::Merges { .. });
    let pieces: Vec<&Piece> = parts.pieces.iter().filter(mergeable).collect();
    let ids: HashMap<&str, u32> = pieces.iter().map(|piece| (piece.text.as_str(), piece.id)).collect();
    let mut chars: HashMap<char, u32> = HashMap::new();
    let mut parts_only = Vec::new();
    for piece in &pieces {
        let mut letters = piece.text.chars();
        if let (Some(only), None) = (letters.next(), letters.next()) {
            chars.insert(only, piece.id);
        }
    }
    if matches!(parts.choice, Choice::Scores) {
        for character in pieces.iter().flat_map(|piece| piece.text.chars()) {
            chars.entry(character).or_insert_with(|| {
                parts_only.push(character);
                (n_vocab + parts_only.len() - 1) as u32
            });
        }
    }
    let (merges, priorities) = match &parts.choice {
        Choice::Merges { pairs, .. } => (merges_of_pairs(origin, pairs, &parts.pieces, &ids)?, None),
        Choice::Scores | Choice::Unigram { .. } => merges_by_score(&pieces, &ids, &chars),
    };
    let all = PairTable::new(merges, priorities);
    let table = live(&all, &pieces, &chars, kinds);
    let mut joins = HashSet::new();
    for piece in &pieces {
        for (left, right) in piece.text.chars().zip(piece.text.chars().skip(1)) {
            if META.starts_with(right) {
                joins.insert(left);
            }
        }
    }
    let whole = match parts.choice {
        Choice::Merges { whole_pieces: true, .. } => {
            ids.iter().map(|(text, id)| (text.as_bytes().into(), *id)).collect()
        }
        _ => HashMap::new(),
    };
    Ok(SymbolBpe::new(SymbolParts {
        split: parts.split,
        chars: CharTable::new(&chars),
        table,
        fallback,
        parts_only,
        n_vocab: n_vocab as u32,
        joins,
        whole,
    }))
}

/// Merges with the priority of each, in order.
type Prioritised = (Vec<Merge>, Option<Vec<u32>>);

/// Every way to cut each piece in two, in order of the pieces' scores.
fn merges_by_score(pieces: &[&Piece], ids: &HashMap<&str, u32>, chars: &HashMap<char, u32>) -> Prioritised {
    let mut sorted: Vec<&Piece> = pieces.to_vec();
    sorted.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
    let find = |text: &str| {
        let mut letters = text.chars();
        match (letters.next(), letters.next()) {
            (Some(only), None) => chars.get(&only).copied(),
            _ => ids.get(text).copied(),
        }
    };
    let (mut merges, mut priorities) = (Vec::new(), Vec::new());
    let mut priority = 0;
    let mut last = None;
    for piece in sorted {
        // Minus zero and zero are the same score.
        if last.is_some_and(|last: f64| last != piece.score) {
            priority += 1;
        }
        last = Some(piece.score);
        for (middle, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(middle);
            if let (Some(left), Some(right)) = (find(left), find(right)) {
                merges.push(Merge { left, right, merged: piece.id });
                priorities.push(priority);
            }
        }
    }
    (merges, Some(priorities))
}

/// The piece that each pair makes. Of equal pairs the last counts, as in every reader of these files.
fn merges_of_pairs(
    origin: &str,
    pairs: &[(u32, u32)],
    pieces: &[Piece],
    ids: &HashMap<&str, u32>,
) -> Result<Vec<Merge>> {
    let texts: HashMap<u32, &str> = pieces.iter().map(|piece| (piece.id, piece.text.as_str())).collect();
    let mut merges = Vec::with_capacity(pairs.len());
    for ((left, right), number) in pairs.iter().zip(1..) {
        let text = |id: &u32| texts.get(id).copied().unwrap_or_default();
        let joined = format!("{}{}", text(left), text(right));
        match ids.get(joined.as_str()) {
            Some(merged) => merges.push(Merge { left: *left, right: *right, merged: *merged }),
            None => {
                let place = format!("merge {number}");
                return Err(Error::malformed(
                    origin,
                    place,
                    format!("makes {joined:?}, which is not in the vocabulary"),
                ));
            }
        }
    }
    let mut seen = HashSet::with_capacity(merges.len());
    let mut kept: Vec<Merge> =
        merges.into_iter().rev().filter(|merge| seen.insert((merge.left, merge.right))).collect();
    kept.reverse();
    Ok(kept)
}

/// The merges that are ever done: for each piece the one that makes it from its own characters (see `vocab.rs` for
/// why no other counts).
fn live(all: &PairTable, pieces: &[&Piece], chars: &HashMap<char, u32>, kinds: &mut [Kind]) -> PairTable {
    let mut queue = Queue::default();
    let mut used = vec![false; all.merges.len()];
    let mut symbols = Vec::new();
    for piece in pieces {
        symbols.clear();
        symbols.extend(piece.text.chars().map_while(|character| chars.get(&character).copied()));
        if symbols.len() != piece.text.chars().count() {
            continue;
        }
        let last = all.merge(&mut symbols, &mut queue);
        if symbols == [piece.id] {
            kinds[piece.id as usize] = Kind::Merged;
            if let Some(used) = used.get_mut(last as usize) {
                *used = true;
            }
        }
    }
    let places: Vec<u32> = (0u32..).zip(&used).filter(|(_, used)| **used).map(|(place, _)| place).collect();
    let merges = places.iter().map(|place| all.merges[*place as usize]).collect();
    let priorities = places.iter().map(|place| all.priority(*place)).collect();
    PairTable::new(merges, Some(priorities))
}

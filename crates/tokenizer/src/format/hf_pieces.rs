//! Models of pieces of text in a `tokenizer.json`: SentencePiece BPE and unigram.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::hf_read::{Model, UnigramModel};
use super::pair::shorten;
use crate::error::{Error, Result};
use crate::pieces::{Choice, Piece, PieceEncoder, PieceParts, Pieces, byte_of};
use crate::rules::Rules;
use crate::split::PreSplit;
use crate::tokenizer::Tokenizer;
use crate::vocab::{AddedToken, Kind};

/// How the texts of ids begin that stand for nothing: in the list of a unigram model an id is its place, so they need one.
const UNUSED: &str = "\0unused ";

/// Texts of special tokens, which no text but themselves becomes.
fn special_texts(added: &[AddedToken]) -> HashSet<&str> {
    added.iter().filter(|token| token.special).map(|token| token.content.as_str()).collect()
}

/// Makes a tokenizer of a unigram model and what stands around it.
pub(super) fn parse_unigram(
    origin: &str,
    model: &UnigramModel,
    added: Vec<AddedToken>,
    split: PreSplit,
    mut rules: Rules,
) -> Result<Tokenizer> {
    rules.unk = model.unk_id;
    let n_pieces = model.vocab.len();
    if let Some(id) = model.unk_id.filter(|id| *id as usize >= n_pieces) {
        return Err(Error::malformed(origin, "model.unk_id", format!("{id} of {n_pieces} pieces")));
    }
    // The library numbers tokens that are no pieces one by one from here on, whatever ids are written.
    let mut others: Vec<&AddedToken> = added.iter().filter(|token| token.id as usize >= n_pieces).collect();
    others.sort_by_key(|token| token.id);
    if let Some((token, id)) = others.iter().zip(n_pieces..).find(|(token, id)| token.id as usize != *id) {
        let place = format!("added token {:?}", shorten(&token.content));
        return Err(Error::malformed(origin, place, format!("id {}; the next id behind the pieces is {id}", token.id)));
    }
    let special = special_texts(&added);
    let min_score = model.vocab.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let pieces = model
        .vocab
        .iter()
        .zip(0..)
        .filter(|((text, _), _)| !special.contains(text.as_str()) && !text.starts_with(UNUSED))
        .map(|((text, score), id)| Piece {
            text: text.clone(),
            id,
            byte: if model.byte_fallback { byte_of(text) } else { None },
            score: *score,
        })
        .collect();
    Tokenizer::from_pieces(
        origin,
        PieceParts {
            pieces,
            added,
            choice: Choice::Unigram { min_score },
            split,
            fuse_unk: true,
            byte_fallback: model.byte_fallback,
            rules,
        },
    )
}

/// Makes a tokenizer of a BPE model and what stands around it.
pub(super) fn parse(
    origin: &str,
    model: &Model,
    added: Vec<AddedToken>,
    split: PreSplit,
    mut rules: Rules,
) -> Result<Tokenizer> {
    if let Some(name) = &model.unk_token {
        let added_id = added.iter().find(|token| token.content == *name).map(|token| token.id);
        let id = model.vocab.get(name).copied().or(added_id);
        rules.unk = Some(id.ok_or_else(|| {
            Error::malformed(origin, "model.unk_token", format!("{:?} is not in the vocabulary", shorten(name)))
        })?);
    }
    let special = special_texts(&added);
    let pieces: Vec<Piece> = model
        .vocab
        .iter()
        .filter(|(text, _)| !special.contains(text.as_str()))
        .map(|(text, id)| Piece {
            text: text.clone(),
            id: *id,
            byte: if model.byte_fallback { byte_of(text) } else { None },
            score: 0.0,
        })
        .collect();
    let mut pairs = Vec::with_capacity(model.merges.len());
    for (pair, number) in model.merges.iter().zip(1..) {
        let (left, right) = (&pair.0, &pair.1);
        let find = |name: &str| {
            model.vocab.get(name).copied().ok_or_else(|| {
                let problem = format!("token {:?} is not in the vocabulary", shorten(name));
                Error::malformed(origin, format!("merge {number}"), problem)
            })
        };
        let ids = (find(left)?, find(right)?);
        // Ordinary text must not turn into special tokens.
        let joined = format!("{left}{right}");
        if ![left.as_str(), right.as_str(), joined.as_str()].iter().any(|name| special.contains(name)) {
            pairs.push(ids);
        }
    }
    Tokenizer::from_pieces(
        origin,
        PieceParts {
            pieces,
            added,
            choice: Choice::Merges { pairs, whole_pieces: model.ignore_merges },
            split,
            fuse_unk: model.fuse_unk,
            byte_fallback: model.byte_fallback,
            rules,
        },
    )
}

/// The `model` of a tokenizer of pieces.
pub(super) fn model_json(tokenizer: &Tokenizer, pieces: &Pieces) -> Value {
    let fallback = pieces.encoder.fallback();
    let text = |id: u32| pieces.texts.get(id as usize).map_or("", |text| text);
    if let PieceEncoder::Unigram(unigram) = &pieces.encoder {
        return unigram_json(tokenizer, pieces, unigram.min_score());
    }
    let vocab: serde_json::Map<String, Value> = tokenizer
        .vocab()
        .iter()
        .filter(|(_, kind, _)| *kind != Kind::Unused)
        .map(|(id, ..)| (text(id).to_owned(), json!(id)))
        .collect();
    let merges: Vec<Value> =
        tokenizer.merges().iter().map(|merge| json!([text(merge.left), text(merge.right)])).collect();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": fallback.unk.map(text),
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": fallback.fuse_unk,
        "byte_fallback": fallback.bytes.is_some(),
        "ignore_merges": pieces.encoder.whole_pieces(),
        "vocab": vocab,
        "merges": merges,
    })
}

/// The `model` of a unigram tokenizer. Added tokens behind the last piece are not listed: the library numbers them on.
fn unigram_json(tokenizer: &Tokenizer, pieces: &Pieces, min_score: f64) -> Value {
    let fallback = pieces.encoder.fallback();
    let is_piece = |kind: Kind| matches!(kind, Kind::Merged | Kind::Unreachable);
    let listed: Vec<_> = tokenizer.vocab().iter().zip(&pieces.texts).zip(&pieces.scores).collect();
    let end = listed.iter().rposition(|(((_, kind, _), _), _)| *kind != Kind::Added).map_or(0, |last| last + 1);
    let end = end.max(fallback.unk.map_or(0, |unk| unk as usize + 1));
    // The lowest score counts whether or not its piece is ever used.
    let is_lowest_used = listed.iter().any(|(((_, kind, _), _), score)| is_piece(*kind) && **score == min_score);
    let other = if is_lowest_used { min_score.max(0.0) } else { min_score };
    let vocab: Vec<Value> = listed[..end]
        .iter()
        .map(|(((id, kind, _), text), score)| match kind {
            Kind::Merged | Kind::Unreachable => json!([text, score]),
            Kind::Added => json!([text, if **score == 0.0 { other } else { **score }]),
            Kind::Unused => json!([format!("{UNUSED}{id}"), other]),
        })
        .collect();
    json!({
        "type": "Unigram",
        "unk_id": fallback.unk,
        "vocab": vocab,
        "byte_fallback": fallback.bytes.is_some(),
    })
}

//! Vocabularies of pieces with scores and types, which SentencePiece's files and GGUF's `llama` models hold.

use std::sync::Arc;

use crate::charsmap::Charsmap;
use crate::error::{Error, Result};
use crate::pieces::{Choice, Piece, PieceParts, byte_of};
use crate::rules::{Rules, Step, Strip};
use crate::split::{META, PreSplit};
use crate::tokenizer::Tokenizer;
use crate::vocab::{AddedToken, Matching};

/// Types of pieces, numbered as in both formats.
pub(crate) const NORMAL: i32 = 1;
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const CONTROL: i32 = 3;
pub(crate) const USER_DEFINED: i32 = 4;
pub(crate) const UNUSED: i32 = 5;
pub(crate) const BYTE: i32 = 6;

/// How pieces are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Bpe,
    Unigram,
}

/// What a file says, before checks.
#[derive(Debug)]
pub(crate) struct Scored {
    pub(crate) algorithm: Algorithm,
    /// Text, score and type of each id.
    pub(crate) pieces: Vec<(String, f32, i32)>,
    /// Added tokens with other ids.
    pub(crate) more: Vec<AddedToken>,
    pub(crate) charsmap: Option<Arc<Charsmap>>,
    /// Whether a space goes in front of a text.
    pub(crate) space_in_front: bool,
    /// Whether spaces at the ends of a text are dropped and those inside become one.
    pub(crate) trim_spaces: bool,
    /// Roles of ids and what goes around a text; the normaliser is filled in here.
    pub(crate) rules: Rules,
}

impl Scored {
    /// Checks types and builds the tokenizer. `origin` names the source in errors.
    pub(crate) fn build(self, origin: &str) -> Result<Tokenizer> {
        let mut rules = self.rules;
        let mut pieces = Vec::with_capacity(self.pieces.len());
        let mut added = self.more;
        for (id, (text, score, kind)) in (0u32..).zip(self.pieces) {
            let matched = |special: bool| AddedToken {
                special,
                matching: Matching { normalized: !special, ..Matching::default() },
                ..AddedToken::special(text.clone(), id)
            };
            let bad = |problem: String| Err(Error::malformed(origin, format!("token {id}"), problem));
            match kind {
                NORMAL => pieces.push(Piece { text, id, byte: None, score: f64::from(score) }),
                BYTE => {
                    let byte = byte_of(&text);
                    if byte.is_none() {
                        return bad(format!("{text:?}; a byte is written <0x00> to <0xFF>"));
                    }
                    pieces.push(Piece { text, id, byte, score: f64::from(score) });
                }
                UNUSED => {}
                USER_DEFINED => added.push(matched(false)),
                UNKNOWN | CONTROL => {
                    added.push(matched(true));
                    // A vocabulary may leave out which token its unknown one is.
                    if kind == UNKNOWN {
                        rules.unk.get_or_insert(id);
                    }
                }
                other => return bad(format!("type {other}; expected 1 to 6")),
            }
        }
        rules.normalizer = self.charsmap.into_iter().map(Step::Charsmap).collect();
        if self.trim_spaces {
            rules.normalizer.extend([Step::TrimSpaces, Step::Squeeze(" ".to_owned())]);
        }
        if self.space_in_front {
            // The two differ in how tokens are looked for in normalised text, and other formats only know the first.
            let front = if added.iter().all(|token| token.special) { Step::Prepend } else { Step::Dummy };
            rules.normalizer.push(front(META.to_owned()));
            rules.strip = Strip::Space;
        }
        rules.normalizer.push(Step::Replace { from: " ".to_owned(), to: META.to_owned() });
        let (choice, split) = match self.algorithm {
            Algorithm::Bpe => (Choice::Scores, PreSplit::Whole),
            Algorithm::Unigram => {
                let normal = pieces.iter().filter(|piece| piece.byte.is_none());
                let min_score = normal.clone().map(|piece| piece.score).fold(f64::INFINITY, f64::min);
                // Where no piece reaches over the start of a word, words are encoded one by one.
                let by_words = normal.clone().all(|piece| !piece.text.chars().skip(1).any(|c| META.starts_with(c)));
                (Choice::Unigram { min_score }, if by_words { PreSplit::Metaspace } else { PreSplit::Whole })
            }
        };
        let byte_fallback = pieces.iter().any(|piece| piece.byte.is_some());
        Tokenizer::from_pieces(
            origin,
            PieceParts { pieces, added, choice, split, fuse_unk: true, byte_fallback, rules },
        )
    }
}

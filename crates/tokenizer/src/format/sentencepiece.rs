//! SentencePiece's `.model` files (`sentencepiece_model.proto`): BPE and unigram models.
//!
//! Ids are SentencePiece's own with two differences, both those of Hugging Face's library: characters are mapped
//! grapheme cluster by grapheme cluster (see `charsmap.rs`), and scores of unigram models are added in f64 (there in f32,
//! where sums over a long text round, and ways to cut it that are equally good can come out otherwise).

use std::sync::Arc;

use super::config::Config;
use super::protobuf::{Field, Fields};
use crate::charsmap::Charsmap;
use crate::error::{Error, Result};
use crate::rules::Rules;
use crate::scored::{Algorithm, NORMAL, Scored};
use crate::tokenizer::Tokenizer;
use crate::vocab::MAX_VOCAB;

/// `TrainerSpec`, as far as it decides ids; defaults are those of the format.
struct Trainer {
    model_type: i32,
    spaces_behind_words: bool,
    unk: i32,
    bos: i32,
    eos: i32,
    pad: i32,
}

/// `NormalizerSpec`, as far as it decides ids.
struct Normalizer<'a> {
    charsmap: &'a [u8],
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

/// Reads a `.model` file into a tokenizer. What goes around a text (`<s>`) is not in the file, but in its configuration.
pub(super) fn parse(origin: &str, content: &[u8], config: &Config) -> Result<Tokenizer> {
    let mut pieces = Vec::new();
    let mut trainer = Trainer { model_type: 1, spaces_behind_words: false, unk: 0, bos: 1, eos: 2, pad: -1 };
    let mut normalizer =
        Normalizer { charsmap: &[], add_dummy_prefix: true, remove_extra_whitespaces: true, escape_whitespaces: true };
    let mut maps_back = false;
    each(origin, "model", content, |number, field| {
        let message = field.as_bytes().filter(|_| (1..=5).contains(&number));
        match (number, message) {
            (1, Some(message)) => {
                if pieces.len() >= MAX_VOCAB {
                    return Err(Error::malformed(origin, "pieces", format!("more than {MAX_VOCAB}")));
                }
                pieces.push(piece(origin, pieces.len(), message)?);
            }
            (2, Some(message)) => trainer.read(origin, message)?,
            (3, Some(message)) => normalizer.read(origin, message)?,
            // The text of decoded pieces is mapped once more.
            (5, Some(message)) => each(origin, "denormalizer_spec", message, |number, field| {
                maps_back |= number == 2 && field.as_bytes().is_some_and(|map| !map.is_empty());
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    if pieces.is_empty() {
        return Err(Error::malformed(origin, "pieces", "none; this is no SentencePiece model"));
    }
    let algorithm = match trainer.model_type {
        1 => Algorithm::Unigram,
        2 => Algorithm::Bpe,
        other => {
            let name = ["word", "char"].get((other.wrapping_sub(3)) as usize).copied().unwrap_or("of unknown number");
            return Err(Error::unsupported(origin, "model type", format!("{name} ({other})"), "unigram, BPE"));
        }
    };
    let refuse = |field: &str, found: &str| Err(Error::unsupported(origin, field, found, "the format's default"));
    if trainer.spaces_behind_words {
        return refuse("treat_whitespace_as_suffix", "true");
    }
    if !normalizer.escape_whitespaces {
        return refuse("escape_whitespaces", "false");
    }
    if maps_back {
        return refuse("denormalizer_spec", "with a character map");
    }
    let charsmap = Some(normalizer.charsmap).filter(|blob| !blob.is_empty()).map(Charsmap::new).transpose();
    let charsmap = charsmap.map_err(|problem| Error::malformed(origin, "precompiled_charsmap", problem))?;
    let id = |id: i32| u32::try_from(id).ok();
    let rules = Rules {
        unk: id(trainer.unk),
        bos: id(trainer.bos),
        eos: id(trainer.eos),
        pad: id(trainer.pad),
        ..Rules::default()
    };
    let scored = Scored {
        algorithm,
        more: config.added(pieces.len()),
        pieces,
        charsmap: charsmap.map(Arc::new),
        space_in_front: normalizer.add_dummy_prefix,
        trim_spaces: normalizer.remove_extra_whitespaces,
        rules,
    };
    scored.build(origin)
}

/// Calls `read` with each field of a message.
fn each<'a>(
    origin: &str,
    place: &str,
    message: &'a [u8],
    mut read: impl FnMut(u64, Field<'a>) -> Result<()>,
) -> Result<()> {
    for field in Fields::new(message) {
        let (number, value) = field.map_err(|problem| Error::malformed(origin, place, problem))?;
        read(number, value)?;
    }
    Ok(())
}

/// A value that has the type its field has in the format.
fn typed<T>(origin: &str, place: &str, number: u64, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::malformed(origin, place, format!("field {number} is of another type than the format's")))
}

/// Text, score and type of a piece.
fn piece(origin: &str, index: usize, message: &[u8]) -> Result<(String, f32, i32)> {
    let place = format!("piece {index}");
    let (mut text, mut score, mut kind) = (String::new(), 0.0, NORMAL);
    each(origin, &place, message, |number, field| {
        match number {
            1 => {
                let bytes = typed(origin, &place, number, field.as_bytes())?;
                text = std::str::from_utf8(bytes)
                    .map_err(|error| Error::malformed(origin, &place, format!("its text is not UTF-8: {error}")))?
                    .to_owned();
            }
            2 => score = typed(origin, &place, number, field.as_f32())?,
            3 => kind = typed(origin, &place, number, field.as_i32())?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((text, score, kind))
}

impl Trainer {
    fn read(&mut self, origin: &str, message: &[u8]) -> Result<()> {
        each(origin, "trainer_spec", message, |number, field| {
            let value = match number {
                3 => &mut self.model_type,
                40 => &mut self.unk,
                41 => &mut self.bos,
                42 => &mut self.eos,
                43 => &mut self.pad,
                24 => {
                    self.spaces_behind_words = typed(origin, "trainer_spec", number, field.as_bool())?;
                    return Ok(());
                }
                _ => return Ok(()),
            };
            *value = typed(origin, "trainer_spec", number, field.as_i32())?;
            Ok(())
        })
    }
}

impl<'a> Normalizer<'a> {
    fn read(&mut self, origin: &str, message: &'a [u8]) -> Result<()> {
        each(origin, "normalizer_spec", message, |number, field| {
            let value = match number {
                3 => &mut self.add_dummy_prefix,
                4 => &mut self.remove_extra_whitespaces,
                5 => &mut self.escape_whitespaces,
                2 => {
                    self.charsmap = typed(origin, "normalizer_spec", number, field.as_bytes())?;
                    return Ok(());
                }
                _ => return Ok(()),
            };
            *value = typed(origin, "normalizer_spec", number, field.as_bool())?;
            Ok(())
        })
    }
}

//! Tokenizers: byte-level BPE (trained here too), SentencePiece BPE and unigram; encoding in linear time, streaming
//! decoding, file formats.
//!
//! One implementation serves data preparation, training, evaluation and serving. A [`Tokenizer`] is loaded from the
//! usual files ([`Tokenizer::load`]) or learnt from text ([`train::Trainer`]), encodes exactly as the published definition says,
//! and is identified by a [`Tokenizer::hash`] that travels with everything made from it.

#![forbid(unsafe_code)]

mod added;
mod base64;
mod bytes;
mod charsmap;
mod decode;
mod encode;
mod error;
mod format;
mod gguf;
mod pieces;
mod rules;
mod scored;
mod split;
mod tokenizer;
pub mod train;
mod vocab;
mod word;

pub use added::SpecialTokens;
pub use decode::{StreamDecoder, Utf8Stream};
pub use error::{Error, Result};
pub use gguf::GgufVocab;
pub use split::PreSplit;
pub use tokenizer::{END_OF_TEXT, ModelKind, Summary, Tokenizer};
pub use vocab::{AddedToken, Matching};

//! The tokenizer: one value that encodes, decodes and knows its own identity.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::added::{Matchers, Part, SpecialTokens};
use crate::encode::{Encoder, Merge};
use crate::error::{Error, Result};
use crate::pieces::{self, PieceEncoder, PieceParts, Pieces};
use crate::rules::{Rules, Strip};
use crate::split::PreSplit;
use crate::vocab::{AddedToken, Kind, Matching, Parts, Vocab};

/// Name of the token that ends a document.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer of any [`ModelKind`]. It is immutable and shared between threads behind an [`std::sync::Arc`].
///
/// Ids are those of the published algorithms. BPE: the text is cut into pieces by the pre-splitter, each piece starts as
/// its bytes or characters, and the adjacent pair that comes first in the merge list, the leftmost of equals, is merged
/// until none is left. Unigram: of all ways to cut a piece into entries of the vocabulary, the one whose scores add up to
/// most. Encoding takes time linear in the text, whatever the text is (n log n for long words of SentencePiece BPE).
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    /// Added tokens that are found in every text.
    always: Matchers,
    /// All added tokens.
    all: Matchers,
    rules: Rules,
    special_ids: HashMap<String, u32>,
    hash: String,
}

/// Figures about a vocabulary, for people.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Number of ids, unused ones among them.
    pub n_vocab: usize,
    /// Number of merges.
    pub n_merges: usize,
    /// Ids that stand for nothing.
    pub n_unused: usize,
    /// Ordinary tokens that merging never makes.
    pub n_unreachable: usize,
    /// The longest ordinary token, the first of equals.
    pub longest: u32,
    /// Bytes that have no token: a text loses them.
    pub missing_bytes: Vec<u8>,
    /// Added tokens in order of id.
    pub added: Vec<AddedToken>,
}

/// What turns prepared text into ids.
#[derive(Debug)]
pub(crate) enum Model {
    /// Byte-level BPE.
    Bytes(Encoder),
    /// Pieces of text.
    Pieces(Pieces),
}

/// Kind of a tokenizer's model.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// BPE over bytes: GPT-2, Llama 3, Qwen, SmolLM.
    ByteLevelBpe,
    /// BPE over characters, as SentencePiece has it: Llama 2, Mistral, Gemma.
    SentencePieceBpe,
    /// Unigram: T5, XGLM, many models of Japanese.
    Unigram,
}

impl ModelKind {
    /// A name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByteLevelBpe => "byte-level BPE",
            Self::SentencePieceBpe => "SentencePiece BPE",
            Self::Unigram => "unigram",
        }
    }
}

impl Model {
    fn encode_into(&self, text: &[u8], out: &mut Vec<u32>) {
        match self {
            Self::Bytes(encoder) => encoder.encode_into(text, out),
            Self::Pieces(pieces) => pieces.encoder.encode_into(text, out),
        }
    }

    fn split(&self) -> PreSplit {
        match self {
            Self::Bytes(encoder) => encoder.split(),
            Self::Pieces(pieces) => pieces.encoder.split(),
        }
    }

    fn merges(&self) -> &[Merge] {
        match self {
            Self::Bytes(encoder) => encoder.merges(),
            Self::Pieces(pieces) => pieces.encoder.merges(),
        }
    }
}

impl Tokenizer {
    pub(crate) fn from_parts(origin: &str, parts: Parts) -> Result<Self> {
        let split = parts.split;
        let rules = parts.rules.clone();
        let (vocab, table) = Vocab::new(origin, parts)?;
        let whole = vocab.iter().filter(|(_, kind, _)| match kind {
            Kind::Merged => true,
            Kind::Unreachable => vocab.whole_pieces,
            Kind::Added | Kind::Unused => false,
        });
        let encoder = Encoder::new(split, table, whole.map(|(id, _, bytes)| (bytes, id)));
        Self::assemble(origin, vocab, Model::Bytes(encoder), rules)
    }

    pub(crate) fn from_pieces(origin: &str, parts: PieceParts) -> Result<Self> {
        let rules = parts.rules.clone();
        let (vocab, pieces) = pieces::build(origin, parts)?;
        Self::assemble(origin, vocab, Model::Pieces(pieces), rules)
    }

    fn assemble(origin: &str, vocab: Vocab, model: Model, rules: Rules) -> Result<Self> {
        for id in
            rules.front.iter().chain(&rules.back).chain([rules.bos, rules.eos, rules.unk, rules.pad].iter().flatten())
        {
            if *id as usize >= vocab.n_vocab() {
                let problem = format!("id {id} has a role and is outside the vocabulary of {}", vocab.n_vocab());
                return Err(Error::malformed(origin, "special tokens", problem));
            }
        }
        let always = Matchers::new(origin, vocab.added.iter().filter(|token| !token.special), &rules)?;
        let all = Matchers::new(origin, vocab.added.iter(), &rules)?;
        let special_ids = vocab.added.iter().map(|token| (token.content.clone(), token.id)).collect();
        let hash = canonical_hash(&vocab, &model, &rules);
        Ok(Self { vocab, model, always, all, rules, special_ids, hash })
    }

    /// Ids of `text`. Special tokens written out in it are text like any other.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_with(text, SpecialTokens::Ordinary)
    }

    /// Appends the ids of `text`, as [`Self::encode`] makes them.
    pub fn encode_into(&self, text: &str, out: &mut Vec<u32>) {
        self.encode_bytes_into(text.as_bytes(), out);
    }

    /// Ids of `text`, with a choice of what special tokens written out in it become.
    pub fn encode_with(&self, text: &str, specials: SpecialTokens) -> Vec<u32> {
        // Text of many kinds takes about one token for four bytes.
        let mut out = Vec::with_capacity(text.len() / 4 + 8);
        self.encode_segments(text.as_bytes(), specials, &mut out);
        out
    }

    /// Appends the ids of any bytes, text or not. A byte outside well-formed UTF-8 is split off like a punctuation
    /// mark. Decoding with [`Self::decode_bytes`] gives the same bytes back.
    pub fn encode_bytes_into(&self, bytes: &[u8], out: &mut Vec<u32>) {
        self.encode_segments(bytes, SpecialTokens::Ordinary, out);
    }

    fn encode_segments(&self, text: &[u8], specials: SpecialTokens, out: &mut Vec<u32>) {
        let matchers = match specials {
            SpecialTokens::Ordinary => &self.always,
            SpecialTokens::Parse => &self.all,
        };
        if matchers.is_empty() && self.rules.is_plain() {
            return self.model.encode_into(text, out);
        }
        matchers.raw.parts(text, |part| match part {
            Part::Token(id) => out.push(id),
            Part::Text(from, to) => {
                let normal = self.rules.normalize(&text[from..to]);
                matchers.normalized.parts(&normal, |part| match part {
                    Part::Token(id) => out.push(id),
                    Part::Text(start, end) => {
                        let at_start = from == 0 && start == 0;
                        let ready = self.rules.prepare(Cow::Borrowed(&normal[start..end]), at_start);
                        self.model.encode_into(&ready, out);
                    }
                });
            }
        });
    }

    /// Ids of `text` with the tokens that the model expects around it, as its makers' template says.
    pub fn encode_with_specials(&self, text: &str, specials: SpecialTokens) -> Vec<u32> {
        let mut out = self.rules.front.clone();
        self.encode_segments(text.as_bytes(), specials, &mut out);
        out.extend_from_slice(&self.rules.back);
        out
    }

    /// Id of the token that begins a text, if the file names one.
    pub fn bos(&self) -> Option<u32> {
        self.rules.bos
    }

    /// Id of the token that ends a text or an answer, if the file names one.
    pub fn eos(&self) -> Option<u32> {
        self.rules.eos
    }

    /// Whether [`Self::encode_with_specials`] puts [`Self::bos`] in front.
    pub fn adds_bos(&self) -> bool {
        self.rules.bos.is_some() && self.rules.front.first() == self.rules.bos.as_ref()
    }

    /// Whether [`Self::encode_with_specials`] puts [`Self::eos`] behind the text.
    pub fn adds_eos(&self) -> bool {
        self.rules.eos.is_some() && self.rules.back.first() == self.rules.eos.as_ref()
    }

    /// Text of `ids`. Bytes that are no UTF-8 become U+FFFD as in [`String::from_utf8_lossy`].
    ///
    /// # Errors
    /// [`Error::UnknownToken`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let bytes = self.decode_bytes(ids)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Bytes of `ids`, exactly those that were encoded. A tokenizer with a normaliser, or one that puts a space in
    /// front of text, gives the normalised text; that space is not given back.
    ///
    /// # Errors
    /// [`Error::UnknownToken`] for an id outside the vocabulary.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        let mut start = TextStart::new(self);
        for id in ids {
            bytes.extend_from_slice(start.strip(self.checked_bytes(*id)?));
        }
        Ok(bytes)
    }

    pub(crate) fn checked_bytes(&self, id: u32) -> Result<&[u8]> {
        self.vocab.bytes(id).ok_or(Error::UnknownToken { id, n_vocab: self.n_vocab() })
    }

    /// Number of ids: every id is below it.
    pub fn n_vocab(&self) -> usize {
        self.vocab.n_vocab()
    }

    /// Bytes of a token: none for an id that stands for nothing, `None` for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocab.bytes(id)
    }

    /// Id of an added token by its text.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.special_ids.get(name).copied()
    }

    /// Whether an id is that of a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.added_tokens().iter().any(|token| token.id == id && token.special)
    }

    /// Id of [`END_OF_TEXT`], if the vocabulary has it.
    pub fn end_of_text(&self) -> Option<u32> {
        self.special_id(END_OF_TEXT)
    }

    /// Added tokens in order of id.
    pub fn added_tokens(&self) -> &[AddedToken] {
        &self.vocab.added
    }

    /// How text is cut into pieces.
    pub fn pre_split(&self) -> PreSplit {
        self.model.split()
    }

    /// Number of merges. Merges that no text can ever reach are not counted: they are dropped on loading.
    pub fn n_merges(&self) -> usize {
        self.model.merges().len()
    }

    /// Identity of the tokenizer: BLAKE3 in hexadecimal over all that decides ids (splitter, bytes of every id, merges
    /// in order, added tokens), whatever format it was loaded from.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Figures about the vocabulary.
    pub fn summary(&self) -> Summary {
        let mut longest = (0, 0);
        for (id, kind, bytes) in self.vocab.iter() {
            if matches!(kind, Kind::Merged | Kind::Unreachable) && bytes.len() > longest.1 {
                longest = (id, bytes.len());
            }
        }
        let count = |wanted: Kind| self.vocab.kinds.iter().filter(|kind| **kind == wanted).count();
        Summary {
            n_vocab: self.n_vocab(),
            n_merges: self.n_merges(),
            n_unused: count(Kind::Unused),
            n_unreachable: count(Kind::Unreachable),
            longest: longest.0,
            missing_bytes: match &self.model {
                Model::Bytes(encoder) => encoder.missing_bytes(),
                Model::Pieces(_) => Vec::new(),
            },
            added: self.vocab.added.clone(),
        }
    }

    /// Kind of the model.
    pub fn kind(&self) -> ModelKind {
        match &self.model {
            Model::Bytes(_) => ModelKind::ByteLevelBpe,
            Model::Pieces(Pieces { encoder: PieceEncoder::Bpe(_), .. }) => ModelKind::SentencePieceBpe,
            Model::Pieces(Pieces { encoder: PieceEncoder::Unigram(_), .. }) => ModelKind::Unigram,
        }
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// For roles, and what goes around a text: nothing else may change.
    pub(crate) fn rules_mut(&mut self) -> &mut Rules {
        &mut self.rules
    }

    pub(crate) fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    pub(crate) fn merges(&self) -> &[Merge] {
        self.model.merges()
    }
}

/// Drops what a decoder drops at the start of a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextStart(Strip);

impl TextStart {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        Self(tokenizer.rules.strip)
    }

    /// What the next token's bytes add to the text.
    pub(crate) fn strip<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match self.0 {
            Strip::None => bytes,
            Strip::Space if bytes.is_empty() => bytes,
            Strip::Space => {
                self.0 = Strip::None;
                bytes.strip_prefix(b" ").unwrap_or(bytes)
            }
            Strip::FirstToken => {
                self.0 = Strip::None;
                let spaces = bytes.iter().take_while(|byte| **byte == b' ').count();
                &bytes[spaces..]
            }
        }
    }
}

/// Version of what is hashed; a change of ids that the fields below do not show would need another.
const HASH_DOMAIN: &[u8] = b"verve tokenizer 1";

fn canonical_hash(vocab: &Vocab, model: &Model, rules: &Rules) -> String {
    let mut text = Vec::with_capacity(vocab.n_vocab() * 24);
    let mut put = |bytes: &[u8]| {
        text.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        text.extend_from_slice(bytes);
    };
    put(HASH_DOMAIN);
    put(model.split().name().as_bytes());
    put(&[u8::from(vocab.whole_pieces)]);
    put(&(vocab.n_vocab() as u64).to_le_bytes());
    for (_, kind, bytes) in vocab.iter() {
        put(&[match kind {
            Kind::Unused => 0,
            Kind::Merged | Kind::Unreachable => 1,
            Kind::Added => 2,
        }]);
        put(bytes);
    }
    for token in &vocab.added {
        put(&[u8::from(token.special)]);
    }
    for merge in model.merges() {
        put(&merge.left.to_le_bytes());
        put(&merge.right.to_le_bytes());
    }
    // What decides no id is left out (roles, what decoding drops), and so is what GPT-2's form does not have.
    if !rules.is_plain() {
        put(b"rules");
        put(format!("{:?}{:?}", rules.normalizer, rules.prefix).as_bytes());
    }
    if let Model::Pieces(pieces) = model {
        put(b"pieces");
        put(format!("{:?} {}", pieces.encoder.fallback().unk, pieces.encoder.fallback().fuse_unk).as_bytes());
        put(&[u8::from(pieces.encoder.fallback().bytes.is_some())]);
        for text in &pieces.texts {
            put(text.as_bytes());
        }
        if let PieceEncoder::Unigram(unigram) = &pieces.encoder {
            put(b"unigram");
            for score in pieces.scores.iter().chain([&unigram.min_score()]) {
                put(&score.to_le_bytes());
            }
        }
    }
    for token in vocab.added.iter().filter(|token| token.matching != Matching::default()) {
        put(b"matching");
        put(format!("{} {:?}", token.id, token.matching).as_bytes());
    }
    blake3::hash(&text).to_hex().to_string()
}

//! Vocabularies as GGUF files hold them (`tokenizer.ggml.*`), as plain data.

use std::collections::{HashMap, HashSet};

use crate::bytes::{spell, unspell};
use crate::error::{Error, Result};
use crate::pieces::{PieceEncoder, Pieces};
use crate::rules::{Form, Prefix, Rules, Scheme, Step};
use crate::scored::{Algorithm, BYTE, CONTROL, NORMAL, Scored, UNKNOWN, UNUSED, USER_DEFINED};
use crate::split::{META, PreSplit};
use crate::tokenizer::{Model, Tokenizer};
use crate::vocab::{AddedToken, Kind, Parts};

/// The values of a GGUF file's `tokenizer.ggml.*` keys, each under its key's last word.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocab {
    /// `model`: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) or `t5` (unigram).
    pub model: String,
    /// `pre`: name of the pre-splitter of a `gpt2` model.
    pub pre: Option<String>,
    /// `tokens`: text of each id; of a `gpt2` model in GPT-2's printable spelling.
    pub tokens: Vec<String>,
    /// `scores`: of the tokens of a `llama` or `t5` model; the highest merges first.
    pub scores: Option<Vec<f32>>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `merges`: of a `gpt2` model, "left right", the first comes first.
    pub merges: Option<Vec<String>>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`: whether [`Self::bos`] goes in front of a text.
    pub add_bos: Option<bool>,
    /// `add_eos_token`: whether [`Self::eos`] goes behind a text.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`: whether text of a `llama` or `t5` model gets a space in front.
    pub add_space_prefix: Option<bool>,
}

/// What this module's errors call the source.
const ORIGIN: &str = "GGUF vocabulary";

/// Names of `tokenizer.ggml.pre`, the first of each splitter is the one written. OLMo's is GPT-NeoX's, which composes
/// characters first; so does Qwen2's.
const SPLITTERS: [(&str, PreSplit, bool); 10] = [
    ("gpt-2", PreSplit::Gpt2, false),
    ("phi-2", PreSplit::Gpt2, false),
    ("olmo", PreSplit::Gpt2, true),
    ("smollm", PreSplit::SmolLm, false),
    ("starcoder", PreSplit::SmolLm, false),
    ("refact", PreSplit::SmolLm, false),
    ("llama-bpe", PreSplit::Llama3, false),
    ("llama3", PreSplit::Llama3, false),
    ("llama-v3", PreSplit::Llama3, false),
    ("qwen2", PreSplit::Qwen2, true),
];

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming a model or pre-splitter that is not known; [`Error::Malformed`] for lists of
    /// different lengths, unknown token types, ids outside the vocabulary and what [`Self::load`] refuses.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Self> {
        let count = vocab.tokens.len();
        let lengths =
            [("token_type", vocab.token_types.as_ref().map(Vec::len)), ("scores", vocab.scores.as_ref().map(Vec::len))];
        for (name, length) in lengths {
            if let Some(length) = length.filter(|length| *length != count) {
                return Err(Error::malformed(ORIGIN, name, format!("{length} entries for {count} tokens")));
            }
        }
        let roles = [("bos", vocab.bos), ("eos", vocab.eos), ("unknown", vocab.unk), ("padding", vocab.pad)];
        for (name, id) in roles {
            if let Some(id) = id.filter(|id| *id as usize >= count) {
                return Err(Error::malformed(ORIGIN, format!("{name} token"), format!("id {id} of {count} tokens")));
            }
        }
        match vocab.model.as_str() {
            "gpt2" => from_bytes(vocab),
            "llama" => from_scores(vocab),
            other => Err(Error::unsupported(ORIGIN, "tokenizer.ggml.model", format!("{other:?}"), "gpt2, llama")),
        }
    }

    /// The vocabulary as a GGUF file holds it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tokenizer that no value of the format's keys describes.
    pub fn to_gguf(&self) -> Result<GgufVocab> {
        if let Model::Pieces(pieces) = self.model() {
            return self.pieces_to_gguf(pieces);
        }
        let rules = self.rules();
        let composes = match rules.normalizer.as_slice() {
            [] => Some(false),
            [Step::Form(Form::Nfc)] => Some(true),
            _ => None,
        };
        let split = self.pre_split();
        let known = SPLITTERS.iter().find(|(_, other, nfc)| *other == split && Some(*nfc) == composes);
        // Composing is not the format's concern: programs that read it do not compose for any splitter.
        let (pre, _, _) = known.ok_or_else(|| {
            let found = format!("{} with normaliser {:?}", split.name(), rules.normalizer);
            Error::unsupported("writing GGUF", "splitter", found, "gpt2, smollm and llama3; qwen2 and gpt2 with NFC")
        })?;
        let mut tokens = Vec::with_capacity(self.n_vocab());
        let mut types = Vec::with_capacity(self.n_vocab());
        for (id, kind, bytes) in self.vocab().iter() {
            let (text, token_type) = match kind {
                Kind::Unused => (format!("[PAD{id}]"), UNUSED),
                Kind::Added => {
                    let special = self.is_special(id);
                    (String::from_utf8_lossy(bytes).into_owned(), if special { CONTROL } else { USER_DEFINED })
                }
                Kind::Merged | Kind::Unreachable => (spell(bytes), NORMAL),
            };
            tokens.push(text);
            types.push(token_type);
        }
        let name = |id: u32| tokens[id as usize].as_str();
        let merges = self.merges().iter().map(|merge| format!("{} {}", name(merge.left), name(merge.right))).collect();
        Ok(GgufVocab {
            model: "gpt2".to_owned(),
            pre: Some((*pre).to_owned()),
            merges: Some(merges),
            token_types: Some(types),
            ..self.gguf_roles(tokens)
        })
    }

    /// A vocabulary of pieces, with scores.
    fn pieces_to_gguf(&self, pieces: &Pieces) -> Result<GgufVocab> {
        let rules = self.rules();
        let refuse = |found: String| {
            let supported = "text as it is with spaces as \u{2581}, perhaps one in front";
            Err(Error::unsupported("writing GGUF", "normaliser", found, supported))
        };
        let meta = Step::Replace { from: " ".to_owned(), to: META.to_owned() };
        let is_prefix = |step: &Step| matches!(step, Step::Prepend(text) | Step::Dummy(text) if text == META);
        let prefix = match (rules.normalizer.as_slice(), rules.prefix) {
            ([only], Prefix::None) if *only == meta => false,
            ([first, second], Prefix::None) if is_prefix(first) && *second == meta => true,
            ([], Prefix::Meta(scheme)) => scheme != Scheme::Never,
            _ => return refuse(format!("{:?} {:?}", rules.normalizer, rules.prefix)),
        };
        if let PieceEncoder::Unigram(_) = pieces.encoder {
            return Err(Error::unsupported("writing GGUF", "model type", "unigram", "BPE"));
        }
        let fallback = pieces.encoder.fallback();
        let mut tokens: Vec<String> = Vec::with_capacity(self.n_vocab());
        let mut types = Vec::with_capacity(self.n_vocab());
        let bytes = fallback.bytes.as_deref();
        let byte_ids: HashSet<u32> = bytes.into_iter().flatten().copied().collect();
        for ((id, kind, _), text) in self.vocab().iter().zip(&pieces.texts) {
            types.push(match kind {
                Kind::Unused => UNUSED,
                Kind::Added if rules.unk == Some(id) => UNKNOWN,
                Kind::Added if self.is_special(id) => CONTROL,
                Kind::Added => USER_DEFINED,
                Kind::Merged | Kind::Unreachable if rules.unk == Some(id) => UNKNOWN,
                Kind::Merged | Kind::Unreachable => {
                    if byte_ids.contains(&id) {
                        BYTE
                    } else {
                        NORMAL
                    }
                }
            });
            tokens.push(if kind == Kind::Unused { format!("[PAD{id}]") } else { text.to_string() });
        }
        // What was merged by a list has no scores: the order of the merges does the same. A piece that the list never
        // makes must not be made by scores either.
        let mut scores: Vec<f32> = pieces.scores.iter().map(|score| *score as f32).collect();
        if scores.is_empty() {
            scores = vec![0.0; tokens.len()];
            for (merge, rank) in self.merges().iter().zip(0u32..) {
                scores[merge.merged as usize] = -(rank as f32);
            }
            for ((_, kind, _), token_type) in self.vocab().iter().zip(&mut types) {
                if kind == Kind::Unreachable && *token_type == NORMAL {
                    *token_type = UNUSED;
                }
            }
        }
        Ok(GgufVocab {
            model: "llama".to_owned(),
            pre: Some("default".to_owned()),
            scores: Some(scores),
            token_types: Some(types),
            add_space_prefix: Some(prefix),
            ..self.gguf_roles(tokens)
        })
    }

    /// The parts that all kinds have.
    pub(crate) fn gguf_roles(&self, tokens: Vec<String>) -> GgufVocab {
        let rules = self.rules();
        GgufVocab {
            tokens,
            bos: rules.bos.or_else(|| self.end_of_text()),
            eos: rules.eos.or_else(|| self.end_of_text()),
            unk: rules.unk,
            pad: rules.pad,
            add_bos: Some(!rules.front.is_empty()),
            add_eos: Some(!rules.back.is_empty()),
            ..GgufVocab::default()
        }
    }
}

/// A byte-level vocabulary.
fn from_bytes(vocab: GgufVocab) -> Result<Tokenizer> {
    let pre = vocab.pre.as_deref().unwrap_or("default");
    let Some((_, split, composes)) = SPLITTERS.iter().find(|(name, _, _)| *name == pre) else {
        let found = match &vocab.pre {
            Some(name) => format!("{name:?}"),
            None => "missing".to_owned(),
        };
        return Err(Error::unsupported(
            ORIGIN,
            "tokenizer.ggml.pre",
            found,
            "gpt-2, phi-2, olmo, smollm, starcoder, refact, llama-bpe, llama3, llama-v3, qwen2",
        ));
    };
    let mut rules = roles(&vocab, false);
    if *composes {
        rules.normalizer.push(Step::Form(Form::Nfc));
    }
    let mut tokens = Vec::with_capacity(vocab.tokens.len());
    let mut added = Vec::new();
    let mut ids = HashMap::with_capacity(vocab.tokens.len());
    for (id, text) in (0u32..).zip(&vocab.tokens) {
        match token_type(&vocab, id)? {
            NORMAL => {
                let bytes = unspell(text).map_err(|character| {
                    let place = format!("token {id}");
                    Error::malformed(ORIGIN, place, format!("{character:?} stands for no byte in a gpt2 vocabulary"))
                })?;
                tokens.push((bytes, id));
                ids.insert(text.as_str(), id);
            }
            UNUSED => {}
            USER_DEFINED => added.push(AddedToken { special: false, ..AddedToken::special(text.clone(), id) }),
            _ => added.push(AddedToken::special(text.clone(), id)),
        }
    }
    let mut merges = Vec::new();
    for (merge, number) in vocab.merges.iter().flatten().zip(1..) {
        let bad = |problem: &str| Error::malformed(ORIGIN, format!("merge {number}"), format!("{merge:?}: {problem}"));
        let (left, right) = merge.split_once(' ').ok_or_else(|| bad("not two tokens with a space between"))?;
        let find = |name: &str| ids.get(name).copied().ok_or_else(|| bad("a part is not an ordinary token"));
        merges.push((find(left)?, find(right)?));
    }
    // A token that the merges do not make is still the token of the piece that it is, as for Llama 3.
    let whole_pieces = *split == PreSplit::Llama3;
    Tokenizer::from_parts(ORIGIN, Parts { split: *split, tokens, merges, added, whole_pieces, rules })
}

/// Type of a token; without a list all are normal.
pub(crate) fn token_type(vocab: &GgufVocab, id: u32) -> Result<i32> {
    let found = vocab.token_types.as_ref().and_then(|types| types.get(id as usize)).copied().unwrap_or(NORMAL);
    if !(NORMAL..=BYTE).contains(&found) {
        return Err(Error::malformed(ORIGIN, format!("token {id}"), format!("type {found}; expected 1 to 6")));
    }
    Ok(found)
}

/// Ids with a role.
pub(crate) fn roles(vocab: &GgufVocab, adds_bos_unless_told: bool) -> Rules {
    let when = |told: Option<bool>, default: bool, id: Option<u32>| id.filter(|_| told.unwrap_or(default));
    Rules {
        bos: vocab.bos,
        eos: vocab.eos,
        unk: vocab.unk,
        pad: vocab.pad,
        front: when(vocab.add_bos, adds_bos_unless_told, vocab.bos).into_iter().collect(),
        back: when(vocab.add_eos, false, vocab.eos).into_iter().collect(),
        ..Rules::default()
    }
}

/// A SentencePiece BPE vocabulary.
fn from_scores(vocab: GgufVocab) -> Result<Tokenizer> {
    let rules = roles(&vocab, true);
    let scores =
        vocab.scores.ok_or_else(|| Error::malformed(ORIGIN, "scores", "missing; a llama vocabulary has them"))?;
    let types = vocab.token_types.unwrap_or_else(|| vec![NORMAL; vocab.tokens.len()]);
    let pieces = vocab.tokens.into_iter().zip(scores).zip(types);
    let scored = Scored {
        algorithm: Algorithm::Bpe,
        pieces: pieces.map(|((text, score), kind)| (text, score, kind)).collect(),
        more: Vec::new(),
        charsmap: None,
        space_in_front: vocab.add_space_prefix.unwrap_or(true),
        trim_spaces: false,
        rules,
    };
    scored.build(ORIGIN)
}

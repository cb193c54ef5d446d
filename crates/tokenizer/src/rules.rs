//! What happens to text in front of the model and behind it: normalisers, prefixes, the tokens put around a text.

use std::borrow::Cow;
use std::sync::Arc;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

use crate::added::{first_char, trimmed_end, trimmed_start};
use crate::charsmap::Charsmap;
use crate::split::META;

/// One step of a normaliser.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A Unicode normal form.
    Form(Form),
    /// A text put in front of every text that is not empty.
    Prepend(String),
    /// As `Prepend`, and not for the texts of added tokens when they are looked for: SentencePiece's own way.
    Dummy(String),
    /// Every occurrence of a text, left to right, becomes another.
    Replace { from: String, to: String },
    /// Two spaces or more in a row become a text.
    Squeeze(String),
    /// Spaces at both ends are dropped, and [`META`] at the end: SentencePiece's own way.
    TrimSpaces,
    /// White space at one or both ends is dropped.
    Strip { left: bool, right: bool },
    /// SentencePiece's character map.
    Charsmap(Arc<Charsmap>),
}

/// A Unicode normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

/// Which texts get a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Every text between added tokens.
    Always,
    /// Only text at the very start.
    First,
    Never,
}

/// What the pre-tokenizer does to a text before it cuts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Prefix {
    #[default]
    None,
    /// Spaces become [`META`]; one more goes in front of text that does not start with one.
    Meta(Scheme),
    /// White space is dropped; each word gets a [`META`] in front, unless it starts with one.
    Words,
}

/// What decoding drops at the start of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strip {
    #[default]
    None,
    /// One space.
    Space,
    /// All spaces that the first token starts with.
    FirstToken,
}

/// Everything around the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rules {
    pub(crate) normalizer: Vec<Step>,
    pub(crate) prefix: Prefix,
    pub(crate) strip: Strip,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) unk: Option<u32>,
    pub(crate) pad: Option<u32>,
    /// Ids put in front of a text and behind it.
    pub(crate) front: Vec<u32>,
    pub(crate) back: Vec<u32>,
}

impl Rules {
    /// Whether text reaches the splitter as it is.
    pub(crate) fn is_plain(&self) -> bool {
        self.normalizer.is_empty() && self.prefix == Prefix::None
    }

    /// Text after the normaliser.
    pub(crate) fn normalize<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let mut text = Cow::Borrowed(text);
        for step in &self.normalizer {
            if let Some(changed) = step.apply(&text) {
                text = Cow::Owned(changed);
            }
        }
        text
    }

    /// The text of an added token as it is looked for in text after the normaliser.
    pub(crate) fn normalize_added(&self, content: &str) -> Vec<u8> {
        let mut text = content.as_bytes().to_vec();
        for step in self.normalizer.iter().filter(|step| !matches!(step, Step::Dummy(_))) {
            text = step.apply(&text).unwrap_or(text);
        }
        text
    }

    /// Text as the splitter cuts it; `at_start` says whether it begins the whole text.
    pub(crate) fn prepare<'a>(&self, text: Cow<'a, [u8]>, at_start: bool) -> Cow<'a, [u8]> {
        let prefixed = |scheme: Scheme| scheme == Scheme::Always || scheme == Scheme::First && at_start;
        match self.prefix {
            Prefix::None => text,
            Prefix::Meta(_) if text.is_empty() => text,
            Prefix::Meta(scheme) => {
                let starts = text.starts_with(b" ") || text.starts_with(META.as_bytes());
                let mut out = Vec::with_capacity(text.len() + text.len() / 2 + META.len());
                if prefixed(scheme) && !starts {
                    out.extend_from_slice(META.as_bytes());
                }
                put_replaced(&text, b" ", META.as_bytes(), &mut out);
                Cow::Owned(out)
            }
            Prefix::Words => {
                let mut out = Vec::with_capacity(text.len() + text.len() / 2 + META.len());
                let mut rest = &text[..];
                loop {
                    rest = &rest[rest.len() - trimmed_start(rest)..];
                    if rest.is_empty() {
                        break;
                    }
                    let (word, behind) = rest.split_at(word_end(rest));
                    if !word.starts_with(META.as_bytes()) {
                        out.extend_from_slice(META.as_bytes());
                    }
                    out.extend_from_slice(word);
                    rest = behind;
                }
                Cow::Owned(out)
            }
        }
    }
}

impl Step {
    /// The changed text; `None` when it stays as it is.
    fn apply(&self, text: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Form(form) => form.apply(text),
            Self::Prepend(prefix) | Self::Dummy(prefix) => {
                (!text.is_empty()).then(|| [prefix.as_bytes(), text].concat())
            }
            Self::Replace { from, to } => {
                let mut out = Vec::with_capacity(text.len() + text.len() / 2);
                put_replaced(text, from.as_bytes(), to.as_bytes(), &mut out);
                Some(out)
            }
            Self::Squeeze(to) => squeeze(text, to.as_bytes()),
            Self::TrimSpaces => changed(text, trim_spaces(text)),
            Self::Strip { left, right } => {
                let end = if *right { trimmed_end(text) } else { text.len() };
                let start = if *left { end - trimmed_start(&text[..end]) } else { 0 };
                changed(text, &text[start..end])
            }
            Self::Charsmap(map) => map.apply(text),
        }
    }
}

/// The shorter text, if it is shorter.
fn changed(text: &[u8], shorter: &[u8]) -> Option<Vec<u8>> {
    (shorter.len() < text.len()).then(|| shorter.to_vec())
}

/// `text` without the spaces (U+0020) at its ends, nor any [`META`] at its end.
fn trim_spaces(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| *byte != b' ').unwrap_or(text.len());
    let mut rest = &text[start..];
    while let Some(shorter) = rest.strip_suffix(b" ").or_else(|| rest.strip_suffix(META.as_bytes())) {
        rest = shorter;
    }
    rest
}

/// `text` with two spaces or more in a row as `to`.
fn squeeze(text: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    if !text.windows(2).any(|pair| pair == b"  ") {
        return None;
    }
    let mut out = Vec::with_capacity(text.len());
    for run in text.chunk_by(|a, b| (*a == b' ') == (*b == b' ')) {
        out.extend_from_slice(if run.starts_with(b"  ") { to } else { run });
    }
    Some(out)
}

/// Where the first white space of `text` is, or its end.
fn word_end(text: &[u8]) -> usize {
    let mut at = 0;
    while at < text.len() {
        match first_char(&text[at..]) {
            Some(character) if character.is_whitespace() => break,
            character => at += character.map_or(1, char::len_utf8),
        }
    }
    at
}

impl Form {
    fn apply(self, text: &[u8]) -> Option<Vec<u8>> {
        if text.is_ascii() {
            return None;
        }
        let known = std::str::from_utf8(text).ok();
        let is_normal = |text: &str| match self {
            Self::Nfc => is_nfc_quick(text.chars()) == IsNormalized::Yes,
            Self::Nfkc => is_nfkc_quick(text.chars()) == IsNormalized::Yes,
            Self::Nfd | Self::Nfkd => false,
        };
        if known.is_some_and(is_normal) {
            return None;
        }
        let mut out = Vec::with_capacity(text.len());
        // Bytes that are no UTF-8 stay as they are.
        for chunk in text.utf8_chunks() {
            let part = chunk.valid();
            let normal: String = match self {
                Self::Nfc => part.nfc().collect(),
                Self::Nfd => part.nfd().collect(),
                Self::Nfkc => part.nfkc().collect(),
                Self::Nfkd => part.nfkd().collect(),
            };
            out.extend_from_slice(normal.as_bytes());
            out.extend_from_slice(chunk.invalid());
        }
        Some(out)
    }
}

/// Appends `text` with every `from` as `to`; `from` is not empty.
fn put_replaced(text: &[u8], from: &[u8], to: &[u8], out: &mut Vec<u8>) {
    if let [byte] = from {
        for (part, index) in text.split(|other| other == byte).zip(0..) {
            if index > 0 {
                out.extend_from_slice(to);
            }
            out.extend_from_slice(part);
        }
        return;
    }
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with(from) {
            out.extend_from_slice(to);
            at += from.len();
        } else {
            out.push(text[at]);
            at += 1;
        }
    }
}

//! What happens to text in front of the model and behind it: normalisers, prefixes, the tokens put around a text.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

use crate::charsmap::Charsmap;
use crate::split::META;

/// One step of a normaliser.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A Unicode normal form.
    Form(Form),
    /// A text put in front of every text that is not empty.
    Prepend(String),
    /// Every occurrence of a text, left to right, becomes another.
    Replace { from: String, to: String },
    /// Every run of two or more spaces becomes a text.
    Spaces { to: String },
    /// White space at the ends is dropped.
    Trim { left: bool, right: bool },
    /// The character map of a SentencePiece model.
    Map(Charsmap),
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
    /// A space in front of text that has none.
    Space,
    /// Spaces become [`META`]; one more goes in front of text that does not start with one.
    Meta(Scheme),
    /// As `Meta`, with every run of white space as one space and none at the ends.
    Words(Scheme),
}

/// What decoding drops at the start of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strip {
    #[default]
    None,
    /// One space.
    Space,
    /// All spaces of the first token.
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

    /// Text as the splitter cuts it; `at_start` says whether it begins the whole text.
    pub(crate) fn prepare<'a>(&self, text: Cow<'a, [u8]>, at_start: bool) -> Cow<'a, [u8]> {
        let prefixed = |scheme: Scheme| scheme == Scheme::Always || scheme == Scheme::First && at_start;
        match self.prefix {
            Prefix::None => text,
            Prefix::Space if text.is_empty() || text.starts_with(b" ") => text,
            Prefix::Space => Cow::Owned([b" ", text.as_ref()].concat()),
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
            Prefix::Words(scheme) => {
                let mut out = Vec::with_capacity(text.len() + text.len() / 2 + META.len());
                for word in String::from_utf8_lossy(&text).split_whitespace() {
                    let first = out.is_empty() && !at_start;
                    if !word.starts_with(META) && (scheme == Scheme::Always || scheme == Scheme::First && !first) {
                        out.extend_from_slice(META.as_bytes());
                    }
                    out.extend_from_slice(word.as_bytes());
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
            Self::Prepend(prefix) => (!text.is_empty()).then(|| [prefix.as_bytes(), text].concat()),
            Self::Replace { from, to } => {
                let mut out = Vec::with_capacity(text.len() + text.len() / 2);
                put_replaced(text, from.as_bytes(), to.as_bytes(), &mut out);
                Some(out)
            }
            Self::Spaces { to } => Some(replace_runs(text, to.as_bytes())),
            Self::Trim { left, right } => {
                let mut text = std::str::from_utf8(text).ok()?;
                if *left {
                    text = text.trim_start();
                }
                if *right {
                    text = text.trim_end();
                }
                Some(text.as_bytes().to_vec())
            }
            Self::Map(map) => Some(map.apply(text)),
        }
    }
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

fn replace_runs(text: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let run = text[at..].iter().take_while(|byte| **byte == b' ').count();
        if run > 1 {
            out.extend_from_slice(to);
            at += run;
        } else {
            out.push(text[at]);
            at += 1;
        }
    }
    out
}

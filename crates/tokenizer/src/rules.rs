//! What happens to text in front of the model and behind it: normalisers, prefixes, the tokens put around a text.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

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
}

/// What decoding drops at the start of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strip {
    #[default]
    None,
    /// One space.
    Space,
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

//! Finding added tokens in text.

use crate::vocab::AddedToken;

/// What to do with special tokens that are written out in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They are text like any other: the right choice for everything that users write.
    Ordinary,
    /// They become their ids: for text that the program itself has put together.
    Parse,
}

/// A set of tokens to look for: the leftmost match counts, of matches at one place the longest.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    /// Text and id of each token, longest first.
    tokens: Vec<(Box<[u8]>, u32)>,
    /// Which bytes tokens start with.
    starts: Vec<bool>,
}

impl Matcher {
    pub(crate) fn new<'a>(tokens: impl Iterator<Item = &'a AddedToken>) -> Self {
        let mut tokens: Vec<(Box<[u8]>, u32)> =
            tokens.map(|token| (token.content.as_bytes().into(), token.id)).collect();
        tokens.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        let mut starts = vec![false; 256];
        for (bytes, _) in &tokens {
            if let Some(first) = bytes.first() {
                starts[usize::from(*first)] = true;
            }
        }
        Self { tokens, starts }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Start, end and id of the first token in `text` at or after `from`.
    pub(crate) fn find(&self, text: &[u8], from: usize) -> Option<(usize, usize, u32)> {
        let mut at = from;
        while let Some(skip) = text[at..].iter().position(|byte| self.starts[usize::from(*byte)]) {
            at += skip;
            if let Some((bytes, id)) = self.tokens.iter().find(|(bytes, _)| text[at..].starts_with(bytes)) {
                return Some((at, at + bytes.len(), *id));
            }
            at += 1;
        }
        None
    }
}

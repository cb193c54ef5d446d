//! Finding added tokens in text, with the rules of Hugging Face's files.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::{Error, Result};
use crate::rules::Rules;
use crate::vocab::{AddedToken, Matching};
use crate::word::is_word;

/// What to do with special tokens that are written out in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They are text like any other: the right choice for everything that users write.
    Ordinary,
    /// They become their ids: for text that the program itself has put together.
    Parse,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Text from one place to another.
    Text(usize, usize),
    Token(u32),
}

/// Tokens to look for in text, and in normalised text.
#[derive(Debug, Default)]
pub(crate) struct Matchers {
    pub(crate) raw: Matcher,
    pub(crate) normalized: Matcher,
}

impl Matchers {
    pub(crate) fn new<'a>(
        origin: &str,
        tokens: impl Iterator<Item = &'a AddedToken> + Clone,
        rules: &Rules,
    ) -> Result<Self> {
        // Without a normaliser both texts are the same, and one search finds the longest of all.
        let later = |token: &AddedToken| token.matching.normalized && !rules.normalizer.is_empty();
        let raw = tokens.clone().filter(|token| !later(token)).map(|token| (token.content.as_bytes().into(), token));
        let normalized = tokens
            .filter(|token| later(token))
            .map(|token| (rules.normalize_added(&token.content).into_boxed_slice(), token));
        Ok(Self { raw: Matcher::new(origin, raw)?, normalized: Matcher::new(origin, normalized)? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.raw.is_empty() && self.normalized.is_empty()
    }
}

/// A set of tokens to look for: the leftmost match counts, of matches at one place the longest.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    search: Option<AhoCorasick>,
    tokens: Vec<(u32, Matching)>,
}

impl Matcher {
    fn new<'a>(origin: &str, tokens: impl Iterator<Item = (Box<[u8]>, &'a AddedToken)>) -> Result<Self> {
        let (patterns, tokens): (Vec<Box<[u8]>>, Vec<_>) = tokens
            .filter(|(pattern, _)| !pattern.is_empty())
            .map(|(pattern, token)| (pattern, (token.id, token.matching)))
            .unzip();
        if tokens.is_empty() {
            return Ok(Self::default());
        }
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&patterns);
        let search = search.map_err(|error| Error::malformed(origin, "added tokens", error.to_string()))?;
        Ok(Self { search: Some(search), tokens })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Cuts `text` at its added tokens and hands the parts over in order.
    pub(crate) fn parts(&self, text: &[u8], mut each: impl FnMut(Part)) {
        let mut done = 0;
        for found in self.search.iter().flat_map(|search| search.find_iter(text)) {
            let (mut start, mut end) = (found.start(), found.end());
            let (id, matching) = self.tokens[found.pattern().as_usize()];
            if matching.single_word && (ends_with_word(&text[..start]) || starts_with_word(&text[end..])) {
                continue;
            }
            if matching.lstrip {
                start = trimmed_end(&text[..start]).max(done);
            }
            if matching.rstrip {
                end = text.len() - trimmed_start(&text[end..]);
            }
            if done < start {
                each(Part::Text(done, start));
            }
            each(Part::Token(id));
            done = end;
        }
        if done < text.len() {
            each(Part::Text(done, text.len()));
        }
    }
}

/// The last character of `text`, if it ends with a whole one.
fn last_char(text: &[u8]) -> Option<char> {
    (1..=text.len().min(4)).find_map(|length| std::str::from_utf8(&text[text.len() - length..]).ok()?.chars().next())
}

/// The first character of `text`, if it starts with a whole one.
pub(crate) fn first_char(text: &[u8]) -> Option<char> {
    (1..=text.len().min(4)).find_map(|length| std::str::from_utf8(&text[..length]).ok()?.chars().next())
}

fn ends_with_word(text: &[u8]) -> bool {
    last_char(text).is_some_and(is_word)
}

fn starts_with_word(text: &[u8]) -> bool {
    first_char(text).is_some_and(is_word)
}

/// Length of `text` without the white space at its end.
pub(crate) fn trimmed_end(mut text: &[u8]) -> usize {
    while let Some(space) = last_char(text).filter(|character| character.is_whitespace()) {
        text = &text[..text.len() - space.len_utf8()];
    }
    text.len()
}

/// Length of `text` without the white space at its start.
pub(crate) fn trimmed_start(mut text: &[u8]) -> usize {
    while let Some(space) = first_char(text).filter(|character| character.is_whitespace()) {
        text = &text[space.len_utf8()..];
    }
    text.len()
}

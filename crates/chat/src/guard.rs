//! Telling the special tokens that a template writes from those that messages spell out.
//!
//! A user may type `<|im_end|>`. Rendered into the prompt and encoded as a special token, it would end the user's turn and
//! let the rest of the message speak as the system. [`Guard`] marks such places while the template runs, so that
//! [`Prompt::segments`] can hand them out as plain text. Where no message spells a special token out, nothing is marked and
//! the prompt is exactly the unguarded one.

use std::borrow::Cow;
use std::ops::Range;

/// Private characters around a special token in a message. They are removed from what messages hold before.
const START: char = '\u{f0000}';
const END: char = '\u{f0001}';

/// The special tokens of a vocabulary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// Longest first.
    tokens: Vec<String>,
    /// Bytes that tokens start with.
    starts: Vec<u8>,
}

impl Guard {
    /// Guards these texts. Without any, nothing is marked.
    pub fn new(tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut tokens: Vec<String> =
            tokens.into_iter().map(Into::into).filter(|token| !token.trim().is_empty()).collect();
        tokens.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        tokens.dedup();
        let mut starts: Vec<u8> = tokens.iter().map(|token| token.as_bytes()[0]).collect();
        starts.sort_unstable();
        starts.dedup();
        Self { tokens, starts }
    }

    /// Place of the first special token at or after `from`: the leftmost, of those at one place the longest.
    fn find(&self, text: &str, from: usize) -> Option<Range<usize>> {
        let bytes = text.as_bytes();
        let mut at = from;
        while let Some(skip) = bytes[at..].iter().position(|byte| self.starts.contains(byte)) {
            at += skip;
            if let Some(token) = self.tokens.iter().find(|token| bytes[at..].starts_with(token.as_bytes())) {
                return Some(at..at + token.len());
            }
            at += 1;
        }
        None
    }

    /// A text from outside, with its special tokens marked.
    pub(crate) fn mark<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.tokens.is_empty() {
            return Cow::Borrowed(text);
        }
        let text: Cow<'t, str> =
            if text.contains([START, END]) { Cow::Owned(text.replace([START, END], "")) } else { Cow::Borrowed(text) };
        if self.find(&text, 0).is_none() {
            return text;
        }
        let mut out = String::with_capacity(text.len() + 16);
        let mut from = 0;
        while let Some(place) = self.find(&text, from) {
            out.push_str(&text[from..place.start]);
            out.push(START);
            out.push_str(&text[place.clone()]);
            out.push(END);
            from = place.end;
        }
        out.push_str(&text[from..]);
        Cow::Owned(out)
    }

    /// The rendered text without marks, and where they were. A template that cuts texts apart can leave one mark alone; it
    /// is dropped.
    pub(crate) fn unmark(&self, text: String) -> Prompt {
        if self.tokens.is_empty() || !text.contains([START, END]) {
            return Prompt { text, plain: Vec::new() };
        }
        let mut out = String::with_capacity(text.len());
        let mut plain = Vec::new();
        let mut start = None;
        for c in text.chars() {
            match c {
                START => start = Some(out.len()),
                END => {
                    if let Some(start) = start.take() {
                        plain.push(start..out.len());
                    }
                }
                c => out.push(c),
            }
        }
        Prompt { text: out, plain }
    }
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The exact text.
    pub text: String,
    /// Byte ranges of `text`, in order, that look like special tokens and are not: a message spelled them out.
    pub plain: Vec<Range<usize>>,
}

/// A stretch of a prompt and how it is to be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment<'t> {
    /// Special tokens in it are special tokens.
    Parse(&'t str),
    /// It is text, whatever it looks like.
    Plain(&'t str),
}

impl Prompt {
    /// The stretches to encode one after the other. A prompt without places in `plain` is one stretch. Otherwise the text
    /// is cut at the template's own special tokens on both sides of such a place, so that text is never cut elsewhere.
    pub fn segments<'t>(&'t self, guard: &Guard) -> Vec<Segment<'t>> {
        let text = self.text.as_str();
        if self.plain.is_empty() {
            return vec![Segment::Parse(text)];
        }
        let specials = self.own_specials(guard);
        let mut out = Vec::new();
        let mut from = 0;
        // Stretches between the template's special tokens; those that hold a plain place are text as a whole.
        let mut at = 0;
        for special in specials.iter().cloned().chain(std::iter::once(text.len()..text.len())) {
            let stretch = at..special.start;
            if self.plain.iter().any(|place| stretch.start <= place.start && place.end <= stretch.end) {
                if from < stretch.start {
                    out.push(Segment::Parse(&text[from..stretch.start]));
                }
                out.push(Segment::Plain(&text[stretch.clone()]));
                from = stretch.end;
            }
            at = special.end;
        }
        if from < text.len() {
            out.push(Segment::Parse(&text[from..]));
        }
        out
    }

    /// Places of special tokens that are the template's.
    fn own_specials(&self, guard: &Guard) -> Vec<Range<usize>> {
        let mut out: Vec<Range<usize>> = Vec::new();
        let mut from = 0;
        while let Some(place) = guard.find(&self.text, from) {
            match self.plain.iter().find(|plain| plain.start < place.end && place.start < plain.end) {
                Some(plain) => from = plain.end,
                None => {
                    from = place.end;
                    out.push(place);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new(["<e>", "<s>", "<e><e>"])
    }

    #[test]
    fn marks_come_and_go() {
        let guard = guard();
        assert_eq!(guard.mark("a <b> c"), "a <b> c");
        let marked = guard.mark("a<e><e>b<s>\u{f0001}");
        assert_eq!(marked, "a\u{f0000}<e><e>\u{f0001}b\u{f0000}<s>\u{f0001}");
        let prompt = guard.unmark(format!("<s>{marked}<e>"));
        assert_eq!(prompt.text, "<s>a<e><e>b<s><e>");
        assert_eq!(prompt.plain, [4..10, 11..14]);
        assert_eq!(
            prompt.segments(&guard),
            [Segment::Parse("<s>"), Segment::Plain("a<e><e>b<s>"), Segment::Parse("<e>")]
        );
    }

    #[test]
    fn a_prompt_without_marks_is_one_stretch() {
        let guard = guard();
        let prompt = guard.unmark("<s>a<e>".to_owned());
        assert_eq!(prompt.segments(&guard), [Segment::Parse("<s>a<e>")]);
        assert_eq!(Guard::default().mark("<s>\u{f0000}"), "<s>\u{f0000}");
    }

    #[test]
    fn a_mark_that_lost_its_partner_is_dropped() {
        let guard = guard();
        let prompt = guard.unmark("<s>\u{f0001}a\u{f0000}<e".to_owned());
        assert_eq!(prompt, Prompt { text: "<s>a<e".to_owned(), plain: Vec::new() });
    }
}

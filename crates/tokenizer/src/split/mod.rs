//! Pre-splitting: cutting text into the pieces inside which byte pairs may merge.
//!
//! Splitters are scanners written by hand, one per published pattern: no regex engine at run time, time linear in the
//! text, no allocation. They work on bytes; a byte that is not part of well-formed UTF-8 counts as a character of its
//! own of the class "other" (neither letter, number nor white space), like punctuation.

mod class;
mod gpt2;
mod tables;

/// How text is cut into pieces.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PreSplit {
    /// The pattern of GPT-2 and GPT-3:
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    Gpt2,
}

/// GPT-2's pattern as it is written in tokenizer files that spell it out.
pub(crate) const GPT2_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

impl PreSplit {
    /// Name of the splitter, stable: it goes into the tokenizer's hash.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
        }
    }

    /// The pieces of `text` in order; joined they are `text`.
    pub fn pieces(self, text: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut rest = text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (piece, after) = rest.split_at(self.piece_end(rest, 0));
            rest = after;
            Some(piece)
        })
    }

    /// End of the piece that starts at `start`, which is in front of the end of `text`.
    #[inline]
    pub(crate) fn piece_end(self, text: &[u8], start: usize) -> usize {
        match self {
            Self::Gpt2 => gpt2::piece_end(text, start),
        }
    }

    /// A place at or after `from` where every splitter ends a piece whatever surrounds it: in front of a space that
    /// follows an ASCII letter. The end of the text when there is none.
    pub(crate) fn safe_cut(self, text: &[u8], from: usize) -> usize {
        let start = from.max(1).min(text.len());
        (start..text.len()).find(|at| text[*at] == b' ' && text[*at - 1].is_ascii_alphabetic()).unwrap_or(text.len())
    }
}

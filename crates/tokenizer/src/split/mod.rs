//! Pre-splitting: cutting text into the pieces inside which byte pairs may merge.
//!
//! Splitters are scanners written by hand, one per published pattern: no regex engine at run time, time linear in the
//! text, no allocation. They work on bytes; a byte that is not part of well-formed UTF-8 counts as a character of its
//! own of the class "other" (neither letter, number nor white space), like punctuation.

mod class;
mod gpt2;
mod llama3;
mod tables;

/// How text is cut into pieces.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PreSplit {
    /// The pattern of GPT-2 and GPT-3:
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    #[default]
    Gpt2,
    /// Every number character alone, then GPT-2's pattern on what lies between: SmolLM and StarCoder.
    SmolLm,
    /// The pattern of Llama 3:
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
    Llama3,
    /// The pattern of Qwen2: Llama 3's with number characters alone.
    Qwen2,
    /// A piece starts at every `▁` (U+2581), which stands for a space: unigram models.
    Metaspace,
    /// No cutting: the text between added tokens is one piece, as in SentencePiece's BPE models.
    Whole,
}

/// GPT-2's pattern as it is written in tokenizer files that spell it out.
pub(crate) const GPT2_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's pattern as it is written in tokenizer files.
pub(crate) const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2's pattern as it is written in tokenizer files.
pub(crate) const QWEN2_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// What stands for a space in the pieces of SentencePiece models.
pub(crate) const META: &str = "\u{2581}";

impl PreSplit {
    /// Name of the splitter, stable: it goes into the tokenizer's hash.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::SmolLm => "smollm",
            Self::Llama3 => "llama3",
            Self::Qwen2 => "qwen2",
            Self::Metaspace => "metaspace",
            Self::Whole => "none",
        }
    }

    /// The splitter of byte-level text with this pattern.
    pub(crate) fn of_pattern(pattern: &str) -> Option<Self> {
        match pattern {
            GPT2_PATTERN => Some(Self::Gpt2),
            LLAMA3_PATTERN => Some(Self::Llama3),
            QWEN2_PATTERN => Some(Self::Qwen2),
            _ => None,
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
            Self::SmolLm => gpt2::piece_end_digits(text, start),
            Self::Llama3 => llama3::piece_end(text, start, 3),
            Self::Qwen2 => llama3::piece_end(text, start, 1),
            Self::Metaspace => meta_end(text, start),
            Self::Whole => text.len(),
        }
    }

    /// A place at or after `from` where every splitter of byte-level text ends a piece whatever surrounds it: in front of a space that
    /// follows an ASCII letter. The end of the text when there is none.
    pub(crate) fn safe_cut(self, text: &[u8], from: usize) -> usize {
        let start = from.max(1).min(text.len());
        (start..text.len()).find(|at| text[*at] == b' ' && text[*at - 1].is_ascii_alphabetic()).unwrap_or(text.len())
    }
}

/// The next [`META`] behind `start`, or the end of the text.
fn meta_end(text: &[u8], start: usize) -> usize {
    let from = start + 1;
    text[from..].windows(META.len()).position(|window| window == META.as_bytes()).map_or(text.len(), |at| from + at)
}

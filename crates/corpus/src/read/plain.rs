//! Documents of a plain text file.

use std::path::Path;
use std::sync::Arc;

use super::stream::{Bytes, Fill, TextStream};
use super::{Documents, InputFile, InvalidText, Piece, ReadCounts, ReadOptions, cut_at, is_blank, stream};
use crate::error::Result;

/// How far past a full piece the end of a separator that begins in it is looked for. A run of white space longer than
/// this is text, not a separator.
const LOOK_AHEAD: usize = 1 << 16;
const LINE_ENDS: [char; 2] = ['\n', '\r'];

/// Reads the documents of one plain text file.
pub(super) struct PlainText {
    stream: TextStream,
    documents: Documents,
    piece_bytes: usize,
    /// Text read; what lies before `at` has been handed out.
    text: String,
    at: usize,
    end: bool,
    /// Whether a part of the current document has been handed out.
    in_document: bool,
}

impl PlainText {
    pub fn new(path: &Path, bytes: Bytes, options: &ReadOptions) -> Self {
        Self {
            stream: TextStream::new(path, bytes, options.invalid),
            documents: options.documents.clone(),
            piece_bytes: options.piece_bytes,
            text: String::new(),
            at: 0,
            end: false,
            in_document: false,
        }
    }

    /// Reads a whole file only to see whether it is valid text.
    pub fn check_valid(file: &InputFile) -> Result<()> {
        let bytes = stream::open(file, &Arc::default())?;
        let mut stream = TextStream::new(&file.path, bytes, InvalidText::Error);
        let mut text = String::new();
        while stream.fill(&mut text, &mut ReadCounts::default())? == Fill::More {
            text.clear();
        }
        Ok(())
    }

    pub fn next_piece(&mut self, counts: &mut ReadCounts) -> Result<Option<Piece>> {
        loop {
            self.fill(counts)?;
            if !self.in_document && self.documents != Documents::PerFile {
                let blank = leading_blank_lines(&self.text[self.at..]);
                self.at += blank;
                if blank > 0 && !self.end {
                    continue;
                }
            }
            let rest = &self.text[self.at..];
            let window = &rest[..rest.floor_char_boundary(self.piece_bytes + LOOK_AHEAD)];
            let at_end = self.end && window.len() == rest.len();
            let first = !self.in_document;
            let (text, used, last) = match self.documents.find_separator(window, at_end) {
                Some((start, end)) if start <= self.piece_bytes => (&rest[..start], end, true),
                _ if rest.len() > self.piece_bytes => {
                    let mut cut = cut_at(rest, self.piece_bytes);
                    // Line ends go to the next piece where they may turn out to be the document's last, to be dropped.
                    let kept = rest[..cut].trim_end_matches(LINE_ENDS).len();
                    if self.documents != Documents::PerFile && kept > 0 {
                        cut = kept;
                    }
                    (&rest[..cut], cut, false)
                }
                _ if rest.is_empty() && first => return Ok(None),
                _ => (rest, rest.len(), true),
            };
            let text = match self.documents {
                Documents::PerFile => text,
                _ if last => text.trim_end_matches(LINE_ENDS),
                _ => text,
            };
            let piece = Piece { text: text.to_owned(), first, last };
            self.at += used;
            self.in_document = !last;
            if first && last && is_blank(&piece.text) {
                counts.blank_documents += 1;
                continue;
            }
            return Ok(Some(piece));
        }
    }

    /// Makes sure that a full piece and its look-ahead are there, or the end of the file.
    fn fill(&mut self, counts: &mut ReadCounts) -> Result<()> {
        let wanted = self.piece_bytes + LOOK_AHEAD;
        if self.end || self.text.len() - self.at >= wanted {
            return Ok(());
        }
        self.text.drain(..self.at);
        self.at = 0;
        while !self.end && self.text.len() < wanted {
            self.end = self.stream.fill(&mut self.text, counts)? == Fill::End;
        }
        Ok(())
    }
}

impl Documents {
    /// Start and end of the first separator in `text`. With `at_end`, nothing follows `text`.
    fn find_separator(&self, text: &str, at_end: bool) -> Option<(usize, usize)> {
        match self {
            Documents::PerFile => None,
            Documents::PerLine => text.find('\n').map(|at| (at, at + 1)),
            Documents::Delimiter(delimiter) => text.find(delimiter.as_str()).map(|at| (at, at + delimiter.len())),
            Documents::BlankLine => {
                let mut from = 0;
                while let Some(at) = text[from..].find('\n').map(|at| from + at) {
                    let bytes = &text.as_bytes()[at + 1..];
                    match bytes.iter().position(|b| !matches!(b, b' ' | b'\t' | b'\r')) {
                        Some(n) if bytes[n] == b'\n' => return Some((at, at + 1 + n + 1)),
                        Some(n) => from = at + 1 + n,
                        None if at_end => return Some((at, text.len())),
                        None => return None,
                    }
                }
                None
            }
        }
    }
}

/// Length of the blank lines at the start of a text, line ends included.
fn leading_blank_lines(text: &str) -> usize {
    let bytes = text.as_bytes();
    let blank = bytes.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(bytes.len());
    bytes[..blank].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1)
}

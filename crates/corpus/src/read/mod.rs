//! Documents of text files, one after the other, in bounded memory.
//!
//! [`find_files`] turns files, folders and patterns into a list of files; [`TextReader`] streams their documents as
//! [`Piece`]s of bounded size: a short document is one piece, a long one several. Documents that hold nothing but white
//! space are left out.

mod files;
mod json_lines;
mod plain;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::error::{Error, Result};

pub(crate) use files::list_inputs;
pub use files::{Compression, Files, InputFile, PassedOver, TextKind, find_files};
use json_lines::JsonLines;
use plain::PlainText;

/// Where one document ends and the next begins in plain text (`.txt`, `.md` and further endings). In all but
/// [`Documents::PerFile`], line ends at the edges of a document are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Documents {
    /// A file is a document.
    PerFile,
    /// One or more blank lines part documents.
    BlankLine,
    /// This text parts documents, wherever it stands.
    Delimiter(String),
    /// Each line that is not blank is a document.
    PerLine,
}

/// What to do with bytes that are not UTF-8 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidText {
    /// Stop with an error that names the file and the byte.
    Error,
    /// Leave out the whole file (of plain text) or the line (of `.jsonl`, also when it is not valid JSON), and count it.
    Skip,
    /// Put U+FFFD in the place of each invalid sequence (and NUL byte), and count it.
    Replace,
}

/// How to read text.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Documents of plain text files.
    pub documents: Documents,
    /// The field of each `.jsonl` line that holds the text.
    pub json_field: String,
    /// What to do with bytes that are not UTF-8 text.
    pub invalid: InvalidText,
    /// Further file endings, without the dot, to be read as plain text.
    pub more_endings: Vec<String>,
    /// Longest piece in bytes. A longer document comes in several pieces, cut at line ends where there are any.
    pub piece_bytes: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            documents: Documents::PerFile,
            json_field: "text".to_owned(),
            invalid: InvalidText::Error,
            more_endings: Vec::new(),
            piece_bytes: 1 << 20,
        }
    }
}

/// Longest delimiter: it must be found within the reader's look-ahead.
const MAX_DELIMITER: usize = 4096;

impl ReadOptions {
    fn check(&self) -> Result<()> {
        let wrong = |field, problem: &str| Err(Error::Options { field, problem: problem.to_owned() });
        if let Documents::Delimiter(delimiter) = &self.documents
            && (delimiter.is_empty() || delimiter.len() > MAX_DELIMITER)
        {
            return wrong("document delimiter", "must have 1 to 4,096 bytes");
        }
        if self.piece_bytes < 64 {
            return wrong("piece size", "must be at least 64 bytes");
        }
        Ok(())
    }
}

/// A document, or a part of one that does not fit into a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text; empty only in the last piece of a document that has several.
    pub text: String,
    /// Whether a document begins here.
    pub first: bool,
    /// Whether the document ends here.
    pub last: bool,
}

/// A file that was left out because of [`InvalidText::Skip`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedFile {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// What was read so far, and what was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReadCounts {
    /// Files opened.
    pub files: u64,
    /// Documents with text.
    pub documents: u64,
    /// Bytes of text in them.
    pub text_bytes: u64,
    /// Documents left out because they hold nothing but white space.
    pub blank_documents: u64,
    /// Invalid sequences replaced by U+FFFD ([`InvalidText::Replace`]).
    pub replaced: u64,
    /// Lines of `.jsonl` files left out ([`InvalidText::Skip`]).
    pub skipped_lines: u64,
    /// Number of files left out ([`InvalidText::Skip`]).
    pub n_skipped_files: u64,
    /// The first hundred of them.
    pub skipped_files: Vec<SkippedFile>,
}

/// How many skipped files are named; the others are counted.
const NAMED_SKIPPED_FILES: usize = 100;

/// Streams the documents of files in order. Ends after the first error.
pub struct TextReader<'a> {
    files: std::slice::Iter<'a, InputFile>,
    options: &'a ReadOptions,
    current: Option<Source>,
    counts: ReadCounts,
    /// Bytes read from disk.
    bytes_done: Arc<AtomicU64>,
    failed: bool,
}

/// The file being read.
enum Source {
    Plain(PlainText),
    JsonLines(JsonLines),
}

impl<'a> TextReader<'a> {
    /// A reader of these files.
    ///
    /// # Errors
    /// If the options make no sense. Files are opened when their turn comes.
    pub fn new(files: &'a [InputFile], options: &'a ReadOptions) -> Result<Self> {
        options.check()?;
        Ok(Self {
            files: files.iter(),
            options,
            current: None,
            counts: ReadCounts::default(),
            bytes_done: Arc::default(),
            failed: false,
        })
    }

    /// What was read so far.
    pub fn counts(&self) -> &ReadCounts {
        &self.counts
    }

    /// Bytes read from disk so far, to be compared with [`Files::bytes`].
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// The texts alone, for tokenizer training: whole documents, except that long ones come in pieces.
    pub fn texts(self) -> impl Iterator<Item = Result<String>> + use<'a> {
        self.filter_map(|piece| match piece {
            Ok(piece) if piece.text.is_empty() => None,
            other => Some(other.map(|piece| piece.text)),
        })
    }

    fn next_piece(&mut self) -> Result<Option<Piece>> {
        loop {
            let piece = match &mut self.current {
                Some(Source::Plain(source)) => source.next_piece(&mut self.counts)?,
                Some(Source::JsonLines(source)) => source.next_piece(&mut self.counts)?,
                None => None,
            };
            if let Some(piece) = piece {
                self.counts.documents += u64::from(piece.first);
                self.counts.text_bytes += piece.text.len() as u64;
                return Ok(Some(piece));
            }
            let Some(file) = self.files.next() else {
                return Ok(None);
            };
            self.current = self.open(file)?;
        }
    }

    /// Opens the next file, or notes that it is left out.
    fn open(&mut self, file: &InputFile) -> Result<Option<Source>> {
        self.counts.files += 1;
        match file.kind {
            TextKind::JsonLines => {
                let bytes = stream::open(file, &self.bytes_done)?;
                Ok(Some(Source::JsonLines(JsonLines::new(&file.path, bytes, self.options))))
            }
            TextKind::Plain => {
                if self.options.invalid == InvalidText::Skip
                    && let Err(error) = PlainText::check_valid(file)
                {
                    let (Error::InvalidUtf8 { .. } | Error::Binary { .. }) = error else {
                        return Err(error);
                    };
                    self.counts.n_skipped_files += 1;
                    if self.counts.skipped_files.len() < NAMED_SKIPPED_FILES {
                        let skipped = SkippedFile { path: file.path.clone(), reason: error.to_string() };
                        self.counts.skipped_files.push(skipped);
                    }
                    self.bytes_done.fetch_add(file.bytes, Ordering::Relaxed);
                    return Ok(None);
                }
                let bytes = stream::open(file, &self.bytes_done)?;
                Ok(Some(Source::Plain(PlainText::new(&file.path, bytes, self.options))))
            }
        }
    }
}

impl Iterator for TextReader<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        if self.failed {
            return None;
        }
        let piece = self.next_piece().transpose();
        self.failed = matches!(piece, Some(Err(_)));
        piece
    }
}

/// Where to cut a text that is longer than `limit` bytes: at most at `limit`, at least at one character.
///
/// The best place is behind a line end with no other white space around it, next best before a single space: byte-level
/// pre-splitters (GPT-2's and its successors) always begin a new part there, so that the ids of the pieces are those of
/// the whole text. Only then any line end, any white space, any character.
fn cut_at(text: &str, limit: usize) -> usize {
    let limit = text.floor_char_boundary(limit);
    let window = &text[..limit];
    // Cuts in the first half would make many small pieces.
    let half = window.floor_char_boundary(limit / 2);
    let visible = |c: Option<char>| c.is_some_and(|c| !c.is_whitespace());
    let lone = |white: char, keep: usize| {
        window.rmatch_indices(white).map(|(at, _)| at).take_while(|&at| at >= half).find_map(|at| {
            let alone = visible(window[..at].chars().next_back()) && visible(window[at + 1..].chars().next());
            alone.then_some(at + keep)
        })
    };
    let any_white = || {
        let place = |(at, c): (usize, char)| (at >= half && c.is_whitespace()).then_some(at + c.len_utf8());
        window[half..].char_indices().rev().find_map(|(at, c)| place((at + half, c)))
    };
    lone('\n', 1)
        .or_else(|| lone(' ', 0))
        .or_else(|| window.rfind('\n').filter(|&at| at >= half).map(|at| at + 1))
        .or_else(any_white)
        .filter(|&at| at > 0)
        .unwrap_or(limit)
}

fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

#[cfg(test)]
mod tests;

//! Which documents are held out from training, so that the loss on unseen text can be measured.
//!
//! A document is held out when its hash falls below the wanted fraction. So the choice does not depend on the order of
//! the files or on what else is in the corpus, and equal documents always fall on the same side. A small corpus, or one of
//! few long documents, would often come out with hardly anything held out; then
//!
//! 1. further whole documents are held out, in ascending order of their hashes, until there are
//!    [`HeldOutOptions::min_bytes`] of text, or a tenth of a corpus with less than ten times that; never more than a tenth
//!    of the corpus (twice the fraction, if that is more);
//! 2. if that leaves less than half of what is wanted (the documents are too long, or there is only one), the end of the
//!    longest document is held out, cut off at a line end.
//!
//! To decide this the documents are read once before the job itself (the survey), which needs no tokenizer and stops as
//! soon as it has seen enough held-out text; in a large corpus that is soon.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::read::{InputFile, Piece, ReadOptions, TextReader};

/// How much to hold out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOutOptions {
    /// Fraction of the documents, from 0 (hold out nothing) to 0.5.
    pub fraction: f64,
    /// Bytes of text to hold out at least, if that is no more than a tenth of the corpus.
    pub min_bytes: u64,
}

impl Default for HeldOutOptions {
    /// Half a percent, at least 64 KiB (about 16,000 tokens).
    fn default() -> Self {
        Self { fraction: 0.005, min_bytes: 64 << 10 }
    }
}

impl HeldOutOptions {
    fn check(&self) -> Result<()> {
        if (0.0..=0.5).contains(&self.fraction) {
            return Ok(());
        }
        Err(Error::Options {
            field: "held-out fraction",
            problem: format!("{} is not between 0 and 0.5", self.fraction),
        })
    }
}

/// Most documents kept in mind to be held out beyond the fraction: enough for `min_bytes` of very short ones.
const MAX_CANDIDATES: usize = 10_000;

/// The decision: which documents, and perhaps which end of a document, are held out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeldOutRule {
    /// Documents whose key is below this are held out.
    pub below: u64,
    /// And those with these keys.
    pub more: BTreeSet<u64>,
    /// And the end of this one.
    pub tail: Option<Tail>,
}

/// The end of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Tail {
    /// Number of the document in reading order, counted from zero.
    pub document: u64,
    /// Bytes of its text that are trained on, at least; the cut is at the next line end.
    pub from: u64,
}

impl HeldOutRule {
    /// Whether the document with this key is held out as a whole.
    pub fn holds_out(&self, key: u64) -> bool {
        key < self.below || self.more.contains(&key)
    }
}

/// The number by which a document is held out or not: the first eight bytes of the BLAKE3 of its first piece (of all its
/// text, if it is no longer than a piece).
pub fn document_key(first_piece: &str) -> u64 {
    let mut key = [0; 8];
    key.copy_from_slice(&blake3::hash(first_piece.as_bytes()).as_bytes()[..8]);
    u64::from_be_bytes(key)
}

/// Reads the documents as far as needed to decide what to hold out. `progress` is told the bytes read from disk, from
/// time to time, and may stop the survey.
///
/// # Errors
/// If the text cannot be read, the options make no sense, or `progress` says so.
pub fn survey(
    files: &[InputFile],
    read: &ReadOptions,
    options: &HeldOutOptions,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<HeldOutRule> {
    options.check()?;
    if options.fraction == 0.0 {
        return Ok(HeldOutRule::default());
    }
    let mut reader = TextReader::new(files, read)?;
    let mut survey = Survey::new(*options);
    let mut reported = 0;
    while let Some(piece) = reader.next() {
        survey.piece(&piece?);
        if survey.has_enough() {
            break;
        }
        let done = reader.bytes_done();
        if done - reported >= 1 << 22 {
            reported = done;
            if progress(done).is_break() {
                return Err(Error::Stopped);
            }
        }
    }
    Ok(survey.decide())
}

struct Survey {
    options: HeldOutOptions,
    below: u64,
    /// Bytes of text seen, and of documents with keys under `below`.
    total: u64,
    held: u64,
    /// Keys from `below` on, the smallest ones, with the bytes of the documents that have them.
    candidates: BTreeMap<u64, u64>,
    longest: Document,
    current: Document,
    n_documents: u64,
}

#[derive(Clone, Copy, Default)]
struct Document {
    number: u64,
    key: u64,
    bytes: u64,
}

impl Survey {
    fn new(options: HeldOutOptions) -> Self {
        Self {
            options,
            // 2^64 times the fraction; exact for any fraction a person would write.
            below: (options.fraction * 18_446_744_073_709_551_616.0) as u64,
            total: 0,
            held: 0,
            candidates: BTreeMap::new(),
            longest: Document::default(),
            current: Document::default(),
            n_documents: 0,
        }
    }

    fn piece(&mut self, piece: &Piece) {
        if piece.first {
            self.current = Document { number: self.n_documents, key: document_key(&piece.text), bytes: 0 };
            self.n_documents += 1;
        }
        let bytes = piece.text.len() as u64;
        self.current.bytes += bytes;
        self.total += bytes;
        if self.current.key < self.below {
            self.held += bytes;
        }
        if piece.last {
            let Document { key, bytes, .. } = self.current;
            if bytes > self.longest.bytes {
                self.longest = self.current;
            }
            if key >= self.below {
                *self.candidates.entry(key).or_default() += bytes;
                if self.candidates.len() > MAX_CANDIDATES {
                    self.candidates.pop_last();
                }
            }
        }
    }

    /// Most bytes to hold out.
    fn cap(&self) -> u64 {
        let fraction = self.options.fraction;
        (self.total as f64 * (2.0 * fraction).min((1.0 + fraction) / 2.0).max(0.1)) as u64
    }

    /// Least bytes to hold out.
    fn least(&self) -> u64 {
        self.options.min_bytes.min(self.total / 10)
    }

    /// Whether the fraction alone will do, whatever comes.
    fn has_enough(&self) -> bool {
        self.held >= self.options.min_bytes && self.held <= self.cap()
    }

    fn decide(mut self) -> HeldOutRule {
        let mut rule = HeldOutRule { below: self.below, ..HeldOutRule::default() };
        if self.held > self.cap() {
            // In a corpus of few documents the fraction can hit most of the text: choose document by document instead.
            // The candidates do not hold those hit, but they were too long.
            rule.below = 0;
            self.held = 0;
        }
        let (cap, least) = (self.cap(), self.least());
        for (&key, &bytes) in &self.candidates {
            if self.held >= least {
                break;
            }
            if self.held + bytes <= cap {
                rule.more.insert(key);
                self.held += bytes;
            }
        }
        let taken = rule.holds_out(self.longest.key);
        if self.held < least / 2 && !taken {
            let fraction = (self.total as f64 * self.options.fraction) as u64;
            let bytes = least.max(fraction).min(self.longest.bytes / 2);
            if bytes > 0 {
                rule.tail = Some(Tail { document: self.longest.number, from: self.longest.bytes - bytes });
            }
        }
        rule
    }
}

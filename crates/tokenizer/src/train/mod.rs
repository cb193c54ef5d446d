//! Learning a vocabulary from text.
//!
//! Text is pushed document by document and counted in batches by all threads; what stays in memory is a table of
//! distinct pieces with their counts. Then the most frequent pair of adjacent tokens is merged, again and again
//! (Sennrich, Haddow and Birch 2016, on bytes as in GPT-2).
//!
//! The result depends on the text, on how it is cut into documents and on the options, and on nothing else: not on the
//! number of threads, nor on how fast text arrives. Of pairs with the same count the one with the smaller left id, then
//! the smaller right id, is merged first; ids are bytes in GPT-2's order, then merges in order.

mod count;
mod merge;

use std::collections::HashSet;

use crate::bytes::{BYTE_ORDER, unspell};
use crate::error::{Error, Result};
use crate::rules::Rules;
use crate::split::PreSplit;
use crate::tokenizer::{END_OF_TEXT, Tokenizer};
use crate::vocab::{AddedToken, MAX_VOCAB, Parts};
use count::PieceCounts;

/// Options of a vocabulary's training.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Number of ids in all: 256 bytes, the merges, the special tokens.
    pub n_vocab: usize,
    /// Special tokens; they get the last ids, in this order. No merge makes their text.
    pub special_tokens: Vec<String>,
    /// How text is cut into pieces.
    pub pre_split: PreSplit,
    /// A pair that occurs less often is not merged; the vocabulary then ends up smaller than asked for.
    pub min_count: u64,
    /// About how much memory may be used, in bytes, for the table of pieces and for merging. When the table would
    /// need more, its rarest pieces are dropped, which the report counts.
    pub memory: usize,
}

impl Default for TrainOptions {
    /// 8,192 ids with `<|endoftext|>` as the last, GPT-2's splitter, pairs from two occurrences on, 1 GiB.
    fn default() -> Self {
        Self {
            n_vocab: 8192,
            special_tokens: vec![END_OF_TEXT.to_owned()],
            pre_split: PreSplit::Gpt2,
            min_count: 2,
            memory: 1 << 30,
        }
    }
}

/// What a training is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Counting pieces; done and total are bytes of text.
    Counting,
    /// Merging; done and total are merges.
    Merging,
}

/// How far a training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// How much of it is done.
    pub done: u64,
    /// How much there is in all, where that is known: never while counting, as text comes in piecemeal.
    pub total: Option<u64>,
}

/// What a training was made from and came to.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainReport {
    /// Documents pushed.
    pub documents: u64,
    /// Bytes of text pushed.
    pub bytes: u64,
    /// Distinct pieces that the merges were learnt from.
    pub distinct_pieces: u64,
    /// Distinct pieces dropped for memory. A piece that comes back after it was dropped starts at zero.
    pub dropped_pieces: u64,
    /// Occurrences of the dropped pieces.
    pub dropped_occurrences: u64,
    /// Number of ids asked for.
    pub n_vocab_asked: usize,
    /// Number of ids in the vocabulary: fewer than asked for when the text has too few frequent pairs.
    pub n_vocab: usize,
}

/// Called with the progress of a training.
pub type ProgressFn<'a> = dyn FnMut(Progress) + Send + 'a;

/// A training under way: push documents, then finish. Counting runs on the current rayon thread pool.
pub struct Trainer<'a> {
    options: TrainOptions,
    counts: PieceCounts,
    progress: Option<Box<ProgressFn<'a>>>,
    documents: u64,
}

impl std::fmt::Debug for Trainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("options", &self.options)
            .field("documents", &self.documents)
            .finish_non_exhaustive()
    }
}

impl<'a> Trainer<'a> {
    /// Starts a training.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a vocabulary too small or too large, and for empty or repeated special tokens.
    pub fn new(options: TrainOptions) -> Result<Self> {
        check(&options)?;
        let counts = PieceCounts::new(options.pre_split, options.memory);
        Ok(Self { options, counts, progress: None, documents: 0 })
    }

    /// Sets a function that is told the progress, from the thread that pushes and finishes.
    #[must_use]
    pub fn with_progress(mut self, progress: impl FnMut(Progress) + Send + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Counts a document. Pieces never reach over its ends.
    pub fn push(&mut self, document: &str) {
        self.documents += 1;
        if self.counts.push(document.as_bytes())
            && let Some(progress) = &mut self.progress
        {
            progress(Progress { phase: Phase::Counting, done: self.counts.bytes(), total: None });
        }
    }

    /// Learns the merges from what was pushed.
    ///
    /// # Errors
    /// None are expected; a vocabulary that cannot be represented would be reported.
    pub fn finish(mut self) -> Result<(Tokenizer, TrainReport)> {
        self.counts.flush();
        let bytes = self.counts.bytes();
        let mut report = |progress: Progress| {
            if let Some(function) = &mut self.progress {
                function(progress);
            }
        };
        report(Progress { phase: Phase::Counting, done: bytes, total: Some(bytes) });
        let dropped = self.counts.dropped();
        let pieces = self.counts.into_pieces();
        let distinct_pieces = pieces.len() as u64;
        let wanted = self.options.n_vocab - 256 - self.options.special_tokens.len();
        // A merge must not make what a special token is written like.
        let forbidden: HashSet<Vec<u8>> =
            self.options.special_tokens.iter().filter_map(|name| unspell(name).ok()).collect();
        let merge_options = merge::Options { wanted, min_count: self.options.min_count.max(1), forbidden };
        let learnt = merge::learn(pieces, &merge_options, &mut |done| {
            report(Progress { phase: Phase::Merging, done: done as u64, total: Some(wanted as u64) });
        });

        let added = (256 + learnt.merges.len() as u32..)
            .zip(&self.options.special_tokens)
            .map(|(id, content)| AddedToken::special(content.clone(), id))
            .collect();
        let parts = Parts {
            split: self.options.pre_split,
            tokens: learnt.tokens.into_iter().zip(0..).collect(),
            merges: learnt.merges,
            added,
            whole_pieces: false,
            rules: Rules::default(),
        };
        let tokenizer = Tokenizer::from_parts("trained vocabulary", parts)?;
        let report = TrainReport {
            documents: self.documents,
            bytes,
            distinct_pieces,
            dropped_pieces: dropped.pieces,
            dropped_occurrences: dropped.occurrences,
            n_vocab_asked: self.options.n_vocab,
            n_vocab: tokenizer.n_vocab(),
        };
        Ok((tokenizer, report))
    }
}

/// Learns a vocabulary from an iterator of documents; see [`Trainer`] for sources that can fail and for progress.
///
/// # Errors
/// As [`Trainer::new`].
pub fn train<D: AsRef<str>>(
    options: TrainOptions,
    documents: impl IntoIterator<Item = D>,
) -> Result<(Tokenizer, TrainReport)> {
    let mut trainer = Trainer::new(options)?;
    for document in documents {
        trainer.push(document.as_ref());
    }
    trainer.finish()
}

fn check(options: &TrainOptions) -> Result<()> {
    let specials = &options.special_tokens;
    let least = 256 + specials.len();
    if options.n_vocab < least || options.n_vocab > MAX_VOCAB {
        let problem = format!(
            "{} ids asked for; at least {least} are needed (256 bytes and {} special tokens) and at most {MAX_VOCAB} are possible",
            options.n_vocab,
            specials.len()
        );
        return Err(Error::InvalidOption { option: "vocabulary size", problem });
    }
    if matches!(options.pre_split, PreSplit::Metaspace | PreSplit::Whole) {
        let problem = format!("{} does not cut byte-level text; choose gpt2", options.pre_split.name());
        return Err(Error::InvalidOption { option: "splitter", problem });
    }
    let mut seen = HashSet::new();
    for name in specials {
        let is_byte = unspell(name).is_ok_and(|bytes| bytes.len() == 1);
        let problem = if name.is_empty() {
            "an empty name".to_owned()
        } else if is_byte {
            format!("{name:?} is written like the token of a single byte; give it a longer name")
        } else if !seen.insert(name) {
            format!("{name:?} is given twice")
        } else {
            continue;
        };
        return Err(Error::InvalidOption { option: "special tokens", problem });
    }
    Ok(())
}

/// Ids of bytes in a trained vocabulary.
fn byte_ids() -> [u32; 256] {
    let mut ids = [0; 256];
    for (byte, id) in BYTE_ORDER.iter().zip(0..) {
        ids[usize::from(*byte)] = id;
    }
    ids
}

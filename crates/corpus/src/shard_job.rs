//! Text to shards: read, encode in parallel, write in order.
//!
//! One thread reads documents and cuts them into batches, a pool of threads encodes the pieces of a batch, and the
//! calling thread writes them in the order in which they were read. So the shards hold the documents in reading order,
//! byte for byte the same for any number of threads, and memory holds a few batches whatever the size of the corpus.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rayon::prelude::*;
use serde::Serialize;
use verve_shard::{Existing, ShardManifest, ShardOptions, ShardWriter, Split};
use verve_tokenizer::Tokenizer;

use crate::error::{Error, Result};
use crate::held_out::{HeldOutOptions, HeldOutRule, document_key, survey};
use crate::read::{Files, PassedOver, Piece, ReadCounts, ReadOptions, TextReader, find_files, list_inputs};

/// Text of a batch for each thread.
const BATCH_BYTES_PER_THREAD: usize = 2 << 20;
/// Most text of a batch, so that memory stays bounded on machines with many cores.
const MAX_BATCH_BYTES: usize = 64 << 20;
/// Longest source name written into shards.
const MAX_SOURCE: usize = 1000;

/// What to do.
#[derive(Clone, Debug)]
pub struct ShardJob {
    /// Files, folders and patterns ([`find_files`]).
    pub inputs: Vec<PathBuf>,
    /// Folder for the shards.
    pub out: PathBuf,
    /// How to read the text.
    pub read: ReadOptions,
    /// What to keep away from training.
    pub held_out: HeldOutOptions,
    /// Threads that encode; `None` for one a core.
    pub threads: Option<usize>,
    /// Tokens after which a new shard file is begun.
    pub shard_tokens: u64,
    /// What to do with shards that are already there.
    pub existing: Existing,
}

impl ShardJob {
    /// A job with default settings: half a percent held out, all cores, refusing a folder that is not empty.
    pub fn new(inputs: Vec<PathBuf>, out: impl AsRef<Path>) -> Self {
        Self {
            inputs,
            out: out.as_ref().to_owned(),
            read: ReadOptions::default(),
            held_out: HeldOutOptions::default(),
            threads: None,
            shard_tokens: verve_shard::DEFAULT_SHARD_TOKENS,
            existing: Existing::Refuse,
        }
    }
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading to decide what to hold out. Short in a large corpus.
    Survey,
    /// Encoding and writing.
    Encode,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes read from disk in this phase.
    pub bytes_done: u64,
    /// Bytes of all files on disk.
    pub bytes_total: u64,
    /// Documents written.
    pub documents: u64,
    /// Tokens written.
    pub tokens: u64,
}

/// What a job did.
#[derive(Clone, Debug, Serialize)]
pub struct ShardReport {
    /// What lies in the output folder now.
    pub manifest: ShardManifest,
    /// What was read and what was left out.
    pub read: ReadCounts,
    /// Files that were there but not read.
    pub passed_over: PassedOver,
    /// What was held out.
    pub held_out: HeldOutRule,
}

impl ShardJob {
    /// Runs the job. `progress` is called after each batch and may stop the job.
    ///
    /// # Errors
    /// If there is no text, it cannot be read or is not valid, the shards cannot be written, a setting makes no sense, or
    /// `progress` stops the job. Then nothing is left in the output folder.
    pub fn run(
        &self,
        tokenizer: &Tokenizer,
        mut progress: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<ShardReport> {
        let end_of_text = tokenizer.end_of_text().ok_or(Error::NoEndOfText)?;
        let threads = self.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        if threads == 0 {
            return Err(Error::Options { field: "threads", problem: "at least one is needed".to_owned() });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::Threads { threads, problem: e.to_string() })?;
        let found = find_files(&self.inputs, &self.read)?;
        let options = ShardOptions {
            n_vocab: tokenizer.n_vocab(),
            end_of_text,
            tokenizer_hash: tokenizer.hash().to_owned(),
            source: self.source(),
            shard_tokens: self.shard_tokens,
            existing: self.existing,
        };
        // Before the survey: a folder that cannot be written into should be known at once.
        let mut writer = ShardWriter::create(&self.out, options)?;
        let mut at =
            Progress { phase: Phase::Survey, bytes_done: 0, bytes_total: found.bytes(), documents: 0, tokens: 0 };
        let rule = survey(&found.files, &self.read, &self.held_out, |bytes_done| {
            at.bytes_done = bytes_done;
            progress(&at)
        })?;
        at.phase = Phase::Encode;
        let batch_bytes = threads.saturating_mul(BATCH_BYTES_PER_THREAD).min(MAX_BATCH_BYTES);
        let counts = thread::scope(|scope| {
            let (sender, batches) = sync_channel(1);
            let reading = scope.spawn(|| read_batches(&found, &self.read, &rule, batch_bytes, sender));
            let written = write_batches(batches, &pool, tokenizer, &mut writer, |batch, documents, tokens| {
                at = Progress { bytes_done: batch.bytes_done, documents, tokens, ..at };
                progress(&at)
            });
            let read = match reading.join() {
                Ok(read) => read,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            // A reading error ended the batches early; it is the cause, so it comes first.
            let counts = read?;
            written.map(|()| counts)
        })?;
        if counts.documents == 0 {
            return Err(Error::NoText { inputs: list_inputs(&self.inputs), files: counts.files });
        }
        Ok(ShardReport { manifest: writer.finish()?, read: counts, passed_over: found.passed_over, held_out: rule })
    }

    fn source(&self) -> String {
        let mut source = list_inputs(&self.inputs);
        if source.len() > MAX_SOURCE {
            source.truncate(source.floor_char_boundary(MAX_SOURCE));
            source.push_str("...");
        }
        source
    }
}

/// A piece of text that has its place in the output.
struct Task {
    split: Split,
    text: String,
    ends_document: bool,
}

struct Batch {
    tasks: Vec<Task>,
    bytes_done: u64,
}

/// Reads all documents and sends them in batches, until the end, an error, or the other side has had enough.
fn read_batches(
    found: &Files,
    options: &ReadOptions,
    rule: &HeldOutRule,
    batch_bytes: usize,
    sender: SyncSender<Batch>,
) -> Result<ReadCounts> {
    let mut reader = TextReader::new(&found.files, options)?;
    let mut splitter = Splitter { rule, n_documents: 0, split: Split::Train, bytes: 0 };
    let mut tasks = Vec::new();
    let mut bytes = 0;
    while let Some(piece) = reader.next() {
        let piece = piece?;
        bytes += piece.text.len();
        splitter.push(piece, &mut tasks);
        if bytes >= batch_bytes {
            let batch = Batch { tasks: std::mem::take(&mut tasks), bytes_done: reader.bytes_done() };
            if sender.send(batch).is_err() {
                return Ok(reader.counts().clone());
            }
            bytes = 0;
        }
    }
    // The other side may be gone after an error of its own, which it reports.
    let _ = sender.send(Batch { tasks, bytes_done: reader.bytes_done() });
    Ok(reader.counts().clone())
}

/// Gives each piece its split.
struct Splitter<'a> {
    rule: &'a HeldOutRule,
    n_documents: u64,
    /// Of the current document.
    split: Split,
    /// Bytes of the current document so far.
    bytes: u64,
}

impl Splitter<'_> {
    fn push(&mut self, piece: Piece, tasks: &mut Vec<Task>) {
        if piece.first {
            let held_out = self.rule.holds_out(document_key(&piece.text));
            self.split = if held_out { Split::HeldOut } else { Split::Train };
            self.n_documents += 1;
            self.bytes = 0;
        }
        let start = self.bytes;
        self.bytes += piece.text.len() as u64;
        let tail = self.rule.tail.filter(|tail| tail.document + 1 == self.n_documents && self.split == Split::Train);
        match tail {
            Some(tail) if self.bytes > tail.from => {
                let mut train = piece.text;
                let held_out = train.split_off(line_start(&train, tail.from.saturating_sub(start)));
                tasks.push(Task { split: Split::Train, text: train, ends_document: true });
                self.split = Split::HeldOut;
                tasks.push(Task { split: Split::HeldOut, text: held_out, ends_document: piece.last });
            }
            _ => tasks.push(Task { split: self.split, text: piece.text, ends_document: piece.last }),
        }
    }
}

/// The first line start at or after byte `from`, or the next character if there is no later line.
fn line_start(text: &str, from: u64) -> usize {
    let from = text.ceil_char_boundary(usize::try_from(from).unwrap_or(usize::MAX).min(text.len()));
    match text[from..].find('\n') {
        Some(at) if from + at + 1 < text.len() => from + at + 1,
        _ => from,
    }
}

/// Encodes the batches and writes them in order.
fn write_batches(
    batches: Receiver<Batch>,
    pool: &rayon::ThreadPool,
    tokenizer: &Tokenizer,
    writer: &mut ShardWriter,
    mut progress: impl FnMut(&Batch, u64, u64) -> ControlFlow<()>,
) -> Result<()> {
    let mut documents = 0;
    for batch in batches {
        let encode = |task: &Task| {
            // Four bytes a token is usual; too much is given back when the batch is written.
            let mut ids = Vec::with_capacity(task.text.len() / 4 + 1);
            tokenizer.encode_into(&task.text, &mut ids);
            ids
        };
        let encoded: Vec<Vec<u32>> = pool.install(|| batch.tasks.par_iter().map(encode).collect());
        for (task, ids) in batch.tasks.iter().zip(encoded) {
            writer.push_part(task.split, &ids, task.text.len() as u64)?;
            if task.ends_document {
                writer.end_document(task.split)?;
                documents += 1;
            }
        }
        let tokens = Split::ALL.iter().map(|&split| writer.n_tokens(split)).sum();
        if progress(&batch, documents, tokens).is_break() {
            return Err(Error::Stopped);
        }
    }
    Ok(())
}

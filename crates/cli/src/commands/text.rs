//! What the commands that read text share: options, tokenizer training, the shard job.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use verve_corpus::held_out::HeldOutOptions;
use verve_corpus::read::{Documents, InvalidText, ReadOptions, TextReader, find_files};
use verve_corpus::shard_job::{Phase, ShardJob, ShardReport};
use verve_shard::Existing;
use verve_tokenizer::Tokenizer;
use verve_tokenizer::train::{self, TrainOptions, Trainer};

use crate::args::{self, MachineArgs, TextArgs};
use crate::progress::{Progress, Unit};
use crate::{device, units};

/// Text to read: where it is and how.
#[derive(Debug, Clone)]
pub struct Text {
    /// Files, folders and patterns.
    pub inputs: Vec<PathBuf>,
    /// How to read them.
    pub read: ReadOptions,
}

impl Text {
    /// From the command line.
    pub fn new(args: &TextArgs) -> Self {
        let documents = match (&args.delimiter, args.documents) {
            (Some(line), _) => Documents::Delimiter(line.clone()),
            (None, args::Documents::PerFile) => Documents::PerFile,
            (None, args::Documents::BlankLine) => Documents::BlankLine,
            (None, args::Documents::PerLine) => Documents::PerLine,
        };
        let invalid = match args.invalid_text {
            args::InvalidText::Error => InvalidText::Error,
            args::InvalidText::Skip => InvalidText::Skip,
            args::InvalidText::Replace => InvalidText::Replace,
        };
        let read = ReadOptions {
            documents,
            json_field: args.field.clone(),
            invalid,
            more_endings: args.also.iter().map(|e| e.trim_start_matches('.').to_owned()).collect(),
            ..ReadOptions::default()
        };
        Self { inputs: args.text.clone(), read }
    }

    /// Bytes of all files on disk.
    pub fn bytes(&self) -> Result<u64> {
        Ok(find_files(&self.inputs, &self.read)?.bytes())
    }
}

/// Lets data work (reading, counting, encoding) use as many threads as the command line allows.
pub fn use_threads(machine: &MachineArgs) -> Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(device::threads(machine)).build_global().context("cannot start threads")
}

/// Trains a vocabulary on the text.
pub fn train_tokenizer(text: &Text, n_vocab: usize) -> Result<Tokenizer> {
    let found = find_files(&text.inputs, &text.read)?;
    let mut bar = Progress::new("tokenizer: counting", Unit::Bytes, found.bytes());
    let merging = Mutex::new(None);
    let mut reader = TextReader::new(&found.files, &text.read)?;
    let mut trainer = Trainer::new(TrainOptions { n_vocab, ..TrainOptions::default() })?;
    let total = found.bytes();
    while let Some(piece) = reader.next() {
        trainer.push(&piece?.text);
        bar.at(reader.bytes_done(), total);
    }
    bar.finish();
    let trainer = trainer.with_progress(|at: train::Progress| {
        if at.phase == train::Phase::Merging {
            merging
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert_with(|| Progress::new("tokenizer: merging", Unit::Items, 0))
                .at(at.done, at.total.unwrap_or(0));
        }
    });
    let (tokenizer, report) = trainer.finish()?;
    if let Some(bar) = merging.into_inner().unwrap_or_else(PoisonError::into_inner) {
        bar.finish();
    }
    if report.n_vocab < report.n_vocab_asked {
        eprintln!(
            "vocabulary: {} tokens instead of {}: the text has no more pairs that occur twice",
            report.n_vocab, report.n_vocab_asked
        );
    }
    if report.dropped_pieces > 0 {
        eprintln!("vocabulary: {} rare word forms were left out to save memory", report.dropped_pieces);
    }
    Ok(tokenizer)
}

/// Settings of [`write_shards`] beyond the text.
#[derive(Debug, Clone)]
pub struct ShardSettings<'a> {
    /// Folder to write.
    pub out: &'a Path,
    /// Share of the documents to hold out, or the job's own default.
    pub held_out: Option<f64>,
    /// Tokens in one file.
    pub shard_tokens: u64,
    /// Threads that encode.
    pub threads: usize,
    /// What to do with shards that are already there.
    pub existing: Existing,
}

/// Encodes the text into token shards.
pub fn write_shards(text: &Text, tokenizer: &Tokenizer, settings: &ShardSettings<'_>) -> Result<ShardReport> {
    let mut job = ShardJob::new(text.inputs.clone(), settings.out);
    job.read = text.read.clone();
    job.threads = Some(settings.threads);
    job.shard_tokens = settings.shard_tokens;
    job.existing = settings.existing;
    if let Some(fraction) = settings.held_out {
        job.held_out = HeldOutOptions { fraction, ..HeldOutOptions::default() };
    }
    let mut bar: Option<(Phase, Progress)> = None;
    let report = job.run(tokenizer, |at| {
        if bar.as_ref().is_none_or(|(phase, _)| *phase != at.phase) {
            if let Some((_, old)) = bar.take() {
                old.finish();
            }
            let label = match at.phase {
                Phase::Survey => "shards: reading",
                Phase::Encode => "shards: encoding",
            };
            bar = Some((at.phase, Progress::new(label, Unit::Bytes, at.bytes_total)));
        }
        if let Some((_, bar)) = &mut bar {
            bar.at(at.bytes_done, at.bytes_total);
        }
        ControlFlow::Continue(())
    })?;
    if let Some((_, bar)) = bar {
        bar.finish();
    }
    describe_left_out(&report);
    Ok(report)
}

/// Says what was not read, and why, so that nothing is lost silently.
fn describe_left_out(report: &ShardReport) {
    let read = &report.read;
    let mut notes = Vec::new();
    if read.n_skipped_files > 0 {
        notes.push(format!("{} file(s) skipped as binary or not UTF-8", read.n_skipped_files));
        for file in read.skipped_files.iter().take(5) {
            notes.push(format!("  {}: {}", file.path.display(), file.reason));
        }
    }
    if read.skipped_lines > 0 {
        notes.push(format!("{} line(s) skipped", read.skipped_lines));
    }
    if read.replaced > 0 {
        notes.push(format!("{} invalid sequence(s) replaced", read.replaced));
    }
    for (ending, count) in &report.passed_over.other_endings {
        notes.push(format!("{count} file(s) ending in {ending:?} passed over"));
    }
    for note in notes {
        eprintln!("{note}");
    }
}

/// One line about what the text became.
pub fn describe_shards(report: &ShardReport) -> String {
    let manifest = &report.manifest;
    let train = manifest.counts(verve_shard::Split::Train);
    let held_out = manifest.counts(verve_shard::Split::HeldOut);
    format!(
        "{} document(s), {} of text: {} tokens to train on, {} held out",
        report.read.documents,
        units::bytes(report.read.text_bytes),
        units::short(train.n_tokens as f64),
        units::short(held_out.n_tokens as f64),
    )
}

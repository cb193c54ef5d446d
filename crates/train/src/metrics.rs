//! Figures of a run as JSON lines.
//!
//! `metrics.jsonl` has a line for each step, `{"kind":"step",...}` with the fields of [`StepRecord`], and one for each
//! evaluation, `{"kind":"eval",...}` with those of [`EvalRecord`], in the order in which they came. `samples.jsonl` has a
//! line with the fields of [`SampleRecord`] for each sample. A resumed run first cuts off what came after its checkpoint,
//! so that no line is there twice. `seconds` and `tokens_per_second` are the only values that differ between two runs with
//! the same settings.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Result, TrainError};
use crate::files::write_atomically;
use crate::folder::{METRICS, SAMPLES};

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counted from 1.
    pub step: u64,
    /// Tokens seen so far, this step's included.
    pub tokens: u64,
    /// Mean over the step's tokens, nats.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Of this step alone.
    pub tokens_per_second: f64,
    /// Of this step alone.
    pub seconds: f64,
}

/// One evaluation on held-out text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Steps before it.
    pub step: u64,
    /// Tokens trained on before it.
    pub tokens: u64,
    /// Mean over the held-out tokens, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// `exp(loss)`.
    #[serde(deserialize_with = "null_is_nan")]
    pub perplexity: f64,
    /// `loss / ln 2 / (bytes per token)`.
    #[serde(deserialize_with = "null_is_nan")]
    pub bits_per_byte: f64,
}

/// A text generated on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    /// Steps before it.
    pub step: u64,
    /// Tokens trained on before it.
    pub tokens: u64,
    /// How it was made to begin.
    pub prompt: String,
    /// How it went on.
    pub text: String,
}

/// JSON has no infinity and no NaN; they are written as `null`.
fn null_is_nan<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum MetricLine {
    Step(StepRecord),
    Eval(EvalRecord),
}

/// All figures of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// Steps, in order.
    pub steps: Vec<StepRecord>,
    /// Evaluations, in order.
    pub evals: Vec<EvalRecord>,
}

/// Reads the figures in a run folder; none if there is no file yet. A last line that is not finished yet is left out, and
/// so are lines of kinds that this program does not know.
///
/// # Errors
/// A file that cannot be read.
pub fn read_metrics(run: &Path) -> Result<Metrics> {
    let mut metrics = Metrics::default();
    each_line(&run.join(METRICS), |line| {
        match serde_json::from_slice(line) {
            Ok(MetricLine::Step(record)) => metrics.steps.push(record),
            Ok(MetricLine::Eval(record)) => metrics.evals.push(record),
            Err(_) => {}
        }
        Ok(())
    })?;
    Ok(metrics)
}

/// Reads the samples in a run folder; none if there is no file yet.
///
/// # Errors
/// A file that cannot be read.
pub fn read_samples(run: &Path) -> Result<Vec<SampleRecord>> {
    let mut samples = Vec::new();
    each_line(&run.join(SAMPLES), |line| {
        samples.extend(serde_json::from_slice::<SampleRecord>(line));
        Ok(())
    })?;
    Ok(samples)
}

/// Calls `line` with each finished line of a file, its end included. No file: no lines.
fn each_line(path: &Path, mut line: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let io = |e| TrainError::io(path, "read", e);
    let mut file = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io(e)),
    };
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        file.read_until(b'\n', &mut bytes).map_err(io)?;
        if bytes.last() != Some(&b'\n') {
            return Ok(());
        }
        line(&bytes)?;
    }
}

/// A file of JSON lines that is appended to. What cannot be written, on a full disk, is kept and tried again with the next
/// line: figures are no reason to stop a run.
pub(crate) struct JsonLines {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
    failing: bool,
}

impl JsonLines {
    /// Opens a file after cutting off every line of a step above `keep`, or all lines.
    pub fn open(path: PathBuf, keep: Option<u64>) -> Result<Self> {
        #[derive(Deserialize)]
        struct Place {
            step: u64,
        }
        let mut kept = Vec::new();
        let mut dropped = !path.exists();
        each_line(&path, |line| {
            match serde_json::from_slice::<Place>(line) {
                Ok(place) if keep.is_some_and(|keep| place.step <= keep) => kept.extend_from_slice(line),
                _ => dropped = true,
            }
            Ok(())
        })?;
        let io = |e| TrainError::io(&path, "open", e);
        if dropped || path.metadata().map_err(io)?.len() != kept.len() as u64 {
            write_atomically(&path, &kept)?;
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(io)?;
        Ok(Self { path, file, pending: Vec::with_capacity(1 << 12), failing: false })
    }

    /// Appends a line. Answers with the error when writing begins to fail.
    pub fn push<T: Serialize>(&mut self, value: &T) -> Option<TrainError> {
        let before = self.pending.len();
        let written = serde_json::to_writer(&mut self.pending, value);
        match written {
            Ok(()) => self.pending.push(b'\n'),
            Err(e) => {
                self.pending.truncate(before);
                return Some(TrainError::io(&self.path, "write", e.into()));
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Option<TrainError> {
        while !self.pending.is_empty() {
            match self.file.write(&self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    let first = !std::mem::replace(&mut self.failing, true);
                    return first.then(|| TrainError::io(&self.path, "write", e));
                }
            }
        }
        self.failing = false;
        None
    }

    /// Makes everything durable, before a checkpoint says that it is there.
    pub fn sync(&mut self) {
        // A failure shows again, and is told, when the checkpoint itself is written to the same disk.
        let _ = self.file.sync_data();
    }
}

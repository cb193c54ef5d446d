//! The proof, on a user's own settings and data, that a resumed run is bit-equal to one that never stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use verve_model::formats::tensor_file::TensorFile;
use verve_ops::Backend;

use crate::checkpoint::TRAIN_STATE;
use crate::config::RunConfig;
use crate::error::{Result, TrainError};
use crate::folder::RunFolder;
use crate::metrics::{Metrics, read_metrics};
use crate::observer::{Event, Observer};
use crate::run::{Inputs, Outcome, resume, start};

/// Most differences that are listed.
const MOST_LISTED: usize = 20;

/// What [`verify_resume`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// Steps of both runs.
    pub steps: u64,
    /// Steps after which one of them was stopped.
    pub stopped_at: u64,
    /// Tensors compared: weights and both moments.
    pub tensors: usize,
    /// Numbers in them.
    pub elements: u64,
    /// Lines of figures compared.
    pub metric_lines: usize,
    /// What differs, in words; empty when every bit is the same.
    pub differences: Vec<String>,
}

/// Stops a run after some steps, and passes on what happens.
struct Watch<'a> {
    label: &'static str,
    stop_at: Option<u64>,
    stop: &'a AtomicBool,
    progress: &'a mut dyn FnMut(&str),
}

impl<B: Backend> Observer<B> for Watch<'_> {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Step(record) => {
                (self.progress)(&format!("{}: step {}, loss {:.4}", self.label, record.step, record.loss));
                if self.stop_at == Some(record.step) {
                    self.stop.store(true, Ordering::SeqCst);
                }
            }
            Event::CheckpointFailed { error, .. } | Event::DamagedCheckpoint(error) => {
                (self.progress)(&format!("{}: {error}", self.label));
            }
            _ => {}
        }
    }
}

/// Trains `config` straight on `straight`, then again with a stop and a resume in the middle on `resumed`, which may have
/// another number of threads; compares every bit of weights and moments, and every figure but times. Both runs live in
/// temporary folders beside `beside`, which are removed unless something differs. A budget in minutes is taken once.
///
/// # Errors
/// As [`start`]; a run of one step, which has no middle; [`TrainError::Data`] when `stop` is set on the way.
pub fn verify_resume<B: Backend>(
    straight: &B,
    resumed: &B,
    beside: &Path,
    config: &RunConfig,
    inputs: &Inputs<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&str),
) -> Result<VerifyReport> {
    let folders = ["straight", "resumed"].map(|part| temporary(beside, part));
    let report = both(straight, resumed, &folders, config, inputs, stop, progress);
    if report.as_ref().is_ok_and(|report| report.differences.is_empty()) || report.is_err() {
        for folder in &folders {
            // Best effort: what was found out does not depend on it.
            let _ = fs::remove_dir_all(folder);
        }
    }
    report
}

fn temporary(beside: &Path, part: &str) -> PathBuf {
    let name = beside.file_name().unwrap_or_default().to_string_lossy();
    beside.with_file_name(format!(".{name}-verify-{part}-{}", std::process::id()))
}

fn both<B: Backend>(
    straight: &B,
    resumed: &B,
    [one, two]: &[PathBuf; 2],
    config: &RunConfig,
    inputs: &Inputs<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&str),
) -> Result<VerifyReport> {
    let interrupted = || TrainError::Data { problem: "the check was stopped before it was done".to_owned() };
    let finished = |outcome: Outcome| match outcome {
        Outcome::Finished(summary) => Ok(summary),
        Outcome::Stopped(_) => Err(interrupted()),
    };
    let folder = RunFolder::create(one)?;
    let mut watch = Watch { label: "straight", stop_at: None, stop, progress: &mut *progress };
    let a = finished(start(straight, &folder, config, inputs, stop, &mut watch)?)?;
    // With the number of steps that minutes came to.
    let config = RunFolder::config(one)?;
    let stopped_at = a.steps / 2;
    if stopped_at == 0 {
        return Err(TrainError::setting("budget", "steps", a.steps, "a run of one step has no middle to stop in"));
    }
    let folder = RunFolder::create(two)?;
    let pause = AtomicBool::new(false);
    let mut watch =
        Watch { label: "until the stop", stop_at: Some(stopped_at), stop: &pause, progress: &mut *progress };
    start(straight, &folder, &config, inputs, &pause, &mut watch)?;
    if stop.load(Ordering::SeqCst) {
        return Err(interrupted());
    }
    let mut watch = Watch { label: "resumed", stop_at: None, stop, progress };
    let b = finished(resume(resumed, &folder, &config, inputs, stop, &mut watch)?)?;

    let mut report =
        VerifyReport { steps: a.steps, stopped_at, tensors: 0, elements: 0, metric_lines: 0, differences: Vec::new() };
    for file in ["model.safetensors", TRAIN_STATE] {
        compare_tensors(&a.checkpoint.join(file), &b.checkpoint.join(file), &mut report)?;
    }
    compare_metrics(&read_metrics(one)?, &read_metrics(two)?, &mut report);
    report.differences.truncate(MOST_LISTED);
    Ok(report)
}

fn compare_tensors(a: &Path, b: &Path, report: &mut VerifyReport) -> Result<()> {
    let (a, b) = (TensorFile::open(a)?, TensorFile::open(b)?);
    if a.names() != b.names() {
        report.differences.push(format!("{} and {} hold other tensors", a.path().display(), b.path().display()));
    }
    for name in a.names() {
        let (x, y) = (a.bytes(&name)?, b.bytes(&name)?);
        report.tensors += 1;
        report.elements += a.numbers(&name)?.len() as u64;
        if x != y {
            let count = x.chunks(4).zip(y.chunks(4)).filter(|(x, y)| x != y).count();
            report.differences.push(format!("tensor {name}: {count} of {} numbers differ", x.len() / 4));
        }
    }
    Ok(())
}

fn compare_metrics(a: &Metrics, b: &Metrics, report: &mut VerifyReport) {
    if (a.steps.len(), a.evals.len()) != (b.steps.len(), b.evals.len()) {
        let count = |m: &Metrics| format!("{} steps and {} evaluations", m.steps.len(), m.evals.len());
        report.differences.push(format!("metrics: {} in one run, {} in the other", count(a), count(b)));
    }
    for (x, y) in a.steps.iter().zip(&b.steps) {
        report.metric_lines += 1;
        let key = |r: &crate::StepRecord| (r.step, r.tokens, r.loss.to_bits(), r.lr.to_bits(), r.grad_norm.to_bits());
        if key(x) != key(y) {
            report.differences.push(format!("step {}: loss {} and {}", x.step, x.loss, y.loss));
        }
    }
    for (x, y) in a.evals.iter().zip(&b.evals) {
        report.metric_lines += 1;
        if (x.step, x.tokens, x.loss.to_bits()) != (y.step, y.tokens, y.loss.to_bits()) {
            report.differences.push(format!("evaluation after step {}: {} and {}", x.step, x.loss, y.loss));
        }
    }
}

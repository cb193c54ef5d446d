//! What a run tells while it goes on.

use std::path::Path;

use verve_model::Network;
use verve_ops::Backend;

use crate::config::RunPlan;
use crate::error::TrainError;
use crate::metrics::{EvalRecord, SampleRecord, StepRecord};

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Everything is chosen; nothing large has been allocated yet.
    Planned(&'a RunPlan),
    /// The speed is being measured, to choose the number of steps.
    Calibrating {
        /// The budget.
        minutes: f64,
    },
    /// The number of steps is chosen and recorded.
    Calibrated {
        /// Measured.
        tokens_per_second: f64,
        /// Now with a schedule.
        plan: &'a RunPlan,
    },
    /// A run goes on.
    Resumed {
        /// Steps done.
        step: u64,
        /// Tokens seen.
        tokens: u64,
        /// Where from; `None` if there was no checkpoint yet and the run begins again.
        checkpoint: Option<&'a Path>,
    },
    /// A checkpoint cannot be used; the one before it is tried.
    DamagedCheckpoint(&'a TrainError),
    /// A step is done.
    Step(&'a StepRecord),
    /// An evaluation is done.
    Eval(&'a EvalRecord),
    /// A sample was recorded.
    Sample(&'a SampleRecord),
    /// A checkpoint is on the disk.
    Checkpoint {
        /// Its step.
        step: u64,
        /// Its folder.
        path: &'a Path,
        /// Size of its files.
        bytes: u64,
        /// How long writing took.
        seconds: f64,
    },
    /// A checkpoint could not be written; earlier ones are untouched, and it is tried again at the next interval.
    CheckpointFailed {
        /// Its step.
        step: u64,
        /// Why.
        error: &'a TrainError,
    },
    /// Something a person should know.
    Note(&'a str),
}

/// The weights at a step, to generate from.
pub struct SampleRequest<'a, B: Backend> {
    /// Machine, shape and weights.
    pub network: Network<'a, B>,
    /// Steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// The prompt of the settings.
    pub prompt: Option<&'a str>,
    /// Length of the text in tokens.
    pub max_tokens: usize,
    /// A seed that depends on the run's seed and the step alone.
    pub seed: u64,
}

/// A generated text.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// How it was made to begin.
    pub prompt: String,
    /// How it went on.
    pub text: String,
}

/// Watches a run. It has read access only, so that it cannot change the run.
pub trait Observer<B: Backend> {
    /// Something happened. Called between two steps.
    fn event(&mut self, event: &Event<'_>) {
        let _ = event;
    }

    /// Generates a text; what is returned is appended to `samples.jsonl`.
    fn sample(&mut self, request: SampleRequest<'_, B>) -> Option<Sample> {
        let _ = request;
        None
    }
}

/// Watches nothing.
impl<B: Backend> Observer<B> for () {}

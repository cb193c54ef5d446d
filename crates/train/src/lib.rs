//! Training: schedules, optimizer groups, the step, the loop, metrics, checkpoints and exact resume.
//!
//! A run lives in a folder ([`RunFolder`]) that says everything about it: settings with every choice filled in, the data
//! by hash, the tokenizer, the code's version, figures, samples, checkpoints. [`start`] begins a run and [`resume`] goes on
//! with one, bit for bit as if it had never stopped.
#![forbid(unsafe_code)]

pub mod autosize;
mod checkpoint;
pub mod cluster;
pub mod config;
mod error;
mod eval;
mod files;
mod folder;
mod metrics;
mod observer;
pub mod report;
mod run;
pub mod schedule;
pub mod speed;
mod state;
mod step;
mod verify;

pub use checkpoint::{Which, locate};
pub use config::{Known, OtherMemory, RunConfig, RunPlan, Schedule};
pub use error::{Result, TrainError};
pub use folder::RunFolder;
pub use metrics::{EvalRecord, Metrics, SampleRecord, StepRecord, read_metrics, read_samples};
pub use observer::{Event, Observer, Sample, SampleRequest};
pub use run::{Inputs, Outcome, Summary, resume, start};
pub use verify::{VerifyReport, verify_resume};

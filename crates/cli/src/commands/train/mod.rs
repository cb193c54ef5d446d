//! `verve train`.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use verve_model::formats::GenerationIds;
use verve_model::plan::train_scratch_bytes;
use verve_model::{ModelConfig, PlanItem};
use verve_train::{Inputs, OtherMemory, Outcome, RunConfig, RunFolder};

use self::display::{Display, evaluation};
use self::prepare::Prepared;
use super::text::{self, Text};
use crate::args::{Dtype, MachineArgs, TrainArgs};
use crate::device::{Device, Memory, OnBackend, on_backend};
use crate::{interrupt, output, units};

mod display;
mod prepare;
mod settings;

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    /// A live line where standard error is a terminal.
    Live,
    /// Plain lines.
    Plain,
}

pub fn run(machine: &MachineArgs, args: TrainArgs) -> Result<()> {
    text::use_threads(machine)?;
    let out = settings::run_folder(&args)?;
    let show = if args.plain { Show::Plain } else { Show::Live };
    if args.resume {
        let recorded = RunFolder::config(&out)?;
        let config = settings::lay_over(recorded, &args)?;
        let folder = RunFolder::open(&out)?;
        let prepared = Prepared::recorded(folder, config)?;
        return finish(&out, train(machine, &prepared, How::Resume, show)?);
    }
    if args.verify_resume {
        let prepared = if out.join("run.json").is_file() {
            let config = settings::lay_over(RunFolder::config(&out)?, &args)?;
            Prepared::recorded(RunFolder::open(&out)?, config)?
        } else {
            let config = settings::lay_over(RunConfig::default(), &args)?;
            Prepared::fresh(machine, RunFolder::create(&out)?, config, &Text::new(&args.text), args.context)?
        };
        return verify(machine, &prepared);
    }
    let config = settings::lay_over(RunConfig::default(), &args)?;
    let folder = RunFolder::create(&out)?;
    let prepared = Prepared::fresh(machine, folder, config, &Text::new(&args.text), args.context)?;
    finish(&out, train(machine, &prepared, How::Start, show)?)
}

/// Text in, trained model out, with everything chosen but how long to train.
pub fn quickly(machine: &MachineArgs, out: &Path, config: RunConfig, text: &Text) -> Result<Outcome> {
    let prepared = Prepared::fresh(machine, RunFolder::create(out)?, config, text, None)?;
    train(machine, &prepared, How::Start, Show::Live)
}

/// Says how the run ended and what can be done now.
fn finish(out: &Path, outcome: Outcome) -> Result<()> {
    let out = out.display();
    match &outcome {
        Outcome::Finished(_) => {
            output::line(format!("try: verve generate --model {out} \"Once upon a time\""))?;
            output::line(format!("     verve report {out}"))
        }
        Outcome::Stopped(summary) => output::line(format!(
            "stopped after step {} of {}; go on with: verve train --out {out} --resume",
            summary.step, summary.steps
        )),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Start,
    Resume,
}

/// The type that the settings ask for.
fn dtype(config: &RunConfig) -> Dtype {
    match config.run.dtype {
        verve_train::config::Dtype::Bf16 => Dtype::Bf16,
        verve_train::config::Dtype::F32 => Dtype::F32,
    }
}

fn train(machine: &MachineArgs, prepared: &Prepared, how: How, show: Show) -> Result<Outcome> {
    let stop = interrupt::watch("finishing the step, then saving")?;
    let job = TrainJob { prepared, how, show, stop: &stop };
    let outcome = on_backend(machine, dtype(&prepared.config), job)?;
    describe(&outcome)?;
    Ok(outcome)
}

struct TrainJob<'a> {
    prepared: &'a Prepared,
    how: How,
    show: Show,
    stop: &'a AtomicBool,
}

impl OnBackend for TrainJob<'_> {
    type Out = Outcome;

    fn run<B: Device>(self, backend: B) -> Result<Outcome> {
        let Self { prepared, how, show, stop } = self;
        let peak = backend.product_peak()?;
        eprintln!("machine: {}, {} GFLOP/s at most in products", backend.describe(), units::short(peak));
        let other_memory = other_memory(&backend)?;
        let inputs = inputs(prepared, backend.memory()?, &other_memory);
        let mut display = Display::new(&prepared.tokenizer, peak, show == Show::Plain, backend.meter());
        let (folder, config) = (&prepared.folder, &prepared.config);
        let outcome = match how {
            How::Start => verve_train::start(&backend, folder, config, &inputs, stop, &mut display),
            How::Resume => verve_train::resume(&backend, folder, config, &inputs, stop, &mut display),
        };
        display.finish();
        let outcome = outcome?;
        if let Some((most, planned)) = display.memory() {
            eprintln!("memory: {} at most, {} planned", units::bytes(most), units::bytes(planned));
        }
        Ok(outcome)
    }
}

/// What a run of a model holds besides the training itself. Measures what is in use now.
fn other_memory<B: Device>(backend: &B) -> Result<impl Fn(&RunConfig, &ModelConfig, usize) -> Vec<PlanItem>> {
    verve_cpu::pool::return_freed_memory();
    let in_use = backend.memory()?.in_use;
    Ok(move |config: &RunConfig, model: &ModelConfig, rows: usize| {
        let sample = if config.sample.every == Some(0) { 0 } else { display::sample_bytes(backend, config, model) };
        vec![
            PlanItem { purpose: "program and data", bytes: in_use },
            PlanItem { purpose: "kernel scratch", bytes: train_scratch_bytes(backend, model, rows) },
            PlanItem { purpose: "samples", bytes: sample },
        ]
    })
}

fn inputs<'a>(prepared: &'a Prepared, memory: Memory, other_memory: &'a OtherMemory<'a>) -> Inputs<'a> {
    let end = prepared.shards.end_of_text();
    Inputs {
        shards: &prepared.shards,
        tokenizer: &prepared.tokenizer_file,
        ids: GenerationIds { bos: Some(end), eos: vec![end], pad: None },
        code_version: crate::VERSION,
        // What is in use already is part of the plan, so that the plan can be compared with the peak.
        available_memory: memory.available.saturating_add(memory.in_use),
        other_memory,
    }
}

/// Prints what was reached.
fn describe(outcome: &Outcome) -> Result<()> {
    let summary = outcome.summary();
    let loss = match (&summary.eval, summary.loss) {
        (Some(eval), _) => evaluation(eval),
        (None, Some(loss)) => format!("training loss {loss:.3}"),
        // A resume of a run that has reached its end.
        (None, None) => match summary.best {
            Some((step, loss)) => format!("already at its end; lowest held-out loss {loss:.3} at step {step}"),
            None => "already at its end".to_owned(),
        },
    };
    output::line(format!(
        "{} steps, {} tokens in {}: {loss}",
        summary.step,
        units::short(summary.tokens as f64),
        units::duration(summary.seconds)
    ))?;
    output::line(format!("model: {}", summary.checkpoint.display()))
}

/// Proves on the user's own run that a stop and a resume change nothing.
fn verify(machine: &MachineArgs, prepared: &Prepared) -> Result<()> {
    let stop = interrupt::watch("stopping")?;
    on_backend(machine, dtype(&prepared.config), VerifyJob { prepared, stop: &stop })
}

struct VerifyJob<'a> {
    prepared: &'a Prepared,
    stop: &'a AtomicBool,
}

impl OnBackend for VerifyJob<'_> {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let Self { prepared, stop } = self;
        let threads = backend.threads();
        // Another thread count for the second run proves that more.
        let other = backend.with_threads(if threads > 1 { threads - 1 } else { 2 })?;
        eprintln!("first run on {}, second on {}", backend.describe(), other.describe());
        let beside: PathBuf = prepared.folder.path().join("verify");
        let other_memory = other_memory(&backend)?;
        let inputs = inputs(prepared, backend.memory()?, &other_memory);
        let report = verve_train::verify_resume(
            &backend,
            &other,
            &beside,
            &prepared.config,
            &inputs,
            stop,
            &mut |text: &str| eprintln!("{text}"),
        )?;
        if report.differences.is_empty() {
            return output::line(format!(
                "equal to the last bit: {} steps straight, and {} steps with a stop and a resume after step {} ({} tensors, {} \
                 numbers, {} lines of metrics)",
                report.steps,
                report.steps,
                report.stopped_at,
                report.tensors,
                units::short(report.elements as f64),
                report.metric_lines
            ));
        }
        bail!("the runs differ: {}", report.differences.join("; "))
    }
}

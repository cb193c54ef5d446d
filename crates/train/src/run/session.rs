//! The loop over steps.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use verve_model::rng::Stream;
use verve_ops::Backend;
use verve_shard::RowOrder;

use super::calibrate::Speed;
use super::failed::{self, Place};
use super::{Inputs, Outcome, Summary, changes, write_config};
use crate::checkpoint::{Best, Identity, Loaded, Position, Tried, Writer};
use crate::config::{RunPlan, Schedule};
use crate::error::{Result, TrainError};
use crate::eval::Evaluator;
use crate::folder::{CHECKPOINTS, METRICS, RunFolder, SAMPLES, TOKENIZER};
use crate::metrics::{EvalRecord, JsonLines, MetricLine, SampleRecord, StepRecord};
use crate::observer::{Event, Observer, SampleRequest};
use crate::state::{Origin, open_model};
use crate::step::{StepEnd, StepInput, Trainer};

/// What a session begins with.
pub(super) struct Begin<'a, B: Backend> {
    pub backend: &'a B,
    pub folder: &'a RunFolder,
    pub plan: RunPlan,
    pub inputs: &'a Inputs<'a>,
    pub stop: &'a AtomicBool,
    pub began: Instant,
    /// Where to go on from.
    pub loaded: Option<Loaded>,
}

/// A run while it is going on.
pub(super) struct Session<'a, B: Backend, O: Observer<B>> {
    folder: &'a RunFolder,
    inputs: &'a Inputs<'a>,
    observer: &'a mut O,
    trainer: Trainer<'a, B>,
    order: RowOrder,
    evaluator: Option<Evaluator>,
    writer: Writer<B>,
    metrics: JsonLines,
    samples: JsonLines,
    best: Option<Best>,
    loss: Option<f64>,
    eval: Option<EvalRecord>,
    /// Step of the last checkpoint that was begun, and of the last on the disk with its folder.
    begun: Option<u64>,
    durable: Option<(u64, PathBuf)>,
    /// Why the last checkpoint is not on the disk.
    failure: Option<TrainError>,
    last_begun: Instant,
}

impl<'a, B: Backend, O: Observer<B>> Session<'a, B, O> {
    /// Allocates, measures if the budget is in minutes, trains.
    pub fn run(begin: Begin<'_, B>, observer: &mut O) -> Result<Outcome> {
        let Begin { backend, folder, mut plan, inputs, stop, began, loaded } = begin;
        let init = match (&loaded, &plan.config.run.init) {
            (None, Some(path)) => Some(open_model(path, &plan.model)?),
            _ => None,
        };
        let origin = match (&loaded, &init) {
            (Some(loaded), _) => Origin::Resume { model: &loaded.model, moments: &loaded.moments },
            (None, Some(model)) => Origin::Model(model),
            (None, None) => Origin::Seed(plan.config.run.seed),
        };
        let order = inputs.shards.row_order(plan.model.n_ctx, plan.config.run.seed)?;
        if plan.schedule.is_none() {
            measure(backend, folder, &mut plan, inputs, (&order, &origin, began), observer)?;
        }
        let Some(schedule) = plan.schedule.clone() else {
            return Err(TrainError::setting("budget", "steps", "nothing", "give one of steps, tokens and minutes"));
        };
        let mut trainer = Trainer::new(backend, &plan, &origin)?;
        drop(init);
        let resumed = loaded.map(Loaded::close);
        let state = resumed.as_ref().map(|(state, _)| state);
        (trainer.step, trainer.tokens) = state.map_or((0, 0), |state| (state.step, state.tokens));
        let identity = Identity {
            checkpoints: folder.join(CHECKPOINTS),
            tokenizer: folder.join(TOKENIZER),
            model: plan.model.clone(),
            ids: inputs.ids.clone(),
            keep_last: plan.config.checkpoint.keep_last,
            seed: plan.config.run.seed,
            config_hash: changes::identity_hash(&plan.config)?,
            data_hash: inputs.shards.data_manifest().hash(),
            code_version: inputs.code_version.to_owned(),
        };
        let keep = state.map(|state| state.step);
        let session = Session {
            folder,
            inputs,
            observer,
            order,
            evaluator: Evaluator::new(inputs.shards, schedule.eval_rows, plan.micro_batch, plan.model.n_ctx)?,
            writer: Writer::new(identity, plan.write, &trainer.table, &trainer.state)?,
            metrics: JsonLines::open(folder.join(METRICS), keep)?,
            samples: JsonLines::open(folder.join(SAMPLES), keep)?,
            trainer,
            best: state.and_then(|state| state.best),
            loss: None,
            eval: None,
            begun: keep,
            durable: resumed.as_ref().map(|(state, path)| (state.step, path.clone())),
            failure: None,
            last_begun: Instant::now(),
        };
        session.train(&plan, &schedule, stop, began)
    }

    fn train(mut self, plan: &RunPlan, schedule: &Schedule, stop: &AtomicBool, began: Instant) -> Result<Outcome> {
        if self.trainer.step == 0 && self.begun.is_none() {
            self.evaluate()?;
        }
        let stopped = || stop.load(Ordering::SeqCst);
        while self.trainer.step < schedule.steps && !stopped() {
            self.step(plan, schedule)?;
            let step = self.trainer.step;
            let last = step == schedule.steps;
            let due = |every: u64| last || (every > 0 && step.is_multiple_of(every));
            let improved = due(schedule.eval_every) && self.evaluate()?;
            // An interval of 0 is never, not even in the end.
            if schedule.sample_every > 0 && due(schedule.sample_every) {
                self.sample(plan);
            }
            let minutes = self.last_begun.elapsed().as_secs_f64() / 60.0;
            if !last && (improved || due(schedule.checkpoint_every) || minutes >= plan.config.checkpoint.every_minutes)
            {
                self.checkpoint()?;
            }
            let tried = self.writer.poll();
            self.tell(tried);
        }
        let position = self.trainer.step;
        self.finish_checkpoint()?;
        let Some((step, checkpoint)) = self.durable.clone().filter(|(step, _)| *step == position) else {
            return Err(self.last_checkpoint_error());
        };
        let summary = Summary {
            step,
            steps: schedule.steps,
            tokens: self.trainer.tokens,
            loss: self.loss,
            eval: self.eval,
            best: self.best.map(|best| (best.step, best.loss)),
            seconds: began.elapsed().as_secs_f64(),
            checkpoint,
        };
        Ok(if step == schedule.steps { Outcome::Finished(summary) } else { Outcome::Stopped(summary) })
    }

    fn step(&mut self, plan: &RunPlan, schedule: &Schedule) -> Result<()> {
        let began = Instant::now();
        let before = self.trainer.tokens;
        let micro_batches = plan.batch.micro_batches(before);
        let tokens = micro_batches * plan.batch.micro_tokens();
        let lr = schedule.lr.at(before + tokens);
        let input = StepInput { shards: self.inputs.shards, order: &self.order, micro_batches, lr };
        let figures = match self.trainer.step(&input)? {
            StepEnd::Applied(figures) => figures,
            StepEnd::NotFinite(failure) => {
                let place = Place {
                    step: self.trainer.step + 1,
                    tokens: before,
                    first_row: self.trainer.rows_seen(),
                    rows: micro_batches * self.trainer.micro_rows(),
                };
                let folder = match failed::keep(self.folder, &place, &input, &failure) {
                    Ok(folder) => folder,
                    // The step is the news, not the disk.
                    Err(error) => {
                        self.note(Some(error));
                        self.folder.path().to_owned()
                    }
                };
                // The state before the step, so that the step can be done again at once.
                self.finish_checkpoint()?;
                return Err(TrainError::NotFinite { step: place.step, what: failure.what, folder });
            }
        };
        let seconds = began.elapsed().as_secs_f64();
        let record = StepRecord {
            step: self.trainer.step,
            tokens: self.trainer.tokens,
            loss: figures.loss,
            lr,
            grad_norm: figures.grad_norm,
            tokens_per_second: tokens as f64 / seconds,
            seconds,
        };
        self.loss = Some(record.loss);
        let trouble = self.metrics.push(&MetricLine::Step(record));
        self.note(trouble);
        self.observer.event(&Event::Step(&record));
        Ok(())
    }

    /// Evaluates, if there is held-out text; true if the loss is the lowest of the run so far, the first model's aside.
    fn evaluate(&mut self) -> Result<bool> {
        let place = (self.trainer.step, self.trainer.tokens);
        let Some(evaluator) = &mut self.evaluator else { return Ok(false) };
        let (net, acts) = self.trainer.parts();
        let record = evaluator.run(net, acts, self.inputs.shards, place)?;
        self.eval = Some(record);
        let trouble = self.metrics.push(&MetricLine::Eval(record));
        self.note(trouble);
        self.observer.event(&Event::Eval(&record));
        let improved = record.step > 0 && self.best.is_none_or(|best| record.loss < best.loss);
        if improved {
            self.best = Some(Best { step: record.step, loss: record.loss });
        }
        Ok(improved)
    }

    fn sample(&mut self, plan: &RunPlan) {
        let (step, tokens) = (self.trainer.step, self.trainer.tokens);
        let words = Stream::new(plan.config.run.seed, "sample").words(step);
        let request = SampleRequest {
            network: self.trainer.network(),
            step,
            tokens,
            prompt: plan.config.sample.prompt.as_deref(),
            max_tokens: plan.config.sample.max_tokens,
            seed: u64::from(words[0]) << 32 | u64::from(words[1]),
        };
        if let Some(sample) = self.observer.sample(request) {
            let record = SampleRecord { step, tokens, prompt: sample.prompt, text: sample.text };
            let trouble = self.samples.push(&record);
            self.note(trouble);
            self.observer.event(&Event::Sample(&record));
        }
    }

    /// Begins a checkpoint of the state as it is now, when the one before it is done.
    fn checkpoint(&mut self) -> Result<()> {
        let tried = self.writer.wait();
        self.tell(tried);
        self.metrics.sync();
        self.samples.sync();
        let step = self.trainer.step;
        let position = Position {
            step,
            tokens: self.trainer.tokens,
            eval_loss: self.eval.filter(|eval| eval.step == step).map(|eval| eval.loss).filter(|loss| loss.is_finite()),
            best: self.best,
        };
        self.begun = Some(step);
        self.last_begun = Instant::now();
        let tried = self.writer.begin(self.trainer.backend, &self.trainer.state, position)?;
        self.tell(tried);
        Ok(())
    }

    /// Sees to it that the state as it is now is on the disk, if that can be.
    fn finish_checkpoint(&mut self) -> Result<()> {
        let tried = self.writer.wait();
        self.tell(tried);
        if self.durable.as_ref().is_none_or(|(step, _)| *step != self.trainer.step) {
            self.checkpoint()?;
            let tried = self.writer.wait();
            self.tell(tried);
        }
        Ok(())
    }

    fn tell(&mut self, tried: Option<Tried>) {
        match tried {
            None => {}
            Some((step, Ok(written))) => {
                let (path, bytes, seconds) = (written.path.as_path(), written.bytes, written.seconds);
                self.observer.event(&Event::Checkpoint { step, path, bytes, seconds });
                self.note(written.warning);
                self.durable = Some((step, written.path));
                self.failure = None;
            }
            Some((step, Err(error))) => {
                self.observer.event(&Event::CheckpointFailed { step, error: &error });
                self.failure = Some(error);
            }
        }
    }

    fn note(&mut self, trouble: Option<TrainError>) {
        if let Some(error) = trouble {
            self.observer.event(&Event::Note(&error.to_string()));
        }
    }

    fn last_checkpoint_error(self) -> TrainError {
        let kept = match self.durable {
            Some((step, path)) => format!("The checkpoint of step {step} is whole: {}", path.display()),
            None => "There is no earlier checkpoint".to_owned(),
        };
        let unknown = || TrainError::NoCheckpoint { path: self.folder.path().to_owned() };
        let source = Box::new(self.failure.unwrap_or_else(unknown));
        TrainError::LastCheckpoint { step: self.trainer.step, kept, source }
    }
}

/// Turns minutes into steps and records them.
fn measure<B: Backend, O: Observer<B>>(
    backend: &B,
    folder: &RunFolder,
    plan: &mut RunPlan,
    inputs: &Inputs<'_>,
    (order, origin, began): (&RowOrder, &Origin<'_>, Instant),
    observer: &mut O,
) -> Result<()> {
    let Some(minutes) = plan.config.budget.minutes else { return Ok(()) };
    observer.event(&Event::Calibrating { minutes });
    let known = inputs.known();
    let (micro_batch, n_ctx) = (plan.micro_batch, plan.model.n_ctx);
    let held_out = known.held_out_tokens.saturating_sub(1) / n_ctx as u64;
    let rows = plan.config.eval.rows.min(held_out);
    let mut evaluator = Evaluator::new(inputs.shards, rows, micro_batch, n_ctx)?;
    // Buffers of their own, given back before those of training are made: nothing of the measurement can stay behind.
    let mut trainer = Trainer::new(backend, plan, origin)?;
    let budget = minutes * 60.0;
    let speed = Speed::measure(&mut trainer, evaluator.as_mut(), (inputs.shards, order), budget)?;
    drop(trainer);
    let steps = speed.steps(budget - began.elapsed().as_secs_f64(), plan);
    plan.decide_for_minutes(steps, &known)?;
    write_config(folder, &plan.config)?;
    observer.event(&Event::Calibrated { tokens_per_second: speed.tokens_per_second(plan), plan });
    Ok(())
}

//! What a person sees of a run: a live line in a terminal, plain lines elsewhere, and a sample now and then.

use std::io::IsTerminal;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use verve_engine::{Engine, EngineOptions, Request, SamplingParams, Vocabulary, memory_plan};
use verve_model::ModelConfig;
use verve_tokenizer::Tokenizer;
use verve_train::{EvalRecord, Event, Observer, RunConfig, RunPlan, Sample, SampleRequest, StepRecord};

use crate::commands::model::describe;
use crate::device::{Device, Meter};
use crate::units;

/// Seconds between plain lines.
const LINE_SECONDS: f64 = 5.0;
/// Characters of a sample that are shown; all of it is in the run folder.
const SAMPLE_CHARS: usize = 400;

/// Prints a run's events.
pub struct Display<'a> {
    tokenizer: &'a Tokenizer,
    vocabulary: Vocabulary,
    /// GFLOP/s of products in the run's type with the run's threads.
    peak: f64,
    flops_per_token: f64,
    steps: u64,
    /// Tokens that the whole run will see.
    tokens: u64,
    bar: Option<ProgressBar>,
    live: bool,
    last_line: Option<Instant>,
    /// Smoothed loss and tokens/s.
    loss: Option<f64>,
    rate: Option<f64>,
    planned_memory: u64,
    meter: Meter,
    /// The most that was seen, when it was looked at.
    most_memory: Option<u64>,
}

/// How samples are drawn.
fn sampling(seed: u64, max_tokens: usize) -> SamplingParams {
    SamplingParams { temperature: 0.8, top_p: 0.95, seed, max_tokens, ..SamplingParams::default() }
}

/// Memory for a sample now and then: weights prepared for generation, a cache.
pub fn sample_bytes<B: Device>(backend: &B, config: &RunConfig, model: &ModelConfig) -> u64 {
    // A token has at least a byte.
    let prompt = vec![0; config.sample.prompt.as_ref().map_or(0, String::len)];
    let request = Request { prompt, params: sampling(0, config.sample.max_tokens), ..Request::default() };
    let options = EngineOptions::default().for_requests(&[request], model);
    memory_plan(backend, model, None, &options).map_or(0, |plan| plan.total())
}

impl<'a> Display<'a> {
    /// `plain` asks for lines even in a terminal.
    pub fn new(tokenizer: &'a Tokenizer, peak: f64, plain: bool, meter: Meter) -> Self {
        Self {
            tokenizer,
            vocabulary: Vocabulary::new(tokenizer),
            peak,
            flops_per_token: 0.0,
            steps: 0,
            tokens: 0,
            bar: None,
            live: !plain && std::io::stderr().is_terminal(),
            last_line: None,
            loss: None,
            rate: None,
            planned_memory: 0,
            meter,
            most_memory: None,
        }
    }

    /// The most memory that was in use while the run went on, and what it said it would need.
    pub fn memory(&self) -> Option<(u64, u64)> {
        Some((self.most_memory?, self.planned_memory))
    }

    fn look_at_memory(&mut self) {
        self.most_memory = self.most_memory.max((self.meter)());
    }

    /// Takes the live line away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn print(&self, text: impl AsRef<str>) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{}", text.as_ref())),
            None => eprintln!("{}", text.as_ref()),
        }
    }

    fn planned(&mut self, plan: &RunPlan) {
        self.flops_per_token = plan.flops_per_token;
        self.planned_memory = plan.memory.total();
        let m = &plan.model;
        self.print(format!(
            "model: {} layers, width {}, {} heads, context {}, vocabulary {}: {} parameters",
            m.n_layers,
            m.d_model,
            m.n_heads,
            m.n_ctx,
            m.n_vocab,
            units::short(plan.n_params as f64)
        ));
        self.print(format!("memory: {}", describe(&plan.memory)));
        for note in &plan.notes {
            self.print(format!("note: {note}"));
        }
        self.scheduled(plan);
    }

    fn scheduled(&mut self, plan: &RunPlan) {
        let Some(schedule) = &plan.schedule else { return };
        (self.steps, self.tokens) = (schedule.steps, schedule.tokens);
        self.print(format!(
            "plan: {} steps, {} tokens ({:.1} times the training text), {:.1e} FLOPs",
            schedule.steps,
            units::short(schedule.tokens as f64),
            schedule.epochs,
            plan.flops_per_token * schedule.tokens as f64
        ));
        if self.live {
            let template = "{bar:24} {percent:>3}% {msg}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(schedule.tokens).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(500));
            self.bar = Some(bar);
        }
    }

    fn step(&mut self, step: &StepRecord) {
        let smooth = |old: Option<f64>, new: f64| old.map_or(new, |old| 0.9 * old + 0.1 * new);
        self.loss = Some(smooth(self.loss, step.loss));
        self.rate = Some(smooth(self.rate, step.tokens_per_second));
        if let Some(bar) = &self.bar {
            bar.set_position(step.tokens);
            bar.set_message(self.line(step));
            return;
        }
        let due = self.last_line.is_none_or(|last| last.elapsed().as_secs_f64() >= LINE_SECONDS);
        if due || step.step == self.steps {
            self.last_line = Some(Instant::now());
            let share = 100.0 * step.tokens as f64 / self.tokens.max(1) as f64;
            self.print(format!("{share:>3.0}% {}", self.line(step)));
        }
    }

    fn line(&self, step: &StepRecord) -> String {
        let rate = self.rate.unwrap_or(step.tokens_per_second);
        let left = self.tokens.saturating_sub(step.tokens) as f64 / rate;
        let peak = 100.0 * rate * self.flops_per_token / 1e9 / self.peak;
        let memory = (self.meter)().map_or_else(String::new, |bytes| format!(" | {}", units::bytes(bytes)));
        format!(
            "step {}/{} | loss {:.3} | lr {:.1e} | {} tokens/s | {peak:.0}% of peak{memory} | {} left",
            step.step,
            self.steps,
            self.loss.unwrap_or(step.loss),
            step.lr,
            units::short(rate),
            units::duration(left)
        )
    }
}

/// A held-out loss in words.
pub fn evaluation(eval: &EvalRecord) -> String {
    format!(
        "held-out loss {:.3}, perplexity {:.1}, {:.3} bits per byte",
        eval.loss, eval.perplexity, eval.bits_per_byte
    )
}

impl<B: Device> Observer<B> for Display<'_> {
    fn event(&mut self, event: &Event<'_>) {
        self.look_at_memory();
        match event {
            Event::Planned(plan) => self.planned(plan),
            Event::Calibrating { minutes } => {
                self.print(format!("measuring how many steps fit into {minutes} minutes"));
            }
            Event::Calibrated { tokens_per_second, plan } => {
                self.print(format!("measured {} tokens/s", units::short(*tokens_per_second)));
                self.scheduled(plan);
            }
            Event::Resumed { step, tokens, checkpoint } => match checkpoint {
                Some(_) => self.print(format!("resumed at step {step} ({} tokens)", units::short(*tokens as f64))),
                None => self.print("no checkpoint was written yet: starting from the beginning"),
            },
            Event::DamagedCheckpoint(error) => self.print(format!("warning: {error}; going back to the one before")),
            Event::Step(step) => self.step(step),
            Event::Eval(eval) => self.print(format!("     step {}: {}", eval.step, evaluation(eval))),
            Event::Sample(sample) => {
                let text: String = sample.text.chars().take(SAMPLE_CHARS).collect();
                let cut = if text.len() < sample.text.len() { "..." } else { "" };
                self.print(format!("     step {} writes: {}{text}{cut}", sample.step, sample.prompt));
            }
            Event::CheckpointFailed { step, error } => {
                self.print(format!("warning: the checkpoint of step {step} could not be written: {error}"));
            }
            Event::Note(text) => self.print(format!("note: {text}")),
            _ => {}
        }
    }

    fn sample(&mut self, request: SampleRequest<'_, B>) -> Option<Sample> {
        let prompt = request.prompt.unwrap_or_default();
        let params = sampling(request.seed, request.max_tokens);
        let requests = [Request { prompt: self.tokenizer.encode(prompt), params, ..Request::default() }];
        let options = EngineOptions::default().for_requests(&requests, request.network.config);
        let never = AtomicBool::new(false);
        let mut in_use = None;
        let answer = Engine::from_network(request.network, &self.vocabulary, &options)
            .and_then(|mut engine| {
                let answers = engine.answer(&requests, &never);
                in_use = (self.meter)();
                answers
            })
            .and_then(|mut answers| answers.remove(0));
        self.most_memory = self.most_memory.max(in_use);
        match answer {
            Ok(answers) => {
                let text = answers.choices.into_iter().map(|answer| answer.text).collect();
                Some(Sample { prompt: prompt.to_owned(), text })
            }
            Err(error) => {
                self.print(format!("note: no sample at step {}: {error}", request.step));
                None
            }
        }
    }
}

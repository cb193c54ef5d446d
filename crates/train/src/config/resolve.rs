//! Choosing what the settings leave open.

use verve_model::plan::train_flops_per_token;
use verve_model::{MemoryPlan, ModelConfig, PlanItem, Recompute};
use verve_shard::{RowOrder, ShardSet, Split};

use super::{RunConfig, ScheduleKind, WriteMode};
use crate::error::{Result, TrainError};
use crate::schedule::{BatchSchedule, DecayCurve, LrSchedule, LrShape};

/// What the choices depend on besides the settings.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Size of the data's vocabulary.
    pub n_vocab: usize,
    /// Tokens to train on.
    pub train_tokens: u64,
    /// Tokens held out.
    pub held_out_tokens: u64,
    /// Memory that may be used, bytes; `u64::MAX` if unknown.
    pub available_memory: u64,
    /// Memory the caller needs besides, put into the plan.
    pub other_memory: &'a OtherMemory<'a>,
}

/// Memory, by purpose, that a run of a model needs besides what [`verve_model::memory_plan`] counts, with micro-batches of
/// so many tokens.
pub type OtherMemory<'a> = dyn Fn(&RunConfig, &ModelConfig, usize) -> Vec<PlanItem> + 'a;

impl Known<'static> {
    /// The facts of a set of shards.
    pub fn of(shards: &ShardSet, available_memory: u64) -> Self {
        Self {
            n_vocab: shards.n_vocab(),
            train_tokens: shards.n_tokens(Split::Train),
            held_out_tokens: shards.n_tokens(Split::HeldOut),
            available_memory,
            other_memory: &|_, _, _| Vec::new(),
        }
    }
}

/// A run with everything chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPlan {
    /// The settings with every choice filled in; resolving them again gives the same plan.
    pub config: RunConfig,
    /// The model.
    pub model: ModelConfig,
    /// Its parameters.
    pub n_params: usize,
    /// Floating-point operations of training for each token.
    pub flops_per_token: f64,
    /// Rows of one forward and backward pass.
    pub micro_batch: usize,
    /// What the backward computes again.
    pub recompute: Recompute,
    /// How checkpoints are written.
    pub write: WriteMode,
    /// Micro-batches of each step.
    pub batch: BatchSchedule,
    /// Memory by purpose.
    pub memory: MemoryPlan,
    /// Steps, learning rate, intervals; `None` while a budget in minutes waits for a measurement.
    pub schedule: Option<Schedule>,
    /// What a person should know about the choices.
    pub notes: Vec<String>,
}

/// What depends on the length of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens of all steps together.
    pub tokens: u64,
    /// How often the text is read.
    pub epochs: f64,
    /// Learning rate.
    pub lr: LrSchedule,
    /// Steps between evaluations; 0 for none between the first and the last.
    pub eval_every: u64,
    /// Held-out rows of an evaluation; 0 for no evaluation.
    pub eval_rows: u64,
    /// Steps between samples; 0 for none.
    pub sample_every: u64,
    /// Steps between checkpoints; 0 for none but by time.
    pub checkpoint_every: u64,
}

/// Peak learning rates by parameters: those of Brown et al. 2020, table 2.1, from 125M on; below, what small models
/// train well with.
const LEARNING_RATES: [(f64, f64); 11] = [
    (1e6, 3e-3),
    (10e6, 1.5e-3),
    (30e6, 1e-3),
    (125e6, 6e-4),
    (356e6, 3e-4),
    (760e6, 2.5e-4),
    (1.32e9, 2e-4),
    (2.65e9, 1.6e-4),
    (6.66e9, 1.2e-4),
    (12.85e9, 1e-4),
    (174.6e9, 0.6e-4),
];

/// GPT-3's warm-up, tokens: never a longer one unless asked for.
const LONGEST_WARMUP: u64 = 375_000_000;
/// Share of a run's work that evaluations may take, when their interval is chosen.
const EVAL_SHARE: f64 = 0.05;
/// Samples and checkpoints in a run, when their interval is chosen.
const SAMPLES: u64 = 8;
const CHECKPOINTS: u64 = 10;
const MOST_EVALS: u64 = 20;
/// Epochs after which a run is told about.
const MANY_EPOCHS: f64 = 4.0;
/// Share of a warm-up-stable-decay run that is its fall (Hägele et al. 2024).
const DECAY_SHARE: f64 = 0.2;

impl RunConfig {
    /// Chooses what is open and checks everything. An empty `[model]` is the preset `tiny`; a caller that knows the machine
    /// fills it in before.
    ///
    /// # Errors
    /// Values that cannot be or contradict each other; a text shorter than one row; a vocabulary larger than the model's;
    /// [`TrainError::Memory`] with the largest setting that fits.
    pub fn resolve(&self, known: &Known<'_>) -> Result<RunPlan> {
        self.check()?;
        let model = self.model_config(known)?;
        let n_params = model.n_params();
        RowOrder::new(known.train_tokens, model.n_ctx, self.run.seed)?;
        let mut notes = Vec::new();
        let rows = self.batch_rows(&model, n_params, &mut notes)?;
        let fit = self.fit_memory(&model, &rows, known)?;
        let micro = fit.micro_batch as u64;
        let batch = BatchSchedule {
            micro_batch: fit.micro_batch,
            n_ctx: model.n_ctx,
            first: rows.first / micro,
            full: rows.full / micro,
            ramp_tokens: self.batch.ramp_tokens.unwrap_or(0),
        };

        let mut config = self.clone();
        config.model.set(&model)?;
        config.run.recompute = Some(fit.recompute);
        config.checkpoint.write = Some(fit.write);
        config.batch.micro_batch = Some(fit.micro_batch);
        config.batch.batch_tokens = Some(batch.full_tokens());
        if config.batch.ramp_start_tokens.is_some() {
            config.batch.ramp_start_tokens = Some(batch.first * batch.micro_tokens());
        }
        config.optimizer.lr = Some(self.optimizer.lr.unwrap_or_else(|| learning_rate(n_params)));
        if config.schedule.kind == ScheduleKind::WarmupStableDecay {
            config.schedule.decay_share.get_or_insert(DECAY_SHARE);
            config.schedule.decay_curve.get_or_insert(DecayCurve::Linear);
        }
        if known.held_out_tokens <= model.n_ctx as u64 && config.eval.rows > 0 {
            notes.push(format!(
                "no evaluation: {} held-out tokens are less than one row of {}",
                known.held_out_tokens, model.n_ctx
            ));
        }
        let mut plan = RunPlan {
            flops_per_token: train_flops_per_token(&model, model.n_ctx),
            micro_batch: fit.micro_batch,
            recompute: fit.recompute,
            write: fit.write,
            memory: fit.plan,
            schedule: None,
            config,
            model,
            n_params,
            batch,
            notes,
        };
        let steps = match (self.budget.steps, self.budget.tokens) {
            (Some(steps), _) => Some(steps),
            (None, Some(tokens)) => Some(batch.steps_for(tokens)),
            (None, None) => None,
        };
        if let Some(steps) = steps {
            plan.decide(steps, known)?;
        }
        Ok(plan)
    }
}

impl RunPlan {
    /// Fixes the number of steps of a run whose budget was in minutes.
    pub(crate) fn decide_for_minutes(&mut self, steps: u64, known: &Known<'_>) -> Result<()> {
        let budget = &mut self.config.budget;
        budget.chosen_for_minutes = budget.minutes.take();
        budget.steps = Some(steps);
        self.decide(steps, known)
    }

    /// Fills in what depends on the number of steps.
    fn decide(&mut self, steps: u64, known: &Known<'_>) -> Result<()> {
        let tokens = self.batch.tokens_after(steps);
        let lr = self.learning_rates(steps, tokens)?;
        let s = &mut self.config.schedule;
        (s.warmup_tokens, s.warmup_steps) = (Some(lr.warmup_tokens), None);
        if let LrShape::Cosine { end } = lr.shape {
            s.decay_tokens = Some(end);
        }
        let n_ctx = self.model.n_ctx as u64;
        let held_out = known.held_out_tokens.saturating_sub(1) / n_ctx;
        let eval_rows = self.config.eval.rows.min(held_out);
        let eval_every = self.config.eval.every.unwrap_or_else(|| {
            // A forward pass is a third of a training step.
            let cost = (eval_rows * n_ctx) as f64 / 3.0;
            let count = (EVAL_SHARE * tokens as f64 / cost.max(1.0)) as u64;
            steps.div_ceil(count.clamp(2, MOST_EVALS))
        });
        let sample_every = self.config.sample.every.unwrap_or_else(|| steps.div_ceil(SAMPLES));
        let checkpoint_every = self.config.checkpoint.every_steps.unwrap_or_else(|| steps.div_ceil(CHECKPOINTS));
        self.config.eval.every = Some(eval_every);
        self.config.sample.every = Some(sample_every);
        self.config.checkpoint.every_steps = Some(checkpoint_every);
        let epochs = tokens as f64 / known.train_tokens as f64;
        if epochs > MANY_EPOCHS {
            self.notes.push(format!(
                "the text is read {epochs:.1} times: the model may learn it by heart; the checkpoint with the lowest \
                 held-out loss is kept"
            ));
        }
        self.schedule =
            Some(Schedule { steps, tokens, epochs, lr, eval_every, eval_rows, sample_every, checkpoint_every });
        Ok(())
    }

    fn learning_rates(&self, steps: u64, tokens: u64) -> Result<LrSchedule> {
        let s = &self.config.schedule;
        let peak = self.config.optimizer.lr.unwrap_or_else(|| learning_rate(self.n_params));
        let warmup_tokens = match (s.warmup_tokens, s.warmup_steps) {
            (Some(tokens), _) => tokens,
            (None, Some(steps)) => self.batch.tokens_after(steps),
            (None, None) => {
                let short = self.batch.tokens_after((steps / 10).min(100));
                short.max(tokens / 100).min(LONGEST_WARMUP)
            }
        };
        let too_long = |end: u64, what: &str| {
            let problem = format!("the warm-up of {warmup_tokens} tokens reaches beyond {what} at {end} tokens");
            TrainError::setting("schedule", "warmup_tokens", warmup_tokens, problem)
        };
        let shape = match s.kind {
            ScheduleKind::Constant => LrShape::Constant,
            ScheduleKind::Cosine => {
                let end = s.decay_tokens.unwrap_or(tokens);
                if warmup_tokens > end {
                    return Err(too_long(end, "the end of the cosine"));
                }
                LrShape::Cosine { end }
            }
            ScheduleKind::WarmupStableDecay => {
                let share = s.decay_share.unwrap_or(DECAY_SHARE);
                let start = tokens - ((tokens as f64 * share) as u64).min(tokens);
                if warmup_tokens > start {
                    return Err(too_long(start, "the beginning of the fall"));
                }
                LrShape::WarmupStableDecay { start, end: tokens, curve: s.decay_curve.unwrap_or(DecayCurve::Linear) }
            }
        };
        Ok(LrSchedule { peak, floor: peak * s.min_lr_ratio, warmup_tokens, shape })
    }
}

/// Between the points of [`LEARNING_RATES`] in straight lines over logarithms, rounded to two digits.
fn learning_rate(n_params: usize) -> f64 {
    let n = (n_params as f64).clamp(LEARNING_RATES[0].0, LEARNING_RATES[LEARNING_RATES.len() - 1].0);
    let at = LEARNING_RATES.windows(2).find(|pair| n <= pair[1].0);
    let [(n0, r0), (n1, r1)] = at.map_or([LEARNING_RATES[0], LEARNING_RATES[1]], |pair| [pair[0], pair[1]]);
    let part = (n / n0).ln() / (n1 / n0).ln();
    let rate = r0 * (r1 / r0).powf(part);
    let digit = 10f64.powf(rate.log10().floor() - 1.0);
    // By way of text, so that the settings show 0.0013 and not 0.0013000000000000002.
    format!("{:.1e}", (rate / digit).round() * digit).parse().unwrap_or(rate)
}

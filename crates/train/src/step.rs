//! One optimizer step.

use verve_model::{
    Activations, Decay, Grads, ModelConfig, Network, Recompute, TrainBatch, forward_backward, params::fill_zero,
};
use verve_ops::args::AdamW;
use verve_ops::{AdamWStep, Backend, Real};
use verve_shard::{RowOrder, ShardSet};

use crate::config::{OptimizerSettings, RunPlan};
use crate::error::Result;
use crate::state::{Origin, State, Table};

/// A model in training: state, workspaces and place in the run. After the first step nothing is allocated.
pub(crate) struct Trainer<'a, B: Backend> {
    pub backend: &'a B,
    pub model: &'a ModelConfig,
    pub table: Table,
    pub state: State<B>,
    pub acts: Activations<B>,
    grads: Grads<B>,
    optimizer: OptimizerSettings,
    rows: RowBuffer,
    /// Sum of squares of each tensor's gradient.
    squares: Vec<f64>,
    /// Steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
}

/// Rows of a micro-batch on the host.
pub(crate) struct RowBuffer {
    n_ctx: usize,
    /// `[rows, n_ctx + 1]`.
    pub ids: Vec<u32>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
}

impl RowBuffer {
    /// Room for `rows` rows.
    pub fn new(rows: usize, n_ctx: usize) -> Self {
        let inputs = vec![0; rows * n_ctx];
        Self { n_ctx, ids: vec![0; rows * (n_ctx + 1)], tokens: inputs.clone(), targets: inputs }
    }

    /// The rows as inputs and targets. Rows from `used` on have no targets.
    pub fn batch(&mut self, used: usize) -> TrainBatch<'_> {
        let n = self.n_ctx;
        let rows = self.ids.chunks_exact(n + 1);
        let outputs = self.tokens.chunks_exact_mut(n).zip(self.targets.chunks_exact_mut(n));
        for (index, (row, (tokens, targets))) in rows.zip(outputs).enumerate() {
            if index < used {
                tokens.copy_from_slice(&row[..n]);
                targets.copy_from_slice(&row[1..]);
            } else {
                tokens.fill(0);
                targets.fill(verve_ops::IGNORE_TARGET);
            }
        }
        TrainBatch { tokens: &self.tokens, targets: &self.targets }
    }
}

/// Where a step's rows are.
pub(crate) struct StepInput<'a> {
    pub shards: &'a ShardSet,
    pub order: &'a RowOrder,
    pub micro_batches: u64,
    pub lr: f64,
}

/// What a step found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepFigures {
    /// Mean loss, nats.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
}

/// How a step ended.
pub(crate) enum StepEnd {
    /// The weights have moved.
    Applied(StepFigures),
    /// Nothing has changed: loss or gradient are not finite.
    NotFinite(NotFinite),
}

/// A step that was not applied.
#[derive(Debug)]
pub(crate) struct NotFinite {
    /// In words.
    pub what: String,
    /// Mean loss of each micro-batch.
    pub losses: Vec<f64>,
    /// Norm of each tensor's gradient, in canonical order; only names where it is not finite.
    pub norms: Vec<(String, f64)>,
}

impl<'a, B: Backend> Trainer<'a, B> {
    /// Allocates everything.
    pub fn new(backend: &'a B, plan: &'a RunPlan, origin: &Origin<'_>) -> Result<Self> {
        let table = Table::new(&plan.model);
        let (model, recompute): (&ModelConfig, Recompute) = (&plan.model, plan.recompute);
        Ok(Self {
            backend,
            model,
            state: State::new(backend, &table.params, origin)?,
            grads: table.params.alloc(backend)?,
            acts: Activations::new(backend, model, plan.micro_batch, model.n_ctx, recompute)?,
            optimizer: plan.config.optimizer.clone(),
            rows: RowBuffer::new(plan.micro_batch, model.n_ctx),
            squares: vec![0.0; table.specs.len()],
            table,
            step: 0,
            tokens: 0,
        })
    }

    /// The model as it is now.
    pub fn network(&self) -> Network<'_, B> {
        Network { backend: self.backend, config: self.model, weights: &self.state.weights }
    }

    /// The model as it is now, and the buffers of its forward pass.
    pub fn parts(&mut self) -> (Network<'_, B>, &mut Activations<B>) {
        (Network { backend: self.backend, config: self.model, weights: &self.state.weights }, &mut self.acts)
    }

    /// Rows read so far: every row of every step counts in full.
    pub fn rows_seen(&self) -> u64 {
        self.tokens / self.model.n_ctx as u64
    }

    /// Rows of a micro-batch.
    pub fn micro_rows(&self) -> u64 {
        self.acts.batch() as u64
    }

    /// Loss of one micro-batch from row `first` on, its gradients added. `scale` is that of the losses.
    pub fn micro_batch(&mut self, shards: &ShardSet, order: &RowOrder, first: u64, scale: f32) -> Result<f64> {
        shards.train_rows(order, first, &mut self.rows.ids)?;
        let net = Network { backend: self.backend, config: self.model, weights: &self.state.weights };
        let batch = self.rows.batch(self.acts.batch());
        Ok(forward_backward(net, &mut self.acts, &mut self.grads, batch, scale)?.sum)
    }

    /// One step: gradients of the mean loss over all tokens of its micro-batches, clipped, applied.
    pub fn step(&mut self, input: &StepInput<'_>) -> Result<StepEnd> {
        let micro_tokens = self.micro_rows() * self.model.n_ctx as u64;
        let tokens = input.micro_batches * micro_tokens;
        fill_zero::<B, B::Acc>(self.backend, &mut self.grads);
        let (mut sum, mut bad) = (0.0, None);
        for micro in 0..input.micro_batches {
            let first = self.rows_seen() + micro * self.micro_rows();
            let loss = self.micro_batch(input.shards, input.order, first, 1.0 / tokens as f32)?;
            sum += loss;
            if !loss.is_finite() && bad.is_none() {
                bad = self.first_bad_loss(first);
            }
        }
        self.backend.sum_squares(self.grads.iter(), &mut self.squares)?;
        let grad_norm = self.squares.iter().sum::<f64>().sqrt();
        if !sum.is_finite() || !grad_norm.is_finite() {
            return Ok(StepEnd::NotFinite(self.describe(input, bad)?));
        }
        let scale = self.optimizer.clip / grad_norm;
        self.apply(input.lr, if scale < 1.0 { scale as f32 } else { 1.0 });
        self.step += 1;
        self.tokens += tokens;
        Ok(StepEnd::Applied(StepFigures { loss: sum / tokens as f64, grad_norm }))
    }

    /// AdamW on every tensor, with decay on matrices only.
    pub fn apply(&mut self, lr: f64, grad_scale: f32) {
        let o = &self.optimizer;
        let step = (self.step + 1) as f64;
        let State { weights, master, m, v } = &mut self.state;
        let tensors = self.table.specs.iter().zip(weights.iter_mut()).zip(self.grads.iter());
        let mut masters = master.as_mut().map(|master| master.iter_mut());
        for (((spec, weight), grad), (m, v)) in tensors.zip(m.iter_mut().zip(v.iter_mut())) {
            let weight_decay = if spec.decay == Decay::Apply { o.weight_decay as f32 } else { 0.0 };
            self.backend.adamw(AdamW {
                weight,
                master: masters.as_mut().and_then(Iterator::next),
                grad,
                m,
                v,
                step: AdamWStep {
                    lr: lr as f32,
                    beta1: o.beta1 as f32,
                    beta2: o.beta2 as f32,
                    eps: o.eps as f32,
                    weight_decay,
                    bias_correction1: (1.0 - o.beta1.powf(step)) as f32,
                    bias_correction2: (1.0 - o.beta2.powf(step)) as f32,
                    grad_scale,
                },
            });
        }
    }

    /// Names the first row whose loss is not finite. The losses are those of the micro-batch that began at row `first`.
    fn first_bad_loss(&self, first: u64) -> Option<String> {
        let place = self.acts.losses().iter().position(|loss| !loss.to_f64().is_finite())?;
        let (row, token) = (place / self.model.n_ctx, place % self.model.n_ctx);
        let loss = self.acts.losses()[place].to_f64();
        Some(format!("the loss of token {token} in training row {} is {loss}", first + row as u64))
    }

    /// The failed step in words and figures.
    fn describe(&mut self, input: &StepInput<'_>, bad_loss: Option<String>) -> Result<NotFinite> {
        let norms = |squares: &[f64]| squares.iter().map(|square| square.sqrt()).collect::<Vec<_>>();
        let norms: Vec<(String, f64)> =
            self.table.specs.iter().map(|spec| spec.name.clone()).zip(norms(&self.squares)).collect();
        let tensor = norms.iter().find(|(_, norm)| !norm.is_finite());
        let tensor = tensor.map(|(name, norm)| format!("the gradient of {name} has norm {norm}"));
        let what = match (bad_loss, tensor) {
            (Some(loss), Some(tensor)) => format!("{loss}, and {tensor}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "the loss is not finite".to_owned(),
        };
        let micro_tokens = (self.acts.batch() * self.model.n_ctx) as f64;
        let mut losses = Vec::new();
        for micro in 0..input.micro_batches {
            let first = self.rows_seen() + micro * self.micro_rows();
            losses.push(self.micro_batch(input.shards, input.order, first, 0.0)? / micro_tokens);
        }
        Ok(NotFinite { what, losses, norms })
    }
}

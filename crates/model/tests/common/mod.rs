//! What the tests of this crate share.
#![allow(dead_code)]

pub mod golden;

use verve_model::*;
use verve_ops::{AdamWStep, Backend, Real, args::AdamW};

/// A model on a machine, with what training needs.
pub struct Bench<B: Backend> {
    pub backend: B,
    pub config: ModelConfig,
    pub layout: Params<ParamSpec>,
    pub weights: Weights<B>,
    pub grads: Grads<B>,
}

impl<B: Backend> Bench<B> {
    /// Weights far from any special value: no term of the network is small.
    pub fn random(backend: B, config: &ModelConfig, seed: u64) -> Self {
        let layout = layout(config);
        let weights = layout
            .build::<B, B::Elem>(&backend, |spec, out| {
                let (mean, std) = match (spec.shape.len(), spec.name.ends_with("bias")) {
                    (2, _) => (0.0, 0.2),
                    (_, true) => (0.0, 0.1),
                    _ => (1.0, 0.2),
                };
                let stream = rng::Stream::new(seed, &spec.name);
                stream.fill_normal(std, spec.len(), |i, noise| out[i] = B::Elem::from_f64(mean + noise));
                Ok(())
            })
            .unwrap();
        Self::new(backend, config, weights)
    }

    pub fn new(backend: B, config: &ModelConfig, weights: Weights<B>) -> Self {
        let layout = layout(config);
        let grads = layout.alloc(&backend).unwrap();
        Self { backend, config: config.clone(), layout, weights, grads }
    }

    pub fn net(&self) -> Network<'_, B> {
        Network { backend: &self.backend, config: &self.config, weights: &self.weights }
    }

    pub fn acts(&self, batch: usize, seq_len: usize, recompute: Recompute) -> Activations<B> {
        Activations::new(&self.backend, &self.config, batch, seq_len, recompute).unwrap()
    }

    pub fn forward_backward(&mut self, acts: &mut Activations<B>, batch: TrainBatch<'_>, scale: f32) -> LossSum {
        let net = Network { backend: &self.backend, config: &self.config, weights: &self.weights };
        forward_backward(net, acts, &mut self.grads, batch, scale).unwrap()
    }

    pub fn zero_grads(&mut self) {
        params::fill_zero::<B, B::Acc>(&self.backend, &mut self.grads);
    }

    /// Gradients on the host, in canonical order.
    pub fn host_grads(&self) -> Vec<Vec<B::Acc>> {
        params::download::<B, B::Acc>(&self.backend, &self.grads).unwrap().iter().cloned().collect()
    }

    pub fn host_weights(&self) -> Vec<Vec<B::Elem>> {
        params::download::<B, B::Elem>(&self.backend, &self.weights).unwrap().iter().cloned().collect()
    }

    pub fn names(&self) -> Vec<String> {
        self.layout.iter().map(|spec| spec.name.clone()).collect()
    }

    /// Global norm of the gradients.
    pub fn grad_norm(&self) -> f64 {
        let count = self.grads.iter().count();
        let mut squares = vec![0.0; count];
        self.backend.sum_squares(self.grads.iter(), &mut squares).unwrap();
        squares.iter().sum::<f64>().sqrt()
    }

    /// AdamW with GPT-3's settings, `step` counted from 1. `state` holds master weights (if any) and both moments.
    pub fn adamw(&mut self, state: &mut Optimizer<B>, step: i32, lr: f32, grad_scale: f32) {
        let (beta1, beta2) = (0.9f32, 0.95f32);
        let specs = self.layout.iter().zip(self.weights.iter_mut()).zip(self.grads.iter());
        let moments = state.m.iter_mut().zip(state.v.iter_mut());
        let mut masters = state.master.as_mut().map(|master| master.iter_mut());
        for (((spec, weight), grad), (m, v)) in specs.zip(moments) {
            let weight_decay = if spec.decay == Decay::Apply { 0.1 } else { 0.0 };
            self.backend.adamw(AdamW {
                weight,
                master: masters.as_mut().and_then(Iterator::next),
                grad,
                m,
                v,
                step: AdamWStep {
                    lr,
                    beta1,
                    beta2,
                    eps: 1e-8,
                    weight_decay,
                    bias_correction1: 1.0 - beta1.powi(step),
                    bias_correction2: 1.0 - beta2.powi(step),
                    grad_scale,
                },
            });
        }
    }
}

pub struct Optimizer<B: Backend> {
    pub master: Option<Moments<B>>,
    pub m: Moments<B>,
    pub v: Moments<B>,
}

impl<B: Backend> Optimizer<B> {
    /// Moments of zero; with a master copy of `weights` if their type is narrower than the accumulators'.
    pub fn new(bench: &Bench<B>, master: Option<Moments<B>>) -> Self {
        let alloc = || bench.layout.alloc(&bench.backend).unwrap();
        Self { master, m: alloc(), v: alloc() }
    }
}

/// Random ids and targets, every fifth target ignored.
pub fn random_batch(config: &ModelConfig, rows: usize, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let stream = rng::Stream::new(seed, "test batch");
    let id = |i: usize| (stream.uniform(i as u64) * config.n_vocab as f64) as u32;
    let tokens = (0..rows).map(id).collect();
    let targets = (0..rows).map(|i| if i % 5 == 4 { verve_ops::IGNORE_TARGET } else { id(i + rows) }).collect();
    (tokens, targets)
}

/// One small configuration of each kind: GPT-2, GPT-3 (banded), GPT-Neo, Llama with grouped heads, a mixture that no
/// family has, Gemma 3 with all it has beyond Llama, GPT-NeoX, and OPT with norms after the halves of a block.
pub fn small_configs() -> Vec<(&'static str, ModelConfig)> {
    let gpt2 = ModelConfig {
        n_layers: 3,
        d_model: 16,
        d_ff: 24,
        n_heads: 4,
        n_kv_heads: 4,
        d_head: 4,
        n_ctx: 12,
        n_vocab: 19,
        norm: Norm::LayerNorm,
        norm_eps: 1e-5,
        positions: Positions::Learned,
        activation: FfnActivation::GeluTanh,
        attention: AttentionPattern::Dense,
        attn_scale: AttnScale::InvSqrtHead,
        biases: Biases::ALL,
        tied_head: true,
        init_std: 0.02,
        rotary_pct: 1.0,
        rotary_scaling: RotaryScaling::None,
        rotary_local_theta: None,
        residual: Residual::Sequential,
        qk_norm: false,
        post_norms: false,
        embed_scale: EmbedScale::One,
    };
    let gpt3 = ModelConfig { attention: AttentionPattern::Alternating { band: 3 }, ..gpt2.clone() };
    let gpt_neo = ModelConfig { biases: Biases::ALL_BUT_QKV, attn_scale: AttnScale::One, ..gpt3.clone() };
    let llama = ModelConfig {
        norm: Norm::RmsNorm,
        positions: Positions::Rotary { theta: 100.0 },
        activation: FfnActivation::SwiGlu,
        n_kv_heads: 2,
        d_head: 6,
        biases: Biases::NONE,
        tied_head: false,
        ..gpt2.clone()
    };
    let mixture = ModelConfig {
        activation: FfnActivation::GeluErf,
        positions: Positions::Rotary { theta: 50.0 },
        n_kv_heads: 1,
        attention: AttentionPattern::Alternating { band: 5 },
        tied_head: false,
        ..gpt2.clone()
    };
    let gemma = ModelConfig {
        norm: Norm::RmsNormPlusOne,
        activation: FfnActivation::GeGlu,
        attention: AttentionPattern::Periodic { band: 3, global_every: 3 },
        attn_scale: AttnScale::InvSqrtOf { width: 9 },
        tied_head: true,
        rotary_scaling: RotaryScaling::Linear { factor: 2.0 },
        rotary_local_theta: Some(20.0),
        qk_norm: true,
        post_norms: true,
        embed_scale: EmbedScale::SqrtWidth,
        ..llama.clone()
    };
    let neox = ModelConfig {
        activation: FfnActivation::GeluErf,
        positions: Positions::Rotary { theta: 100.0 },
        tied_head: false,
        rotary_pct: 0.5,
        residual: Residual::Parallel,
        ..gpt2.clone()
    };
    let post_norm = ModelConfig { residual: Residual::PostNorm, ..gpt2.clone() };
    vec![
        ("gpt2", gpt2),
        ("gpt3", gpt3),
        ("gpt_neo", gpt_neo),
        ("llama", llama),
        ("mixture", mixture),
        ("gemma", gemma),
        ("neox", neox),
        ("post_norm", post_norm),
    ]
}

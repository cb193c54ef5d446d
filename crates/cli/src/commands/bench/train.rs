//! Training steps of the shapes that the peers are measured on.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use verve_model::ModelConfig;
use verve_shard::{Existing, ShardOptions, ShardSet, ShardWriter, Split};
use verve_train::speed::time_steps;
use verve_train::{Known, RunConfig};

use super::{Bench, Figure, dtype_name, median};
use crate::args::BenchArgs;
use crate::device::{Device, OnBackend, on_backend};

/// A model and a batch.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    job: &'static str,
    n_layers: usize,
    d_model: usize,
    n_vocab: usize,
    d_head: usize,
    batch: usize,
    n_ctx: usize,
    /// Batches whose gradients are added in a step.
    micro_batches: usize,
}

impl Shape {
    pub const M124: Self = Self {
        job: "train-124m",
        n_layers: 12,
        d_model: 768,
        n_vocab: 50_257,
        d_head: 64,
        batch: 4,
        n_ctx: 512,
        micro_batches: 1,
    };
    pub const M30: Self = Self { job: "train-30m", n_layers: 6, d_model: 384, batch: 8, n_ctx: 256, ..Self::M124 };
    pub const M10: Self = Self { job: "train-10m", n_vocab: 512, batch: 16, ..Self::M30 };
    /// GPT-2 small as it is trained on a card: half a million tokens a step.
    pub const GPT2: Self = Self { job: "train-gpt2", batch: 32, n_ctx: 1024, micro_batches: 16, ..Self::M124 };
    /// GPT-3's 1.3B in width and depth.
    pub const M1300: Self = Self {
        job: "train-1.3b",
        n_layers: 24,
        d_model: 2048,
        d_head: 128,
        batch: 8,
        n_ctx: 2048,
        micro_batches: 8,
        ..Self::M124
    };

    fn config(self) -> Result<ModelConfig> {
        let mut config = ModelConfig::preset("gpt2", Some(self.n_vocab))?;
        (config.n_layers, config.d_model, config.d_ff) = (self.n_layers, self.d_model, 4 * self.d_model);
        (config.n_heads, config.n_kv_heads) = (self.d_model / self.d_head, self.d_model / self.d_head);
        config.n_ctx = self.n_ctx;
        Ok(config)
    }

    fn tokens(self) -> usize {
        self.batch * self.n_ctx * self.micro_batches
    }
}

pub fn run(bench: &Bench, args: &BenchArgs, shape: Shape) -> Result<()> {
    on_backend(&bench.machine, args.dtype, Job { bench, args, shape })
}

struct Job<'a> {
    bench: &'a Bench,
    args: &'a BenchArgs,
    shape: Shape,
}

impl OnBackend for Job<'_> {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let Self { bench, args, shape } = self;
        let data = RandomTokens::write(shape)?;
        let shards = ShardSet::open(&data.folder)?;
        let mut config = RunConfig::default();
        config.model.set(&shape.config()?)?;
        config.run.dtype = match args.dtype {
            crate::args::Dtype::Bf16 => verve_train::config::Dtype::Bf16,
            crate::args::Dtype::F32 => verve_train::config::Dtype::F32,
        };
        config.budget.steps = Some(args.steps as u64);
        config.batch.micro_batch = Some(shape.batch);
        config.batch.batch_tokens = Some(shape.tokens() as u64);
        config.eval.rows = 0;
        let plan = config.resolve(&Known::of(&shards, backend.memory()?.available))?;
        let before = backend.product_peak()?;
        let seconds = median(time_steps(&backend, &plan, &shards, 1, args.steps)?);
        // Before and after: on a shared machine the peak moves.
        let peak = (before + backend.product_peak()?) / 2.0;
        let rate = shape.tokens() as f64 / seconds;
        let gflops = rate * plan.flops_per_token / 1e9;
        bench.print(Figure {
            job: shape.job,
            value: rate,
            unit: "tokens/s",
            share: Some((gflops / peak, "the peak")),
            more: json!({
                "dtype": dtype_name(args.dtype), "gflops": gflops, "peak_gflops": peak, "seconds_per_step": seconds,
                "n_params": plan.n_params, "batch": shape.batch, "n_ctx": shape.n_ctx, "steps": args.steps,
            }),
        })
    }
}

/// Shards of random ids in a temporary folder, which goes away with this value.
struct RandomTokens {
    folder: PathBuf,
}

impl RandomTokens {
    fn write(shape: Shape) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("verve-bench-{}-{}", std::process::id(), shape.job));
        let data = Self { folder };
        let mut writer = ShardWriter::create(
            &data.folder,
            ShardOptions {
                n_vocab: shape.n_vocab,
                end_of_text: 0,
                tokenizer_hash: "random".to_owned(),
                source: "random ids".to_owned(),
                shard_tokens: 1 << 30,
                existing: Existing::Replace,
            },
        )?;
        let mut state = 1u64;
        let ids: Vec<u32> = (0..20 * shape.tokens())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 33) % shape.n_vocab as u64) as u32
            })
            .collect();
        writer.push(Split::Train, &ids, ids.len() as u64)?;
        writer.finish()?;
        Ok(data)
    }
}

impl Drop for RandomTokens {
    fn drop(&mut self) {
        // What is left in the temporary folder hurts nobody, and there is nobody to tell.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

//! What the tests of this crate share.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use verve_model::formats::GenerationIds;
use verve_ops::Backend;
use verve_shard::{Existing, ShardOptions, ShardSet, ShardWriter, Split};
use verve_train::*;

/// A folder with shards and a tokenizer file.
pub struct World {
    pub dir: tempfile::TempDir,
    pub shards: ShardSet,
    pub tokenizer: PathBuf,
}

pub const VOCAB: usize = 23;

impl World {
    /// A text that can be learnt: the next id depends on the last one, most of the time.
    pub fn new() -> Self {
        Self::with_documents(60)
    }

    pub fn with_documents(count: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("shards");
        let options = ShardOptions {
            n_vocab: VOCAB,
            end_of_text: 0,
            tokenizer_hash: "test".to_owned(),
            source: "test".to_owned(),
            shard_tokens: 500,
            existing: Existing::Refuse,
        };
        let mut writer = ShardWriter::create(&folder, options).unwrap();
        let mut state = 7u32;
        for document in 0..count {
            let mut id = 1 + document % 22;
            let ids: Vec<u32> = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    id = if (state >> 16).is_multiple_of(5) { 1 + (state >> 20) % 22 } else { 1 + (id * 3) % 22 };
                    id
                })
                .collect();
            let split = if document % 6 == 5 { Split::HeldOut } else { Split::Train };
            writer.push(split, &ids, 100).unwrap();
        }
        writer.finish().unwrap();
        let tokenizer = dir.path().join("tokenizer.json");
        std::fs::write(&tokenizer, "{\"opaque\": true}").unwrap();
        Self { shards: ShardSet::open(&folder).unwrap(), dir, tokenizer }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            shards: &self.shards,
            tokenizer: &self.tokenizer,
            ids: GenerationIds { bos: None, eos: vec![0], pad: None },
            code_version: "test",
            available_memory: u64::MAX,
            other_memory: &|_, _, _| Vec::new(),
        }
    }

    pub fn start<B: Backend>(
        &self,
        backend: &B,
        name: &str,
        config: &RunConfig,
        observer: &mut impl Observer<B>,
    ) -> Result<Outcome> {
        let folder = RunFolder::create(&self.path(name))?;
        start(backend, &folder, config, &self.inputs(), &AtomicBool::new(false), observer)
    }

    pub fn resume<B: Backend>(&self, backend: &B, name: &str, observer: &mut impl Observer<B>) -> Result<Outcome> {
        let config = RunFolder::config(&self.path(name))?;
        self.resume_with(backend, name, &config, observer)
    }

    pub fn resume_with<B: Backend>(
        &self,
        backend: &B,
        name: &str,
        config: &RunConfig,
        observer: &mut impl Observer<B>,
    ) -> Result<Outcome> {
        let folder = RunFolder::open(&self.path(name))?;
        resume(backend, &folder, config, &self.inputs(), &AtomicBool::new(false), observer)
    }

    /// Starts and stops after `steps` steps.
    pub fn start_and_stop<B: Backend>(&self, backend: &B, name: &str, config: &RunConfig, steps: u64) -> Outcome {
        let folder = RunFolder::create(&self.path(name)).unwrap();
        let stop = AtomicBool::new(false);
        let mut observer = On(|event: &Event<'_>| {
            if let Event::Step(record) = event {
                stop.store(record.step >= steps, Ordering::SeqCst);
            }
        });
        start(backend, &folder, config, &self.inputs(), &stop, &mut observer).unwrap()
    }
}

/// An observer from a function.
pub struct On<F>(pub F);

impl<B: Backend, F: FnMut(&Event<'_>)> Observer<B> for On<F> {
    fn event(&mut self, event: &Event<'_>) {
        (self.0)(event);
    }
}

pub const TINY: &str = "
[model]
n_layers = 2
d_model = 32
n_heads = 2
n_ctx = 16
attention = { alternating = { band = 8 } }
biases = { qkv = false, attn_out = true, ffn = true }
[run]
dtype = 'f32'
seed = 5
[budget]
steps = 12
[batch]
micro_batch = 2
batch_tokens = 64
[optimizer]
lr = 0.01
[eval]
every = 4
rows = 5
";

pub fn config(extra: &str) -> RunConfig {
    RunConfig::parse(TINY, "test").unwrap().overlaid(extra, "extra").unwrap()
}

/// Files of a checkpoint that must be equal.
pub fn state_files(checkpoint: &Path) -> Vec<Vec<u8>> {
    ["model.safetensors", "train_state.safetensors"].map(|name| std::fs::read(checkpoint.join(name)).unwrap()).to_vec()
}

/// Figures without times.
pub fn figures(run: &Path) -> Vec<String> {
    let metrics = read_metrics(run).unwrap();
    let steps =
        metrics.steps.iter().map(|s| format!("{} {} {:?} {:?} {:?}", s.step, s.tokens, s.loss, s.lr, s.grad_norm));
    let evals =
        metrics.evals.iter().map(|e| format!("eval {} {} {:?} {:?}", e.step, e.tokens, e.loss, e.bits_per_byte));
    steps.chain(evals).collect()
}

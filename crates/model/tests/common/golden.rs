//! Agreement with PyTorch's files, on any backend: logits, loss, every gradient, three AdamW steps and a greedy continuation.

use verve_model::formats::names::Layout;
use verve_model::formats::{Checkpoint, load};
use verve_model::*;
use verve_ops::{Backend, InferBackend, KV_BLOCK, KvFormat, Real};
use verve_testkit::{Bound, Golden, compare, golden_dir};

use super::{Bench, Optimizer};

pub const CASES: [&str; 15] = [
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gpt_neox_serial",
    "opt",
    "opt_post_norm",
    "llama",
    "llama_tied",
    "llama_bias",
    "llama3",
    "llama_linear",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma3",
];
const LEARNING_RATE: f32 = 1e-3;
const PROMPT: usize = 8;

/// How far a type may be off, by what is compared. The parameters move by about 3e-3 in three steps.
#[derive(Clone, Copy)]
pub struct Limits {
    pub logits: Bound,
    pub loss: f64,
    pub grads: Bound,
    pub after: Bound,
    /// Of a gradient that is exactly zero: key biases that do not rotate.
    pub zero: f64,
    /// Whether a greedy choice must be PyTorch's.
    pub greedy: bool,
    /// What the bounds are for.
    pub of: Of,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Of {
    /// The error of each number.
    Each,
    /// The root mean square of the errors of a tensor; only `of_rms` counts.
    Tensor,
}

#[track_caller]
fn assert_close<F: Real, E: Real>(what: &str, of: Of, found: &[F], expected: &[E], bound: Bound) {
    if of == Of::Each {
        if let Err(mismatch) = compare(found, expected, bound) {
            panic!("{what}: {mismatch}");
        }
        return;
    }
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(expected).map(|(f, e)| f.to_f64() - e.to_f64()));
    let share = error / norm(&mut expected.iter().map(|e| e.to_f64()));
    assert!(share <= bound.of_rms, "{what}: off by {share:.4} of its size, allowed {}", bound.of_rms);
}

pub const F64: Limits = Limits {
    logits: Bound { relative: 1e-6, of_rms: 1e-6 },
    loss: 1e-7,
    grads: Bound { relative: 1e-6, of_rms: 1e-6 },
    // AdamW divides a gradient by its size: where it is nearly zero, the rounding of the rotary angles to f32 shows.
    after: Bound { relative: 1e-6, of_rms: 3e-6 },
    zero: 1e-12,
    greedy: true,
    of: Of::Each,
};

pub const F32: Limits = Limits {
    logits: Bound { relative: 1e-5, of_rms: 1e-5 },
    loss: 2e-7,
    grads: Bound { relative: 3e-5, of_rms: 3e-5 },
    after: Bound { relative: 1e-4, of_rms: 1e-4 },
    zero: 1e-7,
    greedy: true,
    of: Of::Each,
};

/// Eight bits of precision, through up to four layers of weights ten times as large as usual and, in `gpt_neo`, scores
/// that are not scaled. What is compared is the size of the error of a whole tensor; a term left out changes it by far
/// more.
pub const BF16: Limits = Limits {
    logits: Bound { relative: 0.0, of_rms: 0.04 },
    loss: 0.003,
    grads: Bound { relative: 0.0, of_rms: 0.14 },
    after: Bound { relative: 0.0, of_rms: 0.01 },
    zero: 0.01,
    greedy: false,
    of: Of::Tensor,
};

/// A golden tensor in the layout of the parameter table.
fn from_golden(golden: &Golden, kind: &str, checkpoint: &Checkpoint, spec: &ParamSpec) -> Vec<f32> {
    let family = checkpoint.family();
    let width = spec.len() / spec.shape[0];
    let mut out = Vec::new();
    for source in family.sources(family.prefix(), checkpoint.config(), spec) {
        let values = golden.f32s(&format!("{kind}.{}", source.name));
        assert_eq!(golden.shape(&format!("{kind}.{}", source.name)), source.shape(spec));
        let rows = source.rows.len();
        match source.layout {
            Layout::Same => out.extend(values),
            Layout::Transposed => out.extend((0..rows * width).map(|i| values[(i % width) * rows + i / width])),
            Layout::Below { rows } => out.extend(&values[rows * width..]),
            Layout::HeadsTogether { n_heads } => {
                let d_head = rows / (3 * n_heads);
                let in_file = |row: usize| {
                    let (projection, head, place) = (row / (rows / 3), row / d_head % n_heads, row % d_head);
                    (head * 3 + projection) * d_head + place
                };
                out.extend((0..rows * width).map(|i| values[in_file(i / width) * width + i % width]));
            }
        }
    }
    out
}

fn bench<B: Backend>(backend: B, checkpoint: &Checkpoint) -> Bench<B> {
    let weights = checkpoint.weights::<B, B::Elem>(&backend).unwrap();
    Bench::new(backend, checkpoint.config(), weights)
}

/// True for biases of keys that do not rotate, whose gradients are exactly zero, so that AdamW amplifies noise.
fn is_key_bias(name: &str, config: &ModelConfig, index: usize) -> bool {
    let keys = config.heads_width()..config.heads_width() + config.n_kv_heads * config.d_head;
    let rotates = |index: usize| (index - keys.start) % config.d_head < config.d_rot();
    name.ends_with("attn_qkv.bias") && keys.contains(&index) && !rotates(index)
}

fn without_key_bias<T: Copy>(name: &str, config: &ModelConfig, values: &[T]) -> Vec<T> {
    values.iter().enumerate().filter(|(i, _)| !is_key_bias(name, config, *i)).map(|(_, v)| *v).collect()
}

pub fn training<B: Backend>(backend: B, case: &str, limits: Limits) {
    let golden = Golden::load(case);
    let checkpoint = load(&golden_dir(case)).unwrap();
    let mut bench = bench(backend, &checkpoint);
    let (tokens, targets) = (golden.ids("input_ids"), golden.ids("targets"));
    let batch = TrainBatch { tokens: &tokens, targets: &targets };
    let mut acts = bench.acts(2, tokens.len() / 2, Recompute::None);
    let narrow = size_of::<B::Elem>() < size_of::<B::Acc>();
    let master = narrow.then(|| checkpoint.weights::<B, B::Acc>(&bench.backend).unwrap());
    let mut state = Optimizer::new(&bench, master);
    let specs: Vec<ParamSpec> = bench.layout.iter().cloned().collect();
    for step in 0..4 {
        let expected = f64::from(golden.f32s(&format!("loss_step.{step}"))[0]);
        let evaluated = forward_loss(bench.net(), &mut acts, batch).unwrap();
        assert_eq!(evaluated.targets, 46);
        assert_close(
            &format!("{case}: loss {step}"),
            limits.of,
            &[evaluated.mean()],
            &[expected],
            Bound::new(limits.loss),
        );
        if step == 3 {
            break;
        }
        bench.zero_grads();
        let loss = bench.forward_backward(&mut acts, batch, 1.0 / 46.0);
        assert_close(&format!("{case}: loss {step}"), limits.of, &[loss.mean()], &[expected], Bound::new(limits.loss));
        if step == 0 {
            for (spec, grad) in specs.iter().zip(bench.host_grads()) {
                let expected = from_golden(&golden, "grad", &checkpoint, spec);
                let what = format!("{case}: gradient of {}", spec.name);
                let found = without_key_bias(&spec.name, &bench.config, &grad);
                assert_close(
                    &what,
                    limits.of,
                    &found,
                    &without_key_bias(&spec.name, &bench.config, &expected),
                    limits.grads,
                );
                for (i, value) in grad.iter().enumerate() {
                    let zero = is_key_bias(&spec.name, &bench.config, i);
                    assert!(!zero || value.to_f64().abs() < limits.zero, "{what}[{i}] = {value:?} should vanish");
                }
            }
        }
        let norm = bench.grad_norm();
        let expected = f64::from(golden.f32s(&format!("grad_norm.{step}"))[0]);
        assert_close(&format!("{case}: norm {step}"), limits.of, &[norm], &[expected], Bound::new(limits.loss * 10.0));
        bench.adamw(&mut state, step + 1, LEARNING_RATE, (1.0 / norm) as f32);
    }
    let after: Vec<Vec<f64>> = match &state.master {
        Some(master) => {
            let host = params::download::<B, B::Acc>(&bench.backend, master).unwrap();
            host.iter().map(|t| t.iter().map(|v| v.to_f64()).collect()).collect()
        }
        None => bench.host_weights().iter().map(|t| t.iter().map(|v| v.to_f64()).collect()).collect(),
    };
    for (spec, found) in specs.iter().zip(after) {
        let expected = from_golden(&golden, "param_after3", &checkpoint, spec);
        let keep = |values: &[f64]| without_key_bias(&spec.name, &bench.config, values);
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        assert_close(
            &format!("{case}: {} after 3 steps", spec.name),
            limits.of,
            &keep(&found),
            &keep(&expected),
            limits.after,
        );
    }
}

/// One sequence in a cache of its own; blocks are handed out from the end.
fn table(n_blocks: usize) -> Vec<u32> {
    (0..n_blocks as u32).rev().collect()
}

pub fn generation<B: InferBackend>(backend: B, case: &str, limits: Limits) {
    let golden = Golden::load(case);
    let checkpoint = load(&golden_dir(case)).unwrap();
    let config = checkpoint.config();
    let weights = checkpoint.infer_weights(&backend).unwrap();
    let step_limits = StepLimits { max_rows: 48, max_sequences: 2, max_blocks: 2 };
    let mut ws = InferStep::new(&backend, config, step_limits).unwrap();
    let mut cache = KvCache::new(&backend, config, 4, KvFormat::Elem).unwrap();

    // Both rows of the batch in one step.
    let tokens = golden.ids("input_ids");
    let positions: Vec<u32> = (0..48).map(|i| i % 24).collect();
    let sequences: Vec<u32> = (0..48).map(|i| i / 24).collect();
    let blocks = table(4);
    let slots: Vec<u32> = (0..48).map(|i| blocks[2 * (i / 24)] * KV_BLOCK as u32 + (i % 24) as u32).collect();
    let rows: Vec<u32> = (0..48).collect();
    let batch = StepBatch {
        tokens: &tokens,
        positions: &positions,
        slots: &slots,
        sequences: &sequences,
        block_table: &blocks,
        max_blocks: 2,
        output_rows: &rows,
    };
    let logits = infer_step(&backend, config, &weights, &mut cache, &batch, &mut ws).unwrap();
    assert_close(&format!("{case}: logits"), limits.of, logits, &golden.f32s("logits"), limits.logits);

    // The prompt in one step, then one token at a time.
    let mut text = golden.ids("greedy_prompt");
    assert_eq!(text.len(), PROMPT);
    let expected = golden.ids("greedy");
    let blocks = table(2);
    let mut done = 0;
    for (i, expected) in expected.iter().enumerate() {
        let new = &text[done..];
        let positions: Vec<u32> = (done as u32..text.len() as u32).collect();
        let slots: Vec<u32> = positions.iter().map(|p| blocks[0] * KV_BLOCK as u32 + p).collect();
        let batch = StepBatch {
            tokens: new,
            positions: &positions,
            slots: &slots,
            sequences: &vec![0; new.len()],
            block_table: &blocks,
            max_blocks: 2,
            output_rows: &[new.len() as u32 - 1],
        };
        let logits = infer_step(&backend, config, &weights, &mut cache, &batch, &mut ws).unwrap();
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].partial_cmp(&logits[b]).unwrap()).unwrap() as u32;
        if limits.greedy {
            assert_eq!(best, *expected, "{case}: greedy token {i}");
        }
        done = text.len();
        text.push(*expected);
    }
}

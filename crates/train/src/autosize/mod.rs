//! Chooses model and vocabulary for "this text, this machine, these minutes".
//!
//! The rule, the same for the same inputs:
//!
//! 1. A ladder of shapes with heads of 64, from 0.1M to 1.2B parameters in their blocks. A shape has a context (256 tokens,
//!    512 from width 320, 1024 from width 640) and a vocabulary: the largest power of two of which the text holds at least
//!    1000 bytes for each entry and whose table is at most half the size of the blocks.
//! 2. The tokens that can be seen are `time * peak * 0.5 / FLOPs per token`, the cost of the head included. What is read
//!    again counts for less and less: `U (1 + 15.4 (1 - exp(-R / 15.4)))` for `R` more readings of `U` tokens
//!    (Muennighoff et al. 2023).
//! 3. Of the shapes that fit into memory and have at most ten block parameters for each token of the text, take the one
//!    with the lowest `406.4 / N^0.34 + 410.7 / D^0.28` (Hoffmann et al. 2022, approach 3) for `N` block parameters and
//!    `D` tokens of 4.3 bytes. For short runs its optimum is at about 5 to 10 tokens a parameter, not 20.
//! 4. With a budget in tokens or steps instead of minutes, time does not count: the largest shape that sees 8 tokens for
//!    each block parameter.
//! 5. A batch is a power of two of tokens which leaves at least 600 steps, up to what is usual for the size.
//!
//! More time or a faster machine never leads to a smaller model.

use verve_model::plan::train_flops_per_token;
use verve_model::{AttentionPattern, MasterWeights, MemoryOptions, ModelConfig, Recompute, layout, memory_plan};

use crate::config::Dtype;
use crate::error::{Result, TrainError};

#[cfg(test)]
mod tests;

/// How much text there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Bytes of text, not encoded yet.
    TextBytes(u64),
    /// Training tokens in shards.
    Tokens(u64),
}

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// By the clock.
    Minutes(f64),
    /// Tokens seen.
    Tokens(u64),
    /// Optimizer steps.
    Steps(u64),
}

/// What is known before a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// The text.
    pub amount: Amount,
    /// The time.
    pub budget: Budget,
    /// Peak of the machine in the compute type, FLOP/s.
    pub flops_per_second: f64,
    /// Memory for the run, bytes; `u64::MAX` if unknown.
    pub available_memory: u64,
    /// Type of weights and activations.
    pub dtype: Dtype,
    /// Size of the vocabulary if it is given; chosen if `None`.
    pub n_vocab: Option<usize>,
    /// Context if it is given; chosen if `None`.
    pub n_ctx: Option<usize>,
}

/// What was chosen, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The model's shape; valid.
    pub model: ModelConfig,
    /// Size of the vocabulary.
    pub n_vocab: usize,
    /// Rows of one forward and backward pass.
    pub micro_batch: usize,
    /// Tokens of one optimizer step: a multiple of `micro_batch * n_ctx`.
    pub batch_tokens: u64,
    /// Parameters.
    pub n_params: u64,
    /// Tokens that the run is expected to see.
    pub tokens: u64,
    /// Expected steps, at least 1.
    pub steps: u64,
    /// How often the text is expected to be read.
    pub epochs: f64,
    /// The choice in one sentence.
    pub why: String,
}

/// Layers and width.
const LADDER: [(usize, usize); 22] = [
    (2, 64),
    (2, 128),
    (3, 128),
    (4, 128),
    (4, 192),
    (5, 192),
    (6, 192),
    (5, 256),
    (6, 256),
    (6, 320),
    (6, 384),
    (8, 384),
    (8, 448),
    (8, 512),
    (10, 576),
    (12, 640),
    (12, 768),
    (16, 896),
    (20, 1024),
    (24, 1024),
    (24, 1536),
    (24, 2048),
];

/// Share of the peak that training is assumed to reach.
pub const UTILISATION: f64 = 0.5;
/// Bytes of English text in a token, for vocabularies of 256, 512, 1024, ... 65,536 entries trained on like text.
const BYTES_PER_TOKEN: [f64; 9] = [1.0, 1.9, 2.4, 2.9, 3.3, 3.7, 4.0, 4.3, 4.5];
/// Bytes of text for each entry of a vocabulary.
const BYTES_PER_ENTRY: u64 = 1000;
const SMALLEST_VOCAB: usize = 512;
const LARGEST_VOCAB: usize = 65_536;
/// Most block parameters for each token of the text.
const PARAMS_PER_TOKEN: f64 = 10.0;
/// Tokens for each block parameter where tokens are given.
const TOKENS_PER_PARAM: f64 = 8.0;
/// Further readings of a text after which one more is worth `1/e` of the first (Muennighoff et al. 2023).
const READINGS: f64 = 15.4;
/// Fewest steps of a run in which a batch is chosen.
const FEWEST_STEPS: u64 = 600;
/// Tokens of a micro-batch.
const MICRO_TOKENS: u64 = 4096;

/// A rung of the ladder for a text.
struct Candidate {
    model: ModelConfig,
    blocks: f64,
    flops_per_token: f64,
    text_tokens: f64,
    bytes_per_token: f64,
}

/// Chooses vocabulary, shape, context and batch by the rule in this module's description.
///
/// # Errors
/// [`TrainError::Setting`] for a speed or a time that is not a positive number; [`TrainError::Data`] for a text of fewer
/// than 32 tokens; [`TrainError::Memory`] if not even the smallest shape fits; [`TrainError::Model`] for a vocabulary or
/// context that no model can have.
pub fn choose(wish: &Wish) -> Result<Choice> {
    check(wish)?;
    let candidates = LADDER.iter().map(|&shape| candidate(shape, wish)).collect::<Result<Vec<_>>>()?;
    let mut best: Option<(f64, &Candidate)> = None;
    let mut needed = u64::MAX;
    for (rung, candidate) in candidates.iter().enumerate() {
        candidate.model.validate()?;
        if rung > 0 && candidate.blocks > PARAMS_PER_TOKEN * candidate.text_tokens {
            continue;
        }
        let least = memory(&candidate.model, 1, Recompute::ActivationsAndNorms, wish.dtype)?;
        needed = needed.min(least);
        if least > wish.available_memory {
            continue;
        }
        let score = candidate.score(wish);
        // Of equals the larger.
        if best.is_none_or(|(lowest, _)| score <= lowest) {
            best = Some((score, candidate));
        }
    }
    match best {
        Some((_, candidate)) => finish(candidate, wish),
        None => Err(TrainError::Memory {
            needed: crate::config::bytes(needed),
            available: crate::config::bytes(wish.available_memory),
            hint: "not even the smallest model fits: free some memory, or give a smaller vocabulary or context"
                .to_owned(),
        }),
    }
}

/// The vocabulary for `text_bytes` of text, where the model is given and not chosen here: the largest power of two of
/// which the text holds 1000 bytes an entry, from 512 to 65,536, and no more than 16 entries for each unit of width.
pub fn vocabulary(text_bytes: u64, d_model: Option<usize>) -> usize {
    let by_model = d_model.map_or(LARGEST_VOCAB, |d_model| 16 * d_model);
    power_of_two(text_bytes / BYTES_PER_ENTRY, by_model)
}

/// The largest power of two that is at most both, within the bounds of a vocabulary.
fn power_of_two(by_text: u64, by_model: usize) -> usize {
    let most = by_text.min(by_model as u64).clamp(SMALLEST_VOCAB as u64, LARGEST_VOCAB as u64);
    1 << most.ilog2()
}

fn check(wish: &Wish) -> Result<()> {
    let speed = wish.flops_per_second;
    if !(speed.is_finite() && speed > 0.0) {
        return Err(TrainError::Data {
            problem: format!("a machine of {speed} FLOP/s cannot be planned for: the measured peak must be positive"),
        });
    }
    match wish.budget {
        Budget::Minutes(minutes) if !(minutes.is_finite() && minutes > 0.0) => {
            Err(TrainError::setting("budget", "minutes", minutes, "must be a positive number"))
        }
        Budget::Tokens(0) => Err(TrainError::setting("budget", "tokens", 0, "must be at least 1")),
        Budget::Steps(0) => Err(TrainError::setting("budget", "steps", 0, "must be at least 1")),
        _ => Ok(()),
    }
}

fn candidate((n_layers, d_model): (usize, usize), wish: &Wish) -> Result<Candidate> {
    // A table of at most half the blocks' 12 L C^2: V <= 6 L C.
    let n_vocab = wish.n_vocab.unwrap_or(match wish.amount {
        Amount::TextBytes(bytes) => power_of_two(bytes / BYTES_PER_ENTRY, 6 * n_layers * d_model),
        Amount::Tokens(_) => SMALLEST_VOCAB,
    });
    let bytes_per_token = bytes_per_token(n_vocab);
    let text_tokens = match wish.amount {
        Amount::TextBytes(bytes) => bytes as f64 / bytes_per_token,
        Amount::Tokens(tokens) => tokens as f64,
    };
    if text_tokens < 32.0 {
        return Err(TrainError::Data {
            problem: format!("there is too little text to train on, about {text_tokens:.0} tokens: give more"),
        });
    }
    let usual = match d_model {
        ..320 => 256,
        320..640 => 512,
        _ => 1024,
    };
    // A short text still has some dozens of rows.
    let by_text = 1 << ((text_tokens / 32.0).clamp(1.0, 1e6) as u64).ilog2();
    let n_ctx = wish.n_ctx.unwrap_or(usual.min(by_text).max(16));
    let model = ModelConfig {
        n_layers,
        d_model,
        d_ff: 4 * d_model,
        n_heads: d_model / 64,
        n_kv_heads: d_model / 64,
        d_head: 64,
        n_ctx,
        attention: AttentionPattern::Alternating { band: n_ctx.div_ceil(2) },
        ..ModelConfig::preset("tiny", Some(n_vocab))?
    };
    Ok(Candidate {
        blocks: (12 * n_layers * d_model * d_model) as f64,
        flops_per_token: train_flops_per_token(&model, n_ctx),
        text_tokens,
        bytes_per_token,
        model,
    })
}

/// Interpolated over the logarithm of the vocabulary.
fn bytes_per_token(n_vocab: usize) -> f64 {
    let place = (n_vocab.max(1) as f64 / 256.0).log2().clamp(0.0, (BYTES_PER_TOKEN.len() - 1) as f64);
    let below = place as usize;
    let above = (below + 1).min(BYTES_PER_TOKEN.len() - 1);
    BYTES_PER_TOKEN[below] + (BYTES_PER_TOKEN[above] - BYTES_PER_TOKEN[below]) * place.fract()
}

impl Candidate {
    /// Tokens that the run sees.
    fn tokens(&self, wish: &Wish) -> f64 {
        match wish.budget {
            Budget::Minutes(minutes) => minutes * 60.0 * wish.flops_per_second * UTILISATION / self.flops_per_token,
            Budget::Tokens(tokens) => tokens as f64,
            Budget::Steps(steps) => steps as f64 * self.usual_batch() as f64,
        }
    }

    /// Lower is better.
    fn score(&self, wish: &Wish) -> f64 {
        let tokens = self.tokens(wish);
        if !matches!(wish.budget, Budget::Minutes(_)) {
            // The largest shape that is not too large; if all are, the smallest.
            let fits = tokens >= TOKENS_PER_PARAM * self.blocks;
            return if fits { -self.blocks } else { self.blocks };
        }
        let unique = tokens.min(self.text_tokens);
        let again = tokens / unique - 1.0;
        let worth = unique * (1.0 + READINGS * (1.0 - (-again / READINGS).exp()));
        406.4 / self.blocks.powf(0.34) + 410.7 / (worth * self.bytes_per_token / 4.3).powf(0.28)
    }

    /// Tokens of a batch for a model of this size in a long run.
    fn usual_batch(&self) -> u64 {
        let tokens: u64 = match self.blocks {
            ..1e6 => 4096,
            ..8e6 => 8192,
            ..20e6 => 16_384,
            ..60e6 => 32_768,
            ..120e6 => 131_072,
            ..1e9 => 524_288,
            _ => 1_048_576,
        };
        tokens.max(self.model.n_ctx as u64)
    }
}

/// Bytes of a run: all that training allocates, a checkpoint being written beside it.
fn memory(model: &ModelConfig, batch: usize, recompute: Recompute, dtype: Dtype) -> Result<u64> {
    let sizes = dtype.sizes();
    let master = if sizes.elem < sizes.acc { MasterWeights::Kept } else { MasterWeights::None };
    let options = MemoryOptions { batch, seq_len: model.n_ctx, recompute, sizes, master, moments: 2 };
    let largest = layout(model).iter().map(|spec| spec.len()).max().unwrap_or(0);
    let checkpoint = 3 * model.n_params() * sizes.acc + largest * (sizes.acc + 4);
    Ok(memory_plan(model, &options)?.total() + checkpoint as u64)
}

fn finish(candidate: &Candidate, wish: &Wish) -> Result<Choice> {
    let model = candidate.model.clone();
    let n_ctx = model.n_ctx as u64;
    let tokens = candidate.tokens(wish);
    let usual = candidate.usual_batch();
    let wanted = match wish.budget {
        Budget::Steps(_) => usual,
        _ => usual.min(1 << ((tokens as u64) / FEWEST_STEPS).max(1024).ilog2()),
    };
    let rows = (wanted / n_ctx).max(1);
    // `rows` may be any number where the context was given; halving then rounds down and the batch follows.
    let mut micro = (MICRO_TOKENS / n_ctx).clamp(1, rows);
    while micro > 1
        && memory(&model, micro as usize, Recompute::ActivationsAndNorms, wish.dtype)? > wish.available_memory
    {
        micro /= 2;
    }
    let batch_tokens = rows / micro * micro * n_ctx;
    let steps = match wish.budget {
        Budget::Steps(steps) => steps,
        _ => (tokens / batch_tokens as f64).ceil().max(1.0) as u64,
    };
    let tokens = match wish.budget {
        Budget::Tokens(tokens) => tokens,
        _ => steps.saturating_mul(batch_tokens),
    };
    let n_params = model.n_params() as u64;
    let epochs = tokens as f64 / candidate.text_tokens;
    let why = format!(
        "{} layers, width {}, context {} ({} parameters, vocabulary {}): about {} tokens{}, {} times the text",
        model.n_layers,
        model.d_model,
        model.n_ctx,
        short(n_params as f64),
        model.n_vocab,
        short(tokens as f64),
        match wish.budget {
            Budget::Minutes(minutes) =>
                format!(" in {} minutes at half of {:.0} GFLOP/s", trimmed(minutes), wish.flops_per_second / 1e9),
            Budget::Tokens(_) => String::new(),
            Budget::Steps(steps) => format!(" in {steps} steps"),
        },
        trimmed(epochs),
    );
    Ok(Choice {
        n_vocab: model.n_vocab,
        model,
        micro_batch: micro as usize,
        batch_tokens,
        n_params,
        tokens,
        steps,
        epochs,
        why,
    })
}

/// A count with a suffix and two or three digits.
pub(crate) fn short(count: f64) -> String {
    let (value, suffix) = match count {
        ..1e3 => return format!("{count:.0}"),
        ..1e6 => (count / 1e3, "k"),
        ..1e9 => (count / 1e6, "M"),
        ..1e12 => (count / 1e9, "B"),
        _ => (count / 1e12, "T"),
    };
    if value < 100.0 { format!("{value:.1}{suffix}") } else { format!("{value:.0}{suffix}") }
}

/// At most one decimal for numbers from 1, two digits below.
fn trimmed(value: f64) -> String {
    let text = if value >= 1.0 { format!("{value:.1}") } else { format!("{value:.2}") };
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

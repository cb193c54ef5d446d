//! What a run needs before its first step: tokenizer, shards and a model size.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use verve_gguf::GgufFile;
use verve_shard::{Existing, ShardSet, Split};
use verve_tokenizer::Tokenizer;
use verve_train::autosize::{self, Amount, Budget, Wish};
use verve_train::{RunConfig, RunFolder};

use crate::args::MachineArgs;
use crate::commands::gguf_metadata;
use crate::commands::text::{self, ShardSettings, Text};
use crate::device::{self, Device, OnBackend, on_backend};

/// Tokens in one shard file of a run.
const SHARD_TOKENS: u64 = 100_000_000;

/// A run folder with all it needs.
pub struct Prepared {
    pub folder: RunFolder,
    pub config: RunConfig,
    pub tokenizer: Tokenizer,
    pub tokenizer_file: PathBuf,
    pub shards: ShardSet,
}

impl Prepared {
    /// A new run: trains a tokenizer and encodes the text where these are not given, and chooses what is left open.
    /// `context` is the context length for a model whose size is chosen here.
    pub fn fresh(
        machine: &MachineArgs,
        folder: RunFolder,
        mut config: RunConfig,
        text: &Text,
        context: Option<usize>,
    ) -> Result<Self> {
        let b = &config.budget;
        if b.minutes.is_none() && b.tokens.is_none() && b.steps.is_none() {
            bail!("say how long to train: --minutes, --steps or --tokens");
        }
        config.validate()?;
        let text = Text { inputs: config.data.text.clone(), read: text.read.clone() };
        let (tokenizer, tokenizer_file, shards) = match config.data.shards.clone() {
            Some(shards) => {
                if !text.inputs.is_empty() {
                    bail!("text and shards are both given: leave one out");
                }
                let (tokenizer, file, shards) = given_shards(&folder, &config, &shards)?;
                let tokens = Amount::Tokens(shards.n_tokens(Split::Train));
                choose(machine, &mut config, tokens, Some(tokenizer.n_vocab()), context)?;
                (tokenizer, file, shards)
            }
            None => {
                if text.inputs.is_empty() {
                    bail!("nothing to train on: give text (files or folders) or --shards");
                }
                let given = named_tokenizer(&config).as_deref().map(load_tokenizer).transpose()?;
                let n_vocab = given.as_ref().map(Tokenizer::n_vocab).or(config.data.vocab);
                choose(machine, &mut config, Amount::TextBytes(text.bytes()?), n_vocab, context)?;
                from_text(machine, &folder, &config, &text, given)?
            }
        };
        Ok(Self { folder, config, tokenizer, tokenizer_file, shards })
    }

    /// A run that has begun: its own tokenizer and shards.
    pub fn recorded(folder: RunFolder, config: RunConfig) -> Result<Self> {
        let tokenizer_file = folder.path().join("tokenizer.json");
        let tokenizer = Tokenizer::load(&tokenizer_file)?;
        let shards = match &config.data.shards {
            Some(shards) => ShardSet::open(shards)?,
            None => ShardSet::open(folder.path().join("shards"))?,
        };
        shards.check_tokenizer(tokenizer.hash(), tokenizer.n_vocab())?;
        Ok(Self { folder, config, tokenizer, tokenizer_file, shards })
    }
}

/// The tokenizer that the settings name: a file, or that of the model that the run starts from.
fn named_tokenizer(config: &RunConfig) -> Option<PathBuf> {
    let of_model = |init: &PathBuf| if init.is_file() { init.clone() } else { init.join("tokenizer.json") };
    config.data.tokenizer.clone().or_else(|| config.run.init.as_ref().map(of_model))
}

/// The tokenizer in a file of its own, or in a GGUF file.
fn load_tokenizer(file: &Path) -> Result<Tokenizer> {
    if !is_gguf(file) {
        return Ok(Tokenizer::load(file)?);
    }
    let vocabulary = gguf_metadata::vocabulary(&GgufFile::open(file)?)?;
    Tokenizer::from_gguf(vocabulary).with_context(|| format!("the tokenizer of {}", file.display()))
}

fn is_gguf(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn given_shards(folder: &RunFolder, config: &RunConfig, shards: &Path) -> Result<(Tokenizer, PathBuf, ShardSet)> {
    let mut file = named_tokenizer(config).context("--shards also needs the --tokenizer that they were made with")?;
    let tokenizer = load_tokenizer(&file)?;
    let set = ShardSet::open(shards)?;
    set.check_tokenizer(tokenizer.hash(), tokenizer.n_vocab())?;
    if is_gguf(&file) {
        file = folder.path().join("tokenizer.json");
        tokenizer.save(&file)?;
    }
    Ok((tokenizer, file, set))
}

fn from_text(
    machine: &MachineArgs,
    folder: &RunFolder,
    config: &RunConfig,
    text: &Text,
    given: Option<Tokenizer>,
) -> Result<(Tokenizer, PathBuf, ShardSet)> {
    let file = folder.path().join("tokenizer.json");
    let tokenizer = match given {
        Some(given) => given,
        None => {
            let n_vocab = config.data.vocab.context("no vocabulary size was chosen")?;
            text::train_tokenizer(text, n_vocab)?
        }
    };
    tokenizer.save(&file)?;
    eprintln!("tokenizer: {} tokens", tokenizer.n_vocab());
    let out = folder.path().join("shards");
    let settings = ShardSettings {
        out: &out,
        held_out: config.data.held_out,
        shard_tokens: SHARD_TOKENS,
        threads: device::threads(machine),
        existing: Existing::Replace,
    };
    let report = text::write_shards(text, &tokenizer, &settings)?;
    eprintln!("text: {}", text::describe_shards(&report));
    Ok((tokenizer, file, ShardSet::open(&out)?))
}

/// Chooses vocabulary and model where the settings leave them open, and says what and why.
fn choose(
    machine: &MachineArgs,
    config: &mut RunConfig,
    amount: Amount,
    n_vocab: Option<usize>,
    context: Option<usize>,
) -> Result<()> {
    if config.run.init.is_some() {
        return Ok(());
    }
    if !config.model.is_empty() {
        if n_vocab.is_none()
            && let Amount::TextBytes(bytes) = amount
        {
            config.data.vocab = Some(autosize::vocabulary(bytes, config.model.width()));
        }
        return Ok(());
    }
    let b = &config.budget;
    let budget = match (b.minutes, b.tokens, b.steps) {
        (Some(minutes), ..) => Budget::Minutes(minutes),
        (_, Some(tokens), _) => Budget::Tokens(tokens),
        (_, _, Some(steps)) => Budget::Steps(steps),
        (None, None, None) => return Ok(()),
    };
    let peak = on_backend(machine, super::dtype(config), PeakJob)?;
    let choice = autosize::choose(&Wish {
        amount,
        budget,
        flops_per_second: 1e9 * peak,
        available_memory: device::available_memory(machine)?,
        dtype: config.run.dtype,
        n_vocab,
        n_ctx: context,
    })?;
    eprintln!("chosen: {}", choice.why);
    config.model.set(&choice.model)?;
    if n_vocab.is_none() {
        config.data.vocab = Some(choice.n_vocab);
    }
    config.batch.micro_batch.get_or_insert(choice.micro_batch);
    config.batch.batch_tokens.get_or_insert(choice.batch_tokens);
    Ok(())
}

/// Measures the peak of matrix products.
struct PeakJob;

impl OnBackend for PeakJob {
    type Out = f64;

    fn run<B: Device>(self, backend: B) -> Result<f64> {
        backend.product_peak()
    }
}

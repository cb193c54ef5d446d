//! A run from its beginning, or from its last checkpoint, to its end.

mod calibrate;
mod changes;
mod failed;
mod session;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use verve_model::formats::GenerationIds;
use verve_ops::Backend;
use verve_shard::{DataManifest, ShardSet, Split};

use crate::checkpoint::{newest_sound, set_aside};
use crate::config::{Known, OtherMemory, RunConfig, RunPlan};
use crate::error::{Result, TrainError};
use crate::files::{copy_synced, hash_file, read_json, write_atomically, write_json};
use crate::folder::{CHECKPOINTS, CONFIG, DATA, RUN, RunFolder, TOKENIZER};
use crate::metrics::EvalRecord;
use crate::observer::{Event, Observer};
use session::{Begin, Session};

/// What a run is made of besides its settings.
#[derive(Clone)]
pub struct Inputs<'a> {
    /// Training and held-out tokens.
    pub shards: &'a ShardSet,
    /// Their tokenizer: a file that is copied, not read.
    pub tokenizer: &'a Path,
    /// Token ids that generation needs, for the checkpoints.
    pub ids: GenerationIds,
    /// The program's version.
    pub code_version: &'a str,
    /// Memory that may be used, bytes; `u64::MAX` if unknown.
    pub available_memory: u64,
    /// Memory that the caller needs besides.
    pub other_memory: &'a OtherMemory<'a>,
}

impl Inputs<'_> {
    fn known(&self) -> Known<'_> {
        Known { other_memory: self.other_memory, ..Known::of(self.shards, self.available_memory) }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps are done.
    Finished(Summary),
    /// It was asked to stop and can be resumed.
    Stopped(Summary),
}

impl Outcome {
    /// Where the run is.
    pub fn summary(&self) -> &Summary {
        match self {
            Self::Finished(summary) | Self::Stopped(summary) => summary,
        }
    }
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Loss of the last step, if one was done now.
    pub loss: Option<f64>,
    /// The last evaluation, if one was done now.
    pub eval: Option<EvalRecord>,
    /// Step and value of the lowest held-out loss.
    pub best: Option<(u64, f64)>,
    /// Time spent now.
    pub seconds: f64,
    /// Folder of the last checkpoint.
    pub checkpoint: PathBuf,
}

/// `run.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RunFile {
    format: String,
    version: u32,
    code_version: String,
    backend: String,
    data_hash: String,
    tokenizer_hash: String,
    n_params: u64,
    flops_per_token: f64,
    bytes_per_token: BytesPerToken,
    memory: Vec<MemoryItem>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct BytesPerToken {
    train: Option<f64>,
    held_out: Option<f64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct MemoryItem {
    purpose: String,
    bytes: u64,
}

const FORMAT: &str = "verve-run";
const VERSION: u32 = 1;

/// Begins a run in a folder made by [`RunFolder::create`] and trains until it is done or `stop` is set.
///
/// Settings are resolved and memory is planned before anything large is allocated. A budget in minutes is turned into a
/// number of steps by a measurement, once, and recorded; so a run is the same run however often it is resumed.
///
/// # Errors
/// See [`TrainError`]. Earlier checkpoints are untouched by any of them.
pub fn start<B: Backend, O: Observer<B>>(
    backend: &B,
    folder: &RunFolder,
    config: &RunConfig,
    inputs: &Inputs<'_>,
    stop: &AtomicBool,
    observer: &mut O,
) -> Result<Outcome> {
    let began = Instant::now();
    if folder.join(CONFIG).exists() {
        return Err(TrainError::HoldsRun { path: folder.path().to_owned() });
    }
    let plan = config.resolve(&inputs.known())?;
    check_backend::<B>(&plan)?;
    observer.event(&Event::Planned(&plan));
    prepare(backend, folder, &plan, inputs)?;
    Session::run(Begin { backend, folder, plan, inputs, stop, began, loaded: None }, observer)
}

/// Goes on with the run of a folder from its newest sound checkpoint, bit for bit as if it had never stopped.
///
/// `config` is what is wanted now: the settings of [`RunFolder::config`] with those given now laid over them. What may
/// change: `[run] recompute`, `[sample]`, `[checkpoint]`, `[eval] every`, paths in `[data]` (contents are compared by hash)
/// and the budget in steps or tokens, unless the fall of a warm-up-stable-decay schedule has begun. A resolved schedule is
/// recorded in tokens, so a longer budget does not stretch it: a cosine that has reached its floor stays there.
///
/// # Errors
/// [`TrainError::SettingChanged`]; other data or another tokenizer; [`TrainError::AllCheckpointsBad`]; as [`start`].
pub fn resume<B: Backend, O: Observer<B>>(
    backend: &B,
    folder: &RunFolder,
    config: &RunConfig,
    inputs: &Inputs<'_>,
    stop: &AtomicBool,
    observer: &mut O,
) -> Result<Outcome> {
    let began = Instant::now();
    let known = inputs.known();
    let recorded = RunFolder::config(folder.path())?;
    let plan = changes::accept(&recorded, config, &known)?;
    check_backend::<B>(&plan)?;
    let data: DataManifest = read_json(&folder.join(DATA))?;
    data.check_same(&inputs.shards.data_manifest())?;
    let run: RunFile = read_json(&folder.join(RUN))?;
    check_tokenizer(folder, &run)?;
    observer.event(&Event::Planned(&plan));
    if run.code_version != inputs.code_version {
        let note = format!(
            "the run began with version {}, this is {}: the numbers may differ from those of an uninterrupted run",
            run.code_version, inputs.code_version
        );
        observer.event(&Event::Note(&note));
    }
    let checkpoints = folder.join(CHECKPOINTS);
    let hash = changes::identity_hash(&plan.config)?;
    let loaded = newest_sound(&checkpoints, &plan.model, &hash, &data.hash(), |error| {
        observer.event(&Event::DamagedCheckpoint(error));
    })?;
    let (step, tokens) = loaded.as_ref().map_or((0, 0), |loaded| (loaded.state.step, loaded.state.tokens));
    if let Some(schedule) = &plan.schedule
        && schedule.steps < step
    {
        let problem = format!("the run has done {step} steps already");
        return Err(TrainError::setting("budget", "steps", schedule.steps, problem));
    }
    changes::check_fall(&recorded.resolve(&Known { available_memory: u64::MAX, ..known })?, &plan, tokens)?;
    set_aside(&checkpoints, step)?;
    if plan.config != recorded {
        write_config(folder, &plan.config)?;
    }
    observer.event(&Event::Resumed { step, tokens, checkpoint: loaded.as_ref().map(|loaded| loaded.path.as_path()) });
    Session::run(Begin { backend, folder, plan, inputs, stop, began, loaded }, observer)
}

/// The settings say which numbers a run computes with; the caller chose the backend by them.
fn check_backend<B: Backend>(plan: &RunPlan) -> Result<()> {
    let sizes = plan.config.run.dtype.sizes();
    let found = verve_model::ElementSizes::of::<B>();
    if found == sizes {
        return Ok(());
    }
    let problem = format!(
        "needs numbers of {} and {} bytes, the backend computes with {} and {}",
        sizes.elem, sizes.acc, found.elem, found.acc
    );
    Err(TrainError::setting("run", "dtype", format!("{:?}", plan.config.run.dtype).to_lowercase(), problem))
}

/// Fills a new folder. The settings come last: a folder with them is a run.
fn prepare<B: Backend>(backend: &B, folder: &RunFolder, plan: &RunPlan, inputs: &Inputs<'_>) -> Result<()> {
    let checkpoints = folder.join(CHECKPOINTS);
    std::fs::create_dir_all(&checkpoints).map_err(|e| TrainError::io(&checkpoints, "create", e))?;
    let tokenizer = folder.join(TOKENIZER);
    let same = match (tokenizer.canonicalize(), inputs.tokenizer.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    if !same {
        // Named before it is copied, so that the message is about the file given.
        hash_file(inputs.tokenizer)?;
        copy_synced(inputs.tokenizer, &tokenizer)?;
    }
    let data = inputs.shards.data_manifest();
    write_json(&folder.join(DATA), &data)?;
    let run = RunFile {
        format: FORMAT.to_owned(),
        version: VERSION,
        code_version: inputs.code_version.to_owned(),
        backend: backend.describe(),
        data_hash: data.hash(),
        tokenizer_hash: hash_file(&tokenizer)?.0,
        n_params: plan.n_params as u64,
        flops_per_token: plan.flops_per_token,
        bytes_per_token: BytesPerToken {
            train: inputs.shards.bytes_per_token(Split::Train),
            held_out: inputs.shards.bytes_per_token(Split::HeldOut),
        },
        memory: plan
            .memory
            .items
            .iter()
            .map(|item| MemoryItem { purpose: item.purpose.to_owned(), bytes: item.bytes })
            .collect(),
    };
    write_json(&folder.join(RUN), &run)?;
    write_config(folder, &plan.config)
}

fn write_config(folder: &RunFolder, config: &RunConfig) -> Result<()> {
    write_atomically(&folder.join(CONFIG), config.to_toml()?.as_bytes())
}

fn check_tokenizer(folder: &RunFolder, run: &RunFile) -> Result<()> {
    let path = folder.join(TOKENIZER);
    let (hash, _) = hash_file(&path)?;
    if hash == run.tokenizer_hash {
        return Ok(());
    }
    Err(TrainError::Data {
        problem: format!(
            "{} is not the tokenizer that the run began with: its hash is {hash}, it was {}",
            path.display(),
            run.tokenizer_hash
        ),
    })
}

//! Many prompts as one batch, from a file into a file.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use verve_constrain::Constraint;
use verve_engine::{Collected, Engine, EngineOptions, Request, SamplingParams, Vocabulary};

use super::Setup;
use super::answers::{AnswerFile, Kept};
use super::prompts::{self, AnswerLine};
use super::rules;
use crate::args::{GenerateArgs, MachineArgs};
use crate::device::{Device, OnBackend, on_backend};
use crate::interrupt;
use crate::progress::{Progress, Unit};

/// Tokens of a step: long prompts are read in pieces of this many, whole batches more where there are more sequences.
const MAX_ROWS: usize = 256;

pub fn run(machine: &MachineArgs, setup: Setup, mut params: SamplingParams, args: GenerateArgs) -> Result<()> {
    let (Some(prompts), Some(out)) = (&args.prompts, &args.out) else { bail!("--prompts and --out go together") };
    let lines = prompts::read(prompts)?;
    // Before the work, so that a folder without write permission is not found out after it.
    let (file, kept) = AnswerFile::open(out, &asked(&args, &setup)?, params.seed)?;
    // A seed that was drawn is drawn once, however often the work is begun.
    params.seed = kept.seed;
    let rules = rules::rules(&setup.model);
    let rule = rules::of_args(&rules, &args.rule)?;
    let mut requests = Vec::with_capacity(lines.len());
    for (number, line) in (1..).zip(&lines) {
        let mut request = line.request(setup.model.prompt(&line.prompt), &params, &args.beams);
        let about = || format!("prompt {number} of {}", prompts.display());
        request.constraint = match (&line.json_schema, &line.regex) {
            (Some(_), Some(_)) => bail!("{}: json_schema and regex exclude each other", about()),
            (Some(json), None) => Some(rules.compile(&rules::of_json(json)).with_context(about)?),
            (None, Some(regex)) => Some(rules.compile(&Constraint::Regex(regex.clone())).with_context(about)?),
            (None, None) if request.embed.is_some() => None,
            (None, None) => rule.clone(),
        };
        requests.push(request);
    }
    let cancel = interrupt::watch("stopping after this step; answers that are complete are kept")?;
    let (dtype, batch) = (setup.dtype, args.batch);
    on_backend(machine, dtype, FileJob { setup, requests, out: out.clone(), file, kept, batch, cancel })
}

/// Everything that decides what the answers are, to know whether kept answers belong to this command.
fn asked(args: &GenerateArgs, setup: &Setup) -> Result<String> {
    let path = args.prompts.as_deref().unwrap_or(std::path::Path::new(""));
    let prompts = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let digest = blake3::hash(&prompts).to_hex();
    let GenerateArgs { sampling, beams, logprobs, rule, precision, .. } = args;
    let model = std::fs::canonicalize(&setup.model.path).unwrap_or_else(|_| setup.model.path.clone());
    Ok(format!("{digest} {model:?} {:?} {precision:?} {sampling:?} {beams:?} {logprobs:?} {rule:?}", setup.dtype))
}

struct FileJob {
    setup: Setup,
    requests: Vec<Request>,
    out: PathBuf,
    file: AnswerFile,
    kept: Kept,
    batch: usize,
    cancel: Arc<AtomicBool>,
}

impl OnBackend for FileJob {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let Self { setup, requests, out, mut file, kept, batch, cancel } = self;
        let Some(missing) = requests.get(kept.n_answers..) else {
            bail!("{} holds more answers than there are prompts: delete it", file.part().display())
        };
        if kept.n_answers > 0 {
            eprintln!("{} of {} answers are there already; going on", kept.n_answers, requests.len());
        }
        let options = EngineOptions { max_sequences: batch, max_rows: MAX_ROWS.max(batch), ..EngineOptions::default() };
        let work = Work { requests: missing, n_before: kept.n_answers, cancel: &cancel };
        let done = setup
            .with_engine(&backend, missing, options, |engine, vocabulary| work.run(engine, vocabulary, &mut file))?;
        if done.n_written < missing.len() {
            let n_kept = kept.n_answers + done.n_written;
            file.keep()?;
            bail!(
                "interrupted: {n_kept} of {} answers are kept; the same command goes on with the others",
                requests.len()
            );
        }
        let n_failed = file.finish()?;
        eprintln!("wrote {} answers to {}: {}", requests.len(), out.display(), done.summary);
        if n_failed > 0 {
            bail!(
                "{n_failed} of {} prompts could not be answered; their lines in {} say why",
                requests.len(),
                out.display()
            );
        }
        Ok(())
    }
}

/// What is left to do.
struct Work<'a> {
    requests: &'a [Request],
    /// Answers that were there before.
    n_before: usize,
    cancel: &'a AtomicBool,
}

struct Done {
    n_written: usize,
    summary: String,
}

impl Work<'_> {
    /// Answers all requests and writes each answer as soon as those before it are written.
    fn run<B: Device>(
        &self,
        engine: &mut Engine<'_, B>,
        vocabulary: &Vocabulary,
        file: &mut AnswerFile,
    ) -> Result<Done> {
        let n_all = (self.n_before + self.requests.len()) as u64;
        let mut bar = Progress::new("answers", Unit::Items, n_all);
        let started = Instant::now();
        let mut open: Vec<Option<Collected>> = self.requests.iter().map(|_| Some(Collected::default())).collect();
        let (mut n_over, mut n_written, mut written) = (0, 0, Ok(()));
        let totals = engine.generate(self.requests, self.cancel, &mut |event| {
            let request = event.request();
            let Some(collected) = &mut open[request] else { return ControlFlow::Break(()) };
            collected.take(event);
            if !collected.is_over(self.requests[request].n_ends()) {
                return ControlFlow::Continue(());
            }
            n_over += 1;
            let is_whole = |request: &Request, got: &Collected| got.is_over(request.n_ends()) && !got.is_cancelled();
            while let Some(request) = self.requests.get(n_written)
                && let Some(answer) = open[n_written].take_if(|got| is_whole(request, got))
            {
                let line = AnswerLine::new(vocabulary, request, answer.end());
                if let Err(error) = file.write(&line) {
                    written = Err(error);
                    self.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
                    break;
                }
                n_written += 1;
            }
            bar.at((self.n_before + n_over) as u64, n_all);
            ControlFlow::Continue(())
        })?;
        bar.finish();
        written?;
        let seconds = started.elapsed().as_secs_f64().max(1e-9);
        let mut summary = format!("{} tokens, {:.0} tokens/s", totals.n_generated, totals.n_generated as f64 / seconds);
        for (n, what) in [
            (totals.n_found, "prompt tokens found in the cache"),
            (totals.n_right, "guesses right"),
            (totals.n_preempted, "preempted"),
        ] {
            if n > 0 {
                summary.push_str(&format!(", {n} {what}"));
            }
        }
        Ok(Done { n_written, summary })
    }
}

//! `verve generate`.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use verve_engine::{Engine, EngineOptions, Event, FinishReason, Request, SamplingParams, TokenLogprob, Vocabulary};
use verve_model::formats::FileType;
use verve_ops::quant::ActivationPrecision;

use self::prompts::{Alternative, AnswerLine, PromptLine, TokenLine};
use super::model::{Model, check_memory};
use crate::args::{Dtype, GenerateArgs, MachineArgs, SamplingArgs};
use crate::device::{Device, OnBackend, on_backend};
use crate::progress::{Progress, Unit};
use crate::{interrupt, output};

mod prompts;

/// Tokens of a step: long prompts are read in pieces of this many, whole batches more where there are more sequences.
const MAX_ROWS: usize = 256;

pub fn run(machine: &MachineArgs, args: GenerateArgs) -> Result<()> {
    let params = SamplingParams { n_logprobs: args.logprobs, ..params(&args.sampling) };
    let (Some(prompts), Some(out)) = (args.prompts, args.out) else {
        let (dtype, precision) = (args.dtype, args.precision.precision());
        return one(machine, &args.model, &args.prompt.unwrap_or_default(), params, dtype, precision);
    };
    let lines = prompts::read(&prompts)?;
    let model = Model::open(&args.model)?;
    let request = |line: &PromptLine| Request {
        prompt: model.prompt(&line.prompt),
        params: line.params(&params),
        ..Request::default()
    };
    let requests = lines.iter().map(request).collect();
    let cancel = interrupt::watch("stopping after this step, then writing the answers so far")?;
    let dtype = args.dtype.map_or_else(|| own_dtype(&model), Ok)?;
    let precision = args.precision.precision();
    on_backend(machine, dtype, FileJob { model, precision, requests, out, batch: args.batch, cancel })
}

/// Answers one prompt, streamed to standard output.
pub fn one(
    machine: &MachineArgs,
    model: &Path,
    prompt: &str,
    params: SamplingParams,
    dtype: Option<Dtype>,
    precision: ActivationPrecision,
) -> Result<()> {
    let model = Model::open(model)?;
    let request = Request { prompt: model.prompt(prompt), params, ..Request::default() };
    let cancel = interrupt::watch("stopping")?;
    let dtype = dtype.map_or_else(|| own_dtype(&model), Ok)?;
    on_backend(machine, dtype, PromptJob { model, precision, prompt: prompt.to_owned(), request, cancel })
}

/// The type the weights are stored in.
pub fn own_dtype(model: &Model) -> Result<Dtype> {
    Ok(if model.checkpoint.dtype()? == FileType::Bf16 { Dtype::Bf16 } else { Dtype::F32 })
}

/// Sampling as the flags have it; no log-probabilities.
pub fn params(args: &SamplingArgs) -> SamplingParams {
    let dry_breakers = match &args.dry_breaker[..] {
        [] => SamplingParams::default().dry_breakers,
        texts => texts.to_vec(),
    };
    SamplingParams {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        typical_p: args.typical_p,
        top_n_sigma: args.top_n_sigma,
        mirostat_tau: args.mirostat_tau,
        mirostat_eta: args.mirostat_eta,
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        dry_multiplier: args.dry_multiplier,
        dry_base: args.dry_base,
        dry_allowed_length: args.dry_allowed_length,
        dry_breakers,
        dry_range: args.dry_range,
        logit_bias: args.logit_bias.clone(),
        stop: args.stop.clone(),
        seed: args.seed.unwrap_or_else(drawn_seed),
        max_tokens: args.max_tokens,
        n_logprobs: None,
        ignore_eos: args.ignore_eos,
    }
}

/// A seed that differs from call to call; small enough to be typed again.
fn drawn_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (since.as_nanos() as u64 ^ u64::from(std::process::id())) % 1_000_000_007
}

/// One prompt, streamed to standard output.
struct PromptJob {
    model: Model,
    precision: ActivationPrecision,
    prompt: String,
    request: Request,
    cancel: Arc<AtomicBool>,
}

impl OnBackend for PromptJob {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let Self { model, precision, prompt, request, cancel } = self;
        let config = model.checkpoint.config();
        let seed = request.params.seed;
        let plain = request.params.n_logprobs.is_none();
        let requests = [request];
        let options = EngineOptions::default().for_requests(&requests, config);
        check_memory(&backend, &model, &options)?;
        let weights = model.checkpoint.infer_weights(&backend, precision)?;
        let vocabulary = model.vocabulary();
        let mut engine = Engine::new(&backend, config, weights, &vocabulary, &options)?;

        if plain && std::io::stdout().is_terminal() {
            output::piece(&format!("\x1b[1m{prompt}\x1b[0m"))?;
        }
        let started = Instant::now();
        let mut first = None;
        let (mut ended, mut shown_all) = (None, Ok(()));
        engine.generate(&requests, &cancel, &mut |event| {
            let shown = match event {
                Event::Token { id, text, logprob, alternatives, .. } => {
                    first.get_or_insert_with(|| started.elapsed());
                    match logprob {
                        Some(logprob) => output::line(token_row(&vocabulary, id, logprob, alternatives)),
                        None => output::piece(text),
                    }
                }
                Event::Finished { text, finish, .. } => {
                    let shown = if plain { output::piece(text).and_then(|()| output::line("")) } else { Ok(()) };
                    ended = Some(finish);
                    shown
                }
                Event::Failed { error, .. } => Err(error.into()),
                Event::Prompt { .. } | Event::Embedding { .. } => Ok(()),
            };
            match shown {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    shown_all = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        shown_all?;
        let Some(finish) = ended else { bail!("the engine gave no answer") };
        let first = first.unwrap_or_default().as_secs_f64();
        let rest = started.elapsed().as_secs_f64() - first;
        let rate = finish.n_generated.saturating_sub(1) as f64 / rest.max(1e-9);
        eprintln!(
            "seed {seed} | {} prompt tokens, first token after {first:.2} s | {} tokens, {rate:.0} tokens/s | ended by {}",
            finish.n_prompt,
            finish.n_generated,
            ended_by(finish.reason)
        );
        Ok(())
    }
}

fn ended_by(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "a stop text",
        FinishReason::Length => "length",
        FinishReason::EndOfText => "the model (end of text)",
        FinishReason::Cancelled => "interrupt",
    }
}

/// A token with its probability and what else it might have been.
fn token_row(vocabulary: &Vocabulary, id: u32, logprob: f32, alternatives: &[TokenLogprob]) -> String {
    let mut row = format!("{logprob:>9.4}  {:<20}", piece(vocabulary, id));
    for other in alternatives {
        row.push_str(&format!("  {} {:.4}", piece(vocabulary, other.id), other.logprob));
    }
    row.trim_end().to_owned()
}

fn piece(vocabulary: &Vocabulary, id: u32) -> String {
    match vocabulary.bytes(id) {
        [] => format!("<{id}>"),
        bytes => format!("{:?}", String::from_utf8_lossy(bytes)),
    }
}

/// Many prompts as one batch, from a file into a file.
struct FileJob {
    model: Model,
    precision: ActivationPrecision,
    requests: Vec<Request>,
    out: PathBuf,
    batch: usize,
    cancel: Arc<AtomicBool>,
}

impl OnBackend for FileJob {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let Self { model, precision, requests, out, batch, cancel } = self;
        let config = model.checkpoint.config();
        let options = EngineOptions { max_sequences: batch, max_rows: MAX_ROWS.max(batch), ..EngineOptions::default() }
            .for_requests(&requests, config);
        check_memory(&backend, &model, &options)?;
        // Before the work, so that a folder without write permission is not found out after it.
        let mut file = AnswerFile::create(&out)?;
        let weights = model.checkpoint.infer_weights(&backend, precision)?;
        let vocabulary = model.vocabulary();
        let mut engine = Engine::new(&backend, config, weights, &vocabulary, &options)?;

        let mut answers: Vec<AnswerLine> = requests
            .iter()
            .map(|r| AnswerLine { seed: r.params.seed, prompt_tokens: r.prompt.len(), ..AnswerLine::default() })
            .collect();
        let mut bar = Progress::new("answers", Unit::Items, requests.len() as u64);
        let started = Instant::now();
        let (mut done, mut failed) = (0u64, 0u64);
        let totals = engine.generate(&requests, &cancel, &mut |event| {
            let answer = &mut answers[event.request()];
            answer.text.push_str(event.text());
            match event {
                Event::Prompt { .. } | Event::Embedding { .. } | Event::Token { logprob: None, .. } => {}
                Event::Token { id, logprob: Some(logprob), alternatives, .. } => {
                    answer.logprobs.push(token_line(&vocabulary, id, logprob, alternatives));
                }
                Event::Finished { finish, .. } => {
                    answer.finish(finish);
                    done += 1;
                }
                Event::Failed { error, .. } => {
                    answer.error = Some(error.to_string());
                    failed += 1;
                }
            }
            bar.at(done + failed, requests.len() as u64);
            ControlFlow::Continue(())
        })?;
        bar.finish();
        for answer in &answers {
            file.write(answer)?;
        }
        file.finish()?;
        let seconds = started.elapsed().as_secs_f64();
        eprintln!(
            "wrote {} answers to {}: {} tokens, {:.0} tokens/s",
            answers.len(),
            out.display(),
            totals.n_generated,
            totals.n_generated as f64 / seconds.max(1e-9)
        );
        if failed > 0 {
            bail!(
                "{failed} of {} prompts could not be answered; their lines in {} say why",
                answers.len(),
                out.display()
            );
        }
        Ok(())
    }
}

fn token_line(vocabulary: &Vocabulary, id: u32, logprob: f32, alternatives: &[TokenLogprob]) -> TokenLine {
    let text = |id: u32| String::from_utf8_lossy(vocabulary.bytes(id)).into_owned();
    let top = alternatives.iter().map(|a| Alternative { id: a.id, token: text(a.id), logprob: a.logprob }).collect();
    TokenLine { id, token: text(id), logprob, top }
}

/// The answers, under a temporary name until they are complete.
struct AnswerFile {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
}

impl AnswerFile {
    fn create(path: &Path) -> Result<Self> {
        let Some(name) = path.file_name() else { bail!("--out {} is no file name", path.display()) };
        let mut part = name.to_owned();
        part.push(".part");
        let part = path.with_file_name(part);
        let file = File::create(&part).with_context(|| format!("cannot write {}", part.display()))?;
        Ok(Self { path: path.to_owned(), part, file: BufWriter::new(file) })
    }

    fn write(&mut self, answer: &AnswerLine) -> Result<()> {
        let about = || format!("cannot write {}", self.part.display());
        serde_json::to_writer(&mut self.file, answer).with_context(about)?;
        self.file.write_all(b"\n").with_context(about)
    }

    fn finish(self) -> Result<()> {
        let Self { path, part, file } = self;
        let about = || format!("cannot write {}", path.display());
        let file = file.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(about)?;
        file.sync_all().with_context(about)?;
        std::fs::rename(&part, &path).with_context(about)
    }
}

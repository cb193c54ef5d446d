//! One prompt, streamed to standard output.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Result, bail};
use verve_engine::{Engine, EngineOptions, Event, FinishReason, Request, TokenLogprob, Vocabulary};

use super::Setup;
use crate::device::{Device, OnBackend};
use crate::output;

/// One prompt, streamed to standard output.
pub struct PromptJob {
    pub setup: Setup,
    pub prompt: String,
    pub request: Request,
    pub cancel: Arc<AtomicBool>,
}

impl OnBackend for PromptJob {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let Self { setup, prompt, request, cancel } = self;
        let requests = [request];
        setup.with_engine(&backend, &requests, EngineOptions::default(), |engine, vocabulary| {
            stream(engine, vocabulary, &prompt, &requests, &cancel)
        })
    }
}

fn stream<B: Device>(
    engine: &mut Engine<'_, B>,
    vocabulary: &Vocabulary,
    prompt: &str,
    requests: &[Request; 1],
    cancel: &AtomicBool,
) -> Result<()> {
    let params = &requests[0].params;
    let plain = params.n_logprobs.is_none();
    if plain && std::io::stdout().is_terminal() {
        output::piece(&format!("\x1b[1m{prompt}\x1b[0m"))?;
    }
    let started = Instant::now();
    let mut first = None;
    let (mut ended, mut shown_all) = (None, Ok(()));
    let totals = engine.generate(requests, cancel, &mut |event| {
        let shown = match event {
            Event::Token { id, text, logprob, alternatives, .. } => {
                first.get_or_insert_with(|| started.elapsed());
                match logprob {
                    Some(logprob) => output::line(token_row(vocabulary, id, logprob, alternatives)),
                    None => output::piece(text),
                }
            }
            Event::Finished { choice, text, finish, .. } => {
                let shown = if plain { output::piece(text).and_then(|()| output::line("")) } else { Ok(()) };
                if let Some(score) = finish.score {
                    let (n, by) = (finish.n_generated, ended_by(finish.reason));
                    eprintln!("answer {} | score {score:.4} | {n} tokens | ended by {by}", choice + 1);
                }
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
    if let Some(beams) = requests[0].beams {
        let (seconds, n_prompt) = (started.elapsed().as_secs_f64(), finish.n_prompt);
        let (rows, steps) = (totals.rows, totals.steps);
        eprintln!(
            "{} beams | {n_prompt} prompt tokens | {rows} tokens computed in {steps} steps, {seconds:.2} s",
            beams.width
        );
        return Ok(());
    }
    let first = first.unwrap_or_default().as_secs_f64();
    let rest = started.elapsed().as_secs_f64() - first;
    let rate = finish.n_generated.saturating_sub(1) as f64 / rest.max(1e-9);
    let guesses = match totals.n_guessed {
        0 => String::new(),
        n => format!(" | {} of {n} guesses right", totals.n_right),
    };
    eprintln!(
        "seed {} | {} prompt tokens, first token after {first:.2} s | {} tokens, {rate:.0} tokens/s{guesses} | ended by {}",
        params.seed,
        finish.n_prompt,
        finish.n_generated,
        ended_by(finish.reason)
    );
    Ok(())
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

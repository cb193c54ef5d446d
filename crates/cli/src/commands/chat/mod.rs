//! `verve chat`.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::{Map, Value};
use verve_chat::{ChatFormat, ChatInput, Encoded, Message, Role};
use verve_engine::{Engine, EngineError, EngineOptions, Event, Finish, FinishReason, Request, SamplingParams};
use verve_tokenizer::Tokenizer;

use self::input::{HELP, Input, Lines};
use self::template::chat_format;
use super::generate::{own_dtype, params};
use super::model::{Model, check_memory};
use crate::args::{ChatArgs, MachineArgs, Precision};
use crate::device::{Device, OnBackend, kv_format, on_backend};
use crate::{interrupt, output};

mod input;
pub mod template;

/// Tokens of a conversation that there is room for unless more is asked for.
const DEFAULT_CONTEXT: usize = 4096;

pub fn run(machine: &MachineArgs, args: ChatArgs) -> Result<()> {
    let model = Model::open(&args.model)?;
    let format = chat_format(&model, args.template.as_deref())?;
    for warning in &format.warnings {
        eprintln!("warning: {warning}");
    }
    if args.system.is_some() && !format.template.abilities().system {
        eprintln!("warning: the chat template does not show system messages");
    }
    let n_ctx = model.checkpoint.config().n_ctx;
    let context = args.context.unwrap_or(DEFAULT_CONTEXT).min(n_ctx);
    if let Some(asked) = args.context.filter(|asked| *asked > n_ctx) {
        eprintln!("warning: --context {asked} is more than the model was trained for; it is {n_ctx}");
    }
    let mut params = params(&args.sampling);
    params.stop.extend(format.stop.clone());
    let lines = Lines::new(args.message)?;
    let conversation = Conversation {
        system: args.system,
        messages: Vec::new(),
        variables: args.variable.into_iter().collect(),
        params,
        context,
        n_ctx,
        show_prompt: args.show_prompt,
    };
    if args.no_answer {
        return show_only(&model, &format, conversation, lines);
    }
    let dtype = args.dtype.map_or_else(|| own_dtype(&model.checkpoint), Ok)?;
    let precision = args.precision.precision();
    on_backend(machine, dtype, ChatJob { model, precision, format, conversation, lines })
}

/// What was said, and how to go on.
struct Conversation {
    system: Option<String>,
    messages: Vec<Message>,
    variables: Map<String, Value>,
    params: SamplingParams,
    context: usize,
    n_ctx: usize,
    show_prompt: bool,
}

impl Conversation {
    /// Instructions and everything that was said.
    fn all(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new(Role::System, text.as_str()));
        system.chain(self.messages.iter().cloned()).collect()
    }

    fn encode(&self, format: &ChatFormat, tokenizer: &Tokenizer) -> Result<Encoded> {
        let messages = self.all();
        let input = ChatInput { variables: Some(&self.variables), ..ChatInput::new(&messages) };
        let encoded = format.encode(tokenizer, &input)?;
        if self.show_prompt {
            show(&encoded)?;
        }
        Ok(encoded)
    }

    /// Does what is no message. Returns false at the end.
    fn command(&mut self, input: Input, format: &ChatFormat) -> Result<bool> {
        match input {
            Input::Quit => return Ok(false),
            Input::Help => eprintln!("{HELP}"),
            Input::Reset => {
                self.messages.clear();
                eprintln!("(the conversation starts anew)");
            }
            Input::System(text) => {
                if !text.is_empty() && !format.template.abilities().system {
                    eprintln!("warning: the chat template does not show system messages");
                }
                eprintln!("({})", if text.is_empty() { "no instructions" } else { "instructions set" });
                self.system = (!text.is_empty()).then_some(text);
            }
            Input::Save(path) => match template::save(Path::new(&path), &self.all()) {
                Ok(()) => eprintln!("(saved as {path})"),
                Err(error) => eprintln!("{}", output::message(&error)),
            },
            Input::Unknown(line) => eprintln!("{line:?} is no command; /help lists them, //text is a message"),
            Input::Message(_) => {}
        }
        Ok(true)
    }
}

/// Prints what the model reads.
fn show(encoded: &Encoded) -> Result<()> {
    let ids: Vec<String> = encoded.ids.iter().map(u32::to_string).collect();
    output::line(format!("--- prompt, {} tokens", ids.len()))?;
    output::line(&encoded.text)?;
    output::line(format!("--- ids\n{}\n---", ids.join(" ")))
}

/// Shows prompts and answers nothing.
fn show_only(model: &Model, format: &ChatFormat, mut conversation: Conversation, mut lines: Lines) -> Result<()> {
    loop {
        match lines.next()? {
            Input::Message(text) => {
                conversation.messages = vec![Message::new(Role::User, text)];
                conversation.encode(format, &model.tokenizer)?;
            }
            other => {
                if !conversation.command(other, format)? {
                    return Ok(());
                }
            }
        }
    }
}

struct ChatJob {
    model: Model,
    precision: Precision,
    format: ChatFormat,
    conversation: Conversation,
    lines: Lines,
}

impl OnBackend for ChatJob {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let Self { model, precision, format, mut conversation, mut lines } = self;
        let config = model.checkpoint.config();
        let context = conversation.context;
        let options = EngineOptions {
            max_sequences: 1,
            max_context: Some(context),
            kv_format: kv_format::<B>(precision.kv, &model.checkpoint)?,
            ..EngineOptions::default()
        };
        check_memory(&backend, &model, &options)?;
        let weights = model.checkpoint.infer_weights(&backend, precision.activations)?;
        let vocabulary = model.vocabulary_with_end(format.end_of_turn);
        let mut engine = Engine::new(&backend, config, weights, &vocabulary, &options)?;
        eprintln!("seed {}, context {context} tokens", conversation.params.seed);
        if lines.is_terminal() {
            eprintln!("/help lists commands");
        }
        let mut failed = 0_usize;
        loop {
            let text = match lines.next()? {
                Input::Message(text) => text,
                other => {
                    if conversation.command(other, &format)? {
                        continue;
                    }
                    break;
                }
            };
            conversation.messages.push(Message::new(Role::User, text));
            let request =
                conversation.encode(&format, &model.tokenizer).and_then(|prompt| conversation.request(prompt));
            match request.and_then(|request| answer(&mut engine, request)) {
                Ok(text) => {
                    conversation.messages.push(Message::new(Role::Assistant, text));
                    conversation.params.seed = conversation.params.seed.wrapping_add(1);
                }
                Err(error) if output::is_broken_pipe(&error) => return Err(error),
                Err(error) => {
                    conversation.messages.pop();
                    failed += 1;
                    eprintln!("verve: {}", output::message(&error));
                }
            }
        }
        // A person has seen it; a script must not take it for an answer.
        if failed > 0 && !lines.is_terminal() {
            bail!("{failed} message(s) could not be answered");
        }
        Ok(())
    }
}

impl Conversation {
    /// Checks that there is room for an answer. Nothing is ever cut.
    fn request(&self, prompt: Encoded) -> Result<Request> {
        let (n, context) = (prompt.ids.len(), self.context);
        if n >= context {
            let more = if context < self.n_ctx {
                format!(", --context {} makes room", (n + 512).next_multiple_of(512).min(self.n_ctx))
            } else {
                String::new()
            };
            bail!(
                "the conversation has {n} tokens with this message and the context holds {context}: the message was not sent; \
                 say it in fewer words or /reset{more}"
            );
        }
        Ok(Request { prompt: prompt.ids, params: self.params.clone(), ..Request::default() })
    }
}

/// Streams one answer to standard output and returns it.
fn answer<B: Device>(engine: &mut Engine<'_, B>, request: Request) -> Result<String> {
    let max_tokens = request.params.max_tokens;
    let cancel = interrupt::watch("stopping this answer")?;
    let started = Instant::now();
    let mut first = None;
    let mut text = String::new();
    let mut ended: Option<Result<Finish, EngineError>> = None;
    let mut shown = Ok(());
    let n_ctx = engine.n_ctx();
    engine.generate(&[request], &cancel, &mut |event| {
        let piece = event.text();
        text.push_str(piece);
        shown = if piece.is_empty() { Ok(()) } else { output::piece(piece) };
        match event {
            Event::Token { .. } => {
                first.get_or_insert_with(|| started.elapsed());
            }
            Event::Finished { finish, .. } => ended = Some(Ok(finish)),
            Event::Failed { error, .. } => ended = Some(Err(error)),
            Event::Prompt { .. } | Event::Embedding { .. } => {}
        }
        if shown.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    shown?;
    output::line("")?;
    let Some(finish) = ended else { bail!("the engine gave no answer") };
    let finish = finish?;
    if finish.reason == FinishReason::Length {
        let why = if finish.n_generated >= max_tokens { "--max-tokens" } else { "the context is full; /reset" };
        eprintln!("(cut after {} tokens of the answer: {why})", finish.n_generated);
    }
    if finish.n_prompt + finish.n_generated > n_ctx / 10 * 9 && finish.reason != FinishReason::Length {
        eprintln!("({} of {n_ctx} tokens of the context are used)", finish.n_prompt + finish.n_generated);
    }
    if std::io::stderr().is_terminal() {
        let first = first.unwrap_or_default().as_secs_f64();
        let rate = finish.n_generated.saturating_sub(1) as f64 / (started.elapsed().as_secs_f64() - first).max(1e-9);
        eprintln!(
            "\x1b[2m{} prompt tokens, first token after {first:.2} s, {} tokens, {rate:.0} tokens/s\x1b[0m",
            finish.n_prompt, finish.n_generated
        );
    }
    Ok(text)
}

//! A chat template, ready to render.

use std::io::{self, Write};
use std::sync::OnceLock;

use minijinja::value::Value as TemplateValue;
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::error::ChatError;
use crate::guard::{Guard, Prompt};
use crate::message::Message;
use crate::probe::{self, Abilities};
use crate::python::{self, Raised};
use crate::source;

/// What a template may take. The defaults are far above what real templates and long conversations need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest source, bytes.
    pub source_bytes: usize,
    /// Longest rendered text, bytes, beyond what it is given.
    pub output_bytes: usize,
    /// Work: about one unit an operation and one for 64 bytes of text that is made or looked at. What a request holds adds
    /// to it.
    pub fuel: u64,
    /// Deepest nesting of macros.
    pub recursion: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { source_bytes: 1 << 18, output_bytes: 1 << 20, fuel: 200_000, recursion: 100 }
    }
}

/// Whether the rendered text ends where the model is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// With the start of an assistant message (`add_generation_prompt`): for an answer.
    #[default]
    GenerationPrompt,
    /// After the last message.
    Closed,
}

/// What is rendered.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChatInput<'a> {
    /// The conversation.
    pub messages: &'a [Message],
    /// Functions that the model may call, as the OpenAI API has them: `{"type": "function", "function": {...}}`.
    pub tools: Option<&'a [Value]>,
    /// How the text ends.
    pub ending: Ending,
    /// Further variables, such as `enable_thinking`. They win over everything else of the same name.
    pub variables: Option<&'a Map<String, Value>>,
}

impl<'a> ChatInput<'a> {
    /// These messages, for an answer.
    pub fn new(messages: &'a [Message]) -> Self {
        Self { messages, ..Self::default() }
    }
}

/// Texts of the tokens that templates write by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTexts {
    /// `bos_token`: starts a text.
    pub bos: Option<String>,
    /// `eos_token`: ends a text or a turn.
    pub eos: Option<String>,
    /// `unk_token`.
    pub unk: Option<String>,
    /// `pad_token`.
    pub pad: Option<String>,
}

/// A chat template with the texts of the special tokens it names.
///
/// The text that it renders is the one that transformers' `apply_chat_template` renders, byte for byte: Jinja2's rules
/// for white space, Python's methods and its ways to write values, `tojson` as `json.dumps` without escaping,
/// `raise_exception`, `strftime_now`, loop controls, and the `generation` tag.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    specials: SpecialTexts,
    limits: Limits,
    abilities: OnceLock<Abilities>,
}

/// The name of the one template in its environment.
const NAME: &str = "chat template";

impl ChatTemplate {
    /// Checks and prepares a template.
    ///
    /// # Errors
    /// [`ChatError::SourceTooLong`], [`ChatError::Malformed`].
    pub fn new(source: &str, specials: SpecialTexts) -> Result<Self, ChatError> {
        Self::with(source, specials, Limits::default(), Clock::Local)
    }

    /// Checks and prepares a template with other limits or another clock.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(source: &str, specials: SpecialTexts, limits: Limits, clock: Clock) -> Result<Self, ChatError> {
        if source.len() > limits.source_bytes {
            return Err(ChatError::SourceTooLong { found: source.len(), limit: limits.source_bytes });
        }
        let lines = source::unix_lines(source);
        let metered = source::prepare(&lines).map_err(|line| ChatError::Malformed {
            line,
            message: "more tags, or more in one tag, than a chat template may have".to_owned(),
        })?;
        let env = on_own_stack(|| {
            let mut env = python::environment(&limits, clock).map_err(|error| explain(&error, limits))?;
            env.add_template_owned(NAME, metered).map_err(|error| explain(&error, limits))?;
            Ok(env)
        })?;
        Ok(Self { env, source: source.to_owned(), specials, limits, abilities: OnceLock::new() })
    }

    /// The template as its makers wrote it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The texts of the special tokens.
    pub fn specials(&self) -> &SpecialTexts {
        &self.specials
    }

    /// What the template can do with messages, found by rendering short ones.
    pub fn abilities(&self) -> &Abilities {
        self.abilities.get_or_init(|| probe::abilities(self))
    }

    /// The exact text of a conversation.
    ///
    /// # Errors
    /// No messages; a template that refuses them, fails, or takes more than its [`Limits`].
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, ChatError> {
        self.render_guarded(input, &Guard::default()).map(|prompt| prompt.text)
    }

    /// The exact text of a conversation, with the places of special tokens that the messages wrote out, so that they can be
    /// encoded as the plain text they are. See [`Guard`].
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_guarded(&self, input: &ChatInput<'_>, guard: &Guard) -> Result<Prompt, ChatError> {
        if input.messages.is_empty() {
            return Err(ChatError::NoMessages);
        }
        let messages = probe::adapt(input.messages, self.abilities());
        let text = self.render_json(&messages, input, guard)?;
        Ok(guard.unmark(text))
    }

    /// Renders messages as they stand.
    pub(crate) fn render_json(
        &self,
        messages: &[Value],
        input: &ChatInput<'_>,
        guard: &Guard,
    ) -> Result<String, ChatError> {
        let mut size = 0;
        let mut context: Vec<(String, TemplateValue)> = Vec::new();
        let mut put = |name: &str, value: TemplateValue| context.push((name.to_owned(), value));
        for (name, text) in [
            ("bos_token", &self.specials.bos),
            ("eos_token", &self.specials.eos),
            ("unk_token", &self.specials.unk),
            ("pad_token", &self.specials.pad),
        ] {
            if let Some(text) = text {
                put(name, python::shared(text));
            }
        }
        let list = |values: &[Value], size: &mut usize| {
            values.iter().map(|value| to_template(value, guard, size)).collect::<TemplateValue>()
        };
        put("messages", list(messages, &mut size));
        put("tools", input.tools.map_or(TemplateValue::from(()), |tools| list(tools, &mut size)));
        put("documents", TemplateValue::from(()));
        put("add_generation_prompt", TemplateValue::from(input.ending == Ending::GenerationPrompt));
        for (name, value) in input.variables.into_iter().flatten() {
            put(name, to_template(value, guard, &mut size));
        }
        self.run(TemplateValue::from_pairs(context), size)
    }

    fn run(&self, context: TemplateValue, input_size: usize) -> Result<String, ChatError> {
        // Long conversations may take more work and more room than short ones.
        let fuel = self.limits.fuel.saturating_add(input_size as u64 * 8);
        let output_bytes = self.limits.output_bytes.saturating_add(input_size.saturating_mul(8));
        let limits = Limits { fuel, output_bytes, ..self.limits };
        let mut env = self.env.clone();
        env.set_fuel(Some(fuel));
        let out = on_own_stack(move || {
            let template = env.get_template(NAME).map_err(|error| explain(&error, limits))?;
            let mut out = Bounded { bytes: Vec::new(), limit: output_bytes };
            template.render_captured_to(context, &mut out).map_err(|error| explain(&error, limits))?;
            Ok(out)
        })?;
        // The engine writes whole strings.
        Ok(String::from_utf8(out.bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

/// Bytes of stack for the engine, whose parser and values recurse. Only what is used of it is ever taken.
const STACK: usize = 64 << 20;

/// Runs the engine on a stack that is large enough for everything that the limits let through, whoever calls.
fn on_own_stack<T: Send>(work: impl FnOnce() -> Result<T, ChatError> + Send) -> Result<T, ChatError> {
    let failed = |message: String| ChatError::Failed { line: 1, message };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".to_owned()).stack_size(STACK);
        let thread =
            thread.spawn_scoped(scope, work).map_err(|error| failed(format!("no thread to run it: {error}")))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(failed("the template engine has a fault; please report the template".to_owned())))
    })
}

/// Takes bytes up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

/// What a full [`Bounded`] answers.
#[derive(Debug, thiserror::Error)]
#[error("too long")]
struct Full;

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(io::Error::other(Full));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// JSON as a template value, guarded; adds the size of what it holds.
fn to_template(value: &Value, guard: &Guard, size: &mut usize) -> TemplateValue {
    *size += 16;
    match value {
        Value::Null => TemplateValue::from(()),
        Value::Bool(b) => TemplateValue::from(*b),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), _, _) => TemplateValue::from(n),
            (None, Some(n), _) => TemplateValue::from(n),
            (None, None, x) => TemplateValue::from(x.unwrap_or(f64::NAN)),
        },
        Value::String(text) => {
            *size += text.len();
            python::shared(&guard.mark(text))
        }
        Value::Array(items) => items.iter().map(|item| to_template(item, guard, size)).collect(),
        Value::Object(map) => TemplateValue::from_pairs(
            map.iter().map(|(key, value)| (python::shared(key), to_template(value, guard, size))),
        ),
    }
}

/// An error of the engine as one of ours.
fn explain(error: &Error, limits: Limits) -> ChatError {
    // The engine wraps errors from inside of blocks and macros: the innermost of its own says most.
    let mut inner = error;
    let mut raised = None;
    let mut full = false;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(next) = cause {
        if let Some(own) = next.downcast_ref::<Error>() {
            inner = own;
        }
        if let Some(Raised(message)) = next.downcast_ref::<Raised>() {
            raised = Some(message.clone());
        }
        if let Some(io) = next.downcast_ref::<io::Error>() {
            full |= io.get_ref().is_some_and(|inner| inner.is::<Full>());
        }
        cause = next.source();
    }
    let line = inner.line().or(error.line()).unwrap_or(1);
    let message = match inner.detail() {
        Some(detail) => format!("{}: {detail}", inner.kind()),
        None => inner.kind().to_string(),
    };
    if full {
        return ChatError::OutputTooLong { limit: limits.output_bytes };
    }
    if let Some(message) = raised {
        return ChatError::Refused { line, message };
    }
    match inner.kind() {
        ErrorKind::SyntaxError => {
            ChatError::Malformed { line, message: inner.detail().unwrap_or("syntax error").to_owned() }
        }
        ErrorKind::OutOfFuel => ChatError::TooMuchWork { line },
        _ => ChatError::Failed { line, message },
    }
}

//! From messages to a request for the engine, for the endpoints that converse.

use std::sync::Arc;

use serde_json::{Map, Value};
use verve_chat::{ChatInput, Ending, Message, Role};
use verve_constrain::Constraint;
use verve_engine::{Request, SamplingParams};
use verve_tokenizer::SpecialTokens;

use crate::api::{check_fits, compile};
use crate::error::ApiError;
use crate::models::Loaded;
use crate::sampling::SamplingFields;
use crate::tools::{self, CallForm, CallScanner, Tool, ToolChoice, without_tools};

/// Tokens of an answer that are held against a key's limits where the request names no number; the rest of the context would
/// be over many limits by itself. What the answer really takes counts in the end.
const UNSTATED_TOKENS: usize = 1024;

/// What is asked.
#[derive(Debug, Default)]
pub struct Conversation {
    /// What was said.
    pub messages: Vec<Message>,
    /// Functions that may be called.
    pub tools: Vec<Tool>,
    /// Whether they are to be.
    pub choice: ToolChoice,
    /// The constraint that the response format puts on the answer, with its field's name.
    pub format: Option<(Constraint, &'static str)>,
    /// How the answer is chosen.
    pub sampling: SamplingFields,
    /// Most tokens of the answer; `None` for what the context holds.
    pub max_tokens: Option<usize>,
    /// Likeliest tokens reported.
    pub n_logprobs: Option<usize>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
    /// On whose behalf.
    pub client: u64,
}

/// A conversation as the model reads it.
#[derive(Debug)]
pub struct Rendered {
    /// The exact text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

/// A conversation ready for the engine.
pub struct Ready {
    /// For the engine.
    pub request: Request,
    /// How calls are found in the answers; `None` where there are no functions.
    pub calls: Option<CallReader>,
    /// Answers wanted.
    pub n: usize,
    /// Tokens that one answer is expected to take at most, for limits.
    pub expected_tokens: usize,
    /// What the messages say, for filters.
    pub said: String,
}

/// How calls are found in answers.
#[derive(Debug, Clone)]
pub struct CallReader {
    form: CallForm,
    tools: Vec<Tool>,
    /// Whether the prompt has opened a call.
    inside: bool,
}

impl CallReader {
    /// For one answer.
    pub fn scanner(&self) -> CallScanner {
        CallScanner::new(self.form, &self.tools, self.inside)
    }
}

/// Messages as the model reads them.
///
/// # Errors
/// 400 for a model that does not converse, or messages that its template refuses.
pub fn render(
    model: &Loaded,
    messages: Vec<Message>,
    tools: &[Tool],
    ending: Ending,
    variables: &Map<String, Value>,
) -> Result<Rendered, ApiError> {
    let Some(format) = &model.chat else {
        let message = format!(
            "The model {:?} has no chat template: it was not trained to converse. Use /v1/completions, or start the server \
             with --template.",
            model.name
        );
        return Err(ApiError::invalid("model", message));
    };
    let abilities = format.template_for(!tools.is_empty()).abilities();
    let knows_tools = abilities.tools && (tools.is_empty() || abilities.tool_calls.is_some());
    let messages = if knows_tools { messages } else { without_tools(messages, tools, abilities.system) };
    let listed: Vec<Value> = tools.iter().map(|tool| tool.json.clone()).collect();
    let input = ChatInput {
        messages: &messages,
        tools: (knows_tools && !listed.is_empty()).then_some(&listed),
        ending,
        variables: Some(variables),
    };
    let encoded = format.encode(&model.tokenizer, &input)?;
    Ok(Rendered { text: encoded.text, ids: encoded.ids })
}

/// Everything that a request puts before the model, for filters: texts, calls, and what there is to call.
fn said(messages: &[Message], tools: &[Tool], variables: &Map<String, Value>) -> String {
    let mut texts = Vec::new();
    for message in messages {
        texts.push(message.text());
        for call in message.tool_calls.iter().flatten() {
            texts.push(call.function.name.clone());
            texts.push(match &call.function.arguments {
                // Written anew, without what JSON can hide characters behind.
                Value::String(text) => {
                    serde_json::from_str(text).map_or_else(|_| text.clone(), |json: Value| json.to_string())
                }
                other => other.to_string(),
            });
        }
    }
    texts.extend(tools.iter().map(|tool| tool.json.to_string()));
    texts.extend(variables.values().map(Value::to_string));
    texts.join("\n")
}

/// Refuses messages that lack what the public API asks of their role.
fn check_messages(messages: &[Message]) -> Result<(), ApiError> {
    for (at, message) in messages.iter().enumerate() {
        let lacks = |field: &str, what: &str| {
            let param = format!("messages[{at}].{field}");
            Err(ApiError::invalid(param.clone(), format!("{param}: {what}")))
        };
        match message.role {
            Role::Tool if message.tool_call_id.is_none() => {
                return lacks("tool_call_id", "missing; a tool message says which call it answers");
            }
            Role::Assistant if message.tool_calls.is_some() => {}
            role if message.content.is_none() => {
                return lacks("content", &format!("missing; a {role} message has a text"));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Conversation {
    /// Ready for the engine.
    ///
    /// # Errors
    /// Whatever is wrong with the request.
    pub fn prepare(self, model: &Arc<Loaded>) -> Result<Ready, ApiError> {
        let Self { messages, tools, choice, format, sampling, max_tokens, n_logprobs, variables, client } = self;
        if messages.is_empty() {
            return Err(ApiError::invalid("messages", "messages is empty: at least one message is needed"));
        }
        check_messages(&messages)?;
        let said = said(&messages, &tools, &variables);
        let tools = if choice == ToolChoice::None { Vec::new() } else { tools };
        let mut rendered = render(model, messages, &tools, Ending::GenerationPrompt, &variables)?;
        let form = model.chat.as_ref().map_or(CallForm::Tagged, tools::form);
        let must_call: Vec<&Tool> = match &choice {
            ToolChoice::Required => tools.iter().collect(),
            ToolChoice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
            ToolChoice::None | ToolChoice::Auto => Vec::new(),
        };
        let own = sampling.constraint()?;
        let constraint = match (&format, &own) {
            (Some((_, a)), Some((_, b))) => {
                return Err(ApiError::invalid(*b, format!("{a} and {b} exclude each other: give one of them")));
            }
            (Some(_), None) => format,
            (None, _) => own,
        };
        let constraint = if must_call.is_empty() {
            compile(model, constraint)?
        } else {
            if !form.opening().is_empty() {
                rendered.ids.extend(model.tokenizer.encode_with(form.opening(), SpecialTokens::Parse));
                rendered.text.push_str(form.opening());
            }
            compile(model, Some((Constraint::JsonSchema(form.schema(&must_call)), "tools")))?
        };
        let n_prompt = rendered.ids.len();
        check_fits(model, n_prompt, max_tokens, "messages")?;
        if n_prompt == model.n_ctx {
            return Err(ApiError::too_long(
                "messages",
                format!("The messages fill the model's context of {n_prompt} tokens: there is no room for an answer."),
            ));
        }
        let room = model.n_ctx - n_prompt;
        let expected_tokens = max_tokens.unwrap_or(room.min(UNSTATED_TOKENS));
        let max_tokens = max_tokens.unwrap_or(room);
        let mut params = SamplingParams { n_logprobs, ..sampling.params(max_tokens)? };
        params.stop.extend(model.chat.as_ref().and_then(|chat| chat.stop.clone()));
        let n = sampling.n()?;
        let inside = !must_call.is_empty();
        let request = Request { prompt: rendered.ids, params, n, constraint, client, ..Request::default() };
        let calls = (!tools.is_empty()).then(|| CallReader { form, tools, inside });
        Ok(Ready { request, calls, n, expected_tokens, said })
    }
}

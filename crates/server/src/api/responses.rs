//! `POST /v1/responses` and what was kept of them.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request as HttpRequest, State};
use axum::response::Response;
use serde_json::{Map, Value, json};
use verve_access::Scope;
use verve_chat::{Content, FunctionCall, Message, Part, Role, ToolCall};

use super::{StreamOptions, blocking, open};
use crate::access::Caller;
use crate::answer::{Whole, collect, json as respond};
use crate::app::App;
use crate::conversation::{CallReader, Conversation};
use crate::error::ApiError;
use crate::filter::check_input;
use crate::format;
use crate::generation::{EndReason, Generation, Update};
use crate::models::Loaded;
use crate::parse::{fields, kind, only_known, request};
use crate::pieces::ContentToken;
use crate::sampling::SamplingFields;
use crate::sse::{Events, Padding, Shape, stream};
use crate::stored::Stored;
use crate::tools::{self, Call, CallScanner, Piece};
use crate::track::{Track, Usage};

/// Fewest tokens that may be asked for, as in the public API.
const MIN_TOKENS: usize = 16;
/// Most likeliest tokens shown.
const MAX_TOP_LOGPROBS: usize = 20;

request! {
    /// The fields of this endpoint, those of [`SamplingFields`] aside.
    pub struct ResponseFields {
        /// Which model.
        pub model: String,
        /// A text, or a list of messages, calls and results of calls.
        pub input: Value,
        /// A system message in front.
        pub instructions: String,
        /// Most tokens of the answer.
        pub max_output_tokens: usize,
        /// What this goes on from, if responses are kept.
        pub previous_response_id: String,
        /// Whether this response is kept.
        pub store: bool,
        /// Whether the answer is streamed.
        pub stream: bool,
        /// How.
        pub stream_options: StreamOptions,
        /// Functions that may be called.
        pub tools: Value,
        /// Whether they are to be.
        pub tool_choice: Value,
        /// Whether several may be called at once.
        pub parallel_tool_calls: bool,
        /// `format`: what the answer must look like.
        pub text: Value,
        /// `disabled`: nothing is ever cut.
        pub truncation: String,
        /// `message.output_text.logprobs` for log-probabilities.
        pub include: Vec<String>,
        /// And those of the likeliest tokens.
        pub top_logprobs: usize,
        /// Comes back as it was.
        pub metadata: Value,
        /// Not done here.
        pub background: bool,
        /// Without effect.
        pub service_tier: String,
        /// Without effect.
        pub reasoning: Value,
        /// Without effect.
        pub safety_identifier: String,
        /// Without effect.
        pub prompt_cache_key: String,
        /// Without effect.
        pub prompt_cache_retention: String,
        /// Variables for the chat template.
        pub chat_template_kwargs: Map<String, Value>,
    }
}

/// A request ready for the engine, and how its answer is shown.
struct Prepared {
    request: verve_engine::Request,
    view: View,
    stream: bool,
    /// Tokens that the answer is expected to take at most, for limits.
    expected_tokens: usize,
    /// What the messages say, for filters.
    said: String,
}

/// How the response is shown.
struct View {
    id: String,
    created: u64,
    model: Arc<Loaded>,
    /// Fields that come back as they were asked for.
    asked: Value,
    n_top: Option<usize>,
    calls: Option<CallReader>,
    /// What is kept, if it is.
    keep: Option<Keep>,
    padding: Padding,
}

struct Keep {
    messages: Vec<Message>,
    input: Value,
}

/// One item of the input as a message.
fn message(at: usize, item: &Value) -> Result<Message, ApiError> {
    let wrong = |problem: String| ApiError::invalid(format!("input[{at}]"), format!("input[{at}]: {problem}"));
    let text = |field: &str| item.get(field).and_then(Value::as_str).map(str::to_owned);
    match item.get("type").and_then(Value::as_str) {
        Some("function_call") => {
            let name = text("name").ok_or_else(|| wrong("a function_call has a name".to_owned()))?;
            let arguments = Value::String(text("arguments").unwrap_or_default());
            let call = ToolCall {
                id: text("call_id"),
                kind: "function".to_owned(),
                function: FunctionCall { name, arguments },
            };
            let mut message = Message::new(Role::Assistant, "");
            (message.content, message.tool_calls) = (None, Some(vec![call]));
            Ok(message)
        }
        Some("function_call_output") => {
            let output = match item.get("output") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(parts)) => joined(parts),
                _ => return Err(wrong("a function_call_output has an output".to_owned())),
            };
            let mut message = Message::new(Role::Tool, output);
            message.tool_call_id = text("call_id");
            Ok(message)
        }
        // What a model thought is no part of what it reads.
        Some("reasoning") => Ok(Message::new(Role::Assistant, "")),
        None | Some("message") => {
            let role = item.get("role").cloned().unwrap_or(Value::Null);
            let role: Role = serde_json::from_value(role)
                .map_err(|_| wrong("role must be one of system, developer, user, assistant".to_owned()))?;
            let content = match item.get("content") {
                Some(Value::String(text)) => Content::Text(text.clone()),
                Some(Value::Array(parts)) => {
                    let text = |part: &Value| match (part.get("type").and_then(Value::as_str), part.get("text")) {
                        (Some("input_text" | "output_text" | "text"), Some(Value::String(text))) => {
                            Ok(Part::Text { text: text.clone() })
                        }
                        (Some(other), _) => {
                            Err(wrong(format!("content of the type {other:?} is not supported: models here read text")))
                        }
                        (None, _) => Err(wrong("a part of the content has no type".to_owned())),
                    };
                    Content::Parts(parts.iter().map(text).collect::<Result<_, _>>()?)
                }
                _ => return Err(wrong("content must be a string or a list of parts".to_owned())),
            };
            Ok(Message { content: Some(content), ..Message::new(role, "") })
        }
        Some(other) => Err(wrong(format!("items of the type {other:?} are not supported here"))),
    }
}

fn joined(parts: &[Value]) -> String {
    let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect();
    texts.join("\n")
}

fn messages(input: &Value) -> Result<Vec<Message>, ApiError> {
    match input {
        Value::String(text) => Ok(vec![Message::new(Role::User, text.as_str())]),
        Value::Array(items) => {
            let all = items.iter().enumerate().map(|(at, item)| message(at, item)).collect::<Result<Vec<_>, _>>()?;
            Ok(merged(all))
        }
        other => Err(ApiError::invalid("input", format!("input: expected a string or a list, found {}", kind(other)))),
    }
}

/// Calls that follow each other are one message; empty messages are none.
fn merged(messages: Vec<Message>) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::new();
    for mut message in messages {
        if message.role == Role::Assistant && message.tool_calls.is_none() && message.text().is_empty() {
            continue;
        }
        let last = out.last_mut().filter(|last| last.role == Role::Assistant);
        match (last, message.tool_calls.take()) {
            (Some(last), Some(calls)) => last.tool_calls.get_or_insert_default().extend(calls),
            (_, calls) => {
                message.tool_calls = calls;
                out.push(message);
            }
        }
    }
    out
}

fn prepare(app: &App, body: &Value, model: &Arc<Loaded>, client: u64) -> Result<Prepared, ApiError> {
    only_known(body, &[ResponseFields::FIELDS, SamplingFields::FIELDS])?;
    let asked: ResponseFields = fields(body)?;
    let sampling: SamplingFields = fields(body)?;
    for field in ["n", "stop", "logit_bias", "presence_penalty", "frequency_penalty"] {
        if body.get(field).is_some_and(|value| !value.is_null()) {
            return Err(ApiError::unknown_field(field, format!("Unrecognized request argument supplied: {field}.")));
        }
    }
    if asked.background.unwrap_or(false) {
        return Err(ApiError::invalid("background", "responses are not made in the background here"));
    }
    if let Some(other) = asked.truncation.as_deref().filter(|truncation| *truncation != "disabled") {
        let message = format!("truncation is {other:?}: only \"disabled\" is supported, nothing is ever cut");
        return Err(ApiError::invalid("truncation", message));
    }
    let padding = StreamOptions::read(asked.stream_options, asked.stream.unwrap_or(false))?.padding;
    let max_tokens = match asked.max_output_tokens {
        Some(n) if n < MIN_TOKENS => {
            let message = format!("max_output_tokens is {n}, must be {MIN_TOKENS} or more");
            return Err(ApiError::invalid("max_output_tokens", message));
        }
        other => other,
    };
    let wants_logprobs = asked.include.iter().flatten().any(|what| what == "message.output_text.logprobs");
    let n_top = match asked.top_logprobs {
        Some(k) if k > MAX_TOP_LOGPROBS => {
            let message = format!("top_logprobs is {k}, must be from 0 to {MAX_TOP_LOGPROBS}");
            return Err(ApiError::invalid("top_logprobs", message));
        }
        k => wants_logprobs.then_some(k.unwrap_or(0)),
    };
    let store = asked.store.unwrap_or(false);
    if store && !app.stored.is_enabled() {
        let message = "responses are not kept here: send store: false, or start the server with --stored-responses";
        return Err(ApiError::invalid("store", message));
    }
    let input = asked.input.clone().unwrap_or(Value::Null);
    let mut conversation = Vec::new();
    if let Some(id) = &asked.previous_response_id {
        let previous = app.stored.get(id, client).ok_or_else(|| {
            ApiError::not_found(format!("Previous response with id {id:?} not found.")).about("previous_response_id")
        })?;
        conversation.extend(previous.messages.iter().cloned());
    }
    conversation.extend(messages(&input)?);
    let kept = conversation.clone();
    if let Some(instructions) = asked.instructions.as_deref().filter(|text| !text.is_empty()) {
        conversation.insert(0, Message::new(Role::System, instructions));
    }
    let text = match &asked.text {
        None | Some(Value::Null) => None,
        Some(Value::Object(text)) => text.get("format"),
        Some(other) => {
            return Err(ApiError::invalid("text", format!("text: expected an object, found {}", kind(other))));
        }
    };
    let listed = asked.tools.as_ref().filter(|tools| !tools.is_null());
    let mut tools = listed.map(tools::tools).transpose()?.unwrap_or_default();
    let choice = tools::choice(asked.tool_choice.as_ref(), &mut tools)?;
    let echo = json!({
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "previous_response_id": asked.previous_response_id,
        "store": store,
        "parallel_tool_calls": asked.parallel_tool_calls.unwrap_or(true),
        "tool_choice": asked.tool_choice.clone().unwrap_or_else(|| "auto".into()),
        "tools": listed.cloned().unwrap_or_else(|| json!([])),
        "text": asked.text.clone().filter(|text| !text.is_null()).unwrap_or_else(|| json!({"format": {"type": "text"}})),
        "temperature": sampling.temperature.unwrap_or(1.0),
        "top_p": sampling.top_p.unwrap_or(1.0),
        "truncation": "disabled",
        "metadata": asked.metadata.clone().filter(|map| !map.is_null()).unwrap_or_else(|| json!({})),
        "reasoning": {"effort": null, "summary": null},
        "service_tier": "default",
        "user": sampling.user,
    });
    let conversation = Conversation {
        messages: conversation,
        tools,
        choice,
        format: format::constraint(text, "text.format")?,
        sampling,
        max_tokens,
        n_logprobs: n_top,
        variables: asked.chat_template_kwargs.unwrap_or_default(),
        client,
    };
    let ready = conversation.prepare(model).map_err(|error| match error.param.as_deref() {
        // Items are messages by now, and not always one each.
        Some(param) if param.starts_with("messages") => error.about("input"),
        _ => error,
    })?;
    let view = View {
        id: crate::ids::fresh("resp_"),
        created: crate::ids::now(),
        model: model.clone(),
        asked: echo,
        n_top,
        calls: ready.calls,
        keep: store.then_some(Keep { messages: kept, input }),
        padding,
    };
    Ok(Prepared {
        request: ready.request,
        view,
        stream: asked.stream.unwrap_or(false),
        expected_tokens: ready.expected_tokens,
        said: ready.said,
    })
}

/// `POST /v1/responses`.
///
/// # Errors
/// Whatever is wrong with the request.
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let (body, model) = open(&app, &caller, Scope::Generate, request).await?;
    let client = caller.client();
    let shared = app.clone();
    let Prepared { request, view, stream: is_stream, expected_tokens, said } =
        blocking(move || prepare(&shared, &body, &model, client)).await?;
    check_input(&app, &caller, || said).await?;
    caller.admit(&app, request.prompt.len() + expected_tokens)?;
    let track = Track::new(&app, &caller, "/v1/responses", &view.model.name);
    let mut generation = Generation::start(&app, view.model.clone(), vec![request], track)?;
    if is_stream {
        let shape = ResponseStream::new(app.clone(), client, view);
        return stream(&app, &caller, generation, shape).await;
    }
    let outcomes = collect(&app, &caller, &mut generation, 1, 1).await?;
    let answer = outcomes.into_iter().flat_map(|outcome| outcome.answers).next().unwrap_or_default();
    let mut output = Output::new(&view);
    let Whole { text, tokens, end } = answer;
    output.tokens(&view, &tokens);
    let mut pieces = Vec::new();
    output.pieces(&text, true, &mut pieces);
    for piece in pieces {
        output.add(piece);
    }
    let reason = end.map_or(EndReason::Length, |end| end.reason);
    let response = view.response(Status::of(reason), output.items(reason), Some(generation.track.usage()));
    view.keep(&app, client, &response, &output);
    Ok(respond(&response))
}

/// `GET /v1/responses/{id}`.
///
/// # Errors
/// 404.
pub async fn get(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id?;
    caller.may(Scope::Generate)?;
    let stored = app.stored.get(&id, caller.client()).ok_or_else(|| no_response(&id))?;
    Ok(respond(&stored.response))
}

/// `GET /v1/responses/{id}/input_items`.
///
/// # Errors
/// 404.
pub async fn input_items(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id?;
    caller.may(Scope::Generate)?;
    let stored = app.stored.get(&id, caller.client()).ok_or_else(|| no_response(&id))?;
    let items = match &stored.input {
        Value::String(text) => json!([{
            "id": crate::ids::fresh("msg_"), "type": "message", "role": "user",
            "content": [{"type": "input_text", "text": text}],
        }]),
        other => other.clone(),
    };
    Ok(respond(&json!({"object": "list", "data": items, "has_more": false})))
}

/// `DELETE /v1/responses/{id}`.
///
/// # Errors
/// 404.
pub async fn delete(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id?;
    caller.may(Scope::Generate)?;
    if app.stored.delete(&id, caller.client()) {
        Ok(respond(&json!({"id": id, "object": "response", "deleted": true})))
    } else {
        Err(no_response(&id))
    }
}

fn no_response(id: &str) -> ApiError {
    let shown: String = id.chars().take(80).collect();
    ApiError::not_found(format!("Response with id {shown:?} not found."))
}

/// Where a response stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    InProgress,
    Completed,
    /// It stopped early, for this reason.
    Incomplete(&'static str),
    Failed,
}

impl Status {
    fn of(reason: EndReason) -> Self {
        match reason {
            EndReason::Stop => Self::Completed,
            EndReason::Length => Self::Incomplete("max_output_tokens"),
            EndReason::Filtered => Self::Incomplete("content_filter"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete(_) => "incomplete",
            Self::Failed => "failed",
        }
    }
}

impl View {
    fn response(&self, status: Status, output: Vec<Value>, usage: Option<Usage>) -> Value {
        let details = match status {
            Status::Incomplete(reason) => json!({"reason": reason}),
            _ => Value::Null,
        };
        let usage = usage.map(|usage| {
            json!({
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens": usage.generated,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt + usage.generated,
            })
        });
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status.name(),
            "background": false,
            "error": null,
            "incomplete_details": details,
            "model": self.model.name,
            "output": output,
            "usage": usage,
        });
        if let (Value::Object(response), Value::Object(asked)) = (&mut response, &self.asked) {
            response.extend(asked.clone());
        }
        response
    }

    fn keep(&self, app: &App, client: u64, response: &Value, output: &Output) {
        let Some(keep) = &self.keep else { return };
        let mut messages = keep.messages.clone();
        let mut answer = Message::new(Role::Assistant, output.text.clone());
        if !output.calls.is_empty() {
            let call = |call: &Call| ToolCall {
                id: Some(call.id.clone()),
                kind: "function".to_owned(),
                function: FunctionCall { name: call.name.clone(), arguments: call.arguments.clone().into() },
            };
            answer.tool_calls = Some(output.calls.iter().map(call).collect());
        }
        messages.push(answer);
        let bytes = messages.iter().map(|message| message.text().len() + 256).sum::<usize>()
            + keep.input.to_string().len()
            + response.to_string().len();
        let (id, input, response) = (self.id.clone(), keep.input.clone(), response.clone());
        app.stored.put(Stored { id, client, messages, input, response, bytes });
    }
}

/// The answer as it grows.
struct Output {
    message_id: String,
    text: String,
    logprobs: Option<Vec<Value>>,
    calls: Vec<Call>,
    scanner: Option<CallScanner>,
}

impl Output {
    fn new(view: &View) -> Self {
        Self {
            message_id: crate::ids::fresh("msg_"),
            text: String::new(),
            logprobs: view.n_top.map(|_| Vec::new()),
            calls: Vec::new(),
            scanner: view.calls.as_ref().map(CallReader::scanner),
        }
    }

    fn tokens(&mut self, view: &View, tokens: &[verve_engine::AnswerToken]) {
        let (Some(list), Some(n)) = (&mut self.logprobs, view.n_top) else { return };
        for token in tokens {
            list.push(serde_json::to_value(ContentToken::new(&view.model.tokenizer, token, n)).unwrap_or(Value::Null));
        }
    }

    fn pieces(&mut self, text: &str, is_end: bool, out: &mut Vec<Piece>) {
        match &mut self.scanner {
            None if text.is_empty() => {}
            None => out.push(Piece::Text(text.to_owned())),
            Some(scanner) => {
                scanner.push(text, out);
                if is_end {
                    scanner.finish(out);
                }
            }
        }
    }

    fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Text(text) => self.text.push_str(&text),
            Piece::Call(call) => self.calls.push(call),
        }
    }

    /// Whether there is a message beside the calls.
    fn has_message(&self) -> bool {
        self.calls.is_empty() || !self.text.trim().is_empty()
    }

    fn part(&self) -> Value {
        json!({
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": self.logprobs.clone().unwrap_or_default(),
        })
    }

    fn message(&self, status: &str) -> Value {
        json!({
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [self.part()],
        })
    }

    fn items(&self, reason: EndReason) -> Vec<Value> {
        let status = if reason == EndReason::Stop { "completed" } else { "incomplete" };
        let message = self.has_message().then(|| self.message(status));
        message.into_iter().chain(self.calls.iter().map(|call| call_item(call, "completed"))).collect()
    }
}

fn call_item(call: &Call, status: &str) -> Value {
    json!({
        "id": call.id.replacen("call_", "fc_", 1),
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    })
}

/// Makes events of updates.
struct ResponseStream {
    app: Arc<App>,
    client: u64,
    view: View,
    output: Output,
    /// Log-probabilities of tokens whose text has not come yet.
    waiting: Vec<Value>,
    sequence: u64,
    /// Whether the message has been announced.
    has_message: bool,
    reason: EndReason,
}

impl ResponseStream {
    fn new(app: Arc<App>, client: u64, view: View) -> Self {
        let output = Output::new(&view);
        Self {
            app,
            client,
            view,
            output,
            waiting: Vec::new(),
            sequence: 0,
            has_message: false,
            reason: EndReason::Length,
        }
    }

    fn send(&mut self, name: &str, mut event: Value, out: &mut Events) {
        if let Value::Object(object) = &mut event {
            object.insert("type".to_owned(), name.into());
            object.insert("sequence_number".to_owned(), self.sequence.into());
        }
        self.sequence += 1;
        out.named(name, &event);
    }

    fn begin_message(&mut self, out: &mut Events) {
        if std::mem::replace(&mut self.has_message, true) {
            return;
        }
        let id = self.output.message_id.clone();
        let item = json!({"id": id, "type": "message", "role": "assistant", "status": "in_progress", "content": []});
        self.send("response.output_item.added", json!({"output_index": 0, "item": item}), out);
        let part = json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
        let event = json!({"item_id": id, "output_index": 0, "content_index": 0, "part": part});
        self.send("response.content_part.added", event, out);
    }

    fn text(&mut self, text: String, out: &mut Events) {
        self.begin_message(out);
        let logprobs = std::mem::take(&mut self.waiting);
        let id = &self.output.message_id;
        let event = json!({"item_id": id, "output_index": 0, "content_index": 0, "delta": text, "logprobs": logprobs});
        self.send("response.output_text.delta", event, out);
        self.output.add(Piece::Text(text));
    }

    fn call(&mut self, call: Call, out: &mut Events) {
        let index = usize::from(self.has_message) + self.output.calls.len();
        let mut item = call_item(&call, "in_progress");
        let id = item["id"].clone();
        item["arguments"] = "".into();
        self.send("response.output_item.added", json!({"output_index": index, "item": item}), out);
        let event = json!({"item_id": id, "output_index": index, "delta": call.arguments});
        self.send("response.function_call_arguments.delta", event, out);
        let event = json!({"item_id": id, "output_index": index, "name": call.name, "arguments": call.arguments});
        self.send("response.function_call_arguments.done", event, out);
        let event = json!({"output_index": index, "item": call_item(&call, "completed")});
        self.send("response.output_item.done", event, out);
        self.output.calls.push(call);
    }

    /// Text and calls in what came.
    fn take(&mut self, text: &str, tokens: &[verve_engine::AnswerToken], is_end: bool, out: &mut Events) {
        let before = self.output.logprobs.as_ref().map_or(0, Vec::len);
        self.output.tokens(&self.view, tokens);
        self.waiting.extend(self.output.logprobs.iter().flat_map(|list| list[before..].iter().cloned()));
        let mut pieces = Vec::new();
        self.output.pieces(text, is_end, &mut pieces);
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text(text, out),
                Piece::Call(call) => self.call(call, out),
            }
        }
    }

    fn end_message(&mut self, out: &mut Events) {
        if self.output.calls.is_empty() {
            self.begin_message(out);
        }
        if !self.has_message {
            return;
        }
        if !self.waiting.is_empty() {
            self.text(String::new(), out);
        }
        let id = self.output.message_id.clone();
        let logprobs = self.output.logprobs.clone().unwrap_or_default();
        let event = json!({
            "item_id": id, "output_index": 0, "content_index": 0, "text": self.output.text, "logprobs": logprobs,
        });
        self.send("response.output_text.done", event, out);
        let event = json!({"item_id": id, "output_index": 0, "content_index": 0, "part": self.output.part()});
        self.send("response.content_part.done", event, out);
        let status = if self.reason == EndReason::Stop { "completed" } else { "incomplete" };
        let event = json!({"output_index": 0, "item": self.output.message(status)});
        self.send("response.output_item.done", event, out);
    }
}

impl Shape for ResponseStream {
    fn padding(&self) -> Padding {
        self.view.padding
    }

    fn begin(&mut self, out: &mut Events) {
        let response = self.view.response(Status::InProgress, Vec::new(), None);
        self.send("response.created", json!({"response": response}), out);
        self.send("response.in_progress", json!({"response": response}), out);
    }

    fn update(&mut self, update: Update, out: &mut Events) {
        match update {
            Update::Token { token, text, .. } => self.take(&text, &[token], false, out),
            Update::End { text, end, .. } => {
                self.reason = end.reason;
                self.take(&text, &[], true, out);
                self.end_message(out);
            }
            Update::Prompt { .. } | Update::Embedding { .. } | Update::Failed(_) => {}
        }
    }

    fn end(&mut self, track: &Track, out: &mut Events) {
        let status = Status::of(self.reason);
        let response = self.view.response(status, self.output.items(self.reason), Some(track.usage()));
        self.view.keep(&self.app, self.client, &response, &self.output);
        let name = if status == Status::Completed { "response.completed" } else { "response.incomplete" };
        self.send(name, json!({"response": response}), out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut Events) {
        let mut response = self.view.response(Status::Failed, self.output.items(EndReason::Length), None);
        response["error"] = json!({"code": error.code.unwrap_or(error.kind), "message": error.message});
        self.send("response.failed", json!({"response": response}), out);
    }
}

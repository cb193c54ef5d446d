//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request as HttpRequest, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use verve_access::Scope;
use verve_chat::Message;

use super::functions::Translated;
use super::{Head, StreamOptions, Streaming, UsageChunk, UsageObject, blocking, functions, open};
use crate::access::Caller;
use crate::answer::{Whole, collect, json};
use crate::app::App;
use crate::conversation::{CallReader, Conversation, Ready};
use crate::error::ApiError;
use crate::filter::check_input;
use crate::format;
use crate::generation::{EndReason, Generation, Update};
use crate::models::Loaded;
use crate::parse::{fields, only_known, request};
use crate::pieces::ContentToken;
use crate::sampling::SamplingFields;
use crate::sse::{Events, Padding, Shape, stream};
use crate::tools::{self, CallObject, CallScanner, FunctionObject, Piece};
use crate::track::{Timings, Track};

/// Most likeliest tokens shown.
const MAX_TOP_LOGPROBS: usize = 20;

request! {
    /// The fields of this endpoint, those of [`SamplingFields`] aside.
    pub struct ChatFields {
        /// Which model.
        pub model: String,
        /// What was said.
        pub messages: Vec<Message>,
        /// Most tokens of an answer.
        pub max_completion_tokens: usize,
        /// The same, as it was called before.
        pub max_tokens: usize,
        /// Whether the answer is streamed.
        pub stream: bool,
        /// How.
        pub stream_options: StreamOptions,
        /// Whether tokens come with their log-probabilities.
        pub logprobs: bool,
        /// And with those of the likeliest in their place.
        pub top_logprobs: usize,
        /// What the answer must look like.
        pub response_format: Value,
        /// Functions that may be called.
        pub tools: Value,
        /// Whether they are to be.
        pub tool_choice: Value,
        /// Whether several may be called at once.
        pub parallel_tool_calls: bool,
        /// The older form of `tools`.
        pub functions: Value,
        /// The older form of `tool_choice`.
        pub function_call: Value,
        /// Kinds of output; text alone here.
        pub modalities: Vec<String>,
        /// No model here speaks.
        pub audio: Value,
        /// No model here searches.
        pub web_search_options: Value,
        /// Answers are not kept: without effect.
        pub store: bool,
        /// Without effect.
        pub metadata: Value,
        /// Without effect.
        pub service_tier: String,
        /// Without effect.
        pub reasoning_effort: String,
        /// Without effect.
        pub verbosity: String,
        /// Without effect.
        pub prediction: Value,
        /// Without effect.
        pub safety_identifier: String,
        /// Without effect: prompts share what they have in common anyway.
        pub prompt_cache_key: String,
        /// Without effect.
        pub prompt_cache_retention: String,
        /// Variables for the chat template.
        pub chat_template_kwargs: Map<String, Value>,
    }
}

/// A request ready for the engine, and how its answer is shown.
struct Prepared {
    ready: Ready,
    view: View,
    stream: bool,
    streaming: Streaming,
}

struct View {
    head: Head,
    model: Arc<Loaded>,
    n: usize,
    /// Likeliest tokens shown, if any log-probabilities are.
    n_top: Option<usize>,
    calls: Option<CallReader>,
    /// Whether calls are shown in the older form.
    is_older: bool,
    ids: Option<Vec<u32>>,
}

fn prepare(body: &Value, model: &Arc<Loaded>, client: u64) -> Result<Prepared, ApiError> {
    only_known(body, &[ChatFields::FIELDS, SamplingFields::FIELDS])?;
    let Translated { body, is_older } = functions::translate(body)?;
    let asked: ChatFields = fields(&body)?;
    let sampling: SamplingFields = fields(&body)?;
    refuse_what_is_not_there(&asked)?;
    let stream = asked.stream.unwrap_or(false);
    let streaming = StreamOptions::read(asked.stream_options, stream)?;
    let n_top = match (asked.logprobs.unwrap_or(false), asked.top_logprobs) {
        (false, Some(_)) => {
            return Err(ApiError::invalid("top_logprobs", "top_logprobs is allowed only with logprobs: true"));
        }
        (true, Some(k)) if k > MAX_TOP_LOGPROBS => {
            let message = format!("top_logprobs is {k}, must be from 0 to {MAX_TOP_LOGPROBS}");
            return Err(ApiError::invalid("top_logprobs", message));
        }
        (true, k) => Some(k.unwrap_or(0)),
        (false, None) => None,
    };
    let max_tokens = match (asked.max_completion_tokens, asked.max_tokens) {
        (Some(0), _) | (None, Some(0)) => {
            return Err(ApiError::invalid("max_completion_tokens", "an answer has at least one token"));
        }
        (Some(a), Some(b)) if a != b => {
            let message = format!("max_completion_tokens is {a} and max_tokens {b}: give one of them");
            return Err(ApiError::invalid("max_completion_tokens", message));
        }
        (a, b) => a.or(b),
    };
    let listed = asked.tools.as_ref().filter(|tools| !tools.is_null());
    let read = || {
        let mut tools = listed.map(tools::tools).transpose()?.unwrap_or_default();
        let choice = tools::choice(asked.tool_choice.as_ref(), &mut tools)?;
        Ok((tools, choice))
    };
    let (tools, choice) = read().map_err(|error| if is_older { functions::in_older_words(error) } else { error })?;
    let ids_wanted = sampling.return_token_ids.unwrap_or(false);
    let conversation = Conversation {
        messages: asked.messages.ok_or_else(|| ApiError::invalid("messages", "messages is missing"))?,
        tools,
        choice,
        format: format::constraint(asked.response_format.as_ref(), "response_format")?,
        sampling,
        max_tokens,
        n_logprobs: n_top,
        variables: asked.chat_template_kwargs.unwrap_or_default(),
        client,
    };
    let ready = conversation.prepare(model)?;
    let view = View {
        head: Head::new("chatcmpl-", if stream { "chat.completion.chunk" } else { "chat.completion" }, model),
        model: model.clone(),
        n: ready.n,
        n_top,
        calls: ready.calls.clone(),
        is_older,
        ids: ids_wanted.then(|| ready.request.prompt.clone()),
    };
    Ok(Prepared { ready, view, stream, streaming })
}

fn refuse_what_is_not_there(asked: &ChatFields) -> Result<(), ApiError> {
    let given = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    if given(&asked.audio) || asked.modalities.iter().flatten().any(|kind| kind != "text") {
        return Err(ApiError::invalid("modalities", "models here write text only"));
    }
    if given(&asked.web_search_options) {
        return Err(ApiError::invalid("web_search_options", "models here do not search the web"));
    }
    Ok(())
}

/// `POST /v1/chat/completions`.
///
/// # Errors
/// Whatever is wrong with the request.
pub async fn chat(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let (body, model) = open(&app, &caller, Scope::Generate, request).await?;
    let client = caller.client();
    let Prepared { ready, view, stream: is_stream, streaming } =
        blocking(move || prepare(&body, &model, client)).await?;
    check_input(&app, &caller, || ready.said).await?;
    let request = ready.request;
    caller.admit(&app, request.prompt.len() + ready.expected_tokens * request.n)?;
    let track = Track::new(&app, &caller, "/v1/chat/completions", &view.model.name);
    let mut generation = Generation::start(&app, view.model.clone(), vec![request], track)?;
    if is_stream {
        let choices = (0..view.n).map(|_| Progress::new(&view)).collect();
        return stream(&app, &caller, generation, ChatStream { view, streaming, choices }).await;
    }
    let outcomes = collect(&app, &caller, &mut generation, 1, view.n).await?;
    let answers = outcomes.into_iter().flat_map(|outcome| outcome.answers).collect();
    let (usage, timings) = (generation.track.usage().into(), generation.track.timings());
    Ok(json(&view.whole(answers, usage, timings)))
}

/// An answer.
#[derive(Serialize)]
struct ChatCompletion<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<Choice>,
    usage: UsageObject,
    service_tier: &'static str,
    timings: Timings,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    message: AnswerMessage,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct AnswerMessage {
    role: &'static str,
    content: Option<String>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionObject>,
    annotations: [(); 0],
}

#[derive(Serialize)]
struct Logprobs {
    content: Vec<ContentToken>,
    refusal: Option<()>,
}

impl View {
    fn whole(&self, answers: Vec<Whole>, usage: UsageObject, timings: Timings) -> impl Serialize + '_ {
        let choice = |(index, answer)| {
            let Whole { text, tokens, end } = answer;
            let (content, calls) = match &self.calls {
                None => (Some(text), Vec::new()),
                Some(reader) => split(reader, &text),
            };
            let reason = end.map_or(EndReason::Length, |end| end.reason);
            let finish_reason = self.finish_reason(reason, !calls.is_empty());
            let (tool_calls, function_call) = if self.is_older {
                (Vec::new(), calls.into_iter().next().map(CallObject::into_function))
            } else {
                (calls, None)
            };
            let logprobs = self.n_top.map(|n| {
                let content = tokens.iter().map(|token| ContentToken::new(&self.model.tokenizer, token, n)).collect();
                Logprobs { content, refusal: None }
            });
            Choice {
                index,
                logprobs,
                finish_reason,
                message: AnswerMessage {
                    role: "assistant",
                    content,
                    refusal: None,
                    tool_calls,
                    function_call,
                    annotations: [],
                },
                token_ids: self.ids.as_ref().map(|_| tokens.iter().map(|token| token.id).collect()),
            }
        };
        ChatCompletion {
            head: &self.head,
            choices: answers.into_iter().enumerate().map(choice).collect(),
            usage,
            service_tier: "default",
            timings,
            prompt_token_ids: self.ids.as_deref(),
        }
    }
}

impl View {
    fn finish_reason(&self, reason: EndReason, has_calls: bool) -> &'static str {
        match reason {
            EndReason::Stop if has_calls && self.is_older => "function_call",
            EndReason::Stop if has_calls => "tool_calls",
            _ => reason.name(),
        }
    }
}

/// The text and the calls of a whole answer.
fn split(reader: &CallReader, text: &str) -> (Option<String>, Vec<CallObject>) {
    let (mut scanner, mut pieces) = (reader.scanner(), Vec::new());
    scanner.push(text, &mut pieces);
    scanner.finish(&mut pieces);
    let (mut content, mut calls) = (String::new(), Vec::new());
    for piece in &pieces {
        match piece {
            Piece::Text(text) => content.push_str(text),
            Piece::Call(call) => calls.push(call.into()),
        }
    }
    let is_call_only = content.trim().is_empty() && !calls.is_empty();
    ((!is_call_only).then_some(content), calls)
}

/// A part of an answer.
#[derive(Serialize)]
struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: [ChunkChoice; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<[u32; 1]>,
}

#[derive(Serialize, Default)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[DeltaCall; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionObject>,
}

#[derive(Serialize)]
struct DeltaCall {
    index: usize,
    #[serde(flatten)]
    call: CallObject,
}

/// How far one choice has come.
struct Progress {
    scanner: Option<CallScanner>,
    n_calls: usize,
}

impl Progress {
    fn new(view: &View) -> Self {
        Self { scanner: view.calls.as_ref().map(CallReader::scanner), n_calls: 0 }
    }
}

/// Makes chunks of updates.
struct ChatStream {
    view: View,
    streaming: Streaming,
    choices: Vec<Progress>,
}

impl ChatStream {
    fn chunk(&mut self, choice: ChunkChoice, out: &mut Events) {
        let usage = self.streaming.usage.then_some(());
        out.data(&Chunk { head: &self.view.head, choices: [choice], usage, prompt_token_ids: None });
    }

    /// The pieces of an answer's text, each with its chunk; what else belongs to the first of them goes with it.
    fn pieces(&mut self, mut first: ChunkChoice, text: String, is_end: bool, out: &mut Events) {
        let index = first.index;
        let Some(scanner) = &mut self.choices[index].scanner else {
            if !text.is_empty() || first.logprobs.is_some() || first.token_ids.is_some() {
                first.delta.content = Some(text);
                self.chunk(first, out);
            }
            return;
        };
        let mut pieces = Vec::new();
        scanner.push(&text, &mut pieces);
        if is_end {
            scanner.finish(&mut pieces);
        }
        let mut first = Some(first);
        for piece in pieces {
            let mut part = first.take().unwrap_or_else(|| empty(index));
            match piece {
                Piece::Text(text) => part.delta.content = Some(text),
                Piece::Call(call) => {
                    let number = self.choices[index].n_calls;
                    self.choices[index].n_calls += 1;
                    let call = CallObject::from(&call);
                    match self.view.is_older {
                        false => part.delta.tool_calls = Some([DeltaCall { index: number, call }]),
                        // The older form has room for one.
                        true if number == 0 => part.delta.function_call = Some(call.into_function()),
                        true => continue,
                    }
                }
            }
            self.chunk(part, out);
        }
        if let Some(first) = first.filter(|first| first.logprobs.is_some() || first.token_ids.is_some()) {
            self.chunk(first, out);
        }
    }
}

fn empty(index: usize) -> ChunkChoice {
    ChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason: None, token_ids: None }
}

impl Shape for ChatStream {
    fn padding(&self) -> Padding {
        self.streaming.padding
    }

    fn begin(&mut self, out: &mut Events) {
        for index in 0..self.view.n {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            let usage = self.streaming.usage.then_some(());
            let ids = self.view.ids.clone().filter(|_| index == 0);
            let choices = [ChunkChoice { delta, ..empty(index) }];
            out.data(&Chunk { head: &self.view.head, choices, usage, prompt_token_ids: ids });
        }
    }

    fn update(&mut self, update: Update, out: &mut Events) {
        match update {
            Update::Token { choice, token, text, .. } => {
                let mut part = empty(choice);
                part.logprobs = self.view.n_top.map(|n| Logprobs {
                    content: vec![ContentToken::new(&self.view.model.tokenizer, &token, n)],
                    refusal: None,
                });
                part.token_ids = self.view.ids.as_ref().map(|_| [token.id]);
                self.pieces(part, text, false, out);
            }
            Update::End { choice, text, end, .. } => {
                self.pieces(empty(choice), text, true, out);
                let reason = self.view.finish_reason(end.reason, self.choices[choice].n_calls > 0);
                self.chunk(ChunkChoice { finish_reason: Some(reason), ..empty(choice) }, out);
            }
            Update::Prompt { .. } | Update::Embedding { .. } | Update::Failed(_) => {}
        }
    }

    fn end(&mut self, track: &Track, out: &mut Events) {
        if self.streaming.usage {
            out.data(&UsageChunk::new(&self.view.head, track));
        }
        out.done();
    }
}

//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request as HttpRequest, State};
use axum::response::Response;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use verve_access::Scope;
use verve_engine::{Request, SamplingParams};

use super::{
    Head, StreamOptions, Streaming, UsageChunk, UsageObject, blocking, check_fits, compile, open, plain_text,
    prompt_text, specials,
};
use crate::access::Caller;
use crate::answer::{Outcome, Whole, collect, json};
use crate::app::App;
use crate::error::ApiError;
use crate::filter::check_input;
use crate::generation::{EndReason, Generation, Update};
use crate::models::Loaded;
use crate::parse::{fields, kind, only_known, request};
use crate::pieces::{ListedLogprobs, Lister};
use crate::sampling::SamplingFields;
use crate::sse::{Events, Padding, Shape, stream};
use crate::track::{Timings, Track};

/// Answers without `max_tokens` have this many, as in the public API.
const DEFAULT_TOKENS: usize = 16;
/// Most prompts of a request.
const MAX_PROMPTS: usize = 2048;
/// Most likeliest tokens shown.
const MAX_LOGPROBS: u64 = 5;
/// Most answers computed for the best.
const MAX_BEST_OF: u64 = 20;

request! {
    /// The fields of this endpoint, those of [`SamplingFields`] aside.
    pub struct CompletionFields {
        /// Which model.
        pub model: String,
        /// What is continued.
        pub prompt: Prompts,
        /// Text behind the answer; no model here has it.
        pub suffix: String,
        /// Most tokens of an answer.
        pub max_tokens: usize,
        /// Answers computed, the best `n` of which are given.
        pub best_of: u64,
        /// Whether the answer is streamed.
        pub stream: bool,
        /// How.
        pub stream_options: StreamOptions,
        /// Likeliest tokens shown.
        pub logprobs: u64,
        /// Whether the prompt comes back.
        pub echo: bool,
        /// Whether a prompt that is text gets the tokens in front that the model expects there.
        pub add_special_tokens: bool,
        /// Whether special tokens that a prompt spells out act as such; they do unless this is false.
        pub parse_special: bool,
    }
}

/// What is continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompts {
    /// Texts.
    Texts(Vec<String>),
    /// Token ids.
    Ids(Vec<Vec<u32>>),
}

impl Prompts {
    fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Ids(lists) => lists.len(),
        }
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        prompts(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A string, a list of strings, a list of ids or a list of lists of ids.
fn prompts(value: Value) -> Result<Prompts, String> {
    const EXPECTED: &str = "expected a string, a list of strings, a list of token ids or a list of lists of token ids";
    let id = |value: &Value| {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| format!("{value} is no token id; {EXPECTED}"))
    };
    let items = match value {
        Value::String(text) => return Ok(Prompts::Texts(vec![text])),
        Value::Array(items) => items,
        other => return Err(format!("{EXPECTED}, found {}", kind(&other))),
    };
    match items.first() {
        None => Err(format!("the list is empty; {EXPECTED}")),
        Some(Value::String(_)) => {
            let text = |item| match item {
                Value::String(text) => Ok(text),
                other => Err(format!("a list of strings has {} in it", kind(&other))),
            };
            Ok(Prompts::Texts(items.into_iter().map(text).collect::<Result<_, _>>()?))
        }
        Some(Value::Number(_)) => Ok(Prompts::Ids(vec![items.iter().map(id).collect::<Result<_, _>>()?])),
        Some(Value::Array(_)) => {
            let list = |item: &Value| match item {
                Value::Array(ids) if ids.is_empty() => Err("a list of token ids is empty".to_owned()),
                Value::Array(ids) => ids.iter().map(id).collect::<Result<Vec<u32>, _>>(),
                other => Err(format!("a list of lists has {} in it", kind(other))),
            };
            Ok(Prompts::Ids(items.iter().map(list).collect::<Result<_, _>>()?))
        }
        Some(other) => Err(format!("{EXPECTED}, found a list with {}", kind(other))),
    }
}

/// A request ready for the engine, and how its answer is shown.
struct Prepared {
    requests: Vec<Request>,
    view: View,
    stream: bool,
    streaming: Streaming,
}

/// How answers are shown.
struct View {
    head: Head,
    model: Arc<Loaded>,
    /// Answers to each prompt.
    n: usize,
    max_tokens: usize,
    n_logprobs: Option<usize>,
    /// Texts of the prompts, if they come back.
    echo: Option<Vec<String>>,
    /// Ids of the prompts, if they come back.
    ids: Option<Vec<Vec<u32>>>,
}

fn prepare(body: &Value, model: &Arc<Loaded>, client: u64) -> Result<Prepared, ApiError> {
    only_known(body, &[CompletionFields::FIELDS, SamplingFields::FIELDS])?;
    let asked: CompletionFields = fields(body)?;
    let sampling: SamplingFields = fields(body)?;
    if asked.suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()) {
        let message =
            format!("The model {:?} was not trained to fill in text before a suffix: leave it out.", model.name);
        return Err(ApiError::invalid("suffix", message));
    }
    let stream = asked.stream.unwrap_or(false);
    let streaming = StreamOptions::read(asked.stream_options, stream)?;
    let n = sampling.n()?;
    let best_of = best_of(asked.best_of, n, stream)?;
    let echo = asked.echo.unwrap_or(false);
    let n_logprobs = match asked.logprobs {
        Some(k) if k > MAX_LOGPROBS => {
            return Err(ApiError::invalid("logprobs", format!("logprobs is {k}, must be from 0 to {MAX_LOGPROBS}")));
        }
        k => k.map(|k| k as usize),
    };
    let max_tokens = asked.max_tokens.unwrap_or(DEFAULT_TOKENS);
    let params = SamplingParams { n_logprobs, ..sampling.params(max_tokens)? };
    let constraint = compile(model, sampling.constraint()?)?;
    let asked_prompts = asked.prompt.unwrap_or(Prompts::Texts(vec![String::new()]));
    if asked_prompts.len() > MAX_PROMPTS {
        let message = format!("prompt has {} prompts, at most {MAX_PROMPTS} are taken", asked_prompts.len());
        return Err(ApiError::invalid("prompt", message));
    }
    let add_special = asked.add_special_tokens.unwrap_or(true);
    let mut texts = Vec::new();
    let prompts: Vec<Vec<u32>> = match asked_prompts {
        Prompts::Ids(lists) => {
            if echo {
                texts = lists.iter().map(|ids| plain_text(model, ids)).collect();
            }
            lists
        }
        Prompts::Texts(given) => {
            let specials = specials(asked.parse_special);
            let encode = |text: &String| match add_special {
                true => model.tokenizer.encode_with_specials(text, specials),
                false => model.tokenizer.encode_with(text, specials),
            };
            let prompts = given.iter().map(encode).collect();
            texts = given;
            prompts
        }
    };
    // An answer of no tokens is of use with what the prompt brings back.
    let prompt_logprobs = if echo { n_logprobs } else { None }.or((max_tokens == 0).then_some(0));
    let mut requests = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        check_fits(model, prompt.len().max(1), Some(max_tokens), "prompt")?;
        requests.push(Request {
            prompt: prompt.clone(),
            params: params.clone(),
            n,
            best_of,
            prompt_logprobs,
            constraint: constraint.clone(),
            client,
            ..Request::default()
        });
    }
    let view = View {
        head: Head::new("cmpl-", "text_completion", model),
        model: model.clone(),
        n,
        max_tokens,
        n_logprobs,
        echo: echo.then_some(texts),
        ids: sampling.return_token_ids.unwrap_or(false).then_some(prompts),
    };
    Ok(Prepared { requests, view, stream, streaming })
}

fn best_of(asked: Option<u64>, n: usize, stream: bool) -> Result<usize, ApiError> {
    match asked {
        None | Some(0) => Ok(n),
        Some(k) if k > MAX_BEST_OF && k as usize != n => {
            Err(ApiError::invalid("best_of", format!("best_of is {k}, must be from 0 to {MAX_BEST_OF}")))
        }
        Some(k) if (k as usize) < n => {
            Err(ApiError::invalid("best_of", format!("best_of is {k} and n is {n}: best_of must not be less than n")))
        }
        Some(k) if stream && k as usize > n => {
            Err(ApiError::invalid("best_of", "with best_of greater than n the answer cannot be streamed"))
        }
        Some(k) => Ok(k as usize),
    }
}

/// `POST /v1/completions`.
///
/// # Errors
/// Whatever is wrong with the request.
pub async fn completions(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let (body, model) = open(&app, &caller, Scope::Generate, request).await?;
    let client = caller.client();
    let Prepared { requests, mut view, stream: is_stream, streaming } =
        blocking(move || prepare(&body, &model, client)).await?;
    check_input(&app, &caller, || prompt_text(&view.model, &requests)).await?;
    let n_prompts = requests.len();
    let tokens: usize = requests.iter().map(|r| r.prompt.len() + r.params.max_tokens * r.n.max(r.best_of)).sum();
    caller.admit(&app, tokens)?;
    let track = Track::new(&app, &caller, "/v1/completions", &view.model.name);
    let mut generation = Generation::start(&app, view.model.clone(), requests, track)?;
    if is_stream {
        let streams = (0..n_prompts * view.n).map(|_| Progress::new(&view)).collect();
        return stream(&app, &caller, generation, CompletionStream { view, streaming, streams }).await;
    }
    let outcomes = collect(&app, &caller, &mut generation, n_prompts, view.n).await?;
    let (usage, timings) = (generation.track.usage().into(), generation.track.timings());
    blocking(move || Ok(json(&view.whole(outcomes, usage, timings)))).await
}

/// An answer.
#[derive(Serialize)]
struct Completion<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<Choice>,
    usage: UsageObject,
    timings: Timings,
}

/// A part of an answer.
#[derive(Serialize)]
struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: [Choice; 1],
    /// `null` beside a last chunk with the totals; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<()>,
}

#[derive(Serialize)]
struct Choice {
    text: String,
    index: usize,
    logprobs: Option<ListedLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

impl View {
    fn whole(&mut self, outcomes: Vec<Outcome>, usage: UsageObject, timings: Timings) -> impl Serialize + '_ {
        let mut choices = Vec::with_capacity(outcomes.len() * self.n);
        for (prompt, outcome) in outcomes.into_iter().enumerate() {
            let Outcome { prompt: prompt_tokens, answers, .. } = outcome;
            for (number, answer) in answers.into_iter().enumerate() {
                let Whole { text, tokens, end } = answer;
                let mut lister = Lister::new(self.n_logprobs.unwrap_or(0));
                let logprobs = self.n_logprobs.map(|_| {
                    let mut list = ListedLogprobs::default();
                    for token in prompt_tokens.iter().chain(&tokens) {
                        lister.push(&self.model, token, &mut list);
                    }
                    list
                });
                let echo = self.echo.as_ref().map_or("", |texts| &texts[prompt]);
                choices.push(Choice {
                    text: format!("{echo}{text}"),
                    index: prompt * self.n + number,
                    logprobs,
                    finish_reason: Some(end.map_or(EndReason::Length, |end| end.reason).name()),
                    prompt_token_ids: self.ids.as_ref().map(|ids| ids[prompt].clone()),
                    token_ids: self.ids.as_ref().map(|_| tokens.iter().map(|token| token.id).collect()),
                });
            }
        }
        Completion { head: &self.head, choices, usage, timings }
    }
}

/// How far one choice has come.
struct Progress {
    lister: Lister,
    has_begun: bool,
}

impl Progress {
    fn new(view: &View) -> Self {
        Self { lister: Lister::new(view.n_logprobs.unwrap_or(0)), has_begun: false }
    }
}

/// Makes chunks of updates.
struct CompletionStream {
    view: View,
    streaming: Streaming,
    streams: Vec<Progress>,
}

impl CompletionStream {
    fn chunk(&mut self, choice: Choice, out: &mut Events) {
        let usage = self.streaming.usage.then_some(());
        out.data(&Chunk { head: &self.view.head, choices: [choice], usage });
    }

    /// A part of a choice, with what belongs to its first part.
    fn part(&mut self, prompt: usize, number: usize) -> Choice {
        let index = prompt * self.view.n + number;
        let is_first = !std::mem::replace(&mut self.streams[index].has_begun, true);
        let ids = self.view.ids.as_ref().filter(|_| is_first).map(|ids| ids[prompt].clone());
        Choice {
            text: String::new(),
            index,
            logprobs: None,
            finish_reason: None,
            prompt_token_ids: ids,
            token_ids: None,
        }
    }
}

impl Shape for CompletionStream {
    fn padding(&self) -> Padding {
        self.streaming.padding
    }

    fn begin(&mut self, out: &mut Events) {
        // With log-probabilities the text comes with them.
        if self.view.n_logprobs.is_some() {
            return;
        }
        let texts = self.view.echo.clone().unwrap_or_default();
        for (prompt, text) in texts.iter().enumerate() {
            for number in 0..self.view.n {
                let part = self.part(prompt, number);
                self.chunk(Choice { text: text.clone(), ..part }, out);
            }
        }
    }

    fn update(&mut self, update: Update, out: &mut Events) {
        match update {
            Update::Prompt { prompt, tokens } => {
                let Some(text) = self.view.echo.as_ref().map(|texts| texts[prompt].clone()) else { return };
                if self.view.n_logprobs.is_none() {
                    return;
                }
                for number in 0..self.view.n {
                    let part = self.part(prompt, number);
                    let mut list = ListedLogprobs::default();
                    for token in &tokens {
                        self.streams[part.index].lister.push(&self.view.model, token, &mut list);
                    }
                    self.chunk(Choice { text: text.clone(), logprobs: Some(list), ..part }, out);
                }
            }
            Update::Token { prompt, choice, token, text } => {
                let wants_each = self.view.n_logprobs.is_some() || self.view.ids.is_some();
                if text.is_empty() && !wants_each {
                    return;
                }
                let mut part = self.part(prompt, choice);
                part.token_ids = self.view.ids.as_ref().map(|_| vec![token.id]);
                part.logprobs = self.view.n_logprobs.map(|_| {
                    let mut list = ListedLogprobs::default();
                    self.streams[part.index].lister.push(&self.view.model, &token, &mut list);
                    list
                });
                self.chunk(Choice { text, ..part }, out);
            }
            Update::End { prompt, choice, text, end } => {
                // An answer of no tokens ends once for all.
                let numbers = if self.view.max_tokens == 0 { 0..self.view.n } else { choice..choice + 1 };
                for number in numbers {
                    let part = self.part(prompt, number);
                    let finish_reason = Some(end.reason.name());
                    self.chunk(Choice { text: text.clone(), finish_reason, ..part }, out);
                }
            }
            Update::Embedding { .. } | Update::Failed(_) => {}
        }
    }

    fn end(&mut self, track: &Track, out: &mut Events) {
        if self.streaming.usage {
            out.data(&UsageChunk::new(&self.view.head, track));
        }
        out.done();
    }
}

//! The endpoints, one file each, and what they have in common.

pub mod admin;
pub mod chat;
pub mod completions;
pub mod embeddings;
mod functions;
pub mod model_list;
pub mod moderations;
pub mod responses;
pub mod score;
pub mod text;

use std::sync::Arc;

use axum::extract::Request as HttpRequest;
use axum::http::{StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use verve_access::Scope;
use verve_constrain::Constraint;
use verve_engine::{ConstraintSource, Request};
use verve_tokenizer::SpecialTokens;

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use crate::models::Loaded;
use crate::parse;
use crate::sse::Padding;
use crate::track::{Timings, Track, Usage};

/// The body of a request as a JSON object, within the server's limits.
///
/// # Errors
/// 415, 413, 408, 400.
pub async fn read_json(app: &App, request: HttpRequest) -> Result<Value, ApiError> {
    parse::expect_json(request.headers())?;
    let limit = app.options.max_body_bytes;
    let too_large = || {
        ApiError::client(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body has more than {limit} bytes, the server's limit"),
        )
    };
    // What is announced as too large need not come first.
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), limit).collect();
    let body = match tokio::time::timeout(app.options.body_timeout, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(error)) => return Err(ApiError::bad_request(format!("the body did not arrive whole: {error}"))),
        Err(_) => {
            let seconds = app.options.body_timeout.as_secs();
            return Err(ApiError::client(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                format!("the body did not arrive within {seconds} s"),
            ));
        }
    };
    if body.len() < 1 << 14 {
        return parse::object(&body);
    }
    blocking(move || parse::object(&body)).await
}

/// What every endpoint begins with that asks a model: whether the caller may, the body, and the model, loaded if need be.
///
/// # Errors
/// 403, 404, 415, 413, 408, 400, 503.
pub async fn open(
    app: &App,
    caller: &Caller,
    scope: Scope,
    request: HttpRequest,
) -> Result<(Value, Arc<Loaded>), ApiError> {
    caller.may(scope)?;
    let body = read_json(app, request).await?;
    let name = model_name(&body)?;
    caller.entry(app, name)?;
    let model = app.models.get(name).await?;
    Ok((body, model))
}

/// Work that takes too long for a thread that others wait for.
///
/// # Errors
/// The work's own; 500 if it panics.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(ApiError::internal("the request broke the code that prepares it; please report it")))
}

/// The name of the model that a request asks for.
///
/// # Errors
/// 400 if it is no string.
fn model_name(body: &Value) -> Result<Option<&str>, ApiError> {
    match body.get("model") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => Ok(Some(name)),
        Some(other) => {
            Err(ApiError::invalid("model", format!("model: expected a string, found {}", parse::kind(other))))
        }
    }
}

/// Whether special tokens that a text spells out act as such: as in the public API and with other servers, unless the
/// request says otherwise.
pub fn specials(parse_special: Option<bool>) -> SpecialTokens {
    if parse_special.unwrap_or(true) { SpecialTokens::Parse } else { SpecialTokens::Ordinary }
}

/// The text of ids; special tokens have none.
pub fn plain_text(model: &Loaded, ids: &[u32]) -> String {
    let n = model.vocabulary.n_vocab() as u32;
    let bytes: Vec<u8> = ids.iter().filter(|&&id| id < n).flat_map(|&id| model.vocabulary.bytes(id)).copied().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What some prompts say, for filters.
pub fn prompt_text(model: &Loaded, requests: &[Request]) -> String {
    let texts: Vec<String> = requests.iter().map(|request| plain_text(model, &request.prompt)).collect();
    texts.join("\n")
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamOptions {
    /// Whether a last chunk has the totals.
    pub include_usage: Option<bool>,
    /// Whether events are padded, so that their lengths on the wire say little of the text.
    pub include_obfuscation: Option<bool>,
}

/// How an answer is streamed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streaming {
    /// Whether a last chunk has the totals.
    pub usage: bool,
    /// Whether events are padded.
    pub padding: Padding,
}

impl StreamOptions {
    /// How the answer is streamed.
    ///
    /// # Errors
    /// 400 where there is no stream.
    pub fn read(options: Option<Self>, stream: bool) -> Result<Streaming, ApiError> {
        match options {
            Some(_) if !stream => {
                Err(ApiError::invalid("stream_options", "stream_options is allowed only with stream: true"))
            }
            options => {
                let Self { include_usage, include_obfuscation } = options.unwrap_or_default();
                let padding = if include_obfuscation.unwrap_or(false) { Padding::Even } else { Padding::None };
                Ok(Streaming { usage: include_usage.unwrap_or(false), padding })
            }
        }
    }
}

/// Refuses what does not fit into the context. Nothing is ever cut.
///
/// # Errors
/// 400 with the counts.
pub fn check_fits(model: &Loaded, n_prompt: usize, max_tokens: Option<usize>, param: &str) -> Result<(), ApiError> {
    let n_ctx = model.n_ctx;
    if n_prompt > n_ctx {
        let message = format!(
            "This model's maximum context length is {n_ctx} tokens. However, the prompt has {n_prompt} tokens: shorten it \
             by {} or more.",
            n_prompt - n_ctx
        );
        return Err(ApiError::too_long(param, message));
    }
    match max_tokens {
        Some(max_tokens) if n_prompt.saturating_add(max_tokens) > n_ctx => {
            let message = format!(
                "This model's maximum context length is {n_ctx} tokens. However, you requested {} tokens ({n_prompt} in the \
                 prompt, {max_tokens} for the answer). Please reduce the prompt or the length of the answer.",
                n_prompt.saturating_add(max_tokens)
            );
            Err(ApiError::too_long(param, message))
        }
        _ => Ok(()),
    }
}

/// Compiles a constraint that a field asked for.
///
/// # Errors
/// 400 about the field.
pub fn compile(
    model: &Loaded,
    constraint: Option<(Constraint, &str)>,
) -> Result<Option<Arc<dyn ConstraintSource>>, ApiError> {
    let Some((constraint, param)) = constraint else { return Ok(None) };
    model.rules.compile(&constraint).map(Some).map_err(|error| {
        let error = ApiError::from(error);
        if error.status.is_client_error() { error.about(param) } else { error }
    })
}

/// `usage` of an answer.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct UsageObject {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
    audio_tokens: usize,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct CompletionDetails {
    reasoning_tokens: usize,
    audio_tokens: usize,
    accepted_prediction_tokens: usize,
    rejected_prediction_tokens: usize,
}

impl From<Usage> for UsageObject {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt,
            completion_tokens: usage.generated,
            total_tokens: usage.prompt + usage.generated,
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached, audio_tokens: 0 },
            completion_tokens_details: CompletionDetails::default(),
        }
    }
}

/// What all chunks of an answer share.
#[derive(Debug, Clone, Serialize)]
pub struct Head {
    /// Name of the answer.
    pub id: String,
    /// `object`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model, as the registry names it.
    pub model: String,
    /// What the answer depends on besides the request.
    pub system_fingerprint: String,
}

impl Head {
    /// For a new answer.
    pub fn new(prefix: &str, object: &'static str, model: &Loaded) -> Self {
        Self {
            id: crate::ids::fresh(prefix),
            object,
            created: crate::ids::now(),
            model: model.name.clone(),
            system_fingerprint: model.fingerprint.clone(),
        }
    }
}

/// The last chunk of a stream that was asked for totals.
#[derive(Debug, Serialize)]
pub struct UsageChunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: [(); 0],
    usage: UsageObject,
    timings: Timings,
}

impl<'a> UsageChunk<'a> {
    /// The totals.
    pub fn new(head: &'a Head, track: &Track) -> Self {
        Self { head, choices: [], usage: track.usage().into(), timings: track.timings() }
    }
}

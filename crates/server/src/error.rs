//! What a request can be answered with instead of an answer: one type, and one place where errors of other crates become
//! a status and the public API's error object.

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use verve_chat::ChatError;
use verve_constrain::ConstrainError;
use verve_engine::EngineError;

/// A refusal or a failure: `{"error": {"message", "type", "param", "code"}}`, all four always there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// `type` of the object.
    pub kind: &'static str,
    /// `code` of the object.
    pub code: Option<&'static str>,
    /// The request's field that is at fault.
    pub param: Option<String>,
    /// What is wrong, what was expected, what to do.
    pub message: String,
    /// Seconds after which it may be tried again.
    pub retry_after: Option<u64>,
}

#[derive(Serialize)]
struct Object<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, kind, code, param: None, message: message.into(), retry_after: None }
    }

    /// 400: the request is wrong as a whole.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    /// 400: a field has a value that cannot be used.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), code: Some("invalid_value"), ..Self::bad_request(message) }
    }

    /// 400: a field that there is not.
    pub fn unknown_field(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), code: Some("unknown_parameter"), ..Self::bad_request(message) }
    }

    /// 400: prompt and answer do not fit into the context.
    pub fn too_long(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), code: Some("context_length_exceeded"), ..Self::bad_request(message) }
    }

    /// 400: a filter refuses what the request says.
    pub fn content_policy(finding: &verve_moderate::Finding) -> Self {
        let message = format!("The request was refused by a filter of this server: {}.", finding.reason_code);
        Self { code: Some("content_filter"), ..Self::bad_request(message) }
    }

    /// 401: no key, or a wrong one.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    /// 403: a key that may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", Some("insufficient_permissions"), message)
    }

    /// 404: no such model, among these.
    pub fn no_model(name: &str, known: &[&str]) -> Self {
        let nearest = known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(name, known), *known))
            .min()
            .filter(|(distance, _)| *distance <= 3)
            .map(|(_, known)| format!(" Did you mean {known:?}?"));
        let listed = if known.is_empty() { String::new() } else { format!(" There is: {}.", known.join(", ")) };
        let message = format!("The model {name:?} does not exist here.{}{listed}", nearest.unwrap_or_default());
        Self {
            param: Some("model".to_owned()),
            ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message)
        }
    }

    /// 404: no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("not_found"), message)
    }

    /// Another status that is the client's fault.
    pub fn client(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", Some(code), message)
    }

    /// 429: more than the server or the key can take now.
    pub fn too_many(kind: &'static str, code: &'static str, message: impl Into<String>, retry_after: u64) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, kind, Some(code), message) }
    }

    /// 503: not now.
    pub fn unavailable(message: impl Into<String>, retry_after: u64) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("unavailable"), message)
        }
    }

    /// 504: the deadline has passed.
    pub fn deadline(seconds: u64) -> Self {
        let message = format!("the answer was not complete after {seconds} s, the server's limit for a request");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", Some("deadline_exceeded"), message)
    }

    /// 500: our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("internal_error"), message)
    }

    /// The same error about a field.
    #[must_use]
    pub fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The body.
    pub fn body(&self) -> Value {
        json!({ "error": self.object() })
    }

    /// What is behind `error`.
    pub fn object(&self) -> impl Serialize + '_ {
        Object { message: &self.message, kind: self.kind, param: self.param.as_deref(), code: self.code }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For the line in the log.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::Parameter { field, .. } => {
                let param = match field {
                    "n_logprobs" => "logprobs",
                    "dry_breakers" => "dry_sequence_breakers",
                    other => other,
                };
                Self::invalid(param, message)
            }
            EngineError::PromptTooLong { .. } => Self::too_long("prompt", message),
            EngineError::EmptyPrompt | EngineError::TokenId { .. } => Self::invalid("prompt", message),
            EngineError::CacheTooSmall { .. } => Self::too_long("max_tokens", message),
            EngineError::QueueFull { .. } => {
                let message = format!("The server is busy: {message}. Try again a little later.");
                Self::too_many("requests", "queue_full", message, 1)
            }
            // Which field the constraint came from, the engine does not know.
            EngineError::Constraint { .. } => Self { code: Some("invalid_value"), ..Self::bad_request(message) },
            EngineError::Stopped { .. } => Self::unavailable(message, 5),
            // Options and machines are not the client's doing.
            EngineError::Option { .. }
            | EngineError::VocabularyTooLarge { .. }
            | EngineError::BadLogit { .. }
            | EngineError::Model(_) => Self::internal(message),
            _ => Self::bad_request(message),
        }
    }
}

impl From<PathRejection> for ApiError {
    fn from(error: PathRejection) -> Self {
        Self::bad_request(format!("the path cannot be read: {error}"))
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self::bad_request(format!("the query cannot be read: {error}"))
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> Self {
        Self::invalid("messages", error.to_string())
    }
}

impl From<ConstrainError> for ApiError {
    fn from(error: ConstrainError) -> Self {
        match error {
            ConstrainError::Internal { .. } | ConstrainError::Vocabulary { .. } => Self::internal(error.to_string()),
            _ => Self::invalid("response_format", error.to_string()),
        }
    }
}

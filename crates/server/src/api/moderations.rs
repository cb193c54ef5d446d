//! `POST /v1/moderations`: what the server's own filters say of texts.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use verve_access::Scope;
use verve_moderate::{Chain, Moderation};

use super::{blocking, read_json};
use crate::access::Caller;
use crate::answer::json as respond;
use crate::app::App;
use crate::error::ApiError;
use crate::parse::{fields, kind, only_known, request};

/// Most texts of a request.
const MAX_INPUTS: usize = 256;

request! {
    /// The fields of this endpoint.
    pub struct ModerationFields {
        /// Comes back as it was: the filters are the server's.
        pub model: String,
        /// A text, a list of texts, or a list of parts that are texts.
        pub input: Value,
    }
}

fn texts(input: Option<Value>) -> Result<Vec<String>, ApiError> {
    let wrong = |problem: String| ApiError::invalid("input", format!("input: {problem}"));
    let text = |item: Value| match item {
        Value::String(text) => Ok(text),
        Value::Object(part) => match (part.get("type").and_then(Value::as_str), part.get("text")) {
            (Some("text"), Some(Value::String(text))) => Ok(text.clone()),
            _ => Err(wrong("parts must be texts: {\"type\": \"text\", \"text\": ...}".to_owned())),
        },
        other => Err(wrong(format!("expected a string, found {}", kind(&other)))),
    };
    match input {
        None => Err(wrong("missing".to_owned())),
        Some(Value::Array(items)) if items.is_empty() || items.len() > MAX_INPUTS => {
            Err(wrong(format!("has {} texts, must have 1 to {MAX_INPUTS}", items.len())))
        }
        Some(Value::Array(items)) => items.into_iter().map(text).collect(),
        Some(other) => Ok(vec![text(other)?]),
    }
}

fn result(chain: &Chain, text: &str) -> Result<Value, ApiError> {
    let Moderation { flagged, categories } =
        chain.categories(text).map_err(|error| ApiError::unavailable(error.to_string(), 5))?;
    let (mut flags, mut scores, mut kinds) = (Map::new(), Map::new(), Map::new());
    for (category, is_flagged, score) in categories {
        flags.insert(category.name().to_owned(), is_flagged.into());
        scores.insert(category.name().to_owned(), score.into());
        kinds.insert(category.name().to_owned(), json!(["text"]));
    }
    Ok(json!({
        "flagged": flagged,
        "categories": flags,
        "category_scores": scores,
        "category_applied_input_types": kinds,
    }))
}

/// `POST /v1/moderations`.
///
/// # Errors
/// Whatever is wrong with the request; 400 where no filters are set up.
pub async fn moderations(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    caller.may(Scope::Moderate)?;
    let body = read_json(&app, request).await?;
    only_known(&body, &[ModerationFields::FIELDS])?;
    let asked: ModerationFields = fields(&body)?;
    let texts = texts(asked.input)?;
    let Some(chain) = app.moderation.clone() else {
        let message = "This server has no filters: set them up in [serve.moderation] of its configuration file.";
        return Err(ApiError::client(StatusCode::BAD_REQUEST, "not_supported", message));
    };
    caller.admit(&app, 0)?;
    caller.settle(&app, 0, 0);
    let results =
        blocking(move || texts.iter().map(|text| result(&chain, text)).collect::<Result<Vec<_>, _>>()).await?;
    Ok(respond(&json!({
        "id": crate::ids::fresh("modr-"),
        "model": asked.model.unwrap_or_else(|| "filters".to_owned()),
        "results": results,
    })))
}

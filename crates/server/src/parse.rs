//! From a body to a request: JSON with the fields that an endpoint has and no others.

use axum::http::StatusCode;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// Declares a request's fields, all of them optional where the JSON is concerned: `null` means the default too.
macro_rules! request {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, serde::Deserialize)]
        #[serde(default)]
        pub struct $name { $($(#[$fmeta])* pub $field: Option<$kind>,)* }

        impl $name {
            /// Names of the fields.
            pub const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];
        }
    };
}
pub(crate) use request;

/// Checks that a body is said to be JSON. Other sites' pages cannot say so without asking first, which keeps them from
/// using a server that listens on loopback without keys.
///
/// # Errors
/// 415.
pub fn expect_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let found = if kind.is_empty() { "none".to_owned() } else { format!("{kind:?}") };
    Err(ApiError::client(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("the content type is {found}: send the header Content-Type: application/json"),
    ))
}

/// A body as a JSON object.
///
/// # Errors
/// 400 that says where the JSON is wrong.
pub fn object(body: &[u8]) -> Result<Value, ApiError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))?;
    match value {
        Value::Object(_) => Ok(value),
        other => Err(ApiError::bad_request(format!("the body must be a JSON object, it is {}", kind(&other)))),
    }
}

/// Refuses fields that are in none of `known`.
///
/// # Errors
/// 400 that names the field and the nearest known one.
pub fn only_known(value: &Value, known: &[&[&str]]) -> Result<(), ApiError> {
    let empty = Map::new();
    for field in value.as_object().unwrap_or(&empty).keys() {
        if known.iter().any(|names| names.contains(&field.as_str())) {
            continue;
        }
        let nearest = known
            .iter()
            .copied()
            .flatten()
            .map(|name| (strsim::damerau_levenshtein(field, name), *name))
            .min()
            .filter(|(distance, _)| *distance <= 2)
            .map_or_else(String::new, |(_, name)| format!(" Did you mean {name}?"));
        let shown: String = field.chars().take(64).collect();
        return Err(ApiError::unknown_field(
            &shown,
            format!("Unrecognized request argument supplied: {shown}.{nearest}"),
        ));
    }
    Ok(())
}

/// Reads the fields of `T`; others are somebody else's.
///
/// # Errors
/// 400 that names the field.
pub fn fields<T: DeserializeOwned>(value: &Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let message = for_people(&error.into_inner().to_string());
        if path == "." {
            ApiError::bad_request(message)
        } else {
            ApiError::invalid(path.clone(), format!("{path}: {message}"))
        }
    })
}

/// A message of the JSON library without this language's names for numbers.
fn for_people(message: &str) -> String {
    [("expected usize", "expected a whole number"), ("expected u64", "expected a whole number")]
        .into_iter()
        .chain([("expected u32", "expected a whole number"), ("expected i64", "expected an integer")])
        .chain([("expected f32", "expected a number"), ("expected f64", "expected a number")])
        .fold(message.to_owned(), |message, (word, plain)| message.replace(word, plain))
}

/// What kind of JSON a value is, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

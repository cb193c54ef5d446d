//! The OpenAPI document of the server, and the table of its routes.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;

/// The document.
const DOCUMENT: &str = include_str!("openapi.json");

/// Methods and routes, as the router has them.
pub const ROUTES: &[(&str, &str)] = &[
    ("get", "/"),
    ("get", "/admin"),
    ("get", "/assets/{file}"),
    ("get", "/health"),
    ("get", "/v1/health"),
    ("get", "/ready"),
    ("get", "/openapi.json"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{*id}"),
    ("post", "/v1/completions"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/responses"),
    ("get", "/v1/responses/{id}"),
    ("delete", "/v1/responses/{id}"),
    ("get", "/v1/responses/{id}/input_items"),
    ("post", "/v1/embeddings"),
    ("post", "/v1/moderations"),
    ("post", "/v1/score"),
    ("post", "/tokenize"),
    ("post", "/detokenize"),
    ("get", "/tokenizer_info"),
    ("post", "/apply-template"),
    ("get", "/metrics"),
    ("get", "/admin/status"),
];

/// `GET /openapi.json`.
pub async fn document() -> Response {
    let mut response = Response::new(Body::from(DOCUMENT));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

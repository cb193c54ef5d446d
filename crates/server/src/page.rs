//! The playground and the administrator's page, from the binary.

use axum::body::Body;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, header};
use axum::response::Response;

use crate::error::ApiError;

/// Nothing from elsewhere, nothing inline, no frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        /// Files under `/assets/`.
        const ASSETS: &[(&str, &str)] = &[$(($name, include_str!(concat!("../web/", $name)))),*];
    };
}

assets![
    "admin.js",
    "api.js",
    "chat.js",
    "completion.js",
    "history.js",
    "main.js",
    "page.js",
    "prompt.js",
    "settings.js",
    "snippets.js",
    "style.css",
    "tokens.js",
];

fn file(text: &'static str, kind: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // It changes with the binary.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// `GET /`: the playground.
pub async fn index() -> Response {
    file(include_str!("../web/index.html"), "text/html; charset=utf-8")
}

/// `GET /admin`: the administrator's page.
pub async fn admin() -> Response {
    file(include_str!("../web/admin.html"), "text/html; charset=utf-8")
}

/// `GET /assets/{file}`.
///
/// # Errors
/// 404.
pub async fn asset(name: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let (_, text) =
        ASSETS.iter().find(|(known, _)| *known == name).ok_or_else(|| ApiError::not_found("no such file"))?;
    let kind = if name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
    Ok(file(text, kind))
}

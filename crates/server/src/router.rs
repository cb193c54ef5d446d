//! All routes, and what happens to every request before and behind them.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::api::{admin, chat, completions, embeddings, model_list, moderations, responses, score, text};
use crate::app::App;
use crate::error::ApiError;
use crate::metrics::RequestLabels;
use crate::{openapi, page};

/// Longest request id of a client that is taken over.
const MAX_REQUEST_ID: usize = 128;

/// The server as a service.
pub fn router(app: &Arc<App>) -> Router {
    let open = Router::new()
        .route("/", get(page::index))
        .route("/admin", get(page::admin))
        .route("/assets/{file}", get(page::asset))
        .route("/health", get(admin::health))
        .route("/v1/health", get(admin::health))
        .route("/ready", get(admin::ready))
        .route("/openapi.json", get(openapi::document));
    let keyed = Router::new()
        .route("/v1/models", get(model_list::list))
        .route("/v1/models/{*id}", get(model_list::one))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{id}", get(responses::get).delete(responses::delete))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/moderations", post(moderations::moderations))
        .route("/v1/score", post(score::score))
        .route("/tokenize", post(text::tokenize))
        .route("/detokenize", post(text::detokenize))
        .route("/tokenizer_info", get(text::tokenizer_info))
        .route("/apply-template", post(text::apply_template))
        .route("/metrics", get(admin::metrics))
        .route("/admin/status", get(admin::status))
        .route_layer(from_fn_with_state(app.clone(), identify));
    let router = open
        .merge(keyed)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app.clone(), attend))
        .with_state(app.clone());
    match cors(&app.options.cors_origins) {
        Some(layer) => router.layer(layer),
        None => router,
    }
}

/// The name of a request, for logs, headers and whoever asks.
#[derive(Clone)]
struct RequestId(Arc<str>);

/// Names, measures and logs every request.
async fn attend(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id: Arc<str> = request_id(request.headers()).into();
    request.extensions_mut().insert(RequestId(id.clone()));
    // Never what the client wrote: it would make as many series as it likes.
    let route = request.extensions().get::<MatchedPath>().map_or("none", |path| known_route(path.as_str()));
    let method = request.method().clone();
    app.metrics.in_flight.inc();
    let result = match host_is_ours(&app, request.headers()) {
        Ok(()) if app.is_draining() && route != "/health" && route != "/ready" && route != "/metrics" => {
            Err(ApiError::unavailable("the server is shutting down", 5))
        }
        other => other,
    };
    let mut response = match result {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    app.metrics.in_flight.dec();
    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    app.metrics.requests.get_or_create(&RequestLabels { endpoint: route, status }).inc();
    app.metrics.duration.observe(elapsed.as_secs_f64());
    if status == 429 {
        app.metrics.turned_away.inc();
    }
    let error = response.extensions().get::<ApiError>().map(|error| error.message.clone()).unwrap_or_default();
    // Messages may quote the request.
    let shown = if app.options.log_text { error.as_str() } else { "" };
    let ms = elapsed.as_millis() as u64;
    if status >= 500 {
        tracing::error!(request_id = &*id, %method, route, status, ms, error, "request");
    } else {
        tracing::info!(request_id = &*id, %method, route, status, ms, error = shown, "request");
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    headers.insert("openai-processing-ms", HeaderValue::from(ms));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The one name of a route that a path matched.
fn known_route(path: &str) -> &'static str {
    openapi::ROUTES.iter().map(|(_, route)| *route).find(|route| *route == path).unwrap_or("other")
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    let is_good = |id: &&str| {
        (1..=MAX_REQUEST_ID).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    given.filter(is_good).map_or_else(|| crate::ids::fresh("req_"), str::to_owned)
}

/// Without keys, a page of another site could reach a server on loopback through a name that it makes mean this machine.
fn host_is_ours(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    if app.access.needs_key() || app.options.allow_anonymous {
        return Ok(());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    if name.eq_ignore_ascii_case("localhost") || matches!(name, "127.0.0.1" | "::1" | "") {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(ApiError::forbidden(format!(
        "This server asks for no key and so answers only on this machine's own names (localhost, 127.0.0.1), not as {shown:?}. \
         Start it with keys, or with --allow-anonymous."
    )))
}

/// Finds out who calls.
async fn identify(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let caller = match app.access.caller(request.headers(), id) {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    request.extensions_mut().insert(caller.clone());
    let mut response = next.run(request).await;
    caller.write_rate_limits(&app, response.headers_mut());
    response
}

async fn not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::not_found(format!(
        "Unknown request URL: {} {path}. See /openapi.json for what there is.",
        request.method()
    ))
}

async fn wrong_method(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::client(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{path} does not take {}; see /openapi.json", request.method()),
    )
}

#[allow(clippy::needless_pass_by_value, reason = "the layer hands it over")]
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    ApiError::internal("the server has a fault that this request brought up; please report it").into_response()
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let name = HeaderName::from_static;
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, name("x-request-id")])
            .expose_headers([
                name("x-request-id"),
                name("openai-processing-ms"),
                header::RETRY_AFTER,
                name("x-ratelimit-limit-requests"),
                name("x-ratelimit-remaining-requests"),
                name("x-ratelimit-reset-requests"),
                name("x-ratelimit-limit-tokens"),
                name("x-ratelimit-remaining-tokens"),
                name("x-ratelimit-reset-tokens"),
            ]),
    )
}

//! For those who run the server: `GET /health`, `/ready`, `/metrics`, `/admin/status`.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde_json::{Value, json};
use verve_access::{Now, Scope};

use crate::access::Caller;
use crate::answer::json as respond;
use crate::app::App;
use crate::error::ApiError;
use crate::models::{SlotState, SlotStatus};

/// `GET /health`: whether the process is alive.
pub async fn health() -> Response {
    respond(&json!({"status": "ok"}))
}

/// `GET /ready`: whether requests can be answered.
///
/// # Errors
/// 503 while no model is loaded, or when the server is about to end.
pub async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.is_draining() {
        return Err(ApiError::unavailable("the server is shutting down", 5));
    }
    if !app.models.is_ready() {
        return Err(ApiError::unavailable("no model is loaded yet", 1));
    }
    Ok(respond(&json!({"status": "ready"})))
}

/// `GET /metrics`.
///
/// # Errors
/// 403 without the scope.
pub async fn metrics(State(app): State<Arc<App>>, Extension(caller): Extension<Caller>) -> Result<Response, ApiError> {
    caller.may(Scope::Admin)?;
    let mut response = Response::new(Body::from(app.metrics.render(&app.models, app.started.elapsed())));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

fn model(status: SlotStatus) -> Value {
    let mut out = json!({
        "name": status.entry.name,
        "state": match status.state {
            SlotState::Unloaded => "unloaded",
            SlotState::Loading => "loading",
            SlotState::Loaded => "loaded",
            SlotState::Failed => "failed",
        },
        "error": status.error,
        "bytes": status.entry.bytes,
        "n_ctx": status.entry.n_ctx,
    });
    if let Some(model) = status.model {
        let load = model.engine.load();
        for (name, value) in [
            ("requests", load.n_requests),
            ("limit", model.queue_limit),
            ("waiting", load.n_waiting),
            ("running", load.n_running),
            ("kv_blocks", load.n_blocks),
            ("kv_used", load.n_blocks - load.n_available),
            ("kv_idle", load.n_idle),
            ("computed_tokens", load.totals.rows),
            ("cached_tokens", load.totals.n_found),
            ("generated_tokens", load.totals.n_generated),
            ("preemptions", load.totals.n_preempted),
            ("steps", load.totals.steps),
        ] {
            out[name] = value.into();
        }
        // What was computed and is no answer's was a prompt's.
        out["prompt_tokens"] = (load.totals.rows.saturating_sub(load.totals.n_generated) + load.totals.n_found).into();
    }
    out
}

/// `GET /admin/status`: everything the administrator's page shows.
///
/// # Errors
/// 403 without the scope.
pub async fn status(State(app): State<Arc<App>>, Extension(caller): Extension<Caller>) -> Result<Response, ApiError> {
    caller.may(Scope::Admin)?;
    let now = Now::read().unix;
    let keys: Vec<Value> = app.access.store().map_or_else(Vec::new, |store| {
        let usage = store.usage(now);
        let of = |key: &Arc<verve_access::Key>| {
            let used = usage.get(&key.id).copied().unwrap_or_default();
            json!({
                "id": key.id,
                "name": key.name,
                "scopes": key.scopes,
                "models": key.models,
                "expires_at": key.expires_at.map(verve_access::UnixMillis::seconds),
                "revoked": key.revoked_at.is_some(),
                "last_used": used.last_used.map(verve_access::UnixMillis::seconds),
                "requests_today": used.today.requests,
                "tokens_today": used.today.tokens(),
                "requests_total": used.total.requests,
                "tokens_total": used.total.tokens(),
                "limits": key.limits,
            })
        };
        store.keys().iter().map(of).collect()
    });
    let models: Vec<Value> = app.models.status().into_iter().map(model).collect();
    Ok(respond(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": app.started.elapsed().as_secs(),
        "draining": app.is_draining(),
        "connections": app.metrics.connections.get(),
        "in_flight": app.metrics.in_flight.get(),
        "models": models,
        "keys": keys,
        "recent": app.recent.list(),
    })))
}

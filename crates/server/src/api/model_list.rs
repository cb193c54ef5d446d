//! `GET /v1/models`, `GET /v1/models/{id}`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::answer::json as respond;
use crate::app::App;
use crate::error::ApiError;
use crate::models::ModelEntry;

fn object(name: &str, entry: &ModelEntry, root: Option<&str>) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": entry.created,
        "owned_by": "verve",
        "root": root.unwrap_or(name),
        "max_model_len": entry.n_ctx,
    })
}

/// `GET /v1/models`: those that the caller may use, aliases included.
pub async fn list(State(app): State<Arc<App>>, Extension(caller): Extension<Caller>) -> Response {
    let may_use = |entry: &&ModelEntry| caller.may_use(&entry.name).is_ok();
    let own = app.models.entries().filter(may_use).map(|entry| object(&entry.name, entry, None));
    let aliases = app
        .models
        .aliases()
        .filter(|(alias, entry)| *alias != "*" && may_use(entry))
        .map(|(alias, entry)| object(alias, entry, Some(&entry.name)));
    let data: Vec<Value> = own.chain(aliases).collect();
    respond(&json!({"object": "list", "data": data}))
}

/// `GET /v1/models/{id}`.
///
/// # Errors
/// 400, 404 for a model that there is not, 403 for one that the caller may not use.
pub async fn one(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let entry = caller.entry(&app, Some(&name))?;
    Ok(respond(&object(&name, entry, Some(&entry.name))))
}

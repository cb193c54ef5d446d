//! `POST /v1/score`: log-likelihoods of given continuations, many at once.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request as HttpRequest, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use verve_access::Scope;
use verve_engine::{Request, SamplingParams};

use super::{blocking, check_fits, open, prompt_text, specials};
use crate::access::Caller;
use crate::answer::{collect, json as respond};
use crate::app::App;
use crate::error::ApiError;
use crate::filter::check_input;
use crate::generation::Generation;
use crate::models::Loaded;
use crate::parse::{fields, only_known, request};
use crate::track::Track;

/// Most items of a request.
const MAX_ITEMS: usize = 2048;

request! {
    /// The fields of this endpoint.
    pub struct ScoreFields {
        /// Which model.
        pub model: String,
        /// What is scored.
        pub items: Vec<Item>,
        /// Whether each token's log-probability is reported.
        pub tokens: bool,
    }
}

/// A continuation and what it follows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// What comes before; nothing where it is left out.
    context: Option<Text>,
    /// What is scored.
    continuation: Text,
}

/// A text or ids.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Ids(Vec<u32>),
}

/// Ids of context and continuation, and where the continuation begins. Two texts are encoded as one and cut where the
/// context's own ids end, as the reference harness does: spaces at the end of the context go to the continuation.
fn encode(model: &Loaded, item: Item) -> Result<(Vec<u32>, usize), String> {
    let encode = |text: &str| model.tokenizer.encode_with_specials(text, specials(None));
    let plain = |text: &Text| match text {
        Text::Text(text) => model.tokenizer.encode_with(text, specials(None)),
        Text::Ids(ids) => ids.clone(),
    };
    let (ids, n_context) = match (item.context, item.continuation) {
        (None, continuation) => (plain(&continuation), 0),
        (Some(Text::Text(context)), continuation) if context.is_empty() => (plain(&continuation), 0),
        (Some(Text::Text(context)), Text::Text(continuation)) => {
            let kept = context.trim_end();
            let whole = encode(&format!("{context}{continuation}"));
            let n_context = encode(kept).len().min(whole.len());
            (whole, n_context)
        }
        (Some(context), continuation) => {
            let mut ids = match &context {
                Text::Text(text) => encode(text),
                Text::Ids(ids) => ids.clone(),
            };
            let n_context = ids.len();
            ids.extend(plain(&continuation));
            (ids, n_context)
        }
    };
    if ids.len() <= n_context {
        return Err("the continuation has no tokens".to_owned());
    }
    if n_context > 0 {
        return Ok((ids, n_context));
    }
    // The first token needs something before it.
    let start = model.vocabulary.start().ok_or("without a context there is nothing that the first token follows")?;
    if ids[0] == start {
        return if ids.len() > 1 { Ok((ids, 1)) } else { Err("the continuation has no tokens".to_owned()) };
    }
    let mut with_start = vec![start];
    with_start.extend(ids);
    Ok((with_start, 1))
}

/// Requests, where each continuation begins, whether tokens are shown.
type Prepared = (Vec<Request>, Vec<usize>, bool);

fn prepare(body: &Value, model: &Arc<Loaded>, client: u64) -> Result<Prepared, ApiError> {
    only_known(body, &[ScoreFields::FIELDS])?;
    let asked: ScoreFields = fields(body)?;
    let items = asked.items.ok_or_else(|| ApiError::invalid("items", "items is missing"))?;
    if items.is_empty() || items.len() > MAX_ITEMS {
        let message = format!("items has {} entries, must have 1 to {MAX_ITEMS}", items.len());
        return Err(ApiError::invalid("items", message));
    }
    let (mut requests, mut starts) = (Vec::new(), Vec::new());
    for (at, item) in items.into_iter().enumerate() {
        let param = format!("items[{at}]");
        let (prompt, start) =
            encode(model, item).map_err(|problem| ApiError::invalid(param.clone(), format!("{param}: {problem}")))?;
        check_fits(model, prompt.len(), None, &param)?;
        let params = SamplingParams { max_tokens: 0, ..SamplingParams::default() };
        requests.push(Request { prompt, params, prompt_logprobs: Some(1), client, ..Request::default() });
        starts.push(start);
    }
    Ok((requests, starts, asked.tokens.unwrap_or(false)))
}

/// `POST /v1/score`.
///
/// # Errors
/// Whatever is wrong with the request.
pub async fn score(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let (body, model) = open(&app, &caller, Scope::Score, request).await?;
    let client = caller.client();
    let loaded = model.clone();
    let (requests, starts, with_tokens) = blocking(move || prepare(&body, &loaded, client)).await?;
    check_input(&app, &caller, || prompt_text(&model, &requests)).await?;
    caller.admit(&app, requests.iter().map(|request| request.prompt.len()).sum())?;
    let track = Track::new(&app, &caller, "/v1/score", &model.name);
    let n_prompts = requests.len();
    let mut generation = Generation::start(&app, model.clone(), requests, track)?;
    let outcomes = collect(&app, &caller, &mut generation, n_prompts, 1).await?;
    let n_tokens = generation.track.usage().prompt;
    let of = |(index, (outcome, &start)): (usize, (crate::answer::Outcome, &usize))| {
        let tokens = &outcome.prompt[start.min(outcome.prompt.len())..];
        let logprob: f64 = tokens.iter().filter_map(|token| token.logprob).map(f64::from).sum();
        let is_greedy = tokens.iter().all(|token| token.alternatives.first().is_some_and(|best| best.id == token.id));
        let mut out = json!({
            "index": index,
            "object": "score",
            "logprob": logprob,
            "is_greedy": is_greedy,
            "n_tokens": tokens.len(),
        });
        if with_tokens {
            out["token_ids"] = tokens.iter().map(|token| token.id).collect();
            out["token_logprobs"] = tokens.iter().map(|token| token.logprob).collect();
        }
        out
    };
    let data: Vec<Value> = outcomes.into_iter().zip(&starts).enumerate().map(of).collect();
    Ok(respond(&json!({
        "object": "list",
        "model": model.name,
        "data": data,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    })))
}

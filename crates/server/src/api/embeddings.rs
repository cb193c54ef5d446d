//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request as HttpRequest, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use verve_access::Scope;
use verve_engine::{Pooling, Request};
use verve_tokenizer::SpecialTokens;

use super::completions::Prompts;
use super::{blocking, check_fits, open, prompt_text};
use crate::access::Caller;
use crate::answer::{collect, json as respond};
use crate::app::App;
use crate::error::ApiError;
use crate::filter::check_input;
use crate::generation::Generation;
use crate::models::Loaded;
use crate::parse::{fields, only_known, request};
use crate::track::Track;

/// Most texts of a request, as in the public API.
const MAX_INPUTS: usize = 2048;
/// Most tokens of a request, as in the public API.
const MAX_TOKENS: usize = 300_000;

request! {
    /// The fields of this endpoint.
    pub struct EmbeddingFields {
        /// Which model.
        pub model: String,
        /// Texts or lists of ids.
        pub input: Prompts,
        /// `float` or `base64`.
        pub encoding_format: String,
        /// Numbers of each vector.
        pub dimensions: usize,
        /// Who asks; of no consequence.
        pub user: String,
        /// `mean` of all tokens' states or `last`; this server's own.
        pub pooling: String,
    }
}

/// What is done with vectors.
struct View {
    dimensions: usize,
    is_base64: bool,
}

fn prepare(body: &Value, model: &Arc<Loaded>, client: u64) -> Result<(Vec<Request>, View), ApiError> {
    only_known(body, &[EmbeddingFields::FIELDS])?;
    let asked: EmbeddingFields = fields(body)?;
    let is_base64 = match asked.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format is {other:?}, must be float or base64");
            return Err(ApiError::invalid("encoding_format", message));
        }
    };
    let d_model = model.d_model;
    let dimensions = asked.dimensions.unwrap_or(d_model);
    if !(1..=d_model).contains(&dimensions) {
        let message = format!("dimensions is {dimensions}, must be from 1 to {d_model} for this model");
        return Err(ApiError::invalid("dimensions", message));
    }
    let pooling = match asked.pooling.as_deref() {
        None | Some("mean") => Pooling::Mean,
        Some("last") => Pooling::Last,
        Some(other) => {
            return Err(ApiError::invalid("pooling", format!("pooling is {other:?}, must be mean or last")));
        }
    };
    let inputs = match asked.input.ok_or_else(|| ApiError::invalid("input", "input is missing"))? {
        Prompts::Ids(lists) => lists,
        Prompts::Texts(texts) => {
            if texts.iter().any(String::is_empty) {
                return Err(ApiError::invalid("input", "input must not be an empty string"));
            }
            texts.iter().map(|text| model.tokenizer.encode_with_specials(text, SpecialTokens::Ordinary)).collect()
        }
    };
    if inputs.len() > MAX_INPUTS {
        let message = format!("input has {} texts, at most {MAX_INPUTS} are taken", inputs.len());
        return Err(ApiError::invalid("input", message));
    }
    let n_tokens: usize = inputs.iter().map(Vec::len).sum();
    if n_tokens > MAX_TOKENS {
        let message = format!("input has {n_tokens} tokens in all, at most {MAX_TOKENS} are taken");
        return Err(ApiError::invalid("input", message));
    }
    let request = |prompt: Vec<u32>| {
        check_fits(model, prompt.len(), None, "input")?;
        Ok(Request { prompt, embed: Some(pooling), client, ..Request::default() })
    };
    let requests = inputs.into_iter().map(request).collect::<Result<_, ApiError>>()?;
    Ok((requests, View { dimensions, is_base64 }))
}

/// `POST /v1/embeddings`. Vectors have unit length.
///
/// # Errors
/// Whatever is wrong with the request.
pub async fn embeddings(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let (body, model) = open(&app, &caller, Scope::Embed, request).await?;
    let client = caller.client();
    let loaded = model.clone();
    let (requests, view) = blocking(move || prepare(&body, &loaded, client)).await?;
    let n_prompts = requests.len();
    check_input(&app, &caller, || prompt_text(&model, &requests)).await?;
    caller.admit(&app, requests.iter().map(|request| request.prompt.len()).sum())?;
    let track = Track::new(&app, &caller, "/v1/embeddings", &model.name);
    let mut generation = Generation::start(&app, model.clone(), requests, track)?;
    let outcomes = collect(&app, &caller, &mut generation, n_prompts, 1).await?;
    let n_tokens = generation.track.usage().prompt;
    let data: Vec<Value> = outcomes
        .into_iter()
        .enumerate()
        .map(|(index, outcome)| json!({"object": "embedding", "index": index, "embedding": view.show(outcome.embedding)}))
        .collect();
    Ok(respond(&json!({
        "object": "list",
        "data": data,
        "model": model.name,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    })))
}

impl View {
    fn show(&self, mut values: Vec<f32>) -> Value {
        values.truncate(self.dimensions);
        let length = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if length > 0.0 {
            values.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
        if self.is_base64 {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            STANDARD.encode(bytes).into()
        } else {
            values.into()
        }
    }
}

//! Texts and ids: `POST /tokenize`, `/detokenize`, `/apply-template`, `GET /tokenizer_info`, in the forms that clients of
//! llama.cpp, of vLLM and the evaluation harness send.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request as HttpRequest, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use verve_access::Scope;
use verve_chat::{Ending, Message};

use super::{blocking, open, specials};
use crate::access::Caller;
use crate::answer::json as respond;
use crate::app::App;
use crate::conversation::render;
use crate::error::ApiError;
use crate::models::Loaded;
use crate::parse::{fields, only_known, request};
use crate::tools;

request! {
    /// What becomes ids: a text, or messages.
    pub struct TokenizeFields {
        /// Which model.
        pub model: String,
        /// A text.
        pub content: String,
        /// The same under its other name.
        pub prompt: String,
        /// Whether it gets the tokens in front that the model expects there.
        pub add_special: bool,
        /// The same under its other name.
        pub add_special_tokens: bool,
        /// Whether special tokens that the text spells out act as such; they do unless this is false.
        pub parse_special: bool,
        /// Whether ids come with their texts.
        pub with_pieces: bool,
        /// The same under its other name.
        pub return_token_strs: bool,
        /// A conversation instead of a text.
        pub messages: Vec<Message>,
        /// Whether it ends where the model is to begin.
        pub add_generation_prompt: bool,
    }
}

request! {
    /// What becomes text.
    pub struct DetokenizeFields {
        /// Which model.
        pub model: String,
        /// Ids.
        pub tokens: Vec<u32>,
    }
}

request! {
    /// What the model reads of a conversation.
    pub struct TemplateFields {
        /// Which model.
        pub model: String,
        /// A conversation.
        pub messages: Vec<Message>,
        /// Functions that may be called.
        pub tools: Value,
        /// Whether it ends where the model is to begin.
        pub add_generation_prompt: bool,
        /// Variables for the template.
        pub chat_template_kwargs: Map<String, Value>,
    }
}

/// The body of a call about a model's texts, and the model.
async fn call(app: &Arc<App>, caller: &Caller, request: HttpRequest) -> Result<(Value, Arc<Loaded>), ApiError> {
    let (body, model) = open(app, caller, Scope::Score, request).await?;
    caller.admit(app, 0)?;
    caller.settle(app, 0, 0);
    Ok((body, model))
}

/// `POST /tokenize`.
///
/// # Errors
/// Whatever is wrong with the request.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let (body, model) = call(&app, &caller, request).await?;
    blocking(move || {
        only_known(&body, &[TokenizeFields::FIELDS])?;
        let asked: TokenizeFields = fields(&body)?;
        let ids = match (asked.content.or(asked.prompt), asked.messages) {
            (Some(text), None) => {
                let specials = specials(asked.parse_special);
                match asked.add_special.or(asked.add_special_tokens).unwrap_or(true) {
                    true => model.tokenizer.encode_with_specials(&text, specials),
                    false => model.tokenizer.encode_with(&text, specials),
                }
            }
            (None, Some(messages)) => {
                let ending = ending(asked.add_generation_prompt);
                render(&model, messages, &[], ending, &Map::new())?.ids
            }
            (None, None) => return Err(ApiError::invalid("content", "give content (or prompt), or messages")),
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid("messages", "content and messages exclude each other: give one of them"));
            }
        };
        let count = ids.len();
        let tokens: Value = if asked.with_pieces.unwrap_or(false) {
            ids.iter().map(|&id| json!({"id": id, "piece": piece(&model, id)})).collect()
        } else {
            ids.iter().copied().collect()
        };
        let mut out = json!({"tokens": tokens, "count": count, "max_model_len": model.n_ctx});
        if asked.return_token_strs.unwrap_or(false) {
            out["token_strs"] = ids.iter().map(|&id| crate::pieces::text(&model.tokenizer, id)).collect();
        }
        Ok(respond(&out))
    })
    .await
}

/// A token as a text, or as bytes where it is none.
fn piece(model: &Loaded, id: u32) -> Value {
    let bytes = crate::pieces::bytes(&model.tokenizer, id);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.into(),
    }
}

fn ending(add_generation_prompt: Option<bool>) -> Ending {
    if add_generation_prompt.unwrap_or(true) { Ending::GenerationPrompt } else { Ending::Closed }
}

/// `POST /detokenize`.
///
/// # Errors
/// Whatever is wrong with the request.
pub async fn detokenize(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let (body, model) = call(&app, &caller, request).await?;
    blocking(move || {
        only_known(&body, &[DetokenizeFields::FIELDS])?;
        let asked: DetokenizeFields = fields(&body)?;
        let ids = asked.tokens.ok_or_else(|| ApiError::invalid("tokens", "tokens is missing"))?;
        let bytes = model
            .tokenizer
            .decode_bytes(&ids)
            .map_err(|error| ApiError::invalid("tokens", format!("tokens: {error}")))?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(respond(&json!({"content": text, "prompt": text})))
    })
    .await
}

/// `POST /apply-template`.
///
/// # Errors
/// Whatever is wrong with the request.
pub async fn apply_template(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let (body, model) = call(&app, &caller, request).await?;
    blocking(move || {
        only_known(&body, &[TemplateFields::FIELDS])?;
        let asked: TemplateFields = fields(&body)?;
        let messages = asked.messages.ok_or_else(|| ApiError::invalid("messages", "messages is missing"))?;
        let listed = asked.tools.as_ref().filter(|tools| !tools.is_null());
        let tools = listed.map(tools::tools).transpose()?.unwrap_or_default();
        let variables = asked.chat_template_kwargs.unwrap_or_default();
        let rendered = render(&model, messages, &tools, ending(asked.add_generation_prompt), &variables)?;
        Ok(respond(&json!({"prompt": rendered.text, "tokens": rendered.ids})))
    })
    .await
}

/// What a GET can say.
#[derive(Deserialize)]
pub struct ModelQuery {
    model: Option<String>,
}

/// `GET /tokenizer_info`, which the evaluation harness reads.
///
/// # Errors
/// 404 for a model that there is not.
pub async fn tokenizer_info(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ModelQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    caller.may(Scope::Score)?;
    let name = query.model.as_deref();
    caller.entry(&app, name)?;
    let model = app.models.get(name).await?;
    let text = |id: Option<u32>| id.map(|id| crate::pieces::text(&model.tokenizer, id));
    let specials = model.chat.as_ref().map(|chat| chat.template.specials());
    let or_special =
        |id: Option<u32>, named: Option<&Option<String>>| text(id).or_else(|| named.and_then(Clone::clone));
    let eos = or_special(model.tokenizer.eos().or(model.tokenizer.end_of_text()), specials.map(|s| &s.eos));
    Ok(respond(&json!({
        "tokenizer_class": "verve",
        "hash": model.tokenizer.hash(),
        "n_vocab": model.tokenizer.n_vocab(),
        "model_max_length": model.n_ctx,
        "bos_token": or_special(model.tokenizer.bos(), specials.map(|s| &s.bos)),
        "eos_token": eos,
        "pad_token": specials.and_then(|s| s.pad.clone()).or_else(|| eos.clone()),
        "add_bos_token": model.tokenizer.adds_bos(),
        "chat_template": model.chat.as_ref().map(|chat| chat.template.source()),
    })))
}

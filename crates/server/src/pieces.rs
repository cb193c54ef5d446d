//! Tokens as texts, the way the public API shows them.

use serde::Serialize;
use serde_json::{Map, Number, Value};
use verve_engine::{AnswerToken, TokenLogprob};
use verve_tokenizer::Tokenizer;

use crate::models::Loaded;

/// The bytes of a token; those of its text for a special one.
pub fn bytes(tokenizer: &Tokenizer, id: u32) -> &[u8] {
    tokenizer.token_bytes(id).unwrap_or_default()
}

/// A token as text; `bytes:\x..` where it is no text by itself.
pub fn text(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = bytes(tokenizer, id);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |text, byte| format!("{text}\\x{byte:02x}")),
    }
}

/// A number as JSON has it. A token that cannot come has no finite log-probability: the public API shows -9999.
fn number(logprob: f32) -> Value {
    let value = if logprob.is_finite() { f64::from(logprob) } else { -9999.0 };
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// `logprobs` of the completions endpoint: parallel lists.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ListedLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Value>,
    top_logprobs: Option<Vec<Value>>,
    text_offset: Vec<usize>,
}

/// Makes [`ListedLogprobs`], token after token.
#[derive(Debug, Clone)]
pub struct Lister {
    /// Likeliest tokens shown at each place.
    n_top: usize,
    /// Characters so far.
    offset: usize,
}

impl Lister {
    /// For a text's beginning.
    pub fn new(n_top: usize) -> Self {
        Self { n_top, offset: 0 }
    }

    /// Adds a token to `list`.
    pub fn push(&mut self, model: &Loaded, token: &AnswerToken, list: &mut ListedLogprobs) {
        let tokenizer = &model.tokenizer;
        list.tokens.push(text(tokenizer, token.id));
        list.token_logprobs.push(token.logprob.map_or(Value::Null, number));
        list.text_offset.push(self.offset);
        // Special tokens have no text; characters begin at all bytes but the continuations.
        self.offset += model.vocabulary.bytes(token.id).iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
        if self.n_top == 0 {
            return;
        }
        let top = list.top_logprobs.get_or_insert_default();
        let Some(logprob) = token.logprob else {
            top.push(Value::Null);
            return;
        };
        let mut map = Map::new();
        for TokenLogprob { id, logprob } in token.alternatives.iter().take(self.n_top) {
            map.entry(text(tokenizer, *id)).or_insert_with(|| number(*logprob));
        }
        map.entry(text(tokenizer, token.id)).or_insert_with(|| number(logprob));
        top.push(Value::Object(map));
    }
}

/// A token of `logprobs.content` in the chat endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct ContentToken {
    token: String,
    logprob: Value,
    bytes: Vec<u8>,
    top_logprobs: Vec<TopToken>,
}

/// A token that might have come.
#[derive(Debug, Clone, Serialize)]
struct TopToken {
    token: String,
    logprob: Value,
    bytes: Vec<u8>,
}

impl ContentToken {
    /// A token and the `n_top` likeliest in its place.
    pub fn new(tokenizer: &Tokenizer, token: &AnswerToken, n_top: usize) -> Self {
        let lossy = |id| String::from_utf8_lossy(bytes(tokenizer, id)).into_owned();
        let top = |top: &TokenLogprob| TopToken {
            token: lossy(top.id),
            logprob: number(top.logprob),
            bytes: bytes(tokenizer, top.id).to_vec(),
        };
        Self {
            token: lossy(token.id),
            logprob: token.logprob.map_or(Value::Null, number),
            bytes: bytes(tokenizer, token.id).to_vec(),
            top_logprobs: token.alternatives.iter().take(n_top).map(top).collect(),
        }
    }
}

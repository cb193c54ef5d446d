//! Reading the keys of a JSON object, with messages that name them.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::FfnActivation;
use crate::error::ModelError;

/// A JSON object with the path it came from, for messages.
pub(in crate::formats) struct Keys<'a> {
    pub path: &'a Path,
    pub map: &'a Map<String, Value>,
}

impl Keys<'_> {
    /// A key that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(&self, key: &str, value: &Value, expected: &str) -> ModelError {
        let problem = format!("`{key}` is {value}, and should be {expected}");
        ModelError::Malformed { path: self.path.to_owned(), problem }
    }

    pub(super) fn unsupported(&self, key: &str, supported: &str) -> ModelError {
        let found = self.map.get(key).map_or("missing".to_owned(), Value::to_string);
        ModelError::UnsupportedKey {
            path: self.path.to_owned(),
            key: key.to_owned(),
            found,
            supported: supported.to_owned(),
        }
    }

    pub(super) fn opt_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        let Some(value) = self.get(key) else { return Ok(None) };
        size(value).map(Some).ok_or_else(|| self.wrong(key, value, "a whole number"))
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.opt_size(key)?.ok_or_else(|| {
            let problem = format!("`{key}` is missing");
            ModelError::Malformed { path: self.path.to_owned(), problem }
        })
    }

    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.wrong(key, value, "a number"))
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    /// Refuses a flag that changes what is computed.
    pub(super) fn must_be(&self, key: &str, wanted: bool) -> Result<(), ModelError> {
        match self.flag(key, wanted)? == wanted {
            true => Ok(()),
            false => Err(self.unsupported(key, if wanted { "true" } else { "false" })),
        }
    }

    /// An activation that has no gate.
    pub(super) fn activation(&self, key: &str, default: &str) -> Result<FfnActivation, ModelError> {
        match self.get(key).unwrap_or(&json!(default)).as_str() {
            // Three ways to write the same function.
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(FfnActivation::GeluTanh),
            Some("gelu") => Ok(FfnActivation::GeluErf),
            Some("relu") => Ok(FfnActivation::Relu),
            _ => Err(self.unsupported(key, "gelu_new, gelu_pytorch_tanh, gelu_fast, gelu or relu")),
        }
    }

    /// Heads of equal width that fill the model, as GPT-2 and GPT-Neo have them.
    pub(super) fn even_heads(&self, d_model: usize, n_heads: usize, key: &str) -> Result<usize, ModelError> {
        if n_heads == 0 || !d_model.is_multiple_of(n_heads) {
            let problem = format!("`{key}` is {n_heads}, which does not divide the model's width {d_model}");
            return Err(ModelError::Malformed { path: self.path.to_owned(), problem });
        }
        Ok(d_model / n_heads)
    }
}

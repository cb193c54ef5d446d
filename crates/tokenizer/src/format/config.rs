//! `tokenizer_config.json`, which stands beside a tokenizer's file and says what that file does not: which tokens begin and
//! end a text, and which of them go around one.

use std::path::Path;

use serde_json::Value;

use super::{io_error, read_file};
use crate::error::{Error, Result};
use crate::rules::Rules;
use crate::vocab::{AddedToken, Matching};

/// Classes of tokenizers that put a token around a text unless told not to: name, in front, behind.
const CLASSES: [(&str, bool, bool); 4] = [
    ("LlamaTokenizer", true, false),
    ("CodeLlamaTokenizer", true, false),
    ("GemmaTokenizer", true, false),
    ("T5Tokenizer", false, true),
];

/// Content of the file; empty when there is none.
#[derive(Debug, Default)]
pub(super) struct Config {
    content: Value,
}

impl Config {
    /// Reads the file beside `tokenizer`, if it is there.
    pub(super) fn beside(tokenizer: &Path) -> Result<Self> {
        let path = tokenizer.with_file_name("tokenizer_config.json");
        match path.try_exists() {
            Ok(false) => return Ok(Self::default()),
            Ok(true) => {}
            Err(source) => return Err(io_error(&path, source)),
        }
        let content = serde_json::from_slice(&read_file(&path)?)
            .map_err(|error| Error::malformed(&path.display().to_string(), "JSON", error.to_string()))?;
        Ok(Self { content })
    }

    /// Text of a token with a role: given as it is, or with how it is matched.
    fn token(&self, role: &str) -> Option<&str> {
        let value = self.content.get(role)?;
        value.as_str().or_else(|| value.get("content")?.as_str())
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.content.get(name).and_then(Value::as_bool)
    }

    /// Tokens with ids from `first` on: those that a SentencePiece file does not have.
    pub(super) fn added(&self, first: usize) -> Vec<AddedToken> {
        let listed = self.content.get("added_tokens_decoder").and_then(Value::as_object);
        let mut added: Vec<AddedToken> = listed
            .into_iter()
            .flatten()
            .filter_map(|(id, token)| {
                let id = id.parse().ok().filter(|id| *id as usize >= first)?;
                let flag = |name: &str| token.get(name) == Some(&Value::Bool(true));
                Some(AddedToken {
                    content: token.get("content")?.as_str()?.to_owned(),
                    id,
                    special: flag("special"),
                    matching: Matching {
                        single_word: flag("single_word"),
                        lstrip: flag("lstrip"),
                        rstrip: flag("rstrip"),
                        normalized: flag("normalized"),
                    },
                })
            })
            .collect();
        added.sort_by_key(|token| token.id);
        added
    }

    /// Fills in the roles that `rules` leave open. `find` gives the id of a token.
    pub(super) fn fill_in(&self, rules: &mut Rules, find: impl Fn(&str) -> Option<u32>) {
        let id = |role: &str| self.token(role).and_then(&find);
        rules.bos = rules.bos.or_else(|| id("bos_token"));
        rules.eos = rules.eos.or_else(|| id("eos_token"));
        rules.pad = rules.pad.or_else(|| id("pad_token"));
        // A template in the tokenizer's own file has said it already.
        if !rules.front.is_empty() || !rules.back.is_empty() {
            return;
        }
        let class = self.content.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let known = CLASSES.iter().find(|(name, ..)| *name == class.trim_end_matches("Fast"));
        let (front, back) = known.map_or((false, false), |(_, front, back)| (*front, *back));
        rules.front = rules.bos.filter(|_| self.flag("add_bos_token").unwrap_or(front)).into_iter().collect();
        rules.back = rules.eos.filter(|_| self.flag("add_eos_token").unwrap_or(back)).into_iter().collect();
    }
}

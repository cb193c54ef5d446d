//! Keys: what they may do, for how long and how much.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{AccessError, Refused, UnixMillis};

/// Longest name of a key, in characters.
const NAME_CHARS: usize = 64;

/// What a key may ask a server for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scope {
    /// Text: completions, chat, responses.
    Generate,
    /// Embeddings.
    Embed,
    /// Log-likelihoods and tokens: score, tokenize, detokenize.
    Score,
    /// Moderations.
    Moderate,
    /// The administrator's page: load, and everybody's usage.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] = [Self::Generate, Self::Embed, Self::Score, Self::Moderate, Self::Admin];

    /// As written in commands, files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Embed => "embed",
            Self::Score => "score",
            Self::Moderate => "moderate",
            Self::Admin => "admin",
        }
    }

    /// What a key may do if nothing else is said: everything but administration.
    pub fn usual() -> BTreeSet<Self> {
        Self::ALL.into_iter().filter(|s| *s != Self::Admin).collect()
    }

    /// All names, for messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        Self::ALL
            .into_iter()
            .find(|s| s.name() == text)
            .ok_or_else(|| AccessError::UnknownScope { found: text.to_string() })
    }
}

/// How much a key may ask for. What is absent is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests in any 60 seconds.
    pub requests_per_minute: Option<u64>,
    /// Tokens, of prompts and answers together, in any 60 seconds.
    pub tokens_per_minute: Option<u64>,
    /// Requests in a day of UTC.
    pub requests_per_day: Option<u64>,
    /// Tokens in a day of UTC.
    pub tokens_per_day: Option<u64>,
}

impl Limits {
    fn check(&self) -> Result<(), AccessError> {
        let all = [
            (self.requests_per_minute, "requests per minute"),
            (self.tokens_per_minute, "tokens per minute"),
            (self.requests_per_day, "requests per day"),
            (self.tokens_per_day, "tokens per day"),
        ];
        match all.into_iter().find(|(limit, _)| *limit == Some(0)) {
            Some((_, what)) => Err(AccessError::ZeroLimit { what }),
            None => Ok(()),
        }
    }
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Short and public: `key_` and ten hexadecimal digits.
    pub id: String,
    /// What people call it. Of the keys that are not revoked, no two have the same name.
    pub name: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
    /// The models it may use, by the names in requests; empty for all.
    #[serde(default)]
    pub models: Vec<String>,
    /// When it was made.
    pub created: UnixMillis,
    /// From when on it opens nothing.
    pub expires_at: Option<UnixMillis>,
    /// When it was taken back.
    pub revoked_at: Option<UnixMillis>,
    /// How much it may ask for.
    #[serde(default)]
    pub limits: Limits,
}

impl Key {
    /// Whether the key may do this.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether the key may use the model of this name.
    pub fn allows_model(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|m| m == model)
    }

    /// Whether the key is in force at this moment.
    pub fn check(&self, now: UnixMillis) -> Result<(), Refused> {
        if self.revoked_at.is_some() {
            return Err(Refused::Revoked);
        }
        if self.expires_at.is_some_and(|end| now >= end) {
            return Err(Refused::Expired);
        }
        Ok(())
    }
}

/// What a new key shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// As [`Key::name`].
    pub name: String,
    /// As [`Key::scopes`].
    pub scopes: BTreeSet<Scope>,
    /// As [`Key::models`].
    pub models: Vec<String>,
    /// As [`Key::expires_at`].
    pub expires_at: Option<UnixMillis>,
    /// As [`Key::limits`].
    pub limits: Limits,
}

impl NewKey {
    /// A key with the usual scopes, for all models, without end or limits.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            scopes: Scope::usual(),
            models: Vec::new(),
            expires_at: None,
            limits: Limits::default(),
        }
    }

    /// What can be said against it without knowing the other keys.
    pub(crate) fn check(&self, now: UnixMillis) -> Result<(), AccessError> {
        let name = |why| Err(AccessError::Name { name: self.name.clone(), why });
        if self.name.trim().is_empty() {
            return name("it is empty");
        }
        if self.name != self.name.trim() {
            return name("it begins or ends with white space");
        }
        if self.name.chars().count() > NAME_CHARS {
            return name("it is longer than 64 characters");
        }
        if self.name.chars().any(char::is_control) {
            return name("it holds control characters");
        }
        if self.name.starts_with("key_") {
            return name("names that begin with `key_` could be taken for ids");
        }
        if self.name.starts_with("vk-") {
            return name("it looks like a secret, and names are shown to others");
        }
        if self.scopes.is_empty() {
            return Err(AccessError::NoScope);
        }
        if self.expires_at.is_some_and(|end| end <= now) {
            return Err(AccessError::PastExpiry);
        }
        self.limits.check()
    }
}

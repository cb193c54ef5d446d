//! What a chain is made of, as it stands in a settings file.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{Builtin, Category, Stage};

/// A chain of filters, in the order in which they are asked.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModerationConfig {
    /// The filters.
    pub filters: Vec<FilterConfig>,
}

/// One filter. Exactly one of `words`/`words_file` (which may stand together), `patterns`/`patterns_file` (which may too),
/// `builtin` and `service` says what it looks for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterConfig {
    /// A name for logs and messages; no two filters have the same.
    pub name: String,
    /// Which texts it looks at.
    #[serde(default)]
    pub stage: FilterStage,
    /// A short reason for logs and clients, such as `internal_name`.
    pub reason_code: String,
    /// The public API's category of what it finds.
    pub category: Option<Category>,
    /// What happens when it finds something.
    #[serde(default)]
    pub action: Action,
    /// Words and phrases, found as whole words, without regard to case, accents and the like.
    pub words: Option<Vec<String>>,
    /// A UTF-8 file of them, one a line; empty lines and lines that begin with `#` count for nothing.
    pub words_file: Option<PathBuf>,
    /// Regular expressions in the syntax of the `regex` crate, found anywhere in the text as it stands.
    pub patterns: Option<Vec<String>>,
    /// A UTF-8 file of them, one a line, as above.
    pub patterns_file: Option<PathBuf>,
    /// Forms that are built in.
    pub builtin: Option<Vec<Builtin>>,
    /// A moderation service to ask.
    pub service: Option<ServiceConfig>,
    /// Longest match of an expression on answers, bytes. While an answer is streamed, so much of it may have to wait, so an
    /// expression that can match more is refused. 256 if absent, at most 16,384.
    pub max_match_bytes: Option<usize>,
}

/// Which texts a filter looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterStage {
    /// What clients send.
    Input,
    /// What the model answers.
    Output,
    /// Both.
    #[default]
    Both,
}

impl FilterStage {
    /// Whether texts at `stage` are looked at.
    pub fn covers(self, stage: Stage) -> bool {
        match self {
            Self::Input => stage == Stage::Input,
            Self::Output => stage == Stage::Output,
            Self::Both => true,
        }
    }
}

/// What happens when a filter finds something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The request, or the rest of the answer, is refused.
    #[default]
    Refuse,
    /// It is recorded and goes on.
    Record,
}

/// A service that answers as OpenAI's `/v1/moderations` does.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Where to send texts, such as `https://moderation.example/v1/moderations`.
    pub url: String,
    /// The environment variable that holds the bearer token.
    pub bearer_env: Option<String>,
    /// The model to ask for.
    pub model: Option<String>,
    /// Longest wait for an answer, milliseconds. 5,000 if absent.
    pub timeout_ms: Option<u64>,
    /// What happens to a text when the service does not answer, or not in the expected form.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// What happens to a text that could not be checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is refused with [`Finding::UNAVAILABLE`](crate::Finding::UNAVAILABLE).
    #[default]
    Refuse,
    /// It passes, and that it did is recorded.
    Pass,
}

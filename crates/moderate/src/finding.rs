//! What filters say.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Category;

/// Where a text stands: before the model or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// What a client sends.
    Input,
    /// What the model answers.
    Output,
}

/// One filter's finding. It names the filter and never holds the text, so that it can be logged and shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Finding {
    /// The filter's name.
    pub filter: String,
    /// The filter's reason, for logs and clients. [`Finding::UNAVAILABLE`] if a service did not answer.
    pub reason_code: String,
    /// What the text was found to be, if the filter says so.
    pub category: Option<Category>,
    /// Where it was found.
    pub stage: Stage,
}

impl Finding {
    /// The reason when a moderation service could not be asked.
    pub const UNAVAILABLE: &'static str = "moderation_unavailable";
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.stage {
            Stage::Input => "the request",
            Stage::Output => "the answer",
        };
        write!(f, "{what} was stopped by the filter `{}` ({})", self.filter, self.reason_code)
    }
}

/// What the chain says of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The first filter of the chain that refuses the text, if one does.
    pub refused: Option<Finding>,
    /// What filters found that only record, and services that did not answer and are passed over. To be logged.
    pub records: Vec<Finding>,
}

/// A text's categories, as `/v1/moderations` gives them.
#[derive(Debug, Clone, PartialEq)]
pub struct Moderation {
    /// Whether any filter found anything, one without a category included.
    pub flagged: bool,
    /// Every category, whether the text belongs to it, and how surely (0 to 1; word lists and expressions are sure).
    pub categories: [(Category, bool, f64); 13],
}

//! What can go wrong, said so that a person can act on it.

/// Errors of this crate. Each belongs to one request; nothing else is affected.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstrainError {
    /// A constraint larger than any that is compiled.
    #[error("{place}: {found} {what}; at most {limit} are taken")]
    TooLarge {
        /// Where: a JSON path, or the kind of constraint.
        place: String,
        /// What is counted.
        what: &'static str,
        /// How many there are (or the count at which counting stopped).
        found: u64,
        /// How many there may be.
        limit: u64,
    },
    /// A JSON schema that is malformed, or that asks for what cannot be enforced.
    #[error("JSON schema: {path}: {problem}")]
    Schema {
        /// Where in the schema, as `$.properties.name`.
        path: String,
        /// What was found there and what to do.
        problem: String,
    },
    /// A JSON schema that no text satisfies.
    #[error("JSON schema: {path}: nothing satisfies this: {problem}")]
    Unsatisfiable {
        /// Where in the schema.
        path: String,
        /// Why.
        problem: String,
    },
    /// A regular expression that is malformed, unsupported or too costly.
    #[error("regular expression: {problem}")]
    Regex {
        /// What is wrong with it.
        problem: String,
    },
    /// A grammar that is malformed, unsupported or too costly.
    #[error("grammar: {problem}")]
    Grammar {
        /// What is wrong with it.
        problem: String,
    },
    /// Not even the shortest text that was found fits into the token limit.
    #[error("the shortest text that satisfies the constraint takes {needed} tokens; the limit leaves {left}")]
    LimitTooSmall {
        /// Tokens of the shortest text found, its end not counted.
        needed: usize,
        /// Tokens that are left.
        left: usize,
    },
    /// The search for a text that satisfies the constraint found none within the token limit and its own bounds.
    #[error(
        "no text that satisfies the constraint was found within {left} tokens; raise the token limit or simplify the \
         constraint"
    )]
    NoEnding {
        /// Tokens that are left.
        left: usize,
    },
    /// A token that may not come next was handed in.
    #[error("token {id} may not come next under the constraint")]
    NotAllowed {
        /// Its id.
        id: u32,
    },
    /// More tokens were to be taken back than were accepted, or accepted since the token limit was set.
    #[error("cannot take back {asked} tokens: {accepted} were accepted since the limit was set")]
    Rollback {
        /// How many were to be taken back.
        asked: usize,
        /// How many there are.
        accepted: usize,
    },
    /// No token of the vocabulary can come next, and the text may not end here.
    #[error("no token of the vocabulary continues the text under the constraint, and it may not end here")]
    DeadEnd,
    /// Going on would cost more than one request may.
    #[error("the constraint became too costly at this text: {problem}; simplify it")]
    TooCostly {
        /// Which limit was met.
        problem: String,
    },
    /// A vocabulary from which no constraint can be built.
    #[error("vocabulary: {problem}")]
    Vocabulary {
        /// What is wrong with it.
        problem: String,
    },
    /// The grammar engine failed; only this request ends.
    #[error("the constraint's grammar engine failed: {problem}")]
    Internal {
        /// What it said.
        problem: String,
    },
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, ConstrainError>;

/// What the grammar engine said, in one line without its own state dumps.
pub(crate) fn said(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let text = ["\n<state>", "\n<non-verbose", "\n<backtrace>"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min()
        .map_or(text.as_str(), |at| &text[..at]);
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MOST_SAID {
        let end = (0..=MOST_SAID).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line.truncate(end);
        line.push_str(" ...");
    }
    line
}

/// Longest text of the grammar engine that goes into an error, in bytes.
const MOST_SAID: usize = 300;

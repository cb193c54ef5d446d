//! What can go wrong with a request, with the options, or with the machine.

use verve_model::ModelError;

/// Every failure of this crate that is not a bug.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A sampling parameter out of its range.
    #[error("{field} is {found}, must be {allowed}")]
    Parameter {
        /// Field of [`crate::SamplingParams`].
        field: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        allowed: String,
    },
    /// An engine option out of its range.
    #[error("engine option {field} is {found}, must be {allowed}")]
    Option {
        /// Field of [`crate::EngineOptions`].
        field: &'static str,
        /// Its value.
        found: usize,
        /// What would do.
        allowed: String,
    },
    /// The prompt does not fit into the context. It is never cut.
    #[error("the prompt has {n_prompt} tokens, the context holds {n_ctx}; shorten the prompt by {} or more", n_prompt - n_ctx)]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Tokens of the context.
        n_ctx: usize,
    },
    /// Nothing to start from.
    #[error("the prompt is empty and the vocabulary has no token that starts a text; give at least one token")]
    EmptyPrompt,
    /// An id in the prompt that the vocabulary does not have.
    #[error(
        "token {index} of the prompt is {found}, the vocabulary ends at {limit}: prompt and model use different tokenizers"
    )]
    TokenId {
        /// Place in the prompt.
        index: usize,
        /// The id.
        found: u32,
        /// Number of ids.
        limit: usize,
    },
    /// The KV cache cannot hold this request even when it is alone.
    #[error(
        "prompt and answer can take {needed} tokens, the KV cache holds {capacity}; lower max_tokens or give the cache more blocks"
    )]
    CacheTooSmall {
        /// Tokens that the request may need in the cache.
        needed: usize,
        /// Tokens of the whole cache.
        capacity: usize,
    },
    /// The model gave a number that is no logit.
    #[error(
        "the model's logit of token {id} is {value} after {n_generated} tokens of the answer: its weights are damaged or too large for its number type"
    )]
    BadLogit {
        /// The first such token.
        id: u32,
        /// Not a number, or infinity.
        value: f32,
        /// Tokens of the answer before the one that was to be chosen.
        n_generated: usize,
    },
    /// Every token is excluded or has a logit of minus infinity.
    #[error("no token is left to choose from after {n_generated} tokens of the answer")]
    NothingLeft {
        /// Tokens of the answer before the one that was to be chosen.
        n_generated: usize,
    },
    /// Beam search has come to an end with less than was asked for.
    #[error("beam search has found {found} answers, not {n}: no others are allowed; ask for fewer or for more beams")]
    TooFewAnswers {
        /// Complete answers.
        found: usize,
        /// Answers asked for.
        n: usize,
    },
    /// A draft model that does not belong to the model.
    #[error("the draft model has {found} token ids, the model {n_vocab}: they must have the same tokenizer")]
    DraftVocabulary {
        /// `n_vocab` of the draft model.
        found: usize,
        /// `n_vocab` of the model.
        n_vocab: usize,
    },
    /// The answer cannot be as its constraint wants it.
    #[error("the constraint on the answer cannot be met: {detail}")]
    Constraint {
        /// Why.
        detail: String,
    },
    /// Too many requests wait.
    #[error("{limit} requests are waiting or being answered, as many as may: try again later")]
    QueueFull {
        /// Most requests at once.
        limit: usize,
    },
    /// The engine has ended.
    #[error("the engine has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// The tokenizer has more ids than the model has rows.
    #[error("the tokenizer has {found} ids, the model only {n_vocab}: they do not belong together")]
    VocabularyTooLarge {
        /// Ids of the tokenizer.
        found: usize,
        /// `n_vocab` of the model.
        n_vocab: usize,
    },
    /// The model or the machine failed; it concerns all requests.
    #[error(transparent)]
    Model(#[from] ModelError),
}

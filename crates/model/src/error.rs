//! What can go wrong with a configuration, a batch, a checkpoint or the machine.

use std::path::PathBuf;

use verve_ops::BackendError;

/// Every failure of this crate that is not a bug.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A GGUF file cannot be read or written.
    #[error(transparent)]
    Gguf(#[from] verve_gguf::GgufError),
    /// A field of a [`crate::ModelConfig`] has a value that cannot be, or that contradicts another field.
    #[error("model configuration: {field} = {found}: {problem}")]
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// Why it cannot be and what would do.
        problem: String,
    },
    /// No preset has this name.
    #[error("no model preset is called {name:?}{}; there are: {known}", did_you_mean(.nearest))]
    UnknownPreset {
        /// The name asked for.
        name: String,
        /// The preset with the most similar name.
        nearest: Option<&'static str>,
        /// All names.
        known: String,
    },
    /// A token or target id outside the vocabulary.
    #[error(
        "{what}[{index}] = {found}, but the model's vocabulary ends at {limit}: text and model use different tokenizers"
    )]
    TokenId {
        /// `tokens` or `targets`.
        what: &'static str,
        /// Index in the batch.
        index: usize,
        /// The id.
        found: u32,
        /// `n_vocab`.
        limit: usize,
    },
    /// A batch or step that does not have the size the buffers were made for.
    #[error("{what}: {found}, but there is room for {limit}")]
    BatchSize {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The machine failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `map`, ...
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is there but does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The checkpoint is of an architecture that cannot be loaded.
    #[error("{}: model_type {found:?} is not supported; supported are gpt2, gpt_neo, gpt_neox, opt, llama, mistral, qwen2, qwen3, gemma3_text and verve", path.display())]
    UnsupportedModel {
        /// Which file.
        path: PathBuf,
        /// Its `model_type`.
        found: String,
    },
    /// A key of `config.json` asks for something this crate does not compute.
    #[error("{}: `{key}` is {found}, and only {supported} is supported", path.display())]
    UnsupportedKey {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What would be supported.
        supported: String,
    },
    /// A tensor that the configuration implies is not in the checkpoint.
    #[error("{}: tensor {name:?} is missing", path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// Name in the file.
        name: String,
    },
    /// A tensor that the configuration does not imply.
    #[error("{}: tensor {name:?} has no place in this model ({count} such tensors)", path.display())]
    UnknownTensor {
        /// The checkpoint.
        path: PathBuf,
        /// Name in the file; the first of them.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// A tensor of another shape than the configuration implies.
    #[error("{}: tensor {name:?} has shape {found:?}, the configuration implies {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor of an element type that cannot be a weight.
    #[error("{}: tensor {name:?} holds {found}; supported are F32, BF16 and F16", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Its element type.
        found: String,
    },
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    nearest.map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}

/// The candidate most similar to `name`, if one is similar at all.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

//! What can be wrong with a file.

use std::path::PathBuf;

/// Errors of this crate. Each names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The bytes are not a GGUF file that can be read.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A key that is needed is not there.
    #[error("{}: its metadata has no `{key}`", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A key has a value of another type.
    #[error("{}: `{key}` is {found}, not {expected}", path.display())]
    ValueType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Type or value in the file.
        found: String,
        /// What was wanted.
        expected: &'static str,
    },
    /// A tensor that is needed is not there.
    #[error("{}: has no tensor {name:?}", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has a type that cannot be computed with.
    #[error(
        "{}: tensor {name:?} is of type {found}, which is not supported; there are f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, \
         q5_1 and q2_k to q6_k",
        path.display()
    )]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
}

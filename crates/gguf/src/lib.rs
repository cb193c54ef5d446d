//! GGUF files, versions 2 and 3, little-endian: metadata, and tensors in the formats of GGML. Specification: `docs/gguf.md`
//! of the GGML project.
//!
//! This crate knows the container only, and maps files of any format ([`Mapping`]). Which keys and tensors a model or a tokenizer needs is its users' business.
//!
//! Every count, length and offset of a file is checked against the file before anything is allocated for it: a
//! [`GgufFile`] that has been opened has all its tensors inside the file, none over another.

#![deny(unsafe_code)]

mod error;
mod mapping;
mod read;
mod tensor;
mod value;
mod write;

pub use error::GgufError;
pub use mapping::Mapping;
pub use read::GgufFile;
pub use tensor::{Tensor, TensorType};
pub use value::{Array, Value};
pub use write::{TensorSpec, write};

/// First bytes of a file.
const MAGIC: [u8; 4] = *b"GGUF";
/// Version that is written.
const VERSION: u32 = 3;
/// Where tensors begin, if `general.alignment` does not say otherwise: at multiples of so many bytes.
const ALIGNMENT: u64 = 32;
/// Key of the alignment.
const ALIGNMENT_KEY: &str = "general.alignment";
/// Most extents of a tensor.
const MAX_EXTENTS: usize = 4;

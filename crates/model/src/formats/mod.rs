//! Model files. See [`huggingface`] for whole checkpoints and [`tensor_file`] for single files of tensors.

mod hf_config;
pub mod huggingface;
mod mapping;
pub mod names;
pub mod tensor_file;

pub use hf_config::GenerationIds;
pub use huggingface::{Checkpoint, SaveOptions, Saved, load, save};
pub use names::Family;
pub use tensor_file::FileType;

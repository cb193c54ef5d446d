//! Model files. See [`huggingface`] for whole checkpoints and [`tensor_file`] for single files of tensors.

mod compare;
pub mod gguf;
mod header;
mod hf_config;
pub mod huggingface;
mod model_file;
pub mod names;
mod norms;
mod save;
pub mod tensor_file;

pub use compare::{Reading, divergence, largest_difference, logits};
pub use gguf::{GgufExport, GgufModel};
pub use hf_config::GenerationIds;
pub use huggingface::{Checkpoint, load};
pub use model_file::ModelFile;
pub use names::Family;
pub use save::{SaveOptions, Saved, save, save_model, save_sharded};
pub use tensor_file::FileType;

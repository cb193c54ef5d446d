//! Memory-mapped token shards and the resumable order in which training reads them.
//!
//! This crate knows token ids only, never text and never a tokenizer.
//!
//! - [`ShardWriter`] takes documents (slices of ids) and writes a folder of shard files plus `shards.json`.
//! - [`ShardSet`] maps a folder (or several) and presents its shards as one training and one held-out sequence.
//! - [`RowOrder`] says where the k-th training row of a run starts: packed over document boundaries, shuffled without
//!   replacement inside each epoch, a pure function of (seed, k), so that resuming a run needs no replay.
//! - [`DataManifest`] records by hash what a run was trained on.
//!
//! The file format is described in the module [`mod@format`].

#![deny(unsafe_code)]

pub mod format;

mod data_manifest;
mod error;
mod manifest;
mod mapping;
mod order;
mod set;
mod shard;
mod write_file;
mod writer;

pub use data_manifest::{DataEntry, DataManifest};
pub use error::{Error, Result};
pub use format::{Header, Split};
pub use manifest::{MANIFEST_FILE, ShardEntry, ShardManifest, SplitCounts};
pub use order::{Permutation, RowOrder};
pub use set::ShardSet;
pub use shard::Shard;
pub use writer::{DEFAULT_SHARD_TOKENS, Existing, ShardOptions, ShardWriter};

//! Raw text in, token shards out: readers for files and folders, and the shard job.
//!
//! - [`read`]: which files to read, and their documents as a stream of bounded pieces. Tokenizer training reads the same
//!   stream ([`read::TextReader::texts`]).
//! - [`held_out`]: which documents are kept away from training.
//! - [`shard_job`]: documents to shards, in parallel, with the same bytes for any number of threads.

#![forbid(unsafe_code)]

pub mod held_out;
pub mod read;
pub mod shard_job;

mod error;

pub use error::{Error, Result};

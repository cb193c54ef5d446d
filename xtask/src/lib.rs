//! Project chores, as functions so that they also run as tests.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

pub mod readme;
pub mod tidy;

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

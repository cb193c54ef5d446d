//! The one place where a file is mapped into memory.

#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A whole file, read-only, as a slice of bytes.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl Mapping {
    /// Maps a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        let metadata = file.metadata().map_err(|e| Error::io(path, "open", e))?;
        if !metadata.is_file() {
            return Err(Error::NotAShard { path: path.to_owned(), problem: "it is not a regular file".to_owned() });
        }
        if metadata.len() == 0 {
            return Ok(Self { map: None });
        }
        if usize::try_from(metadata.len()).is_err() {
            return Err(Error::header(path, format!("{} bytes are more than this machine can map", metadata.len())));
        }
        // SAFETY: the mapping is read-only and private to this process, its length is checked above, and verve never
        // changes a shard in place: `write_file` writes to a temporary name and renames. Somebody else truncating the
        // file while it is mapped ends the process with SIGBUS (documented on `Shard`); bytes are only ever read as
        // plain integers, each checked before use, so changed bytes give wrong numbers or an error, nothing worse.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
        Ok(Self { map: Some(map) })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

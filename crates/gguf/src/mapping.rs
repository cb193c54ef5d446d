//! The one place where model files are mapped into memory.

#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::error::GgufError;

/// A whole regular file, read-only, as a slice of bytes.
///
/// The file must not be truncated by another process while it is open: the operating system ends a process that reads
/// mapped pages which are gone.
#[derive(Debug)]
pub struct Mapping {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl Mapping {
    /// Maps a regular file.
    ///
    /// # Errors
    /// A path that cannot be opened, or that is no regular file.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let failed = |action| move |source| GgufError::Io { action, path: path.to_owned(), source };
        let file = File::open(path).map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("open"))?;
        if !metadata.is_file() {
            return Err(GgufError::Malformed { path: path.to_owned(), problem: "is not a regular file".to_owned() });
        }
        if metadata.len() == 0 {
            return Ok(Self { map: None });
        }
        if usize::try_from(metadata.len()).is_err() {
            let problem = format!("{} bytes are more than this machine can map", metadata.len());
            return Err(GgufError::Malformed { path: path.to_owned(), problem });
        }
        // SAFETY: the mapping is read-only and private to this process, and its length is checked above. Nothing in this
        // project changes a model file in place: they are written to a temporary name and renamed. Somebody else
        // truncating the file while it is mapped ends the process with SIGBUS (documented on the type); its bytes are only ever read as plain numbers after the header has been copied and checked, so bytes that change
        // give wrong numbers, nothing worse.
        let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
        Ok(Self { map: Some(map) })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

//! Files that are either whole or not there: written to a temporary name, synced, renamed.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Ending of temporary names. They also start with a dot.
pub(crate) const TEMPORARY: &str = ".tmp";

/// A file being written. Dropping it without [`AtomicFile::publish`] removes it.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    file: Option<File>,
    temporary: PathBuf,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts the file that will be `folder/name`.
    pub(crate) fn create(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let temporary = folder.join(format!(".{name}{TEMPORARY}"));
        let file = File::create_new(&temporary).map_err(|e| Error::io(&path, "create", e))?;
        Ok(Self { file: Some(file), temporary, path })
    }

    /// For tests: writes go to `file`, whatever it is.
    #[cfg(test)]
    pub(crate) fn with_file(file: File, temporary: PathBuf, path: PathBuf) -> Self {
        Self { file: Some(file), temporary, path }
    }

    fn with<T>(&mut self, action: impl FnOnce(&mut File) -> std::io::Result<T>) -> Result<T> {
        match &mut self.file {
            Some(file) => action(file).map_err(|e| Error::io(&self.path, "write", e)),
            None => Err(Error::io(&self.path, "write", std::io::Error::other("the file is already closed"))),
        }
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.with(|file| file.write_all(bytes))
    }

    pub(crate) fn overwrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        self.with(|file| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(bytes)
        })
    }

    /// Syncs, closes and gives the file its name; what had that name is replaced.
    pub(crate) fn publish(mut self) -> Result<()> {
        self.with(|file| file.sync_all())?;
        self.file = None;
        fs::rename(&self.temporary, &self.path).map_err(|e| Error::io(&self.path, "rename into place", e))?;
        // The temporary is gone now: nothing for `drop` to remove.
        self.temporary.clear();
        sync_folder(&self.path)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        self.file = None;
        if !self.temporary.as_os_str().is_empty() {
            // Best effort: an error that matters has already been returned.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a small file in one go.
pub(crate) fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(folder, name)?;
    file.append(bytes)?;
    file.publish()
}

/// Makes a rename survive a power cut.
fn sync_folder(path: &Path) -> Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io(folder, "sync", e))?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

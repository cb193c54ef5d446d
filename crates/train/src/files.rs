//! Small files written whole or not at all.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Result, TrainError};

/// Longest small file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Writes a file under a temporary name in its folder, syncs it and renames it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let attempt = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(parent(path))
    };
    attempt().map_err(|source| {
        // Best effort: the first error is the one to report.
        let _ = fs::remove_file(&temporary);
        TrainError::io(path, "write", source)
    })
}

/// Writes a value as JSON for people.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| TrainError::io(path, "write", e.into()))?;
    text.push('\n');
    write_atomically(path, text.as_bytes())
}

/// Reads a whole text file of a sane size.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let io = |e| TrainError::io(path, "read", e);
    let mut text = String::new();
    File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io(std::io::Error::new(ErrorKind::InvalidData, format!("it is longer than {MAX_BYTES} bytes"))));
    }
    Ok(text)
}

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&read_text(path)?).map_err(|e| TrainError::io(path, "read", e.into()))
}

/// Makes renames inside a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    // Elsewhere a folder cannot be opened as a file, and renames are durable on their own.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The folder a file lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// BLAKE3 of a file's content, in hexadecimal, and its length.
pub(crate) fn hash_file(path: &Path) -> Result<(String, u64)> {
    let io = |e| TrainError::io(path, "read", e);
    let mut file = File::open(path).map_err(io)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    let mut length = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finalize().to_hex().to_string(), length)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(io(e)),
        }
    }
}

/// Copies a file, synced.
pub(crate) fn copy_synced(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map_err(|e| TrainError::io(to, "write", e))?;
    File::open(to).and_then(|file| file.sync_all()).map_err(|e| TrainError::io(to, "write", e))
}

/// The entries of a folder, sorted by name.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| TrainError::io(folder, "list", e);
    let entries = fs::read_dir(folder).map_err(io)?;
    let mut paths = entries.map(|entry| entry.map(|e| e.path()).map_err(io)).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

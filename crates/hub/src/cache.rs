//! The cache that programs of the hub share: `models--OWNER--NAME/{blobs,refs,snapshots}`. A blob is a file's content under
//! its checksum, a snapshot a folder of links to blobs, a ref the commit that a branch meant when it was last asked for.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{HubError, io};
use crate::name::{DEFAULT_REVISION, RepoId, is_hex, is_inside, is_name};
use crate::settings::Settings;

/// The folders of one repository.
#[derive(Debug, Clone)]
pub(crate) struct RepoCache {
    root: PathBuf,
    folder: String,
}

impl RepoCache {
    pub(crate) fn new(settings: &Settings, repo: &RepoId) -> Self {
        Self { root: settings.cache.clone(), folder: repo.cache_folder() }
    }

    fn path(&self) -> PathBuf {
        self.root.join(&self.folder)
    }

    pub(crate) fn blob(&self, checksum: &str) -> PathBuf {
        self.path().join("blobs").join(checksum)
    }

    pub(crate) fn lock(&self, checksum: &str) -> PathBuf {
        self.root.join(".locks").join(&self.folder).join(format!("{checksum}.lock"))
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.path().join("snapshots").join(commit)
    }

    /// Puts a blob into a snapshot under its path: a link where the file system has them, else a copy.
    pub(crate) fn place(&self, commit: &str, path: &str, checksum: &str) -> Result<PathBuf, HubError> {
        let at = self.snapshot(commit).join(path);
        let blob = self.blob(checksum);
        // A link that leads to the blob, or a copy of it.
        if fs::metadata(&at).is_ok_and(|there| fs::metadata(&blob).is_ok_and(|blob| there.len() == blob.len())) {
            return Ok(at);
        }
        if let Some(folder) = at.parent() {
            fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        }
        if fs::symlink_metadata(&at).is_ok() {
            fs::remove_file(&at).map_err(io("replace", &at))?;
        }
        let up = "../".repeat(2 + path.matches('/').count());
        if link(&PathBuf::from(format!("{up}blobs/{checksum}")), &at).is_err() {
            copy(&blob, &at)?;
        }
        Ok(at)
    }

    /// Remembers which commit a branch or tag means.
    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.path().join("refs").join(revision);
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        let temporary = folder.join(format!(".{}.{}.tmp", commit, std::process::id()));
        fs::write(&temporary, commit).map_err(io("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(io("write", &path))
    }

    /// The snapshot of a revision: the commit itself, the one a ref names, or, for the default, the only one there is.
    fn find(&self, revision: &str) -> Option<PathBuf> {
        let named = fs::read_to_string(self.path().join("refs").join(revision)).ok();
        let commit = named.map_or_else(|| revision.to_owned(), |text| text.trim().to_owned());
        if is_hex(&commit, 20) && self.snapshot(&commit).is_dir() {
            return Some(self.snapshot(&commit));
        }
        if revision != DEFAULT_REVISION {
            return None;
        }
        let mut snapshots = fs::read_dir(self.path().join("snapshots")).ok()?.filter_map(Result::ok);
        let only = snapshots.next()?.path();
        snapshots.next().is_none().then_some(only)
    }
}

#[cfg(unix)]
fn link(target: &Path, at: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

#[cfg(windows)]
fn link(target: &Path, at: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, at)
}

#[cfg(not(any(unix, windows)))]
fn link(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Copies a file under a temporary name and renames it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), HubError> {
    let temporary = to.with_file_name(format!(
        ".{}.{}.tmp",
        to.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    let copied = fs::copy(from, &temporary)
        .and_then(|_| fs::File::open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, to));
    copied.map_err(|error| {
        // What is left of a copy that failed is of no use.
        drop(fs::remove_file(&temporary));
        io("write", to)(error)
    })
}

/// Finds a downloaded model by `OWNER/NAME`, `OWNER/NAME@REVISION` or `NAME`: the folder of its snapshot, or its GGUF file
/// where that is all there is. The hub is not asked.
///
/// # Errors
/// [`HubError::NotInCache`] with the command that would download it, [`HubError::Ambiguous`].
pub fn resolve(name: &str, settings: &Settings) -> Result<PathBuf, HubError> {
    let absent = |wanted: &str| HubError::NotInCache {
        name: name.to_owned(),
        cache: settings.cache.clone(),
        command: format!("verve pull {wanted}"),
    };
    let (short, revision) = name.split_once('@').unwrap_or((name, DEFAULT_REVISION));
    let repo: RepoId = if short.contains('/') {
        name.parse().map_err(|_| absent("OWNER/NAME"))?
    } else {
        if !is_name(short) || !is_inside(revision) {
            return Err(absent("OWNER/NAME"));
        }
        let mut candidates = owners_of(short, &settings.cache);
        match candidates.len() {
            0 => return Err(absent(&format!("OWNER/{name}"))),
            1 => format!("{}@{revision}", candidates.remove(0)).parse()?,
            _ => return Err(HubError::Ambiguous { name: name.to_owned(), candidates }),
        }
    };
    let cache = RepoCache::new(settings, &repo);
    let snapshot = cache.find(repo.revision()).ok_or_else(|| absent(&repo.to_string()))?;
    model_in(&snapshot).ok_or_else(|| absent(&repo.to_string()))
}

/// The models of a cache with a name, as `OWNER/NAME`.
fn owners_of(name: &str, cache: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(cache) else { return Vec::new() };
    let mut found: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|folder| {
            let (owner, rest) = folder.strip_prefix("models--")?.split_once("--")?;
            (rest == name).then(|| format!("{owner}/{name}"))
        })
        .collect();
    found.sort();
    found
}

/// A snapshot with a configuration is a model; one without may hold a GGUF file (the first part of one that was split).
fn model_in(snapshot: &Path) -> Option<PathBuf> {
    if snapshot.join("config.json").is_file() && !has(snapshot, "gguf") {
        return Some(snapshot.to_owned());
    }
    let mut files = entries(snapshot, "gguf");
    files.sort();
    match files.len() {
        0 => snapshot.join("config.json").is_file().then(|| snapshot.to_owned()),
        _ if has(snapshot, "safetensors") => Some(snapshot.to_owned()),
        _ => Some(files.remove(0)),
    }
}

fn has(folder: &Path, extension: &str) -> bool {
    !entries(folder, extension).is_empty()
}

fn entries(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths.filter(|path| path.extension().is_some_and(|e| e == extension) && path.is_file()).collect()
}

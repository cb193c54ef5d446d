//! What a repository holds.

use std::time::Duration;

use serde::Deserialize;

use crate::error::HubError;
use crate::http::{Ask, Http};
use crate::name::{RepoId, escape_part, is_hex, is_inside};

/// Longest listing, bytes.
const MAX_LISTING: u64 = 64 << 20;

/// Most files of a repository.
const MAX_FILES: usize = 100_000;

/// How a file's content is known before it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of a large file.
    Sha256(String),
    /// The id of a small file in git: SHA-1 of its length and content.
    Git(String),
    /// The hub does not say.
    Unknown,
}

impl Checksum {
    /// The digest in hexadecimal, which is also the file's name among a cache's blobs.
    pub fn hex(&self) -> Option<&str> {
        match self {
            Self::Sha256(hex) | Self::Git(hex) => Some(hex),
            Self::Unknown => None,
        }
    }
}

/// One file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path in the repository; stays inside of it.
    pub path: String,
    /// Bytes, if the hub says.
    pub size: Option<u64>,
    /// Its content.
    pub checksum: Checksum,
}

/// A revision of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision means now.
    pub commit: String,
    /// Its files in the hub's order.
    pub files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Answer {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: Option<String>,
    size: Option<u64>,
}

/// Asks for the files of a repository.
pub(crate) fn list(
    http: &Http<'_>,
    repo: &RepoId,
    on_wait: &mut dyn FnMut(&HubError, Duration),
) -> Result<Listing, HubError> {
    let what = repo.to_string();
    let ask = Ask { what: &what, repo: &repo.id() };
    let revision = escape_part(repo.revision());
    let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", http.settings.endpoint, repo.id());
    let answer: Answer = http.json(&url, &ask, MAX_LISTING, on_wait)?;
    let bad = |message: String| HubError::Answer { what: what.clone(), message };
    let commit = answer.sha.ok_or_else(|| bad("it names no commit".to_owned()))?;
    if !is_hex(&commit, 20) {
        return Err(bad(format!("{commit:?} is no commit")));
    }
    if answer.siblings.len() > MAX_FILES {
        return Err(bad(format!("it lists {} files", answer.siblings.len())));
    }
    let mut files = Vec::with_capacity(answer.siblings.len());
    for file in answer.siblings {
        if !is_inside(&file.rfilename) {
            return Err(HubError::HostileName { repo: repo.to_string(), found: file.rfilename });
        }
        let (sha256, lfs_size) = file.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
        let checksum = match (sha256, file.blob_id) {
            (Some(hex), _) if is_hex(&hex, 32) => Checksum::Sha256(hex),
            (None, Some(hex)) if is_hex(&hex, 20) => Checksum::Git(hex),
            (None, None) => Checksum::Unknown,
            (Some(hex), _) | (None, Some(hex)) => return Err(bad(format!("{hex:?} is no checksum"))),
        };
        files.push(RemoteFile { path: file.rfilename, size: file.size.or(lfs_size), checksum });
    }
    let mut paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    paths.sort_unstable();
    if let Some(pair) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(bad(format!("it lists {} twice", pair[0])));
    }
    Ok(Listing { commit, files })
}

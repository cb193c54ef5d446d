//! What can go wrong between here and a hub.

use std::path::PathBuf;

/// Every failure of this crate that is not a bug.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that is no repository's.
    #[error("{found:?} is no model of a hub: {why}; expected OWNER/NAME or OWNER/NAME@REVISION")]
    Name {
        /// What was given.
        found: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A setting in the environment that cannot be used.
    #[error("the environment variable {name} is {found:?}: {why}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// Its value.
        found: String,
        /// What is expected.
        why: String,
    },
    /// `HF_HUB_OFFLINE` is set.
    #[error("{what} would need the hub, and HF_HUB_OFFLINE is set")]
    Offline {
        /// What was to be done.
        what: String,
    },
    /// 401: the hub wants to know who asks.
    #[error(
        "the hub answers 401 for {repo}: it is private or does not exist, or the token is wrong; put a token with the right to \
         read it into HF_TOKEN"
    )]
    Unauthorized {
        /// The repository.
        repo: String,
    },
    /// 403: whoever asks may not have it.
    #[error(
        "the hub answers 403 for {repo}: {message}; accept its conditions at {page} and put a token of that account into HF_TOKEN"
    )]
    Forbidden {
        /// The repository.
        repo: String,
        /// What the hub says.
        message: String,
        /// Where a person can ask for it.
        page: String,
    },
    /// 404.
    #[error("{what} does not exist at {endpoint}: check owner, name and revision")]
    NotFound {
        /// Repository and revision, or file.
        what: String,
        /// The hub.
        endpoint: String,
    },
    /// Another status, or the same after the last attempt.
    #[error("the hub answers {status} for {what} ({attempts} attempt(s)): {message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// How often.
        attempts: u32,
        /// The start of what it says.
        message: String,
    },
    /// No answer, or not to its end.
    #[error("{what}: {message} ({attempts} attempt(s))")]
    Network {
        /// What was asked for.
        what: String,
        /// How often.
        attempts: u32,
        /// What happened.
        message: String,
    },
    /// The hub cannot prove that it is who it says.
    #[error(
        "{endpoint} is not trusted: {message}; SSL_CERT_FILE can name a file of certificates to trust instead of the usual ones"
    )]
    Certificate {
        /// The hub, or where it redirected to.
        endpoint: String,
        /// What is wrong.
        message: String,
    },
    /// An answer that makes no sense.
    #[error("the hub's answer for {what} cannot be used: {message}")]
    Answer {
        /// What was asked for.
        what: String,
        /// What is wrong.
        message: String,
    },
    /// A file name in the listing that would leave the folder.
    #[error("{repo} lists a file named {found:?}, which would lie outside of its folder: nothing was downloaded")]
    HostileName {
        /// The repository.
        repo: String,
        /// The name.
        found: String,
    },
    /// The repository holds nothing that can be read here, or no file fits the pattern.
    #[error("{repo} has {why}; it has: {}", shown(files))]
    NothingToDownload {
        /// The repository.
        repo: String,
        /// What is missing.
        why: String,
        /// The files that are there.
        files: Vec<String>,
    },
    /// More or fewer bytes than the hub promised.
    #[error("{file} has {found} bytes, the hub says {expected}: the partial file was removed, try again")]
    Length {
        /// The file.
        file: String,
        /// Bytes received.
        found: u64,
        /// Bytes promised.
        expected: u64,
    },
    /// Other bytes than the hub promised.
    #[error("{file} has the checksum {found}, the hub says {expected}: the file was removed, try again")]
    Checksum {
        /// The file.
        file: String,
        /// Of what was received.
        found: String,
        /// Promised.
        expected: String,
    },
    /// Another process downloads the same file.
    #[error("{file} is being downloaded by another process (lock file {})", lock.display())]
    Busy {
        /// The file.
        file: String,
        /// Its lock.
        lock: PathBuf,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Cancelled,
    /// The file system.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Several models of the cache have a name.
    #[error("{name} could be {}; give the whole name", candidates.join(" or "))]
    Ambiguous {
        /// The name.
        name: String,
        /// The models.
        candidates: Vec<String>,
    },
    /// Nothing of that name is in the cache.
    #[error("there is no file or folder {name}, and no model of that name in {}; to download it: {command}", cache.display())]
    NotInCache {
        /// The name.
        name: String,
        /// The cache.
        cache: PathBuf,
        /// What would help.
        command: String,
    },
}

impl HubError {
    /// Whether the same download, started again, goes on from what is there.
    pub fn can_go_on(&self) -> bool {
        matches!(self, Self::Network { .. } | Self::Status { .. } | Self::Cancelled | Self::Io { .. })
    }
}

fn shown(files: &[String]) -> String {
    const MOST: usize = 12;
    let mut text = files.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    if files.len() > MOST {
        text.push_str(&format!(" and {} more", files.len() - MOST));
    }
    text
}

/// A closure that makes an [`HubError::Io`].
pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Io { action, path, source }
}

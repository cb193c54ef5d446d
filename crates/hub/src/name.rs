//! Names of repositories, revisions and files.

use std::fmt;
use std::str::FromStr;

use crate::error::HubError;

/// The revision where none is given.
pub const DEFAULT_REVISION: &str = "main";

/// A model repository and a revision of it: `OWNER/NAME` or `OWNER/NAME@REVISION`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoId {
    owner: String,
    name: String,
    revision: String,
}

impl RepoId {
    /// The owner.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The name without the owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// `OWNER/NAME`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The folder of the repository in a cache.
    pub fn cache_folder(&self) -> String {
        format!("models--{}--{}", self.owner, self.name)
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        if self.revision != DEFAULT_REVISION {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

impl FromStr for RepoId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let bad = |why| HubError::Name { found: text.to_owned(), why };
        let (id, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let (owner, name) = id.split_once('/').ok_or_else(|| bad("there is no owner"))?;
        if !is_name(owner) || !is_name(name) {
            return Err(bad("owner and name are letters, digits, '-', '_' and '.', at most 96"));
        }
        if !is_revision(revision) {
            return Err(bad("the revision is no branch, tag or commit"));
        }
        Ok(Self { owner: owner.to_owned(), name: name.to_owned(), revision: revision.to_owned() })
    }
}

/// Whether a text can be an owner's or a repository's name.
pub(crate) fn is_name(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty()
        && text.len() <= 96
        && text.bytes().all(good)
        && !text.starts_with(['.', '-'])
        && !text.contains("..")
        && !text.contains("--")
}

fn is_revision(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    text.len() <= 200 && text.bytes().all(good) && is_inside(text)
}

/// Whether a path of a listing stays in its folder: names joined by `/`, none of them empty, `.` or `..`, no backslash, no
/// drive, no control character.
pub(crate) fn is_inside(path: &str) -> bool {
    path.len() <= 1024
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255)
        && !path.chars().any(|c| c == '\\' || c == ':' || c.is_control())
}

/// A path in a URL: everything but letters, digits and `-_.~/` escaped.
pub(crate) fn escape_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// One part of a path in a URL: `/` is escaped too.
pub(crate) fn escape_part(part: &str) -> String {
    escape_path(part).replace('/', "%2F")
}

/// Whether a text is the hexadecimal digest of `bytes` bytes, or a commit.
pub(crate) fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_revisions() {
        let id: RepoId = "HuggingFaceTB/SmolLM2-135M-Instruct".parse().unwrap();
        assert_eq!((id.owner(), id.name(), id.revision()), ("HuggingFaceTB", "SmolLM2-135M-Instruct", "main"));
        assert_eq!(id.cache_folder(), "models--HuggingFaceTB--SmolLM2-135M-Instruct");
        let id: RepoId = "a/b@refs/pr/1".parse().unwrap();
        assert_eq!((id.revision(), id.to_string().as_str()), ("refs/pr/1", "a/b@refs/pr/1"));
        for bad in [
            "", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a/b@/x", "a b/c", "a/b@x\\y", "a/é",
            "a--b/c", "a/b@x:y",
        ] {
            assert!(bad.parse::<RepoId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn files_stay_inside() {
        for good in ["a", "a/b.json", "a b/c-é.txt", "..a"] {
            assert!(is_inside(good), "{good}");
        }
        for bad in ["", "/a", "a/../b", "..", "a//b", "a\\b", "C:/a", "a/./b", "a\nb", "a/"] {
            assert!(!is_inside(bad), "{bad}");
        }
        assert_eq!(escape_path("a b/é%.txt"), "a%20b/%C3%A9%25.txt");
        assert_eq!(escape_part("refs/pr/1"), "refs%2Fpr%2F1");
    }
}

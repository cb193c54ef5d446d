//! Getting files: resumed where they were left, checked, and put where other programs find them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::cache::{RepoCache, copy};
use crate::choose::{Choice, choose};
use crate::digest::Digest;
use crate::error::{HubError, io};
use crate::http::{Answer, Ask, Failure, Http};
use crate::listing::{Checksum, Listing, RemoteFile, list};
use crate::name::{RepoId, escape_path};
use crate::settings::Settings;

/// Bytes read at once.
const CHUNK: usize = 1 << 18;

/// What happens during a download.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'e> {
    /// A file begins; `have` of its bytes are already there.
    File {
        /// Its path in the repository.
        path: &'e str,
        /// Bytes already there.
        have: u64,
    },
    /// This many bytes arrived.
    Bytes(u64),
    /// Bytes that had arrived are of no use.
    Discarded(u64),
    /// An attempt failed; the next follows after the wait.
    Retry {
        /// Why it failed.
        error: &'e HubError,
        /// Until the next attempt.
        wait: Duration,
    },
}

/// Receives what happens.
pub type OnEvent<'e> = &'e mut dyn FnMut(Event<'_>);

/// Where files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The cache that programs of the hub share.
    Cache,
    /// A folder of plain files.
    Folder(PathBuf),
}

/// What a download will do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The repository.
    pub repo: RepoId,
    /// The commit its revision means now.
    pub commit: String,
    /// The files and what was left out.
    pub choice: Choice,
    /// Bytes of all files whose size the hub gives.
    pub bytes: u64,
    /// Of these, bytes that are already there.
    pub have: u64,
}

/// A hub, as one command uses it.
pub struct Hub<'s> {
    http: Http<'s>,
}

impl<'s> Hub<'s> {
    /// A client. `cancel` ends what it does at the next occasion.
    ///
    /// # Errors
    /// [`HubError::Offline`]; certificates that cannot be read.
    pub fn new(settings: &'s Settings, cancel: &'s AtomicBool) -> Result<Self, HubError> {
        if settings.offline {
            return Err(HubError::Offline { what: "a download".to_owned() });
        }
        Ok(Self { http: Http::new(settings, cancel)? })
    }

    /// Lists a repository and chooses what to download; see [`choose`].
    ///
    /// # Errors
    /// What the hub refuses, a listing that cannot be trusted, nothing of use.
    pub fn plan(
        &self,
        repo: &RepoId,
        patterns: &[String],
        target: &Target,
        on_event: OnEvent<'_>,
    ) -> Result<Plan, HubError> {
        let on_wait = &mut |error: &HubError, wait| on_event(Event::Retry { error, wait });
        let Listing { commit, files } = list(&self.http, repo, on_wait)?;
        let mut choice = choose(&repo.to_string(), &files, patterns)?;
        for file in &mut choice.files {
            if file.size.is_none() || file.checksum == Checksum::Unknown {
                self.complete(repo, &commit, file, on_wait)?;
            }
        }
        let bytes = choice.files.iter().filter_map(|file| file.size).sum();
        let cache = RepoCache::new(self.http.settings, repo);
        let have = choice.files.iter().map(|file| already(&Place::of(&cache, target, file), file)).sum();
        Ok(Plan { repo: repo.clone(), commit, choice, bytes, have })
    }

    /// Downloads what a plan says and returns the folder that holds it. What is already there is not downloaded again.
    ///
    /// # Errors
    /// A hub that fails too often in a row or sends something else than promised, a full disk, an interrupt. What arrived
    /// of a file is kept unless it was wrong.
    pub fn download(&self, plan: &Plan, target: &Target, on_event: OnEvent<'_>) -> Result<PathBuf, HubError> {
        let cache = RepoCache::new(self.http.settings, &plan.repo);
        for file in &plan.choice.files {
            self.http.check()?;
            let place = Place::of(&cache, target, file);
            self.file(plan, file, &place, &cache, on_event)?;
        }
        match target {
            Target::Cache => {
                // Only now, so that a snapshot that is there is complete.
                for file in &plan.choice.files {
                    cache.place(&plan.commit, &file.path, &blob_name(file))?;
                }
                cache.write_ref(plan.repo.revision(), &plan.commit)?;
                Ok(cache.snapshot(&plan.commit))
            }
            Target::Folder(folder) => Ok(folder.clone()),
        }
    }

    fn url(&self, repo: &RepoId, commit: &str, path: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.http.settings.endpoint, repo.id(), escape_path(path))
    }

    /// Asks for what the listing left out of a file.
    fn complete(
        &self,
        repo: &RepoId,
        commit: &str,
        file: &mut RemoteFile,
        on_wait: &mut dyn FnMut(&HubError, Duration),
    ) -> Result<(), HubError> {
        let id = repo.id();
        let ask = Ask { what: &file.path, repo: &id };
        let url = self.url(repo, commit, &file.path);
        let mut attempts = self.http.attempts();
        let answer = loop {
            match self.http.get(&url, 0, &ask, attempts.number()) {
                Ok(answer) => break answer,
                Err(failure) => attempts.failed(failure, on_wait)?,
            }
        };
        let size =
            answer.header("x-linked-size").or(answer.header("content-length")).and_then(|text| text.parse().ok());
        let tag = answer.header("x-linked-etag").or(answer.header("etag")).unwrap_or_default();
        let tag = tag.trim_start_matches("W/").trim_matches('"');
        file.size = file.size.or(size);
        if crate::name::is_hex(tag, 32) {
            file.checksum = Checksum::Sha256(tag.to_owned());
        } else if crate::name::is_hex(tag, 20) {
            file.checksum = Checksum::Git(tag.to_owned());
        }
        Ok(())
    }

    fn file(
        &self,
        plan: &Plan,
        file: &RemoteFile,
        place: &Place,
        cache: &RepoCache,
        on_event: OnEvent<'_>,
    ) -> Result<(), HubError> {
        if already(place, file) > 0 || (file.size == Some(0) && place.whole.is_file()) {
            on_event(Event::File { path: &file.path, have: file.size.unwrap_or(0) });
            return Ok(());
        }
        for path in [&place.partial, &place.lock] {
            let folder = path.parent().unwrap_or(path);
            fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        }
        let lock = File::create(&place.lock).map_err(io("write", &place.lock))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(HubError::Busy { file: file.path.clone(), lock: place.lock.clone() });
            }
            // A file system without locks: the temporary names still keep whole files whole.
            Err(fs::TryLockError::Error(_)) => {}
        }
        // Someone else may have brought it meanwhile, or it lies in the cache and is wanted elsewhere.
        let cached = cache.blob(&blob_name(file));
        if place.whole != cached && already(&Place { whole: cached.clone(), ..place.clone() }, file) > 0 {
            on_event(Event::File { path: &file.path, have: file.size.unwrap_or(0) });
            return copy(&cached, &place.whole);
        }
        let fetched = self.fetch(plan, file, place, on_event);
        drop(lock);
        // The cache keeps its locks, as other programs do; a folder of plain files is left clean.
        if place.lock.parent() == place.whole.parent() {
            drop(fs::remove_file(&place.lock));
        }
        fetched
    }

    /// Downloads one file under its temporary name, checks it and gives it its name.
    fn fetch(&self, plan: &Plan, file: &RemoteFile, place: &Place, on_event: OnEvent<'_>) -> Result<(), HubError> {
        let id = plan.repo.id();
        let ask = Ask { what: &file.path, repo: &id };
        let url = self.url(&plan.repo, &plan.commit, &file.path);
        let partial = &place.partial;
        let mut have = fs::metadata(partial).map_or(0, |there| there.len());
        if file.size.is_some_and(|size| have > size) {
            fs::remove_file(partial).map_err(io("remove", partial))?;
            have = 0;
        }
        on_event(Event::File { path: &file.path, have });
        let mut attempts = self.http.attempts();
        while have == 0 || file.size.is_none_or(|size| have < size) {
            let before = have;
            let got = self.http.get(&url, have, &ask, attempts.number()).and_then(|mut answer| {
                have = restart(&answer, have, file, partial, on_event).map_err(Failure::Final)?;
                self.body(&mut answer, file, partial, &mut have, attempts.number(), on_event)
            });
            if have > before {
                attempts.progressed();
            }
            match got {
                Ok(()) => break,
                Err(failure) => attempts.failed(failure, &mut |error, wait| on_event(Event::Retry { error, wait }))?,
            }
        }
        self.verify(file, partial, have)?;
        File::open(partial).and_then(|whole| whole.sync_all()).map_err(io("write", partial))?;
        fs::rename(partial, &place.whole).map_err(io("write", &place.whole))
    }

    /// Appends an answer's body to the partial file.
    fn body(
        &self,
        answer: &mut Answer,
        file: &RemoteFile,
        partial: &Path,
        have: &mut u64,
        attempt: u32,
        on_event: OnEvent<'_>,
    ) -> Result<(), Failure> {
        let write = |error| Failure::Final(io("write", partial)(error));
        let mut out = OpenOptions::new().create(true).append(true).open(partial).map_err(write)?;
        let mut reader = answer.response.body_mut().as_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            self.http.check().map_err(Failure::Final)?;
            let message = match reader.read(&mut buffer) {
                Ok(0) => match file.size {
                    Some(size) if *have < size => format!("the connection ended after {have} of {size} bytes"),
                    _ => return Ok(()),
                },
                Ok(n) => {
                    out.write_all(&buffer[..n]).map_err(write)?;
                    *have += n as u64;
                    on_event(Event::Bytes(n as u64));
                    if let Some(size) = file.size.filter(|size| *have > *size) {
                        drop(fs::remove_file(partial));
                        let file = file.path.clone();
                        return Err(Failure::Final(HubError::Length { file, found: *have, expected: size }));
                    }
                    continue;
                }
                Err(error) if is_timeout(&error) => "nothing arrived within the time limit".to_owned(),
                Err(error) => match file.size {
                    Some(size) => format!("the connection ended after {have} of {size} bytes ({error})"),
                    None => error.to_string(),
                },
            };
            let error = HubError::Network { what: file.path.clone(), attempts: attempt, message };
            return Err(Failure::Again { error, wait: None });
        }
    }

    /// Compares length and checksum; what is wrong is removed.
    fn verify(&self, file: &RemoteFile, partial: &Path, have: u64) -> Result<(), HubError> {
        if let Some(size) = file.size.filter(|size| *size != have) {
            drop(fs::remove_file(partial));
            return Err(HubError::Length { file: file.path.clone(), found: have, expected: size });
        }
        let mut digest = Digest::new(&file.checksum, have);
        digest.update_from(partial).map_err(io("read", partial))?;
        match (digest.finish(), file.checksum.hex()) {
            (Some(found), Some(expected)) if found != expected => {
                drop(fs::remove_file(partial));
                Err(HubError::Checksum { file: file.path.clone(), found, expected: expected.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

/// Where in the file an answer begins. A hub that does not know ranges sends everything again.
fn restart(
    answer: &Answer,
    have: u64,
    file: &RemoteFile,
    partial: &Path,
    on_event: OnEvent<'_>,
) -> Result<u64, HubError> {
    let bad = |message: String| HubError::Answer { what: file.path.clone(), message };
    if answer.response.status().as_u16() == 206 {
        let range = answer.header("content-range").unwrap_or_default();
        let (start, total) = parse_range(range).ok_or_else(|| bad(format!("{range:?} is no range of bytes")))?;
        if start != have || file.size.is_some_and(|size| total.is_some_and(|total| total != size)) {
            return Err(bad(format!("asked for the bytes from {have} on, it sends {range:?}")));
        }
        return Ok(have);
    }
    if have > 0 {
        File::create(partial).map_err(io("write", partial))?;
        on_event(Event::Discarded(have));
    }
    Ok(0)
}

/// First byte and length of the whole in `bytes 5-9/10`.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    Some((start, total.trim().parse().ok()))
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock)
        || error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<ureq::Error>())
            .is_some_and(|e| matches!(e, ureq::Error::Timeout(_)))
}

/// The name of a file's content in the cache. Where the hub gives no checksum, its path.
fn blob_name(file: &RemoteFile) -> String {
    file.checksum.hex().map_or_else(|| file.path.replace('/', "--"), str::to_owned)
}

/// Where a file goes.
#[derive(Debug, Clone)]
struct Place {
    whole: PathBuf,
    partial: PathBuf,
    lock: PathBuf,
}

impl Place {
    fn of(cache: &RepoCache, target: &Target, file: &RemoteFile) -> Self {
        let name = blob_name(file);
        match target {
            Target::Cache => {
                let whole = cache.blob(&name);
                Self { partial: with_ending(&whole, ".incomplete"), lock: cache.lock(&name), whole }
            }
            Target::Folder(folder) => {
                let whole = folder.join(&file.path);
                Self { partial: with_ending(&whole, ".incomplete"), lock: with_ending(&whole, ".lock"), whole }
            }
        }
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Bytes of a whole file that is already in its place. In the cache a blob is named after its checksum; in a folder, a file
/// of the same name counts only if its checksum is right.
fn already(place: &Place, file: &RemoteFile) -> u64 {
    let Ok(there) = fs::metadata(&place.whole) else { return 0 };
    let (Some(size), Some(checksum)) = (file.size, file.checksum.hex()) else { return 0 };
    if !there.is_file() || there.len() != size {
        return 0;
    }
    if place.whole.file_name().is_some_and(|name| name == checksum) {
        return size;
    }
    let mut digest = Digest::new(&file.checksum, size);
    match digest.update_from(&place.whole).ok().and_then(|()| digest.finish()) {
        Some(found) if found == checksum => size,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "5-9/10", "bytes x-9/10", "bytes */10"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}

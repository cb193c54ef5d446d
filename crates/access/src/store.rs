//! Keys in memory, in step with their file.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use redb::{ReadTransaction, ReadableTable};
use serde::{Deserialize, Serialize};

use crate::file::{DAYS, KEYS, KeyFile, LAST_USED, Meta, TOTALS};
use crate::secret::{self, SecretHash};
use crate::usage::Tally;
use crate::{AccessError, Key, KeyUsage, NewKey, Refused, Secret, UnixMillis, Usage};

/// How long a transaction waits for other processes.
const WAIT: Duration = Duration::from_secs(5);

/// A file whose last change is younger than this when it is looked at may change again without its time showing: the clocks
/// of file systems tick every few milliseconds, and every 2 s at worst.
const SETTLED: Duration = Duration::from_millis(2500);

/// API keys and their usage: a view in memory, and the file it stands for.
///
/// Look-ups and counting never touch the disk. Methods that do say so.
#[derive(Debug)]
pub struct KeyStore {
    file: KeyFile,
    view: RwLock<View>,
    usage: Mutex<Uncounted>,
    /// What the file looked like at the last look; held while the disk is used.
    disk: Mutex<Option<Stamp>>,
}

/// What [`KeyStore::refresh`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// Nothing new.
    Nothing,
    /// Usage was written since the last look, by this process or another.
    Usage,
    /// Keys were added or revoked.
    Keys,
}

#[derive(Debug)]
struct View {
    meta: Meta,
    /// By [`SecretHash::bucket`].
    by_hash: HashMap<u64, Vec<Entry>>,
    by_id: BTreeMap<String, Arc<Key>>,
    /// What the file says of each key's usage.
    stored: HashMap<String, KeyUsage>,
    /// The day of `stored`'s `today`.
    day: u32,
}

struct Entry {
    hash: SecretHash,
    key: Arc<Key>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.key.fmt(f)
    }
}

/// Usage that is not in the file yet.
#[derive(Debug, Default)]
struct Uncounted {
    /// Counted since the last flush began.
    pending: Tally,
    /// Being written.
    writing: Tally,
}

/// A key as the file holds it.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    key: Key,
    secret_hash: [u8; 32],
}

/// What tells whether a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl KeyStore {
    /// Opens a file of keys. Reads the disk; repairs the file if its last writer was killed.
    pub fn open(path: &Path) -> Result<Self, AccessError> {
        Self::open_waiting(path, WAIT)
    }

    /// Opens a file of keys, which is made if there is none (readable by its owner only). Uses the disk.
    pub fn open_or_create(path: &Path) -> Result<Self, AccessError> {
        KeyFile::new(path, WAIT).create()?;
        Self::open(path)
    }

    /// As [`KeyStore::open`], with another limit than 5 s on waiting for other processes, here and in all later calls.
    pub fn open_waiting(path: &Path, wait: Duration) -> Result<Self, AccessError> {
        let file = KeyFile::new(path, wait);
        let day = UnixMillis::now().day();
        let (view, stamp) = View::read(&file, day)?;
        let usage = Mutex::new(Uncounted::default());
        Ok(Self { file, view: RwLock::new(view), usage, disk: Mutex::new(stamp) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn uncounted(&self) -> MutexGuard<'_, Uncounted> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> MutexGuard<'_, Option<Stamp>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key with this secret, if it is in force. In memory; takes the same time for any secret that is not known.
    pub fn find(&self, secret: &str, now: UnixMillis) -> Result<Arc<Key>, Refused> {
        let view = self.view();
        let hash = SecretHash::of(secret, &view.meta.hash_key).ok_or(Refused::Unknown)?;
        let bucket = view.by_hash.get(&hash.bucket()).map_or(&[][..], Vec::as_slice);
        let entry = bucket.iter().find(|e| e.hash.matches(&hash)).ok_or(Refused::Unknown)?;
        entry.key.check(now)?;
        Ok(Arc::clone(&entry.key))
    }

    /// The key with this id, if it is (still) in force: for answers that take a while. In memory.
    pub fn check(&self, id: &str, now: UnixMillis) -> Result<Arc<Key>, Refused> {
        let view = self.view();
        let key = view.by_id.get(id).ok_or(Refused::Unknown)?;
        key.check(now)?;
        Ok(Arc::clone(key))
    }

    /// All keys, revoked ones too, in the order in which they were made. In memory.
    pub fn keys(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<_> = self.view().by_id.values().cloned().collect();
        keys.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        keys
    }

    /// What each key has used, by id, with what is not in the file yet. In memory.
    pub fn usage(&self, now: UnixMillis) -> BTreeMap<String, KeyUsage> {
        let day = now.day();
        let (uncounted, view) = (self.uncounted(), self.view());
        let of = |id: &String| {
            let mut usage = view.stored.get(id).copied().unwrap_or_default();
            if view.day != day {
                usage.today = Usage::default();
            }
            uncounted.pending.add_to(&mut usage, id, day);
            uncounted.writing.add_to(&mut usage, id, day);
            usage
        };
        view.by_id.keys().map(|id| (id.clone(), of(id))).collect()
    }

    /// Counts what a key has used. In memory, until [`KeyStore::flush`].
    pub fn record(&self, id: &str, requests: u64, prompt_tokens: u64, completion_tokens: u64, now: UnixMillis) {
        let usage = Usage { requests, prompt_tokens, completion_tokens };
        self.uncounted().pending.add(id, usage, now);
    }

    /// Whether usage was counted that is not in the file yet. In memory.
    pub fn has_pending(&self) -> bool {
        !self.uncounted().pending.is_empty()
    }

    /// Writes the usage counted since the last time; all of it or nothing. On the disk when this returns. What could not be
    /// written stays counted in memory for the next time. Says whether there was anything to write.
    pub fn flush(&self) -> Result<bool, AccessError> {
        let _disk = self.disk();
        let tally = {
            let mut uncounted = self.uncounted();
            if uncounted.pending.is_empty() {
                return Ok(false);
            }
            uncounted.writing = std::mem::take(&mut uncounted.pending);
            uncounted.writing.clone()
        };
        let day = self.view().day;
        let written = self.write_usage(&tally, day);
        let mut uncounted = self.uncounted();
        let writing = std::mem::take(&mut uncounted.writing);
        match written {
            Ok(rows) => {
                self.view_mut().stored.extend(rows);
                Ok(true)
            }
            Err(error) => {
                uncounted.pending.merge(writing);
                Err(error)
            }
        }
    }

    /// Adds a tally to the file and returns the new usage of the keys in it, with `day` as their `today`.
    fn write_usage(&self, tally: &Tally, day: u32) -> Result<Vec<(String, KeyUsage)>, AccessError> {
        let file = &self.file;
        file.write(|transaction, _| {
            let keys = transaction.open_table(KEYS).map_err(|e| file.table_fault(e))?;
            let mut days = transaction.open_table(DAYS).map_err(|e| file.table_fault(e))?;
            let mut totals = transaction.open_table(TOTALS).map_err(|e| file.table_fault(e))?;
            let mut last_used = transaction.open_table(LAST_USED).map_err(|e| file.table_fault(e))?;
            let mut rows = Vec::new();
            for ((id, when), counts) in &tally.days {
                let id = id.as_str();
                // A key that is not in this file (any more) has no usage in it either.
                if keys.get(id).map_err(|e| file.fault(e))?.is_none() {
                    continue;
                }
                let before = days.get((id, *when)).map_err(|e| file.fault(e))?.map(|v| v.value());
                let row = Usage::from_row(before.unwrap_or_default()).plus(*counts).row();
                days.insert((id, *when), row).map_err(|e| file.fault(e))?;
                let before = totals.get(id).map_err(|e| file.fault(e))?.map(|v| v.value());
                let row = Usage::from_row(before.unwrap_or_default()).plus(*counts).row();
                totals.insert(id, row).map_err(|e| file.fault(e))?;
            }
            for (id, at) in &tally.last_used {
                let id = id.as_str();
                let Some(total) = totals.get(id).map_err(|e| file.fault(e))?.map(|v| v.value()) else { continue };
                let before = last_used.get(id).map_err(|e| file.fault(e))?.map_or(0, |v| v.value());
                let last = before.max(at.0);
                last_used.insert(id, last).map_err(|e| file.fault(e))?;
                let today = days.get((id, day)).map_err(|e| file.fault(e))?.map(|v| v.value());
                rows.push((
                    id.to_string(),
                    KeyUsage {
                        today: Usage::from_row(today.unwrap_or_default()),
                        total: Usage::from_row(total),
                        last_used: Some(UnixMillis(last)),
                    },
                ));
            }
            Ok(rows)
        })
    }

    /// Brings in what changed in the file: keys added or revoked by other processes, usage. A look at the file's time and length
    /// if nothing did. Uses the disk. When it fails, what was known stays in force.
    pub fn refresh(&self) -> Result<Refreshed, AccessError> {
        let mut disk = self.disk();
        let today = UnixMillis::now().day();
        let (before, day) = {
            let view = self.view();
            (view.meta, view.day)
        };
        if disk.is_some() && *disk == Stamp::of(self.path()) && day == today {
            return Ok(Refreshed::Nothing);
        }
        let (view, stamp) = View::read(&self.file, today)?;
        let found = if view.meta != before {
            Refreshed::Keys
        } else if view.stored != self.view().stored {
            Refreshed::Usage
        } else {
            Refreshed::Nothing
        };
        *self.view_mut() = view;
        *disk = stamp;
        Ok(found)
    }

    /// Makes a key and its secret, which nobody can be shown again. On the disk when this returns.
    pub fn add(&self, new: NewKey, now: UnixMillis) -> Result<(Arc<Key>, Secret), AccessError> {
        new.check(now)?;
        let secret = Secret::new()?;
        let file = &self.file;
        let key = {
            let _disk = self.disk();
            file.write(|transaction, meta| {
                let mut table = transaction.open_table(KEYS).map_err(|e| file.table_fault(e))?;
                let others = records(file, &table)?;
                if let Some(Record { key, .. }) =
                    others.iter().find(|r| r.key.name == new.name && r.key.revoked_at.is_none())
                {
                    return Err(AccessError::NameTaken { name: new.name.clone(), id: key.id.clone() });
                }
                let mut id = secret::new_id()?;
                while others.iter().any(|r| r.key.id == id) {
                    id = secret::new_id()?;
                }
                let hash = SecretHash::of(secret.reveal(), &meta.hash_key)
                    .ok_or_else(|| file.damaged("a new secret has not the form of one"))?;
                let key = Key {
                    id,
                    name: new.name,
                    scopes: new.scopes,
                    models: new.models,
                    created: now,
                    expires_at: new.expires_at,
                    revoked_at: None,
                    limits: new.limits,
                };
                let record = Record { key, secret_hash: *hash.bytes() };
                put(file, &mut table, &record)?;
                meta.generation += 1;
                Ok(record.key)
            })?
        };
        self.refresh()?;
        Ok((Arc::new(key), secret))
    }

    /// Takes a key back, by its id or the name of one that is in force. Revoking by id what is revoked changes nothing. On the
    /// disk when this returns; other processes see it at their next [`KeyStore::refresh`].
    pub fn revoke(&self, name_or_id: &str, now: UnixMillis) -> Result<Arc<Key>, AccessError> {
        let file = &self.file;
        let key = {
            let _disk = self.disk();
            file.write(|transaction, meta| {
                let mut table = transaction.open_table(KEYS).map_err(|e| file.table_fault(e))?;
                let all = records(file, &table)?;
                let revoked = all.iter().any(|r| r.key.name == name_or_id);
                let record = all
                    .into_iter()
                    .find(|r| r.key.id == name_or_id || (r.key.name == name_or_id && r.key.revoked_at.is_none()));
                let Some(mut record) = record else {
                    let (path, wanted) = (file.path().to_path_buf(), name_or_id.to_string());
                    return Err(AccessError::NoSuchKey { path, wanted, revoked });
                };
                if record.key.revoked_at.is_none() {
                    record.key.revoked_at = Some(now);
                    put(file, &mut table, &record)?;
                    meta.generation += 1;
                }
                Ok(record.key)
            })?
        };
        self.refresh()?;
        Ok(Arc::new(key))
    }
}

impl View {
    /// Reads the file, with what it looked like before the reading, if that will show whether it changes again.
    fn read(file: &KeyFile, day: u32) -> Result<(Self, Option<Stamp>), AccessError> {
        let stamp = Stamp::of(file.path()).filter(Stamp::is_settled);
        let view = file.read(|transaction, meta| {
            let table = transaction.open_table(KEYS).map_err(|e| file.table_fault(e))?;
            let mut view = Self { meta, by_hash: HashMap::new(), by_id: BTreeMap::new(), stored: HashMap::new(), day };
            for record in records(file, &table)? {
                let (hash, key) = (SecretHash::from_bytes(record.secret_hash), Arc::new(record.key));
                view.by_id.insert(key.id.clone(), Arc::clone(&key));
                view.by_hash.entry(hash.bucket()).or_default().push(Entry { hash, key });
            }
            view.stored = stored(file, transaction, day)?;
            Ok(view)
        })?;
        Ok((view, stamp))
    }
}

fn stored(file: &KeyFile, transaction: &ReadTransaction, day: u32) -> Result<HashMap<String, KeyUsage>, AccessError> {
    let days = transaction.open_table(DAYS).map_err(|e| file.table_fault(e))?;
    let totals = transaction.open_table(TOTALS).map_err(|e| file.table_fault(e))?;
    let last_used = transaction.open_table(LAST_USED).map_err(|e| file.table_fault(e))?;
    let mut stored = HashMap::new();
    for row in totals.iter().map_err(|e| file.fault(e))? {
        let (id, total) = row.map_err(|e| file.fault(e))?;
        let id = id.value();
        let today = days.get((id, day)).map_err(|e| file.fault(e))?.map(|v| v.value());
        let usage = KeyUsage {
            today: Usage::from_row(today.unwrap_or_default()),
            total: Usage::from_row(total.value()),
            last_used: last_used.get(id).map_err(|e| file.fault(e))?.map(|v| UnixMillis(v.value())),
        };
        stored.insert(id.to_string(), usage);
    }
    Ok(stored)
}

fn records(
    file: &KeyFile,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Vec<Record>, AccessError> {
    let mut records = Vec::new();
    for row in table.iter().map_err(|e| file.fault(e))? {
        let (id, json) = row.map_err(|e| file.fault(e))?;
        let record: Record = serde_json::from_slice(json.value())
            .map_err(|e| file.damaged(&format!("key `{}`: {e}", id.value().escape_debug())))?;
        records.push(record);
    }
    Ok(records)
}

fn put(file: &KeyFile, table: &mut redb::Table<'_, &str, &[u8]>, record: &Record) -> Result<(), AccessError> {
    let json = serde_json::to_vec(record).map_err(|e| file.damaged(&format!("key cannot be written: {e}")))?;
    table.insert(record.key.id.as_str(), json.as_slice()).map_err(|e| file.fault(e))?;
    Ok(())
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Self { modified: metadata.modified().ok()?, length: metadata.len(), inode })
    }

    /// Whether the next change is sure to show.
    fn is_settled(&self) -> bool {
        self.modified.elapsed().is_ok_and(|age| age > SETTLED)
    }
}

//! The file: a redb database that is open only for as long as one transaction takes, so that several processes can use it.

use std::any::Any;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};

use crate::AccessError;
use crate::secret::random;

/// What the file says about itself.
pub(crate) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("verve-access");
/// Key id to the key and the hash of its secret, as JSON.
pub(crate) const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
/// Key id and day (since 1970, UTC) to requests, prompt tokens, completion tokens.
pub(crate) const DAYS: TableDefinition<(&str, u32), (u64, u64, u64)> = TableDefinition::new("usage-by-day");
/// Key id to the same counts over all days.
pub(crate) const TOTALS: TableDefinition<&str, (u64, u64, u64)> = TableDefinition::new("usage");
/// Key id to the moment of its last use, Unix milliseconds.
pub(crate) const LAST_USED: TableDefinition<&str, u64> = TableDefinition::new("last-used");

/// The latest format this version knows.
const FORMAT: u8 = 1;
/// How every redb file begins.
const MAGIC: &[u8] = b"redb";
/// Memory for pages of the file, bytes. A transaction touches a few.
const CACHE: usize = 4 << 20;

/// A file of keys by its name.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    wait: Duration,
}

/// What a file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Key under which secrets are hashed; also tells two files apart.
    pub hash_key: [u8; 32],
    /// Counts changes of keys (not of usage).
    pub generation: u64,
}

impl KeyFile {
    /// Names a file, which need not exist. Transactions wait for other processes up to `wait`.
    pub fn new(path: &Path, wait: Duration) -> Self {
        Self { path: path.to_path_buf(), wait }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an empty file of keys, readable by its owner only. One that exists already is left as it is.
    pub fn create(&self) -> Result<(), AccessError> {
        if self.path.exists() {
            return Ok(());
        }
        let folder = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        private_folder(folder)?;
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{:016x}.new", u64::from_le_bytes(random()?)));
        let fresh = folder.join(name);
        let made = self.fill(&fresh).and_then(|()| {
            // A link and not a renaming: the file of another process that was quicker stays.
            match fs::hard_link(&fresh, &self.path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(_) if !self.path.exists() => fs::rename(&fresh, &self.path),
                other => other,
            }
            .map_err(|source| self.io("create the file", source))
        });
        // Gone already if it was renamed.
        let _ = fs::remove_file(&fresh);
        made?;
        fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|source| self.io("sync the folder", source))
    }

    fn fill(&self, fresh: &Path) -> Result<(), AccessError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        options.open(fresh).map_err(|source| self.io("create the file", source))?;
        let hash_key: [u8; 32] = random()?;
        let database = Builder::new().set_cache_size(CACHE).create(fresh).map_err(|e| self.fault(e))?;
        let transaction = database.begin_write().map_err(|e| self.fault(e))?;
        {
            let mut meta = transaction.open_table(META).map_err(|e| self.fault(e))?;
            let generation = 0u64.to_le_bytes();
            for (name, value) in [("format", &[FORMAT][..]), ("hash-key", &hash_key), ("generation", &generation)] {
                meta.insert(name, value).map_err(|e| self.fault(e))?;
            }
            transaction.open_table(KEYS).map_err(|e| self.fault(e))?;
            transaction.open_table(DAYS).map_err(|e| self.fault(e))?;
            transaction.open_table(TOTALS).map_err(|e| self.fault(e))?;
            transaction.open_table(LAST_USED).map_err(|e| self.fault(e))?;
        }
        transaction.commit().map_err(|e| self.fault(e))?;
        database.close().map_err(|e| self.fault(e))
    }

    /// Runs `act` on a snapshot of the file.
    pub fn read<T>(&self, act: impl Fn(&ReadTransaction, Meta) -> Result<T, AccessError>) -> Result<T, AccessError> {
        self.look_at_head()?;
        let mut repaired = false;
        loop {
            let opened = self.when_free(|| Builder::new().set_cache_size(CACHE).open_read_only(&self.path));
            match opened {
                // The last writer was killed: a writer puts the file right.
                Err(Opening::Unclean) if !repaired => {
                    repaired = true;
                    self.guarded(|| self.open_to_write().map(drop))?;
                }
                Err(Opening::Unclean) => return Err(self.damaged("it cannot be repaired")),
                Err(Opening::Failed(error)) => return Err(error),
                Ok(database) => {
                    return self.guarded(|| {
                        let transaction = database.begin_read().map_err(|e| self.fault(e))?;
                        let table = transaction.open_table(META).map_err(|e| self.table_fault(e))?;
                        let meta = self.meta(&table)?;
                        act(&transaction, meta)
                    });
                }
            }
        }
    }

    /// Runs `act` in a transaction that is on the disk when this returns, or leaves no trace if `act` fails.
    pub fn write<T>(
        &self,
        act: impl FnOnce(&WriteTransaction, &mut Meta) -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        // First without writing: a file that is no file of keys, or cannot be understood, is never written to.
        self.read(|_, _| Ok(()))?;
        self.guarded(|| {
            let database = self.open_to_write()?;
            let transaction = database.begin_write().map_err(|e| self.fault(e))?;
            let before = {
                let table = transaction.open_table(META).map_err(|e| self.table_fault(e))?;
                self.meta(&table)?
            };
            let mut meta = before;
            let result = act(&transaction, &mut meta)?;
            if meta != before {
                let mut table = transaction.open_table(META).map_err(|e| self.table_fault(e))?;
                table.insert("generation", &meta.generation.to_le_bytes()[..]).map_err(|e| self.fault(e))?;
            }
            transaction.commit().map_err(|e| self.fault(e))?;
            database.close().map_err(|e| self.fault(e))?;
            Ok(result)
        })
    }

    fn open_to_write(&self) -> Result<Database, AccessError> {
        self.when_free(|| Builder::new().set_cache_size(CACHE).open(&self.path)).map_err(|e| match e {
            Opening::Unclean => self.damaged("it cannot be repaired"),
            Opening::Failed(error) => error,
        })
    }

    /// Opens the database as soon as no other process has it open.
    fn when_free<D>(&self, open: impl Fn() -> Result<D, DatabaseError>) -> Result<D, Opening> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match self.guarded(|| Ok(open())).map_err(Opening::Failed)? {
                Ok(database) => return Ok(database),
                Err(DatabaseError::DatabaseAlreadyOpen) if start.elapsed() < self.wait => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(DatabaseError::DatabaseAlreadyOpen) => {
                    return Err(Opening::Failed(AccessError::Locked { path: self.path.clone(), waited: self.wait }));
                }
                Err(DatabaseError::RepairAborted) => return Err(Opening::Unclean),
                Err(error) => return Err(Opening::Failed(self.fault(error))),
            }
        }
    }

    /// Refuses files that are not redb's before the database has a chance to make one of them.
    fn look_at_head(&self) -> Result<(), AccessError> {
        let mut file = fs::File::open(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => AccessError::Missing { path: self.path.clone() },
            _ => self.io("open the file", source),
        })?;
        if file.metadata().is_ok_and(|m| !m.is_file()) {
            return Err(self.foreign("not a file"));
        }
        let mut head = [0; MAGIC.len()];
        match file.read_exact(&mut head) {
            Ok(()) if head == MAGIC => Ok(()),
            Ok(()) => Err(self.foreign("another kind of file")),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(self.foreign("empty or nearly so")),
            Err(source) => Err(self.io("read the file", source)),
        }
    }

    fn meta(&self, table: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Meta, AccessError> {
        let get = |name| -> Result<Vec<u8>, AccessError> {
            let value = table.get(name).map_err(|e| self.fault(e))?;
            value.map(|v| v.value().to_vec()).ok_or_else(|| self.damaged(&format!("no entry `{name}`")))
        };
        match get("format")?[..] {
            [FORMAT] => {}
            [found] => return Err(AccessError::Format { path: self.path.clone(), found, known: FORMAT }),
            _ => return Err(self.damaged("entry `format`")),
        }
        let hash_key = get("hash-key")?.try_into().map_err(|_| self.damaged("entry `hash-key`"))?;
        let generation = get("generation")?.try_into().map_err(|_| self.damaged("entry `generation`"))?;
        Ok(Meta { hash_key, generation: u64::from_le_bytes(generation) })
    }

    /// Runs `act`; the database panics on some damaged files, which must not end a server.
    fn guarded<T>(&self, act: impl FnOnce() -> Result<T, AccessError>) -> Result<T, AccessError> {
        catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| Err(self.damaged(&words(panic.as_ref()))))
    }

    pub fn damaged(&self, detail: &str) -> AccessError {
        AccessError::Damaged { path: self.path.clone(), detail: detail.to_string() }
    }

    fn foreign(&self, found: &str) -> AccessError {
        AccessError::NotAKeyFile { path: self.path.clone(), found: found.to_string() }
    }

    fn io(&self, action: &'static str, source: io::Error) -> AccessError {
        AccessError::Io { path: self.path.clone(), action, source }
    }

    /// What the database says, in our words.
    pub fn fault(&self, error: impl Into<redb::Error>) -> AccessError {
        match error.into() {
            redb::Error::Corrupted(detail) => self.damaged(&detail),
            redb::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => self.damaged(&e.to_string()),
            redb::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => self.damaged("it ends too early"),
            redb::Error::Io(source) => self.io("use the file", source),
            source => AccessError::Database { path: self.path.clone(), source: Box::new(source) },
        }
    }

    /// As [`KeyFile::fault`], for opening a table: one that is missing or of other types means another program's database.
    pub fn table_fault(&self, error: TableError) -> AccessError {
        match error {
            TableError::Storage(error) => self.fault(error),
            other => self.foreign(&format!("another program's database: {other}")),
        }
    }
}

enum Opening {
    /// The last writer did not close the file.
    Unclean,
    Failed(AccessError),
}

/// Makes a folder for its owner only, and the folders above it, if they are missing.
fn private_folder(folder: &Path) -> Result<(), AccessError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(folder).map_err(|source| AccessError::Io {
        path: folder.to_path_buf(),
        action: "create the folder",
        source,
    })
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the database gave up").lines().next().unwrap_or_default().chars().take(200).collect()
}

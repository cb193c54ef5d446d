//! Documents in, a folder of shards out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::{HEADER_BYTES, Header, Split, token_bytes};
use crate::manifest::{MANIFEST_FILE, SHARD_ENDING, ShardEntry, ShardManifest};
use crate::write_file::{AtomicFile, TEMPORARY};

/// Tokens after which a new shard file is begun, unless told otherwise.
pub const DEFAULT_SHARD_TOKENS: u64 = 100_000_000;

/// Documents after which a new shard file is begun in any case: the document tables are held in memory until a shard is
/// finished, 16 bytes a document.
const MAX_DOCUMENTS: usize = 1 << 22;
/// Bytes gathered before they are hashed and written.
const BUFFER_BYTES: usize = 1 << 20;
/// A BLAKE3 hash in hexadecimal has 64 characters; other hashes may be longer.
const MAX_TOKENIZER_HASH: usize = 256;

/// What to do when the output folder already holds shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to write into a folder that is not empty.
    Refuse,
    /// Remove the shards, the manifest and left-over temporary files of an earlier job first; touch nothing else.
    Replace,
}

/// Settings of a [`ShardWriter`].
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Size of the vocabulary; every id must be below it.
    pub n_vocab: usize,
    /// The id appended to each document.
    pub end_of_text: u32,
    /// Hash of the tokenizer, compared when shards are used.
    pub tokenizer_hash: String,
    /// Where the text came from, in free words (at most about 3,000 bytes).
    pub source: String,
    /// Begin a new file after this many tokens (at the end of a document): [`DEFAULT_SHARD_TOKENS`].
    pub shard_tokens: u64,
    /// What to do with shards that are already there.
    pub existing: Existing,
}

/// Writes documents into a folder of shards.
///
/// The same documents in the same order give the same bytes. If the writer is dropped before [`ShardWriter::finish`],
/// also after an error, all its files are removed again.
#[derive(Debug)]
pub struct ShardWriter {
    folder: PathBuf,
    /// Whether the folder was made by this writer, and so is removed with its files.
    made_folder: bool,
    template: Header,
    shard_tokens: u64,
    open: [Option<OpenShard>; 2],
    entries: [Vec<ShardEntry>; 2],
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Writing,
    Failed,
    Finished,
}

impl ShardWriter {
    /// Starts writing into `folder`, which is created if it is not there.
    ///
    /// # Errors
    /// If the folder cannot be created, is not empty (see [`Existing`]), or the settings make no sense.
    pub fn create(folder: impl AsRef<Path>, options: ShardOptions) -> Result<Self> {
        let folder = folder.as_ref();
        let template = template(&options)?;
        let made_folder = !folder.exists();
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create the folder", e))?;
        clear(folder, options.existing)?;
        Ok(Self {
            folder: folder.to_owned(),
            made_folder,
            template,
            shard_tokens: options.shard_tokens,
            open: [None, None],
            entries: [Vec::new(), Vec::new()],
            state: State::Writing,
        })
    }

    /// Writes one whole document of `text_bytes` bytes of text; the end-of-text token is added here.
    ///
    /// # Errors
    /// If an id is outside the vocabulary or writing fails. The writer is of no use afterwards.
    pub fn push(&mut self, split: Split, ids: &[u32], text_bytes: u64) -> Result<()> {
        self.push_part(split, ids, text_bytes)?;
        self.end_document(split)
    }

    /// Writes a part of a document that does not fit into memory as a whole; [`ShardWriter::end_document`] ends it.
    ///
    /// # Errors
    /// As [`ShardWriter::push`].
    pub fn push_part(&mut self, split: Split, ids: &[u32], text_bytes: u64) -> Result<()> {
        self.guarded(|writer| {
            let n_vocab = writer.template.n_vocab;
            if ids.iter().copied().max().is_some_and(|id| id >= n_vocab) {
                let position = ids.iter().position(|&id| id >= n_vocab).unwrap_or(0);
                return Err(Error::TokenOutOfRange {
                    path: writer.folder.clone(),
                    position: position as u64,
                    id: ids[position],
                    n_vocab: n_vocab as usize,
                });
            }
            writer.open_shard(split)?.push(ids, text_bytes)
        })
    }

    /// Ends the document begun by [`ShardWriter::push_part`] with the end-of-text token.
    ///
    /// # Errors
    /// As [`ShardWriter::push`].
    pub fn end_document(&mut self, split: Split) -> Result<()> {
        self.guarded(|writer| {
            let (end_of_text, shard_tokens) = (writer.template.end_of_text, writer.shard_tokens);
            let shard = writer.open_shard(split)?;
            shard.end_document(end_of_text)?;
            if shard.n_tokens >= shard_tokens || shard.starts.len() >= MAX_DOCUMENTS {
                writer.close_shard(split)?;
            }
            Ok(())
        })
    }

    /// Token ids written so far, end-of-text tokens included.
    pub fn n_tokens(&self, split: Split) -> u64 {
        let closed: u64 = self.entries[split.index()].iter().map(|entry| entry.n_tokens).sum();
        closed + self.open[split.index()].as_ref().map_or(0, |shard| shard.n_tokens)
    }

    /// Closes the last shards and writes the manifest. A document still open is ended.
    ///
    /// # Errors
    /// If writing fails now or failed before.
    pub fn finish(mut self) -> Result<ShardManifest> {
        self.guarded(|writer| {
            for split in Split::ALL {
                if writer.open[split.index()].as_ref().is_some_and(OpenShard::in_document) {
                    writer.end_document(split)?;
                }
                writer.close_shard(split)?;
            }
            let t = &writer.template;
            let mut manifest = ShardManifest::new(t.n_vocab, t.end_of_text, t.tokenizer_hash.clone(), t.source.clone());
            manifest.set_shards(writer.entries.concat());
            manifest.write(&writer.folder)?;
            writer.state = State::Finished;
            Ok(manifest)
        })
    }

    /// Runs `action`, and remembers an error: half-written state must not be built upon.
    fn guarded<T>(&mut self, action: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.state != State::Writing {
            return Err(Error::io(&self.folder, "write", io::Error::other("an earlier write failed")));
        }
        let result = action(self);
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    fn open_shard(&mut self, split: Split) -> Result<&mut OpenShard> {
        let slot = &mut self.open[split.index()];
        if let Some(shard) = slot {
            return Ok(shard);
        }
        let kind = match split {
            Split::Train => "train",
            Split::HeldOut => "held-out",
        };
        let name = format!("{kind}-{:05}{SHARD_ENDING}", self.entries[split.index()].len());
        let file = AtomicFile::create(&self.folder, &name)?;
        let width = self.template.token_bytes;
        Ok(slot.insert(OpenShard::start(file, name, width)?))
    }

    fn close_shard(&mut self, split: Split) -> Result<()> {
        if let Some(shard) = self.open[split.index()].take() {
            let header = Header { split, ..self.template.clone() };
            let path = self.folder.join(&shard.name);
            self.entries[split.index()].push(shard.close(header, &path)?);
        }
        Ok(())
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if self.state == State::Finished {
            return;
        }
        // Best effort, in an error path already: open shards remove their own temporary files.
        self.open = [None, None];
        for entry in self.entries.iter().flatten() {
            let _ = fs::remove_file(self.folder.join(&entry.file));
        }
        if self.made_folder {
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// A shard that is being written.
#[derive(Debug)]
struct OpenShard {
    file: AtomicFile,
    name: String,
    token_bytes: u8,
    /// Encoded, not yet hashed and written.
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    n_tokens: u64,
    text_bytes: u64,
    /// Where each document starts, and its bytes of text.
    starts: Vec<u64>,
    byte_counts: Vec<u64>,
    /// Where the document being written starts.
    document_start: u64,
    document_bytes: u64,
}

impl OpenShard {
    fn start(mut file: AtomicFile, name: String, token_bytes: u8) -> Result<Self> {
        // Room for the header, which is known at the end only. Zeros are not a header: a file cut off here is no shard.
        file.append(&[0; HEADER_BYTES])?;
        Ok(Self {
            file,
            name,
            token_bytes,
            buffer: Vec::with_capacity(BUFFER_BYTES + 8),
            hasher: blake3::Hasher::new(),
            n_tokens: 0,
            text_bytes: 0,
            starts: Vec::new(),
            byte_counts: Vec::new(),
            document_start: 0,
            document_bytes: 0,
        })
    }

    fn in_document(&self) -> bool {
        self.n_tokens > self.document_start || self.document_bytes > 0
    }

    fn push(&mut self, ids: &[u32], text_bytes: u64) -> Result<()> {
        let width = usize::from(self.token_bytes);
        // In pieces, so that the buffer keeps its size whatever the size of the document.
        for ids in ids.chunks(BUFFER_BYTES / 8) {
            let at = self.buffer.len();
            self.buffer.resize(at + ids.len() * width, 0);
            let out = &mut self.buffer[at..];
            if width == 2 {
                for (b, &id) in out.chunks_exact_mut(2).zip(ids) {
                    // No loss: ids were checked against n_vocab, which is at most 65,536 at this width.
                    b.copy_from_slice(&(id as u16).to_le_bytes());
                }
            } else {
                for (b, &id) in out.chunks_exact_mut(4).zip(ids) {
                    b.copy_from_slice(&id.to_le_bytes());
                }
            }
            if self.buffer.len() >= BUFFER_BYTES / 2 {
                self.flush()?;
            }
        }
        self.n_tokens += ids.len() as u64;
        self.document_bytes += text_bytes;
        Ok(())
    }

    fn end_document(&mut self, end_of_text: u32) -> Result<()> {
        self.push(&[end_of_text], 0)?;
        self.starts.push(self.document_start);
        self.byte_counts.push(self.document_bytes);
        self.text_bytes += self.document_bytes;
        self.document_start = self.n_tokens;
        self.document_bytes = 0;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.hasher.update(&self.buffer);
        self.file.append(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the document tables and the header, and gives the file its name.
    fn close(mut self, mut header: Header, path: &Path) -> Result<ShardEntry> {
        header.n_tokens = self.n_tokens;
        header.n_documents = self.starts.len() as u64;
        header.text_bytes = self.text_bytes;
        let Some(layout) = header.layout() else {
            return Err(Error::header(path, "the shard has grown beyond what a file can hold"));
        };
        let padding = (layout.starts - layout.tokens_end) as usize;
        self.buffer.extend_from_slice(&[0; 8][..padding]);
        for table in [std::mem::take(&mut self.starts), std::mem::take(&mut self.byte_counts)] {
            for entries in table.chunks(BUFFER_BYTES / 8) {
                self.buffer.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
                self.flush()?;
            }
        }
        header.body_blake3 = self.hasher.finalize().to_hex().to_string();
        let Some((block, hash)) = header.encode() else {
            return Err(header_too_long());
        };
        self.file.overwrite_start(&block)?;
        self.file.publish()?;
        Ok(ShardEntry {
            file: self.name,
            split: header.split,
            n_tokens: header.n_tokens,
            n_documents: header.n_documents,
            text_bytes: header.text_bytes,
            file_bytes: layout.file,
            hash: hash.to_hex().to_string(),
        })
    }
}

/// Checks the settings and makes the header that all shards share, its counts as large as they can get.
fn template(options: &ShardOptions) -> Result<Header> {
    let wrong = |field, problem| Err(Error::Options { field, problem });
    let Some(n_vocab) = u32::try_from(options.n_vocab).ok().filter(|&n| n > 0) else {
        return wrong("n_vocab", format!("{} is not between 1 and 4,294,967,295", options.n_vocab));
    };
    if options.end_of_text >= n_vocab {
        return wrong("end_of_text", format!("id {} is outside the vocabulary of {n_vocab}", options.end_of_text));
    }
    if options.shard_tokens == 0 {
        return wrong("shard_tokens", "a shard holds at least one token".to_owned());
    }
    if options.tokenizer_hash.is_empty() || options.tokenizer_hash.len() > MAX_TOKENIZER_HASH {
        return wrong("tokenizer_hash", format!("must have 1 to {MAX_TOKENIZER_HASH} characters"));
    }
    let header = Header {
        split: Split::HeldOut,
        token_bytes: token_bytes(n_vocab),
        n_vocab,
        end_of_text: options.end_of_text,
        n_tokens: u64::MAX,
        n_documents: u64::MAX,
        text_bytes: u64::MAX,
        tokenizer_hash: options.tokenizer_hash.clone(),
        source: options.source.clone(),
        body_blake3: "0".repeat(64),
    };
    if header.encode().is_none() {
        return Err(header_too_long());
    }
    Ok(header)
}

fn header_too_long() -> Error {
    Error::Options { field: "source", problem: "too long for the shard's header: shorten it to 3,000 bytes".to_owned() }
}

/// Makes `folder` ready to be written into, or refuses.
fn clear(folder: &Path, existing: Existing) -> Result<()> {
    let mut ours = Vec::new();
    let listing = fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))?;
    for entry in listing {
        let entry = entry.map_err(|e| Error::io(folder, "list", e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match existing {
            Existing::Refuse => return Err(Error::FolderNotEmpty { path: folder.to_owned(), found: name }),
            Existing::Replace => {
                let temporary = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(TEMPORARY));
                let final_name = temporary.unwrap_or(&name);
                if final_name == MANIFEST_FILE || final_name.ends_with(SHARD_ENDING) {
                    ours.push(entry.path());
                }
            }
        }
    }
    // The manifest first: without it what is left is visibly not a finished folder of shards.
    ours.sort_by_key(|path| !path.ends_with(MANIFEST_FILE));
    for path in ours {
        fs::remove_file(&path).map_err(|e| Error::io(&path, "remove", e))?;
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// `/dev/full` takes no byte: every write to it fails as on a full disk.
    #[test]
    fn full_disk_is_an_error_that_says_so_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let temporary = folder.path().join(".train-00000.shard.tmp");
        fs::write(&temporary, b"").unwrap();
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let file = AtomicFile::with_file(full, temporary.clone(), folder.path().join("train-00000.shard"));
        let error = OpenShard::start(file, "train-00000.shard".to_owned(), 2).unwrap_err();
        assert!(matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull), "{error:?}");
        assert!(error.to_string().contains("disk is full"), "{error}");
        assert!(!temporary.exists());
    }

    #[test]
    fn a_failed_writer_takes_nothing_more_and_cleans_up() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("shards");
        let options = ShardOptions {
            n_vocab: 300,
            end_of_text: 299,
            tokenizer_hash: "t".to_owned(),
            source: String::new(),
            shard_tokens: 10,
            existing: Existing::Refuse,
        };
        let mut writer = ShardWriter::create(&folder, options).unwrap();
        writer.push(Split::Train, &[1; 20], 20).unwrap();
        writer.push(Split::Train, &[1; 5], 5).unwrap();
        assert!(folder.join("train-00000.shard").exists());
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let path = folder.join("held-out-00000.shard");
        let mut shard = OpenShard::start(
            AtomicFile::create(&folder, "held-out-00000.shard").unwrap(),
            "held-out-00000.shard".to_owned(),
            2,
        )
        .unwrap();
        shard.file = AtomicFile::with_file(full, folder.join(".held-out-00000.shard.tmp2"), path.clone());
        writer.open[Split::HeldOut.index()] = Some(shard);
        // Large enough to pass the buffer.
        let error = writer.push(Split::HeldOut, &[2; BUFFER_BYTES], 1).unwrap_err();
        assert!(error.to_string().contains("disk is full"), "{error}");
        assert!(writer.push(Split::Train, &[1], 1).unwrap_err().to_string().contains("earlier write failed"));
        assert!(writer.finish().is_err());
        assert!(!folder.exists(), "the writer made the folder, so nothing of it may be left");
    }
}

//! One shard file, mapped.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::{HEADER_BYTES, Header, Layout};
use crate::mapping::Mapping;

/// Bytes hashed at a time by [`Shard::verify`].
const VERIFY_CHUNK: usize = 1 << 20;

/// One shard, mapped read-only.
///
/// The file must not be truncated by another program while it is open: the system ends a process that reads a page of
/// a mapped file which is no longer there.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mapping,
    header: Header,
    layout: Layout,
    hash: blake3::Hash,
}

impl Shard {
    /// Maps a shard and checks its header and its length, not its whole content (see [`Shard::verify`]).
    ///
    /// # Errors
    /// If the file cannot be opened, is not a shard of this version, is truncated, or its header is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let map = Mapping::open(path)?;
        let (header, layout, hash) = Header::decode(path, &map)?;
        Ok(Self { path: path.to_owned(), map, header, layout, hash })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the shard says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Hash that identifies the whole file, in hexadecimal: the checksum of the header, which holds that of the rest.
    pub fn hash(&self) -> String {
        self.hash.to_hex().to_string()
    }

    /// Size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.layout.file
    }

    /// Copies the tokens from position `start` on into `out`.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, which only a damaged file holds.
    ///
    /// # Panics
    /// If the range does not lie within the shard.
    pub fn copy_tokens(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let end = start.checked_add(out.len() as u64);
        assert!(
            end.is_some_and(|end| end <= self.header.n_tokens),
            "{} tokens from {start} asked of a shard of {}",
            out.len(),
            self.header.n_tokens
        );
        let width = usize::from(self.header.token_bytes);
        // In range: `start` is at most n_tokens, and the mapped length was checked against the layout on opening.
        let from = HEADER_BYTES + start as usize * width;
        let bytes = &self.map[from..from + out.len() * width];
        if width == 2 {
            for (id, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *id = u32::from(u16::from_le_bytes([b[0], b[1]]));
            }
        } else {
            for (id, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *id = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        // The maximum first: it vectorises, the search for the culprit need not.
        if out.iter().copied().max().is_some_and(|id| id >= self.header.n_vocab) {
            let at = out.iter().position(|&id| id >= self.header.n_vocab).unwrap_or(0);
            return Err(Error::TokenOutOfRange {
                path: self.path.clone(),
                position: start + at as u64,
                id: out[at],
                n_vocab: self.header.n_vocab as usize,
            });
        }
        Ok(())
    }

    /// Tokens of document `index`, its end-of-text token included.
    ///
    /// # Errors
    /// If the document table is damaged.
    ///
    /// # Panics
    /// If there is no such document.
    pub fn document(&self, index: u64) -> Result<Range<u64>> {
        let n = self.header.n_documents;
        assert!(index < n, "document {index} asked of a shard of {n}");
        let start = self.table_entry(self.layout.starts, index);
        let end = if index + 1 < n { self.table_entry(self.layout.starts, index + 1) } else { self.header.n_tokens };
        if start >= end || end > self.header.n_tokens || (index == 0 && start != 0) {
            return Err(Error::header(&self.path, format!("document {index} would span tokens {start} to {end}")));
        }
        Ok(start..end)
    }

    /// Bytes of text in document `index`.
    ///
    /// # Panics
    /// If there is no such document.
    pub fn document_text_bytes(&self, index: u64) -> u64 {
        let n = self.header.n_documents;
        assert!(index < n, "document {index} asked of a shard of {n}");
        self.table_entry(self.layout.byte_counts, index)
    }

    fn table_entry(&self, table: u64, index: u64) -> u64 {
        let at = (table + index * 8) as usize;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.map[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    /// Reads the whole file once and checks the checksum of its body, every token id, and the document tables.
    ///
    /// # Errors
    /// Naming what is damaged.
    pub fn verify(&self) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        for chunk in self.map[HEADER_BYTES..].chunks(VERIFY_CHUNK) {
            hasher.update(chunk);
        }
        if hasher.finalize().to_hex().as_str() != self.header.body_blake3 {
            return Err(Error::Checksum { path: self.path.clone(), part: "tokens and documents" });
        }
        // The checksum shows that the file is as it was written; what follows, that it was written by a sound program.
        let mut ids = vec![0; VERIFY_CHUNK.min(self.header.n_tokens as usize)];
        let mut at = 0;
        while at < self.header.n_tokens {
            let n = (ids.len() as u64).min(self.header.n_tokens - at);
            self.copy_tokens(at, &mut ids[..n as usize])?;
            at += n;
        }
        let mut text_bytes = 0_u64;
        for index in 0..self.header.n_documents {
            let tokens = self.document(index)?;
            let mut last = [0];
            self.copy_tokens(tokens.end - 1, &mut last)?;
            if last[0] != self.header.end_of_text {
                return Err(Error::header(&self.path, format!("document {index} does not end with end-of-text")));
            }
            text_bytes = text_bytes.saturating_add(self.document_text_bytes(index));
        }
        if self.map[self.layout.tokens_end as usize..self.layout.starts as usize].iter().any(|&b| b != 0) {
            return Err(Error::header(&self.path, "bytes between tokens and documents are not zero"));
        }
        if text_bytes != self.header.text_bytes {
            let found = self.header.text_bytes;
            return Err(Error::header(
                &self.path,
                format!("text bytes are {found} in the header, {text_bytes} in the table"),
            ));
        }
        Ok(())
    }
}

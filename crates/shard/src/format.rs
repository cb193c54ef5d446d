//! The shard file format, version 1. All numbers are little-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | magic `VERVESHD` |
//! | 8..12 | format version, u32 |
//! | 12..16 | length of the JSON text that follows, u32 |
//! | 16.. | [`Header`] as JSON, then zeros up to byte 4064 |
//! | 4064..4096 | BLAKE3 of bytes 0..4064 |
//! | 4096.. | `n_tokens` token ids, u16 when `n_vocab` is at most 65,536, else u32; zeros up to a multiple of 8 bytes |
//! | then | `n_documents` u64: the token at which each document starts |
//! | then | `n_documents` u64: the number of bytes of text in each document |
//!
//! Each document ends with the end-of-text token; documents follow each other without gaps. The header holds the BLAKE3 of
//! everything after it, so the header's own checksum identifies the whole file: it is the shard's *hash* in manifests.
//! Opening a shard checks the header checksum and that every length adds up to the file's size; [`crate::Shard::verify`]
//! reads the whole file and checks the rest.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// First bytes of every shard.
pub const MAGIC: [u8; 8] = *b"VERVESHD";
/// Version this crate writes and reads.
pub const VERSION: u32 = 1;
/// Size of the header block: one page, so that the mapped tokens are aligned.
pub const HEADER_BYTES: usize = 4096;

const HASH_BYTES: usize = 32;
const JSON_START: usize = 16;
const CHECKSUM_START: usize = HEADER_BYTES - HASH_BYTES;

/// Which part of the data a shard belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Read in training.
    Train,
    /// Never trained on; read to measure the loss.
    HeldOut,
}

impl Split {
    /// Both splits, in the order in which they are listed everywhere.
    pub const ALL: [Split; 2] = [Split::Train, Split::HeldOut];

    pub(crate) fn index(self) -> usize {
        match self {
            Split::Train => 0,
            Split::HeldOut => 1,
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "training",
            Split::HeldOut => "held-out",
        })
    }
}

/// What a shard says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Training or held-out.
    pub split: Split,
    /// Bytes of one token id: 2 or 4.
    pub token_bytes: u8,
    /// Size of the vocabulary; every id is below it.
    pub n_vocab: u32,
    /// The id that ends each document.
    pub end_of_text: u32,
    /// Number of token ids, end-of-text tokens included.
    pub n_tokens: u64,
    /// Number of documents.
    pub n_documents: u64,
    /// Bytes of UTF-8 text that the tokens stand for (end-of-text tokens stand for none).
    pub text_bytes: u64,
    /// Hash of the tokenizer that made the ids.
    pub tokenizer_hash: String,
    /// Where the text came from, in free words.
    pub source: String,
    /// BLAKE3 of everything after the header block, in hexadecimal.
    pub body_blake3: String,
}

/// Sizes and places of the parts of a shard file, computed without overflow from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// End of the token ids.
    pub tokens_end: u64,
    /// Start of the document start table.
    pub starts: u64,
    /// Start of the document byte-count table.
    pub byte_counts: u64,
    /// Size of the whole file.
    pub file: u64,
}

/// Bytes of one token id for a vocabulary of this size.
pub(crate) fn token_bytes(n_vocab: u32) -> u8 {
    if n_vocab <= 1 << 16 { 2 } else { 4 }
}

impl Header {
    /// Places of the parts, or `None` if the counts cannot be those of a file.
    pub(crate) fn layout(&self) -> Option<Layout> {
        let tokens = self.n_tokens.checked_mul(u64::from(self.token_bytes))?;
        let tokens_end = tokens.checked_add(HEADER_BYTES as u64)?;
        let starts = tokens_end.checked_next_multiple_of(8)?;
        let table = self.n_documents.checked_mul(8)?;
        let byte_counts = starts.checked_add(table)?;
        let file = byte_counts.checked_add(table)?;
        Some(Layout { tokens_end, starts, byte_counts, file })
    }

    /// The header block, and the shard's hash. `None` if the texts in it are too long for the block.
    pub(crate) fn encode(&self) -> Option<(Vec<u8>, blake3::Hash)> {
        let json = serde_json::to_vec(self).ok()?;
        if json.len() > CHECKSUM_START - JSON_START {
            return None;
        }
        let mut block = vec![0; HEADER_BYTES];
        block[..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&u32::try_from(json.len()).ok()?.to_le_bytes());
        block[JSON_START..JSON_START + json.len()].copy_from_slice(&json);
        let hash = blake3::hash(&block[..CHECKSUM_START]);
        block[CHECKSUM_START..].copy_from_slice(hash.as_bytes());
        Some((block, hash))
    }

    /// Reads the header block at the start of `file` (the whole mapped file) and checks that all lengths fit its size.
    pub(crate) fn decode(path: &Path, file: &[u8]) -> Result<(Self, Layout, blake3::Hash)> {
        let not_a_shard = |problem: String| Error::NotAShard { path: path.to_owned(), problem };
        if file.len() < MAGIC.len() || file[..MAGIC.len()] != MAGIC {
            let shown = &file[..file.len().min(MAGIC.len())];
            return Err(not_a_shard(format!("it starts with {:?}", String::from_utf8_lossy(shown))));
        }
        if file.len() < HEADER_BYTES {
            return Err(not_a_shard(format!("it has only {} bytes, a header has {HEADER_BYTES}", file.len())));
        }
        let u32_at = |at: usize| u32::from_le_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]);
        // The version comes before the checksum: another version may keep its checksum elsewhere.
        let version = u32_at(8);
        if version != VERSION {
            return Err(Error::Version { path: path.to_owned(), found: version, expected: VERSION });
        }
        let hash = blake3::hash(&file[..CHECKSUM_START]);
        if file[CHECKSUM_START..HEADER_BYTES] != hash.as_bytes()[..] {
            return Err(Error::Checksum { path: path.to_owned(), part: "header" });
        }
        let json_bytes = u32_at(12) as usize;
        if json_bytes > CHECKSUM_START - JSON_START {
            return Err(Error::header(path, format!("its header text would have {json_bytes} bytes")));
        }
        let header: Header = serde_json::from_slice(&file[JSON_START..JSON_START + json_bytes])
            .map_err(|e| Error::header(path, format!("its header text cannot be read: {e}")))?;
        let layout = header.check(path)?;
        if layout.file != file.len() as u64 {
            return Err(Error::Length { path: path.to_owned(), expected: layout.file, found: file.len() as u64 });
        }
        Ok((header, layout, hash))
    }

    fn check(&self, path: &Path) -> Result<Layout> {
        let wrong = |problem: String| Err(Error::header(path, problem));
        if self.n_vocab == 0 || self.token_bytes != token_bytes(self.n_vocab) {
            return wrong(format!("{} bytes a token for a vocabulary of {}", self.token_bytes, self.n_vocab));
        }
        if self.end_of_text >= self.n_vocab {
            return wrong(format!("end-of-text id {} in a vocabulary of {}", self.end_of_text, self.n_vocab));
        }
        if self.n_documents == 0 || self.n_tokens < self.n_documents {
            return wrong(format!("{} documents in {} tokens", self.n_documents, self.n_tokens));
        }
        if blake3::Hash::from_hex(&self.body_blake3).is_err() {
            return wrong("its header holds no checksum of the body".to_owned());
        }
        match self.layout() {
            Some(layout) => Ok(layout),
            None => wrong(format!("{} tokens and {} documents cannot be in one file", self.n_tokens, self.n_documents)),
        }
    }
}

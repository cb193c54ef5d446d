//! `shards.json`: what is in a folder of shards.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::Split;
use crate::write_file::write_whole;

/// Name of the manifest in a folder of shards.
pub const MANIFEST_FILE: &str = "shards.json";
/// Ending of shard files.
pub(crate) const SHARD_ENDING: &str = ".shard";

const FORMAT: &str = "verve-shards";
const VERSION: u32 = 1;
/// A manifest of a million shards fits.
const MAX_MANIFEST_BYTES: u64 = 1 << 29;

/// One shard file of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// File name in the folder.
    pub file: String,
    /// Training or held-out.
    pub split: Split,
    /// Token ids, end-of-text tokens included.
    pub n_tokens: u64,
    /// Documents.
    pub n_documents: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Size of the file.
    pub file_bytes: u64,
    /// Hash of the shard ([`crate::Shard::hash`]).
    pub hash: String,
}

/// Totals of one split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitCounts {
    /// Token ids, end-of-text tokens included.
    pub n_tokens: u64,
    /// Documents.
    pub n_documents: u64,
    /// Bytes of text.
    pub text_bytes: u64,
}

/// What is in a folder of shards. It is written last: a folder without it was not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardManifest {
    format: String,
    version: u32,
    /// Hash of the tokenizer that made the ids.
    pub tokenizer_hash: String,
    /// Size of its vocabulary.
    pub n_vocab: u32,
    /// The id that ends each document.
    pub end_of_text: u32,
    /// Where the text came from.
    pub source: String,
    /// Totals of the training split.
    pub train: SplitCounts,
    /// Totals of the held-out split.
    pub held_out: SplitCounts,
    /// The shard files in reading order: training, then held-out.
    pub shards: Vec<ShardEntry>,
}

impl ShardManifest {
    pub(crate) fn new(n_vocab: u32, end_of_text: u32, tokenizer_hash: String, source: String) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            tokenizer_hash,
            n_vocab,
            end_of_text,
            source,
            train: SplitCounts::default(),
            held_out: SplitCounts::default(),
            shards: Vec::new(),
        }
    }

    /// Totals of one split.
    pub fn counts(&self, split: Split) -> SplitCounts {
        match split {
            Split::Train => self.train,
            Split::HeldOut => self.held_out,
        }
    }

    /// Takes over the entries, and adds up their counts.
    pub(crate) fn set_shards(&mut self, shards: Vec<ShardEntry>) {
        self.train = SplitCounts::default();
        self.held_out = SplitCounts::default();
        for entry in &shards {
            let counts = match entry.split {
                Split::Train => &mut self.train,
                Split::HeldOut => &mut self.held_out,
            };
            counts.n_tokens = counts.n_tokens.saturating_add(entry.n_tokens);
            counts.n_documents = counts.n_documents.saturating_add(entry.n_documents);
            counts.text_bytes = counts.text_bytes.saturating_add(entry.text_bytes);
        }
        self.shards = shards;
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MANIFEST_FILE);
        let mut text = serde_json::to_string_pretty(self).map_err(|e| Error::manifest(&path, e.to_string()))?;
        text.push('\n');
        write_whole(folder, MANIFEST_FILE, text.as_bytes())
    }

    /// Reads and checks the manifest of a folder. The shard files themselves are not looked at.
    ///
    /// # Errors
    /// If it is missing, unreadable or contradicts itself.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join(MANIFEST_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && folder.is_dir() => {
                return Err(Error::manifest(
                    &path,
                    "there is no such file: either this is not a folder of shards or writing them was cut off; \
                     write the shards again",
                ));
            }
            Err(e) => return Err(Error::io(&path, "open", e)),
        };
        let mut text = Vec::new();
        file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut text).map_err(|e| Error::io(&path, "read", e))?;
        if text.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(Error::manifest(&path, format!("it is larger than {MAX_MANIFEST_BYTES} bytes")));
        }
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|e| Error::manifest(&path, format!("it cannot be read: {e}")))?;
        manifest.check(&path)?;
        Ok(manifest)
    }

    fn check(&self, path: &Path) -> Result<()> {
        if self.format != FORMAT || self.version != VERSION {
            return Err(Error::manifest(
                path,
                format!("format is {} {}, this program reads {FORMAT} {VERSION}", self.format, self.version),
            ));
        }
        for entry in &self.shards {
            // A name that leaves the folder could make us read any file.
            let plain = Path::new(&entry.file).file_name().is_some_and(|name| name == entry.file.as_str());
            if !plain || !entry.file.ends_with(SHARD_ENDING) {
                return Err(Error::manifest(path, format!("{:?} is not the name of a shard file", entry.file)));
            }
        }
        let mut summed = self.clone();
        summed.set_shards(self.shards.clone());
        if summed.train != self.train || summed.held_out != self.held_out {
            return Err(Error::manifest(path, "its totals are not the sums of its shards"));
        }
        Ok(())
    }
}

//! What a run was trained on, by hash.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::Split;

/// One shard that a run reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataEntry {
    /// Where the file was when the run began. Only a hint: the hash identifies the shard.
    pub path: String,
    /// Training or held-out.
    pub split: Split,
    /// Token ids.
    pub n_tokens: u64,
    /// Documents.
    pub n_documents: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Hash of the shard ([`crate::Shard::hash`]).
    pub hash: String,
    /// Where the text came from.
    pub source: String,
}

/// Exactly which data a run reads, in which order; kept in the run's folder and compared on resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataManifest {
    /// Hash of the tokenizer that made the ids.
    pub tokenizer_hash: String,
    /// Size of its vocabulary.
    pub n_vocab: u32,
    /// The id that ends each document.
    pub end_of_text: u32,
    /// The shards in reading order.
    pub shards: Vec<DataEntry>,
}

impl DataManifest {
    /// One hash over everything that decides which rows a run reads (paths and source names do not).
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut text = |s: &str| {
            hasher.update(&(s.len() as u64).to_le_bytes());
            hasher.update(s.as_bytes());
        };
        text(&self.tokenizer_hash);
        text(&self.n_vocab.to_string());
        text(&self.end_of_text.to_string());
        for shard in &self.shards {
            text(&shard.hash);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Checks that `now` holds the same data as this manifest, wherever the files lie.
    ///
    /// # Errors
    /// [`Error::DataChanged`], naming the first difference.
    pub fn check_same(&self, now: &DataManifest) -> Result<()> {
        let changed = |problem: String| Err(Error::DataChanged { problem });
        if self.tokenizer_hash != now.tokenizer_hash {
            return changed(format!("the tokenizer was {}, now it is {}", self.tokenizer_hash, now.tokenizer_hash));
        }
        if (self.n_vocab, self.end_of_text) != (now.n_vocab, now.end_of_text) {
            return changed(format!("the vocabulary had {} tokens, now it has {}", self.n_vocab, now.n_vocab));
        }
        if self.shards.len() != now.shards.len() {
            return changed(format!("there were {} shards, now there are {}", self.shards.len(), now.shards.len()));
        }
        for (then, now) in self.shards.iter().zip(&now.shards) {
            if then.hash != now.hash {
                return changed(format!("{} had hash {}, {} has {}", then.path, then.hash, now.path, now.hash));
            }
        }
        Ok(())
    }
}

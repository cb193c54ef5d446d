//! All shards of a folder, or of several, as two long sequences of tokens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::data_manifest::{DataEntry, DataManifest};
use crate::error::{Error, Result};
use crate::format::Split;
use crate::manifest::{MANIFEST_FILE, SHARD_ENDING, ShardManifest, SplitCounts};
use crate::order::{RowOrder, check_fits};
use crate::shard::Shard;

/// All shards of a folder (or several folders) as one training and one held-out sequence of token ids.
///
/// Opening maps the files and checks headers and lengths; [`ShardSet::verify`] reads everything.
#[derive(Debug)]
pub struct ShardSet {
    folder: PathBuf,
    train: Sequence,
    held_out: Sequence,
}

/// Shards one after the other.
#[derive(Debug, Default)]
struct Sequence {
    shards: Vec<Shard>,
    /// Position of each shard's first token, and the total.
    starts: Vec<u64>,
    counts: SplitCounts,
}

impl ShardSet {
    /// Opens the shards of one folder.
    ///
    /// # Errors
    /// If the manifest is missing, a shard is missing, damaged, not listed, or differs from what the manifest says, or
    /// the shards were made with different tokenizers.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Self::open_all(&[folder])
    }

    /// Opens the shards of several folders, one after the other. They must have been written with the same tokenizer.
    ///
    /// # Errors
    /// As [`ShardSet::open`]; also if no folder is given.
    pub fn open_all<P: AsRef<Path>>(folders: &[P]) -> Result<Self> {
        let Some(first) = folders.first() else {
            return Err(Error::Options { field: "folders", problem: "no folder of shards was given".to_owned() });
        };
        let mut splits: [Vec<Shard>; 2] = [Vec::new(), Vec::new()];
        for folder in folders {
            for shard in open_folder(folder.as_ref())? {
                splits[shard.header().split.index()].push(shard);
            }
        }
        let [train, held_out] = splits;
        let mut all = train.iter().chain(&held_out);
        let Some(one) = all.next() else {
            return Err(Error::manifest(&first.as_ref().join(MANIFEST_FILE), "it lists no shards"));
        };
        for other in all {
            check_alike(one, other)?;
        }
        Ok(Self { folder: first.as_ref().to_owned(), train: Sequence::new(train)?, held_out: Sequence::new(held_out)? })
    }

    fn sequence(&self, split: Split) -> &Sequence {
        match split {
            Split::Train => &self.train,
            Split::HeldOut => &self.held_out,
        }
    }

    /// Any shard: all say the same about tokenizer and vocabulary, and there is at least one.
    fn any(&self) -> &Shard {
        self.train.shards.first().unwrap_or_else(|| &self.held_out.shards[0])
    }

    /// The shards of one split, in reading order.
    pub fn shards(&self, split: Split) -> &[Shard] {
        &self.sequence(split).shards
    }

    /// Totals of one split.
    pub fn counts(&self, split: Split) -> SplitCounts {
        self.sequence(split).counts
    }

    /// Tokens in one split, end-of-text tokens included.
    pub fn n_tokens(&self, split: Split) -> u64 {
        self.counts(split).n_tokens
    }

    /// Size of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.any().header().n_vocab as usize
    }

    /// The id that ends each document.
    pub fn end_of_text(&self) -> u32 {
        self.any().header().end_of_text
    }

    /// Hash of the tokenizer that made the ids.
    pub fn tokenizer_hash(&self) -> &str {
        &self.any().header().tokenizer_hash
    }

    /// Checks that the shards were made with the tokenizer of this hash and vocabulary size.
    ///
    /// # Errors
    /// [`Error::OtherTokenizer`].
    pub fn check_tokenizer(&self, hash: &str, n_vocab: usize) -> Result<()> {
        if hash == self.tokenizer_hash() && n_vocab == self.n_vocab() {
            return Ok(());
        }
        let describe =
            |hash: &str, n_vocab: usize| format!("{} ({n_vocab} tokens)", hash.chars().take(16).collect::<String>());
        Err(Error::OtherTokenizer {
            path: self.folder.clone(),
            shards: describe(self.tokenizer_hash(), self.n_vocab()),
            given: describe(hash, n_vocab),
        })
    }

    /// Mean bytes of text for each token of a split, or `None` if the split is empty. It turns a loss into
    /// bits per byte: `loss_in_nats / ln 2 / bytes_per_token`.
    pub fn bytes_per_token(&self, split: Split) -> Option<f64> {
        let counts = self.counts(split);
        (counts.n_tokens > 0).then(|| counts.text_bytes as f64 / counts.n_tokens as f64)
    }

    /// Copies tokens of a split from position `start` on into `out`, across shard boundaries.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, which only a damaged file holds.
    ///
    /// # Panics
    /// If the range does not lie within the sequence.
    pub fn copy_tokens(&self, split: Split, start: u64, out: &mut [u32]) -> Result<()> {
        self.sequence(split).copy(start, out)
    }

    /// The order of training rows of `n_ctx` predictions for this seed.
    ///
    /// # Errors
    /// [`Error::TooFewTokens`] if the text is shorter than one row.
    pub fn row_order(&self, n_ctx: usize, seed: u64) -> Result<RowOrder> {
        RowOrder::new(self.n_tokens(Split::Train), n_ctx, seed)
    }

    /// Training rows `first`, `first + 1`, ... of the run, as many as fit into `out`, `n_ctx + 1` tokens each: all but
    /// the last token of a row are its inputs, all but the first its targets.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, which only a damaged file holds.
    ///
    /// # Panics
    /// If `out` is not a whole number of rows, or `order` belongs to a sequence of another length.
    pub fn train_rows(&self, order: &RowOrder, first: u64, out: &mut [u32]) -> Result<()> {
        let n_tokens = self.n_tokens(Split::Train);
        assert_eq!(order.n_tokens(), n_tokens, "row order of another token sequence");
        assert_eq!(out.len() % order.row_tokens(), 0, "{} tokens are not whole rows", out.len());
        for (index, row) in (first..).zip(out.chunks_exact_mut(order.row_tokens())) {
            let start = order.start(index);
            let to_end = (row.len() as u64).min(n_tokens - start);
            let (head, tail) = row.split_at_mut(to_end as usize);
            self.train.copy(start, head)?;
            self.train.copy(0, tail)?;
        }
        Ok(())
    }

    /// Number of held-out rows of `n_ctx` predictions.
    ///
    /// # Errors
    /// [`Error::TooFewTokens`] if not one fits.
    pub fn n_held_out_rows(&self, n_ctx: usize) -> Result<u64> {
        let n_tokens = self.n_tokens(Split::HeldOut);
        check_fits(Split::HeldOut, n_tokens, n_ctx)?;
        Ok((n_tokens - 1) / n_ctx as u64)
    }

    /// Held-out rows `first`, `first + 1`, ..., as many as fit into `out`, `n_ctx + 1` tokens each; in reading order, side
    /// by side, never shuffled: row `i` starts at token `i * n_ctx`.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, which only a damaged file holds.
    ///
    /// # Panics
    /// If `out` is not a whole number of rows, or there are fewer rows.
    pub fn held_out_rows(&self, n_ctx: usize, first: u64, out: &mut [u32]) -> Result<()> {
        assert_eq!(out.len() % (n_ctx + 1), 0, "{} tokens are not whole rows", out.len());
        for (index, row) in (first..).zip(out.chunks_exact_mut(n_ctx + 1)) {
            self.held_out.copy(index.saturating_mul(n_ctx as u64), row)?;
        }
        Ok(())
    }

    /// Reads every file and checks every checksum. Takes as long as reading the data.
    ///
    /// # Errors
    /// Naming the first damaged shard.
    pub fn verify(&self) -> Result<()> {
        self.train.shards.iter().chain(&self.held_out.shards).try_for_each(Shard::verify)
    }

    /// What is read, by hash: to be kept with a run.
    pub fn data_manifest(&self) -> DataManifest {
        let entry = |shard: &Shard| {
            let header = shard.header();
            DataEntry {
                path: shard.path().to_string_lossy().into_owned(),
                split: header.split,
                n_tokens: header.n_tokens,
                n_documents: header.n_documents,
                text_bytes: header.text_bytes,
                hash: shard.hash(),
                source: header.source.clone(),
            }
        };
        let header = self.any().header();
        DataManifest {
            tokenizer_hash: header.tokenizer_hash.clone(),
            n_vocab: header.n_vocab,
            end_of_text: header.end_of_text,
            shards: self.train.shards.iter().chain(&self.held_out.shards).map(entry).collect(),
        }
    }
}

impl Sequence {
    fn new(shards: Vec<Shard>) -> Result<Self> {
        let mut counts = SplitCounts::default();
        let mut starts = vec![0];
        for shard in &shards {
            let header = shard.header();
            let add = |total: &mut u64, more: u64| match total.checked_add(more) {
                Some(sum) => {
                    *total = sum;
                    Ok(())
                }
                None => Err(Error::header(shard.path(), format!("a count of {more} is absurd"))),
            };
            add(&mut counts.n_tokens, header.n_tokens)?;
            add(&mut counts.n_documents, header.n_documents)?;
            add(&mut counts.text_bytes, header.text_bytes)?;
            starts.push(counts.n_tokens);
        }
        Ok(Self { shards, starts, counts })
    }

    fn copy(&self, mut start: u64, mut out: &mut [u32]) -> Result<()> {
        let end = start.checked_add(out.len() as u64);
        assert!(
            end.is_some_and(|end| end <= self.counts.n_tokens),
            "{} tokens from {start} asked of a sequence of {}",
            out.len(),
            self.counts.n_tokens
        );
        while !out.is_empty() {
            // The last shard that starts at or before `start`.
            let index = self.starts.partition_point(|&s| s <= start) - 1;
            let n = (out.len() as u64).min(self.starts[index + 1] - start);
            let (head, rest) = out.split_at_mut(n as usize);
            self.shards[index].copy_tokens(start - self.starts[index], head)?;
            start += n;
            out = rest;
        }
        Ok(())
    }
}

/// Opens the shards that a folder's manifest lists, and checks that they are what it says.
fn open_folder(folder: &Path) -> Result<Vec<Shard>> {
    let manifest = ShardManifest::read(folder)?;
    let manifest_path = folder.join(MANIFEST_FILE);
    let mut shards = Vec::new();
    let mut seen = BTreeMap::new();
    for (index, entry) in manifest.shards.iter().enumerate() {
        if seen.insert(entry.file.as_str(), index).is_some() {
            return Err(Error::manifest(&manifest_path, format!("it lists {} twice", entry.file)));
        }
        let shard = Shard::open(folder.join(&entry.file))?;
        let header = shard.header();
        let differs = |what: &str| {
            let file = &entry.file;
            Err(Error::manifest(
                &manifest_path,
                format!("the {what} of {file} is not the one recorded: a shard was replaced; write the shards again"),
            ))
        };
        if shard.hash() != entry.hash {
            return differs("hash");
        }
        let found = (header.split, header.n_tokens, header.n_documents, header.text_bytes, shard.file_bytes());
        if found != (entry.split, entry.n_tokens, entry.n_documents, entry.text_bytes, entry.file_bytes) {
            return differs("size");
        }
        if header.tokenizer_hash != manifest.tokenizer_hash {
            return differs("tokenizer");
        }
        if (header.n_vocab, header.end_of_text) != (manifest.n_vocab, manifest.end_of_text) {
            return differs("vocabulary");
        }
        shards.push(shard);
    }
    for file in fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))? {
        let name = file.map_err(|e| Error::io(folder, "list", e))?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(SHARD_ENDING) && !name.starts_with('.') && !seen.contains_key(name.as_ref()) {
            return Err(Error::manifest(
                &manifest_path,
                format!("{name} lies in the folder but is not listed: keep each job's shards in a folder of their own"),
            ));
        }
    }
    Ok(shards)
}

/// Checks that two shards were made with the same tokenizer.
fn check_alike(a: &Shard, b: &Shard) -> Result<()> {
    let (x, y) = (a.header(), b.header());
    let fields = [
        ("the tokenizer", x.tokenizer_hash.clone(), y.tokenizer_hash.clone()),
        ("the vocabulary size", x.n_vocab.to_string(), y.n_vocab.to_string()),
        ("the end-of-text id", x.end_of_text.to_string(), y.end_of_text.to_string()),
    ];
    for (field, first, second) in fields {
        if first != second {
            return Err(Error::Mixed { a: a.path().to_owned(), b: b.path().to_owned(), field, first, second });
        }
    }
    Ok(())
}

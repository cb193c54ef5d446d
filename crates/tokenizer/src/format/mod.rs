//! Files: Hugging Face `tokenizer.json`, SentencePiece `.model`, GPT-2's `vocab.json` with `merges.txt`, tiktoken rank
//! files.

mod config;
mod hf_pieces;
mod hf_read;
mod hf_rules;
mod hf_write;
mod pair;
mod protobuf;
mod sentencepiece;
mod tiktoken;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::vocab::AddedToken;
use config::Config;

/// Largest file read. The largest published tokenizer files have about 35 MB.
const MAX_FILE_BYTES: u64 = 1 << 28;

/// First byte of a SentencePiece model: the tag of a piece.
const SENTENCEPIECE_START: u8 = 0x0a;

impl Tokenizer {
    /// Loads a tokenizer from a file or from a folder.
    ///
    /// A folder is searched for `tokenizer.json`, for `tokenizer.model` or `spiece.model`, for `vocab.json` with
    /// `merges.txt`, and for a single `*.tiktoken` file, in this order. A file is read by its name: `vocab.json` or
    /// `merges.txt` with the other beside it, `*.model` as SentencePiece's, `*.tiktoken` as ranks, everything else as
    /// `tokenizer.json`. A `tokenizer_config.json` beside it says which tokens begin and end a text where the file itself
    /// does not. See [`Self::from_tiktoken`] for what a rank file
    /// leaves open.
    ///
    /// # Errors
    /// Files that cannot be read, are malformed, or describe a tokenizer that this crate does not reproduce exactly.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let metadata = fs::metadata(path).map_err(|source| io_error(path, source))?;
        let file = if metadata.is_dir() { find_in(path)? } else { path.to_owned() };
        let config = Config::beside(&file)?;
        let mut tokenizer = read_by_name(&file, &config)?;
        let ids: Vec<_> = tokenizer.added_tokens().iter().map(|token| (token.content.clone(), token.id)).collect();
        config.fill_in(tokenizer.rules_mut(), |name| ids.iter().find(|(text, _)| text == name).map(|(_, id)| *id));
        Ok(tokenizer)
    }

    /// Reads the content of a SentencePiece `.model` file: a BPE or a unigram model.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_sentencepiece(content: &[u8]) -> Result<Self> {
        sentencepiece::parse("SentencePiece model", content, &Config::default())
    }

    /// Reads the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_tokenizer_json(content: &[u8]) -> Result<Self> {
        hf_read::parse("tokenizer.json", content)
    }

    /// Reads the content of a `vocab.json` and of the `merges.txt` that belongs to it. Entries of the vocabulary that
    /// no merge makes and that are written in angle brackets (`<|endoftext|>`, `<s>`) become special tokens: these
    /// two files have no other place to say so.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_vocab_and_merges(vocab: &[u8], merges: &[u8]) -> Result<Self> {
        pair::parse("vocab.json, merges.txt", vocab, merges)
    }

    /// Reads the content of a tiktoken rank file. Such a file holds neither the splitter nor special tokens: the
    /// splitter is GPT-2's, and files known to need another are refused by name. `added` lists the special tokens;
    /// with `None`, `<|endoftext|>` gets the first free id, which is where GPT-2's vocabularies have it.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_tiktoken(content: &[u8], added: Option<Vec<AddedToken>>) -> Result<Self> {
        tiktoken::parse("rank file", content, added)
    }

    /// The tokenizer as the content of a `tokenizer.json` from which Hugging Face's library makes the same ids.
    pub fn to_tokenizer_json(&self) -> String {
        hf_write::write(self)
    }

    /// Writes a `tokenizer.json`; `path` is the file, or an existing folder to put it in. The file appears whole or
    /// not at all.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        write_atomically(&file, self.to_tokenizer_json().as_bytes())
    }
}

/// Reads a file of any format, told by its name.
fn read_by_name(file: &Path, config: &Config) -> Result<Tokenizer> {
    let origin = file.display().to_string();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    if name == "vocab.json" || name == "merges.txt" {
        let vocab = read_file(&file.with_file_name("vocab.json"))?;
        let merges = read_file(&file.with_file_name("merges.txt"))?;
        return pair::parse(&origin, &vocab, &merges);
    }
    let content = read_file(file)?;
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("tiktoken") => tiktoken::parse(&origin, &content, None),
        // Llama 3's file of this name is a rank file: text, while a SentencePiece model starts with its first piece.
        Some("model") if content.first() != Some(&SENTENCEPIECE_START) => tiktoken::parse(&origin, &content, None),
        Some("model") => sentencepiece::parse(&origin, &content, config),
        _ => hf_read::parse(&origin, &content),
    }
}

fn io_error(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

/// The tokenizer file of a folder.
fn find_in(folder: &Path) -> Result<PathBuf> {
    let known = ["tokenizer.json", "tokenizer.model", "spiece.model"].map(|name| folder.join(name));
    if let Some(file) = known.into_iter().find(|file| file.is_file()) {
        return Ok(file);
    }
    let vocab = folder.join("vocab.json");
    if vocab.is_file() && folder.join("merges.txt").is_file() {
        return Ok(vocab);
    }
    let mut ranks = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| io_error(folder, source))? {
        let path = entry.map_err(|source| io_error(folder, source))?.path();
        if path.extension().is_some_and(|extension| extension == "tiktoken") {
            ranks.push(path);
        }
    }
    match ranks.pop() {
        Some(only) if ranks.is_empty() => Ok(only),
        _ => Err(Error::NotFound { path: folder.to_owned() }),
    }
}

/// Reads a file whole, within the size limit.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|source| io_error(path, source))?;
    let bytes = file.metadata().map_err(|source| io_error(path, source))?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(Error::TooLarge { path: path.to_owned(), bytes, limit: MAX_FILE_BYTES });
    }
    let mut content = Vec::with_capacity(bytes as usize);
    // The length of a pipe or a device is not known beforehand, so the read is bounded too.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(|source| io_error(path, source))?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::TooLarge { path: path.to_owned(), bytes: content.len() as u64, limit: MAX_FILE_BYTES });
    }
    Ok(content)
}

/// Writes to a temporary name beside the file, syncs, renames.
fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // The first error is the one to report; the leftover is removed if it can be.
        let _ = fs::remove_file(&temporary);
        io_error(path, source)
    })
}

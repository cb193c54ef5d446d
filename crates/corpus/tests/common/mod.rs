//! Text, files and a tokenizer that the tests share.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use verve_corpus::read::{Piece, ReadOptions, TextReader, find_files};
use verve_tokenizer::Tokenizer;
use verve_tokenizer::train::{TrainOptions, Trainer};

/// A tokenizer without merges: 256 bytes and the end-of-text token.
pub fn byte_tokenizer() -> Tokenizer {
    trained_tokenizer(&[], 257)
}

/// A tokenizer trained on these documents.
pub fn trained_tokenizer(documents: &[String], n_vocab: usize) -> Tokenizer {
    let mut trainer = Trainer::new(TrainOptions { n_vocab, ..TrainOptions::default() }).unwrap();
    documents.iter().for_each(|document| trainer.push(document));
    trainer.finish().unwrap().0
}

/// A cheap deterministic generator (SplitMix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

const WORDS: [&str; 12] =
    ["the", "of", "Bürger", "nation", "and", "freedom,", "1789", "<|endoftext|>", "peace.", "—", "日本", "states"];

/// A document of about so many bytes: lines of words, without blank lines.
pub fn document(numbers: &mut Numbers, bytes: u64) -> String {
    let mut text = format!("Document {}", numbers.next());
    while (text.len() as u64) < bytes {
        text.push(if numbers.below(12) == 0 { '\n' } else { ' ' });
        text.push_str(WORDS[numbers.below(12) as usize]);
    }
    text
}

pub fn documents(seed: u64, n: usize, bytes: u64) -> Vec<String> {
    let mut numbers = Numbers(seed);
    (0..n).map(|_| document(&mut numbers, bytes)).collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    // As the command line tool does; without it nobody can notice a changed byte.
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn json_lines(documents: &[String]) -> String {
    documents.iter().map(|text| serde_json::json!({"id": 7, "text": text}).to_string() + "\n").collect()
}

/// A folder with these files.
pub fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

/// All documents of a path, their pieces joined.
pub fn read_all(path: &Path, options: &ReadOptions) -> verve_corpus::Result<Vec<String>> {
    let found = find_files(&[path], options)?;
    let mut documents: Vec<String> = Vec::new();
    let mut open = false;
    for piece in TextReader::new(&found.files, options)? {
        let Piece { text, first, last } = piece?;
        assert_ne!(first, open, "pieces must begin and end documents in turn");
        assert!(text.len() <= options.piece_bytes);
        if first {
            documents.push(text);
        } else {
            documents.last_mut().unwrap().push_str(&text);
        }
        open = !last;
    }
    assert!(!open);
    Ok(documents)
}

/// Every file of a folder with its bytes, by name.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            (PathBuf::from(path.file_name().unwrap()), fs::read(&path).unwrap())
        })
        .collect();
    all.sort();
    all
}

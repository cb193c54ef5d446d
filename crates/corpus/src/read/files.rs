//! Files, folders and patterns to a list of files.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ReadOptions;
use crate::error::{Error, Result};

/// How the text lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// The file is text.
    Plain,
    /// Each line is a JSON object with the text in one field.
    JsonLines,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, also of several members.
    Gzip,
    /// Zstandard, also of several frames.
    Zstd,
}

/// A file to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Where it is.
    pub path: PathBuf,
    /// How the text lies in it.
    pub kind: TextKind,
    /// How it is compressed.
    pub compression: Compression,
    /// Its size on disk.
    pub bytes: u64,
}

/// The files to be read, and what was passed over.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// In the order of the inputs; those of a folder or a pattern sorted by path; each file once.
    pub files: Vec<InputFile>,
    /// What was passed over.
    pub passed_over: PassedOver,
}

/// Counts of files in folders and patterns that are not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// By ending.
    pub other_endings: BTreeMap<String, u64>,
    /// Hidden files and folders (a folder counts as one).
    pub hidden: u64,
}

impl Files {
    /// Size of all files on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Finds the files of these inputs: a file is taken as it is; a folder gives all files under it whose endings are known,
/// sorted by path, hidden ones left out; an input with `*`, `?` or `[` that is not itself a file is a pattern, whose
/// matches are treated likewise.
///
/// Known endings are `.txt`, `.md`, `.jsonl` and [`ReadOptions::more_endings`], each also with `.gz` or `.zst`.
///
/// # Errors
/// If an input is missing or unreadable, a file named as such has an unknown ending, or nothing was found.
pub fn find_files<P: AsRef<Path>>(inputs: &[P], options: &ReadOptions) -> Result<Files> {
    if inputs.is_empty() {
        return Err(Error::NoInput);
    }
    let mut finder = Finder { options, found: Files::default(), seen: HashSet::new() };
    for input in inputs {
        finder.input(input.as_ref())?;
    }
    if finder.found.files.is_empty() {
        return Err(Error::NoFiles {
            inputs: list_inputs(inputs),
            looked_for: known_endings(options),
            found: describe(&finder.found.passed_over),
        });
    }
    Ok(finder.found)
}

/// The inputs for a message or a manifest.
pub(crate) fn list_inputs<P: AsRef<Path>>(inputs: &[P]) -> String {
    inputs.iter().map(|input| input.as_ref().to_string_lossy()).collect::<Vec<_>>().join(", ")
}

struct Finder<'a> {
    options: &'a ReadOptions,
    found: Files,
    /// Absolute paths, so that inputs that overlap give each file once.
    seen: HashSet<PathBuf>,
}

impl Finder<'_> {
    fn input(&mut self, input: &Path) -> Result<()> {
        match fs::metadata(input) {
            Ok(metadata) if metadata.is_dir() => self.folder(input),
            Ok(metadata) => {
                let Some((kind, compression)) = classify(input, self.options) else {
                    return Err(Error::UnknownEnding {
                        path: input.to_owned(),
                        ending: ending(input),
                        known: known_endings(self.options),
                    });
                };
                self.add(InputFile { path: input.to_owned(), kind, compression, bytes: metadata.len() })
            }
            Err(error) => match input.to_str() {
                Some(pattern) if pattern.contains(['*', '?', '[']) => self.pattern(pattern),
                _ => Err(Error::read(input, error)),
            },
        }
    }

    fn pattern(&mut self, pattern: &str) -> Result<()> {
        let rules = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let paths = glob::glob_with(pattern, rules)
            .map_err(|e| Error::Pattern { pattern: pattern.to_owned(), problem: e.to_string() })?;
        let mut matches = Vec::new();
        for path in paths {
            matches.push(path.map_err(|e| {
                let path = e.path().to_owned();
                Error::read(&path, e.into())
            })?);
        }
        if matches.is_empty() {
            return Err(Error::NoMatch { pattern: pattern.to_owned() });
        }
        matches.sort();
        for path in matches {
            let metadata = fs::metadata(&path).map_err(|e| Error::read(&path, e))?;
            if metadata.is_dir() {
                self.folder(&path)?;
            } else {
                self.member(&path, metadata.len())?;
            }
        }
        Ok(())
    }

    fn folder(&mut self, folder: &Path) -> Result<()> {
        let hidden = |entry: &walkdir::DirEntry| {
            entry.depth() > 0 && entry.file_name().as_encoded_bytes().first() == Some(&b'.')
        };
        let mut n_hidden = 0;
        let walk = walkdir::WalkDir::new(folder).follow_links(true).into_iter().filter_entry(|entry| {
            n_hidden += u64::from(hidden(entry));
            !hidden(entry)
        });
        let mut members = Vec::new();
        for entry in walk {
            let entry = entry.map_err(|e| {
                let path = e.path().unwrap_or(folder).to_owned();
                Error::read(&path, e.into())
            })?;
            if entry.file_type().is_file() {
                let metadata = entry.metadata().map_err(|e| Error::read(entry.path(), e.into()))?;
                members.push((entry.into_path(), metadata.len()));
            }
        }
        self.found.passed_over.hidden += n_hidden;
        members.sort();
        members.into_iter().try_for_each(|(path, bytes)| self.member(&path, bytes))
    }

    /// A file that was not named itself: taken if its ending is known.
    fn member(&mut self, path: &Path, bytes: u64) -> Result<()> {
        match classify(path, self.options) {
            Some((kind, compression)) => self.add(InputFile { path: path.to_owned(), kind, compression, bytes }),
            None => {
                *self.found.passed_over.other_endings.entry(ending(path)).or_default() += 1;
                Ok(())
            }
        }
    }

    fn add(&mut self, file: InputFile) -> Result<()> {
        let absolute = fs::canonicalize(&file.path).map_err(|e| Error::read(&file.path, e))?;
        if self.seen.insert(absolute) {
            self.found.files.push(file);
        }
        Ok(())
    }
}

/// The last ending of a path with its dot, or "none".
fn ending(path: &Path) -> String {
    path.extension().map_or("none".to_owned(), |e| format!(".{}", e.to_string_lossy()))
}

fn classify(path: &Path, options: &ReadOptions) -> Option<(TextKind, Compression)> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let (name, compression) = match name.rsplit_once('.')? {
        (stem, "gz") => (stem, Compression::Gzip),
        (stem, "zst") => (stem, Compression::Zstd),
        _ => (name.as_str(), Compression::None),
    };
    let kind = match name.rsplit_once('.')?.1 {
        "txt" | "md" => TextKind::Plain,
        "jsonl" => TextKind::JsonLines,
        other if options.more_endings.iter().any(|e| e.trim_start_matches('.').eq_ignore_ascii_case(other)) => {
            TextKind::Plain
        }
        _ => return None,
    };
    Some((kind, compression))
}

fn known_endings(options: &ReadOptions) -> String {
    let mut endings = vec![".txt".to_owned(), ".md".to_owned(), ".jsonl".to_owned()];
    endings.extend(options.more_endings.iter().map(|e| format!(".{}", e.trim_start_matches('.'))));
    format!("{} (each also with .gz or .zst)", endings.join(", "))
}

fn describe(passed_over: &PassedOver) -> String {
    let n: u64 = passed_over.other_endings.values().sum();
    let mut found = match n {
        0 => "no files".to_owned(),
        _ => {
            let mut endings: Vec<_> = passed_over.other_endings.iter().collect();
            endings.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            let some: Vec<_> = endings.iter().take(5).map(|(ending, n)| format!("{ending} {n}")).collect();
            let more = if endings.len() > 5 { ", ..." } else { "" };
            format!("{n} files with other endings ({}{more})", some.join(", "))
        }
    };
    if passed_over.hidden > 0 {
        found.push_str(&format!(" and {} hidden ones", passed_over.hidden));
    }
    found
}

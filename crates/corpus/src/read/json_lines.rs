//! Documents of a `.jsonl` file: one JSON object a line, the text in one of its fields.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::stream::{Bytes, invalid_utf8};
use super::{InvalidText, Piece, ReadCounts, ReadOptions, cut_at, is_blank};
use crate::error::{Error, Result};

/// Longest line that is read: a line is held in memory as a whole.
const MAX_LINE: u64 = 256 << 20;
/// How many fields of a line are named when the wanted one is not there.
const NAMED_FIELDS: usize = 8;

/// Reads the documents of one `.jsonl` file.
pub(super) struct JsonLines {
    path: PathBuf,
    lines: BufReader<Bytes>,
    field: String,
    invalid: InvalidText,
    piece_bytes: usize,
    line: Vec<u8>,
    number: u64,
    /// Place of the current line in the decompressed file.
    offset: u64,
    /// A document too long for one piece, and how much of it was handed out.
    long: Option<(String, usize)>,
}

impl JsonLines {
    pub fn new(path: &Path, bytes: Bytes, options: &ReadOptions) -> Self {
        Self {
            path: path.to_owned(),
            lines: BufReader::with_capacity(1 << 18, bytes),
            field: options.json_field.clone(),
            invalid: options.invalid,
            piece_bytes: options.piece_bytes,
            line: Vec::new(),
            number: 0,
            offset: 0,
            long: None,
        }
    }

    pub fn next_piece(&mut self, counts: &mut ReadCounts) -> Result<Option<Piece>> {
        loop {
            if let Some((text, at)) = &mut self.long {
                let first = *at == 0;
                let rest = &text[*at..];
                let last = rest.len() <= self.piece_bytes;
                let n = if last { rest.len() } else { cut_at(rest, self.piece_bytes) };
                let piece = Piece { text: rest[..n].to_owned(), first, last };
                *at += n;
                if last {
                    self.long = None;
                }
                return Ok(Some(piece));
            }
            if !self.next_line()? {
                return Ok(None);
            }
            let text = match self.document(counts) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(Error::InvalidUtf8 { .. } | Error::JsonLine { .. }) if self.invalid == InvalidText::Skip => {
                    counts.skipped_lines += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if is_blank(&text) {
                counts.blank_documents += 1;
            } else if text.len() > self.piece_bytes {
                self.long = Some((text, 0));
            } else {
                return Ok(Some(Piece { text, first: true, last: true }));
            }
        }
    }

    fn next_line(&mut self) -> Result<bool> {
        self.offset += self.line.len() as u64;
        self.line.clear();
        let mut limited = (&mut self.lines).take(MAX_LINE + 1);
        limited.read_until(b'\n', &mut self.line).map_err(|e| Error::read(&self.path, e))?;
        self.number += 1;
        if self.line.len() as u64 > MAX_LINE {
            return Err(self.wrong(format!("the line is longer than {} MiB", MAX_LINE >> 20)));
        }
        Ok(!self.line.is_empty())
    }

    /// The text of the current line; `None` if the line is blank.
    fn document(&self, counts: &mut ReadCounts) -> Result<Option<String>> {
        let line = match self.number {
            1 => self.line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.line),
            _ => &self.line,
        };
        let text = match std::str::from_utf8(line) {
            Ok(text) => std::borrow::Cow::Borrowed(text),
            Err(_) if self.invalid == InvalidText::Replace => {
                let text = String::from_utf8_lossy(line);
                let before = line.windows(3).filter(|w| w == b"\xef\xbf\xbd").count();
                counts.replaced += (text.matches(char::REPLACEMENT_CHARACTER).count() - before) as u64;
                text
            }
            Err(e) => {
                let at = e.valid_up_to();
                let start = self.offset + (self.line.len() - line.len()) as u64;
                return Err(invalid_utf8(&self.path, start + at as u64, &line[at..]));
            }
        };
        if is_blank(&text) {
            return Ok(None);
        }
        let mut json = serde_json::Deserializer::from_str(&text);
        let found = json
            .deserialize_map(FieldOf { field: &self.field })
            .and_then(|found| json.end().map(|()| found))
            .map_err(|e| self.wrong(format!("not a JSON object: {}", without_line(&e))))?;
        match found {
            Found::Text(text) => Ok(Some(text)),
            Found::Other(what) => Err(self.wrong(format!("field {:?} is {what}, not a text", self.field))),
            Found::Missing(fields) => {
                let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
                Err(self.wrong(format!("no field {:?}; the line's fields are {fields}", self.field)))
            }
        }
    }

    fn wrong(&self, problem: String) -> Error {
        Error::JsonLine { path: self.path.clone(), line: self.number, problem }
    }
}

/// serde_json counts lines within what it was given, which is always one line here: only its column says something.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line ") {
        Some((what, _)) => format!("{what} (column {})", error.column()),
        None => text,
    }
}

/// What stands in the wanted field.
enum Found {
    Text(String),
    Other(&'static str),
    /// The fields that are there instead.
    Missing(Vec<String>),
}

/// Takes one field of an object and passes over the rest without building it.
struct FieldOf<'a> {
    field: &'a str,
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a field {:?}", self.field)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Found, A::Error> {
        let mut found = None;
        let mut others = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == self.field {
                found = Some(match map.next_value::<serde_json::Value>()? {
                    serde_json::Value::String(text) => Found::Text(text),
                    serde_json::Value::Null => Found::Other("null"),
                    serde_json::Value::Bool(_) => Found::Other("a truth value"),
                    serde_json::Value::Number(_) => Found::Other("a number"),
                    serde_json::Value::Array(_) => Found::Other("a list"),
                    serde_json::Value::Object(_) => Found::Other("an object"),
                });
            } else {
                map.next_value::<IgnoredAny>()?;
                if others.len() < NAMED_FIELDS {
                    others.push(key);
                }
            }
        }
        Ok(found.unwrap_or(Found::Missing(others)))
    }
}

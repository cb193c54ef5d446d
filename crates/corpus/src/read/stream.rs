//! Bytes of a file, decompressed, and their text.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Compression, InputFile, InvalidText, ReadCounts};
use crate::error::{Error, Result};

/// Bytes read at a time.
const CHUNK: usize = 1 << 18;
/// A chunk with more control characters than one in so many bytes is not text,
const CONTROL_SHARE: usize = 10;
/// but so few are always forgiven, for the sake of short chunks.
const FEW_CONTROLS: usize = 32;

/// Decompressed bytes of a file.
pub(super) type Bytes = Box<dyn Read + Send>;

/// Opens a file. Bytes taken from disk are added to `done`.
pub(super) fn open(file: &InputFile, done: &Arc<AtomicU64>) -> Result<Bytes> {
    let disk = File::open(&file.path).map_err(|e| Error::read(&file.path, e))?;
    let counted = Counted { inner: disk, done: done.clone() };
    Ok(match file.compression {
        Compression::None => Box::new(counted),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(CHUNK, counted))),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::new(counted).map_err(|e| Error::read(&file.path, e))?)
        }
    })
}

struct Counted {
    inner: File,
    done: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    More,
    End,
}

/// The text of a plain text file, chunk by chunk.
pub(super) struct TextStream {
    path: PathBuf,
    bytes: Bytes,
    invalid: InvalidText,
    /// Read but not yet turned into text: at most an incomplete character, between calls.
    raw: Vec<u8>,
    /// Place of `raw` in the decompressed file.
    offset: u64,
}

impl TextStream {
    pub fn new(path: &Path, bytes: Bytes, invalid: InvalidText) -> Self {
        Self { path: path.to_owned(), bytes, invalid, raw: Vec::new(), offset: 0 }
    }

    /// Appends the next chunk to `text`. Chunks end at the same places of a file whatever its compression, so that
    /// nothing downstream depends on how reads happen to be cut.
    pub fn fill(&mut self, text: &mut String, counts: &mut ReadCounts) -> Result<Fill> {
        let mut limited = (&mut self.bytes).take((CHUNK - self.raw.len()) as u64);
        let n = limited.read_to_end(&mut self.raw).map_err(|e| Error::read(&self.path, e))?;
        let fill = if n == 0 { Fill::End } else { Fill::More };
        let mut raw = std::mem::take(&mut self.raw);
        let mut rest = &raw[..];
        if self.offset == 0 {
            self.check_utf16(rest)?;
            rest = rest.strip_prefix(b"\xef\xbb\xbf").unwrap_or(rest);
            self.offset = (raw.len() - rest.len()) as u64;
        }
        if self.invalid != InvalidText::Replace {
            self.check_binary(rest)?;
        }
        loop {
            let (valid, error) = match std::str::from_utf8(rest) {
                Ok(valid) => (valid, None),
                Err(e) => {
                    // Valid up to there, as the error says; the empty text is never used.
                    (std::str::from_utf8(&rest[..e.valid_up_to()]).unwrap_or_default(), Some(e.error_len()))
                }
            };
            self.append(valid, text, counts);
            rest = &rest[valid.len()..];
            self.offset += valid.len() as u64;
            let bad = match error {
                None => break,
                // An incomplete character: its other bytes come with the next chunk.
                Some(None) if fill == Fill::More => break,
                Some(None) => rest.len(),
                Some(Some(bad)) => bad,
            };
            if self.invalid != InvalidText::Replace {
                return Err(invalid_utf8(&self.path, self.offset, rest));
            }
            text.push(char::REPLACEMENT_CHARACTER);
            counts.replaced += 1;
            rest = &rest[bad..];
            self.offset += bad as u64;
        }
        let used = raw.len() - rest.len();
        raw.drain(..used);
        self.raw = raw;
        Ok(fill)
    }

    fn append(&self, valid: &str, text: &mut String, counts: &mut ReadCounts) {
        if self.invalid == InvalidText::Replace && valid.contains('\0') {
            counts.replaced += valid.matches('\0').count() as u64;
            text.push_str(&valid.replace('\0', "\u{fffd}"));
        } else {
            text.push_str(valid);
        }
    }

    fn check_utf16(&self, start: &[u8]) -> Result<()> {
        if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
            let problem = "it is UTF-16 (convert it to UTF-8), as its first two bytes say,".to_owned();
            return Err(Error::Binary { path: self.path.clone(), offset: 0, problem });
        }
        Ok(())
    }

    fn check_binary(&self, chunk: &[u8]) -> Result<()> {
        let binary = |at: usize, problem: String| {
            Err(Error::Binary { path: self.path.clone(), offset: self.offset + at as u64, problem })
        };
        if let Some(at) = chunk.iter().position(|&b| b == 0) {
            return binary(at, "a NUL byte".to_owned());
        }
        let n = chunk.iter().filter(|&&b| is_control(b)).count();
        if n > FEW_CONTROLS + chunk.len() / CONTROL_SHARE
            && let Some(at) = chunk.iter().position(|&b| is_control(b))
        {
            return binary(at, format!("{n} control characters in {} bytes, the first", chunk.len()));
        }
        Ok(())
    }
}

/// Control characters that text does not have; it may have tab, line ends, form feed, backspace (man pages) and escape
/// (colours in logs).
fn is_control(byte: u8) -> bool {
    byte == 0x7f || (byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | 0x08 | 0x1b))
}

pub(super) fn invalid_utf8(path: &Path, offset: u64, found: &[u8]) -> Error {
    let shown: Vec<_> = found.iter().take(4).map(|b| format!("{b:02x}")).collect();
    Error::InvalidUtf8 { path: path.to_owned(), offset, found: shown.join(" ") }
}

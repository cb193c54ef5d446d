//! From token ids back to text, whole or as a stream.

use std::sync::Arc;

use crate::error::Result;
use crate::tokenizer::{TextStart, Tokenizer};

/// Turns bytes that arrive in parts into text, never giving out half a character.
///
/// Ill-formed bytes become U+FFFD, one for each maximal ill-formed subsequence, as in [`String::from_utf8_lossy`]: the
/// parts joined are exactly what that function makes of all bytes joined.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    /// An incomplete character at the end of what came so far: at most three bytes.
    pending: Vec<u8>,
    /// Text of the last call.
    text: String,
}

impl Utf8Stream {
    /// A stream at its start.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes and returns the text that is complete now; often empty in the middle of a character.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.text.clear();
        if self.pending.is_empty() {
            let incomplete = append_complete(bytes, &mut self.text);
            self.pending.extend_from_slice(incomplete);
        } else {
            let mut joined = std::mem::take(&mut self.pending);
            joined.extend_from_slice(bytes);
            let rest = append_complete(&joined, &mut self.text).len();
            joined.drain(..joined.len() - rest);
            self.pending = joined;
        }
        &self.text
    }

    /// Ends the stream: an incomplete character becomes U+FFFD. The stream is then at its start again.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.pending.is_empty() {
            self.pending.clear();
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        &self.text
    }
}

/// Appends everything but an incomplete character at the end, which is returned.
fn append_complete<'a>(mut bytes: &'a [u8], text: &mut String) -> &'a [u8] {
    loop {
        let error = match std::str::from_utf8(bytes) {
            Ok(valid) => {
                text.push_str(valid);
                return &[];
            }
            Err(error) => error,
        };
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        // Valid up to here, so nothing is replaced.
        text.push_str(&String::from_utf8_lossy(valid));
        match error.error_len() {
            None => return rest,
            Some(length) => {
                text.push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[length..];
            }
        }
    }
}

/// Decodes ids one by one into text, never giving out half a character. See [`Utf8Stream`] for ill-formed bytes.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    tokenizer: Arc<Tokenizer>,
    start: TextStart,
    utf8: Utf8Stream,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { start: TextStart::new(&tokenizer), tokenizer, utf8: Utf8Stream::new() }
    }

    /// Takes one id and returns the text that is complete now.
    ///
    /// # Errors
    /// [`crate::Error::UnknownToken`] for an id outside the vocabulary; the stream stays as it was.
    pub fn push(&mut self, id: u32) -> Result<&str> {
        let bytes = self.tokenizer.checked_bytes(id)?;
        Ok(self.utf8.push(self.start.strip(bytes)))
    }

    /// Ends the text: an incomplete character becomes U+FFFD. The decoder is then at the start of a new text.
    pub fn finish(&mut self) -> &str {
        self.start = TextStart::new(&self.tokenizer);
        self.utf8.finish()
    }
}

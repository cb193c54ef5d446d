//! From token bytes to the text of an answer, piece by piece.

use std::sync::Arc;

use verve_tokenizer::Utf8Stream;

use crate::stop::{START, State, StopSet};

/// A part of an answer's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Text that is certain now. Often empty.
    pub text: &'a str,
    /// Whether a stop string was completed: the answer ends with `text`, and nothing comes after it.
    pub stopped: bool,
}

/// Turns the bytes of an answer's tokens into text, holding back exactly what may not be shown yet: an incomplete UTF-8
/// character, and an end that may still become a stop string.
///
/// The pieces joined do not depend on how the bytes were divided. They are the lossily decoded text, cut before the stop
/// string that is *completed* first in it; before the longest, if several are completed by the same character. (The one
/// that begins first may be another, which would have gone on.)
#[derive(Debug, Clone)]
pub struct TextStream {
    utf8: Utf8Stream,
    stops: Arc<StopSet>,
    state: State,
    /// Text already given out, then text held back.
    held: String,
    /// Length of the text already given out.
    given: usize,
    stopped: bool,
}

impl TextStream {
    /// A stream at its start.
    pub fn new(stops: Arc<StopSet>) -> Self {
        Self { utf8: Utf8Stream::new(), stops, state: START, held: String::new(), given: 0, stopped: false }
    }

    /// Takes a token's bytes. After a stop everything is ignored.
    pub fn push(&mut self, bytes: &[u8]) -> Piece<'_> {
        self.held.drain(..self.given);
        self.given = 0;
        if !self.stopped {
            let text = self.utf8.push(bytes);
            self.given = append(&self.stops, text, &mut self.held, &mut self.state, &mut self.stopped);
        }
        Piece { text: &self.held[..self.given], stopped: self.stopped }
    }

    /// Ends the text: gives out what was held back, an incomplete character as U+FFFD. Even that can complete a stop
    /// string.
    pub fn finish(&mut self) -> Piece<'_> {
        self.held.drain(..self.given);
        self.given = 0;
        if !self.stopped {
            let text = self.utf8.finish();
            self.given = append(&self.stops, text, &mut self.held, &mut self.state, &mut self.stopped);
            if !self.stopped {
                self.given = self.held.len();
            }
            self.state = START;
        }
        Piece { text: &self.held[..self.given], stopped: self.stopped }
    }
}

/// Appends to the text held back, up to a stop string. Returns how much of it is certain.
///
/// All cuts are between characters: a stop string and its beginnings start with a character's first byte.
fn append(stops: &StopSet, text: &str, held: &mut String, state: &mut State, stopped: &mut bool) -> usize {
    for (at, &byte) in text.as_bytes().iter().enumerate() {
        *state = stops.step(*state, byte);
        if let Some(length) = stops.matched(*state) {
            held.push_str(&text[..=at]);
            held.truncate(held.len() - length);
            *stopped = true;
            return held.len();
        }
    }
    held.push_str(text);
    held.len() - stops.pending(*state)
}

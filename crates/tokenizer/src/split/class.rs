//! Character classes of code points and of bytes.

use super::tables::{BLOCK_OF, BLOCKS};

/// Class of a character as the split patterns see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    /// Neither of the others: punctuation, symbols, marks, unassigned code points, bytes that are no UTF-8.
    Other = 0,
    /// `\p{L}`
    Letter = 1,
    /// `\p{N}`
    Number = 2,
    /// `\s`, the Unicode property White_Space.
    Space = 3,
}

/// Classes of the 128 ASCII characters; 4 marks a byte that is not ASCII.
const ASCII: [u8; 256] = {
    let mut classes = [4u8; 256];
    let mut byte = 0usize;
    while byte < 128 {
        let value = byte as u8;
        classes[byte] = if value.is_ascii_alphabetic() {
            Class::Letter as u8
        } else if value.is_ascii_digit() {
            Class::Number as u8
        } else if matches!(value, 9..=13 | 32) {
            Class::Space as u8
        } else {
            Class::Other as u8
        };
        byte += 1;
    }
    classes
};

/// Class and length in bytes of the character at `at`, which lies inside `text`.
#[inline]
pub(super) fn class_at(text: &[u8], at: usize) -> (Class, usize) {
    match ASCII[text[at] as usize] {
        0 => (Class::Other, 1),
        1 => (Class::Letter, 1),
        2 => (Class::Number, 1),
        3 => (Class::Space, 1),
        _ => class_beyond_ascii(&text[at..]),
    }
}

/// End of the run of characters of class `class` from `at` on.
#[inline]
pub(super) fn run_end(text: &[u8], mut at: usize, class: Class) -> usize {
    while let Some(byte) = text.get(at) {
        let known = ASCII[*byte as usize];
        if known == class as u8 {
            at += 1;
        } else if known < 4 {
            return at;
        } else {
            let (found, length) = class_beyond_ascii(&text[at..]);
            if found != class {
                return at;
            }
            at += length;
        }
    }
    at
}

/// Class of a code point.
fn class_of(code: u32) -> Class {
    let block = BLOCK_OF.get((code >> 8) as usize).map_or(0, |index| {
        let word = BLOCKS[*index as usize][(code as usize & 255) / 32];
        (word >> (2 * (code & 31))) & 3
    });
    match block {
        1 => Class::Letter,
        2 => Class::Number,
        3 => Class::Space,
        _ => Class::Other,
    }
}

/// Class and length of the character that `text` starts with, which is not ASCII.
fn class_beyond_ascii(text: &[u8]) -> (Class, usize) {
    match decode(text) {
        Some((code, length)) => (class_of(code), length),
        None => (Class::Other, 1),
    }
}

/// The code point at the start of `text` and its length, if the sequence is well-formed (Unicode 16.0, table 3-7).
fn decode(text: &[u8]) -> Option<(u32, usize)> {
    let continuation = |index: usize, low: u8, high: u8| {
        text.get(index).filter(|byte| (low..=high).contains(*byte)).map(|byte| u32::from(*byte & 0x3f))
    };
    let first = *text.first()?;
    match first {
        0xc2..=0xdf => Some((u32::from(first & 0x1f) << 6 | continuation(1, 0x80, 0xbf)?, 2)),
        0xe0..=0xef => {
            let (low, high) = match first {
                0xe0 => (0xa0, 0xbf),
                0xed => (0x80, 0x9f),
                _ => (0x80, 0xbf),
            };
            let upper = u32::from(first & 0x0f) << 12 | continuation(1, low, high)? << 6;
            Some((upper | continuation(2, 0x80, 0xbf)?, 3))
        }
        0xf0..=0xf4 => {
            let (low, high) = match first {
                0xf0 => (0x90, 0xbf),
                0xf4 => (0x80, 0x8f),
                _ => (0x80, 0xbf),
            };
            let upper = u32::from(first & 0x07) << 18 | continuation(1, low, high)? << 12;
            Some((upper | continuation(2, 0x80, 0xbf)? << 6 | continuation(3, 0x80, 0xbf)?, 4))
        }
        _ => None,
    }
}

/// Class of the last character in front of `end` and its length; the text before `end` is white space.
pub(super) fn last_length(text: &[u8], start: usize, end: usize) -> usize {
    let mut first = end - 1;
    while first > start && text[first] & 0xc0 == 0x80 {
        first -= 1;
    }
    end - first
}

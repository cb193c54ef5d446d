//! GPT-2's pattern, alternative by alternative.

use super::class::{Class, class_at, last_length, run_end};

/// End of the piece that starts at `start`, which is in front of the end of `text`.
#[inline]
pub(super) fn piece_end(text: &[u8], start: usize) -> usize {
    let (class, length) = class_at(text, start);
    if class != Class::Space {
        if text[start] == b'\''
            && let Some(end) = contraction_end(text, start)
        {
            return end;
        }
        return run_end(text, start + length, class);
    }
    // One ASCII space joins the run that follows it.
    if text[start] == b' ' && start + 1 < text.len() {
        let (next, next_length) = class_at(text, start + 1);
        if next != Class::Space {
            return run_end(text, start + 1 + next_length, next);
        }
    }
    space_end(text, start, length)
}

/// As [`piece_end`] with every number character alone. The pattern sees only what lies between numbers, so white
/// space in front of one is at the end of its text.
#[inline]
pub(super) fn piece_end_digits(text: &[u8], start: usize) -> usize {
    let (class, length) = class_at(text, start);
    match class {
        Class::Number => start + length,
        Class::Space => {
            let end = run_end(text, start + length, Class::Space);
            let number_follows = end < text.len() && class_at(text, end).0 == Class::Number;
            if number_follows { end } else { piece_end(text, start) }
        }
        _ => piece_end(text, start),
    }
}

/// End of `'s 't 're 've 'm 'll 'd` at `start`, if one of them is there.
#[inline]
fn contraction_end(text: &[u8], start: usize) -> Option<usize> {
    match text.get(start + 1)? {
        b's' | b't' | b'm' | b'd' => Some(start + 2),
        b'r' | b'v' => (text.get(start + 2) == Some(&b'e')).then_some(start + 3),
        b'l' => (text.get(start + 2) == Some(&b'l')).then_some(start + 3),
        _ => None,
    }
}

/// End of a piece of white space whose first character is `length` bytes long. White space up to the end of the text
/// is one piece; in front of something else its last character is left for the next piece, unless it is the only one.
fn space_end(text: &[u8], start: usize, length: usize) -> usize {
    let end = run_end(text, start + length, Class::Space);
    if end == text.len() || end == start + length {
        return end;
    }
    end - last_length(text, start, end)
}

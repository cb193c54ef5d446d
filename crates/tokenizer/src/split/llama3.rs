//! The pattern of Llama 3 (cl100k without its last change) and of Qwen2, alternative by alternative.

use super::class::{Class, class_at, last_length, run_end};

/// End of the piece that starts at `start`, which is in front of the end of `text`. A run of numbers is cut into pieces
/// of at most `digits` characters.
#[inline]
pub(super) fn piece_end(text: &[u8], start: usize, digits: usize) -> usize {
    let (class, length) = class_at(text, start);
    let after = start + length;
    match class {
        Class::Letter => run_end(text, after, Class::Letter),
        Class::Number => {
            let mut end = after;
            for _ in 1..digits {
                match text.get(end).map(|_| class_at(text, end)) {
                    Some((Class::Number, length)) => end += length,
                    _ => break,
                }
            }
            end
        }
        Class::Other => {
            if text[start] == b'\''
                && let Some(end) = contraction_end(text, after)
            {
                return end;
            }
            match starts_letters(text, after) {
                Some(letters) => letters,
                None => with_newlines(text, run_end(text, after, Class::Other)),
            }
        }
        Class::Space => {
            if !is_newline(text[start])
                && let Some(end) = starts_letters(text, after)
            {
                return end;
            }
            if text[start] == b' ' && after < text.len() {
                let (next, next_length) = class_at(text, after);
                if next == Class::Other {
                    return with_newlines(text, run_end(text, after + next_length, Class::Other));
                }
            }
            space_end(text, start, after)
        }
    }
}

/// End of the letters that start at `at`, if any do.
#[inline]
fn starts_letters(text: &[u8], at: usize) -> Option<usize> {
    if at >= text.len() {
        return None;
    }
    let (class, length) = class_at(text, at);
    (class == Class::Letter).then(|| run_end(text, at + length, Class::Letter))
}

#[inline]
fn is_newline(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

#[inline]
fn with_newlines(text: &[u8], mut end: usize) -> usize {
    while text.get(end).is_some_and(|byte| is_newline(*byte)) {
        end += 1;
    }
    end
}

/// End of white space: behind its last line break if it has one, else in front of its last character, unless it is
/// the only one or nothing follows.
fn space_end(text: &[u8], start: usize, after: usize) -> usize {
    let end = run_end(text, after, Class::Space);
    if let Some(last) = text[start..end].iter().rposition(|byte| is_newline(*byte)) {
        return start + last + 1;
    }
    if end == text.len() || end == after {
        return end;
    }
    end - last_length(text, start, end)
}

/// End of `s t re ve m ll d` in any case at `at`, behind an apostrophe. The long s is an s in another case.
#[inline]
fn contraction_end(text: &[u8], at: usize) -> Option<usize> {
    let second = || text.get(at + 1).map(u8::to_ascii_lowercase);
    match text.get(at)?.to_ascii_lowercase() {
        b's' | b't' | b'm' | b'd' => Some(at + 1),
        b'r' | b'v' => (second() == Some(b'e')).then_some(at + 2),
        b'l' => (second() == Some(b'l')).then_some(at + 2),
        0xc5 => (second() == Some(0xbf)).then_some(at + 2),
        _ => None,
    }
}

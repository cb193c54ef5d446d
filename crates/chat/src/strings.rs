//! Parts of Python's `str`: what counts as white space and as a line end is Python's choice, not Unicode's.

/// Which ends of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// The first.
    Start,
    /// The last.
    End,
    /// Both.
    Both,
}

/// Which end to count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The first.
    Start,
    /// The last.
    End,
}

/// `str.isspace`: Unicode's white space and the four separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `strip`, `lstrip` and `rstrip`; without `chars` white space is taken off.
pub fn strip<'t>(text: &'t str, chars: Option<&str>, ends: Ends) -> &'t str {
    let off = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if ends == Ends::End { text } else { text.trim_start_matches(off) };
    if ends == Ends::Start { text } else { text.trim_end_matches(off) }
}

/// `split` and `rsplit` with at most `most` cuts. Without a separator, runs of white space separate and none is at an end.
/// A separator must not be empty.
pub fn split<'t>(text: &'t str, separator: Option<&str>, most: usize, from: From) -> Vec<&'t str> {
    let pieces = most.saturating_add(1);
    match (separator, from) {
        (Some(separator), From::Start) => text.splitn(pieces, separator).collect(),
        (Some(separator), From::End) => {
            let mut parts: Vec<&str> = text.rsplitn(pieces, separator).collect();
            parts.reverse();
            parts
        }
        (None, From::Start) => {
            let mut parts = Vec::new();
            let mut rest = text.trim_start_matches(is_space);
            while !rest.is_empty() {
                let end = if parts.len() < most { rest.find(is_space) } else { None };
                let (part, after) = end.map_or((rest, ""), |end| rest.split_at(end));
                parts.push(part);
                rest = after.trim_start_matches(is_space);
            }
            parts
        }
        (None, From::End) => {
            let mut parts = Vec::new();
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                let space = if parts.len() < most { rest.char_indices().rfind(|(_, c)| is_space(*c)) } else { None };
                let (before, part) = space.map_or(("", rest), |(at, c)| (&rest[..at], &rest[at + c.len_utf8()..]));
                parts.push(part);
                rest = before.trim_end_matches(is_space);
            }
            parts.reverse();
            parts
        }
    }
}

/// `splitlines`: at every line end that Python knows.
pub fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_end(*c)) {
        let end = if rest[at..].starts_with("\r\n") { at + 2 } else { at + c.len_utf8() };
        out.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

/// `title`: every letter after something that is no letter is a capital.
pub fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values as Python gives them.
    #[test]
    fn splitting() {
        assert_eq!(split(" a  b\tc ", None, usize::MAX, From::Start), ["a", "b", "c"]);
        assert_eq!(split(" a  b\tc ", None, 1, From::Start), ["a", "b\tc "]);
        assert_eq!(split(" a  b\tc ", None, 1, From::End), [" a  b", "c"]);
        assert_eq!(split("", None, usize::MAX, From::Start), [""; 0]);
        assert_eq!(split("", Some("x"), usize::MAX, From::Start), [""]);
        assert_eq!(split("a,b,,c", Some(","), 2, From::Start), ["a", "b", ",c"]);
        assert_eq!(split("a,b,,c", Some(","), 2, From::End), ["a,b", "", "c"]);
        assert_eq!(split("abc", Some(","), 0, From::Start), ["abc"]);
    }

    #[test]
    fn stripping_and_lines() {
        assert_eq!(strip("\u{1f} é\u{a0}\n", None, Ends::Both), "é");
        assert_eq!(strip("xxaxx", Some("xy"), Ends::Start), "axx");
        assert_eq!(lines("a\r\nb\n\nc\u{2028}", false), ["a", "b", "", "c"]);
        assert_eq!(lines("a\r\nb", true), ["a\r\n", "b"]);
    }
}

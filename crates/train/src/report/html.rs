//! Text into HTML.

use crate::autosize::short;

/// Escapes everything that means something in HTML text or quoted attributes; control characters other than line breaks
/// and tabs become U+FFFD, as do characters that turn the direction of the text around them.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A value in a few characters.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        s if !s.is_finite() => "not a number".to_owned(),
        0.0 => "0".to_owned(),
        1000.0.. => trim(&short(size), value < 0.0),
        0.01.. => {
            let digits = if size >= 10.0 { 1 } else { 3 };
            trim(&format!("{size:.digits$}"), value < 0.0)
        }
        _ => format!("{value:.1e}").replace(".0e", "e"),
    }
}

/// Without zeros at the end of the fraction.
fn trim(text: &str, negative: bool) -> String {
    let (digits, suffix) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    format!("{}{digits}{suffix}", if negative { "-" } else { "" })
}

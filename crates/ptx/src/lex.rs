//! PTX text to tokens.

use crate::PtxError;

/// A piece of PTX text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Token<'a> {
    /// Name, directive, or opcode with its modifiers.
    Word(&'a str),
    /// Integer literal.
    Int(u64),
    /// `0f...`: bits of an f32.
    F32(u32),
    /// `0d...` or decimal: an f64.
    F64(f64),
    /// Text between quotes.
    Text,
    /// Anything else, one character.
    Mark(char),
}

/// All tokens with their lines. Directives of debug information that end with their line are left out.
pub fn tokens(text: &str) -> Result<Vec<(Token<'_>, usize)>, PtxError> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &text[at..];
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            b' ' | b'\t' | b'\r' => at += 1,
            b'/' if rest.starts_with("//") => at += rest.find('\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with("/*") => {
                let end = rest.find("*/").ok_or_else(|| error(line, "comment without an end"))?;
                line += count_lines(&rest[..end]);
                at += end + 2;
            }
            b'"' => {
                let end = rest[1..].find('"').ok_or_else(|| error(line, "text without a closing quote"))?;
                line += count_lines(&rest[1..=end]);
                out.push((Token::Text, line));
                at += end + 2;
            }
            c if c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.') => {
                let end = word_end(bytes, at);
                let word = &text[at..end];
                at = end;
                if matches!(word, ".loc" | ".file") {
                    at += text[at..].find('\n').unwrap_or(text.len() - at);
                } else {
                    out.push((Token::Word(word), line));
                }
            }
            c if c.is_ascii_digit() => {
                let end = at + rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
                out.push((number(&text[at..end], line)?, line));
                at = end;
            }
            c if c.is_ascii_graphic() => {
                out.push((Token::Mark(char::from(c)), line));
                at += 1;
            }
            _ => return Err(error(line, "a character that PTX does not use")),
        }
    }
    Ok(out)
}

fn error(line: usize, what: &str) -> PtxError {
    PtxError::Syntax { line, what: what.to_owned() }
}

fn count_lines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}

/// End of the word that starts at `at`. `::` belongs to a word when a letter follows.
fn word_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(&c) = bytes.get(end) {
        let double =
            c == b':' && bytes.get(end + 1) == Some(&b':') && bytes.get(end + 2).is_some_and(u8::is_ascii_alphanumeric);
        if double {
            end += 2;
        } else if c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.') {
            end += 1;
        } else {
            break;
        }
    }
    end
}

fn number(word: &str, line: usize) -> Result<Token<'static>, PtxError> {
    let bad = || error(line, &format!("`{word}` is no number"));
    let hex = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| bad());
    if let Some(digits) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F"))
        && digits.len() == 8
    {
        return Ok(Token::F32(hex(digits)? as u32));
    }
    if let Some(digits) = word.strip_prefix("0d").or_else(|| word.strip_prefix("0D"))
        && digits.len() == 16
    {
        return Ok(Token::F64(f64::from_bits(hex(digits)?)));
    }
    let plain = word.trim_end_matches(['U', 'u']);
    let parsed = if let Some(digits) = plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        u64::from_str_radix(digits, 16)
    } else if let Some(digits) = plain.strip_prefix("0b").or_else(|| plain.strip_prefix("0B")) {
        u64::from_str_radix(digits, 2)
    } else if plain.contains(['.', 'e', 'E']) {
        return word.parse().map(Token::F64).map_err(|_| bad());
    } else if plain.len() > 1 && plain.starts_with('0') {
        u64::from_str_radix(plain, 8)
    } else {
        plain.parse()
    };
    parsed.map(Token::Int).map_err(|_| bad())
}

//! What a text may be held to.

use serde_json::Value;

use crate::error::{ConstrainError, Result};

/// A condition on the whole of a generated text.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema accepts. Properties come in the order in which the schema lists them.
    JsonSchema(Value),
    /// Text that a regular expression matches from its first to its last character. Syntax of Rust's `regex` crate
    /// without look-around.
    Regex(String),
    /// Text that a grammar makes, in the variant of Lark's syntax that llguidance reads.
    Grammar(String),
}

/// Longest regular expression, in bytes.
pub(crate) const MAX_REGEX: usize = 16 << 10;
/// Longest grammar, in bytes.
pub(crate) const MAX_GRAMMAR: usize = 256 << 10;
/// Most brackets inside each other in a regular expression.
const MAX_NESTING: usize = 100;
/// Highest count in a repetition `{m,n}` of a regular expression, and the highest product of counts inside each other.
pub(crate) const MAX_REPEAT: u64 = 4096;

impl Constraint {
    /// A JSON schema from its text.
    ///
    /// # Errors
    /// [`ConstrainError::TooLarge`], and [`ConstrainError::Schema`] for text that is no JSON (nested more than 128
    /// levels deep included).
    pub fn json_schema(text: &str) -> Result<Self> {
        crate::schema::check_length(text.len())?;
        let value = serde_json::from_str(text)
            .map_err(|error| ConstrainError::Schema { path: "$".to_owned(), problem: format!("no JSON: {error}") })?;
        Ok(Self::JsonSchema(value))
    }
}

/// Refuses a regular expression that is too long, too deeply nested or repeats too often.
///
/// `place` is the kind of constraint or the JSON path, for the error.
pub(crate) fn check_regex(place: &str, pattern: &str) -> Result<()> {
    let too_large = |what, found, limit| Err(ConstrainError::TooLarge { place: place.to_owned(), what, found, limit });
    if pattern.len() > MAX_REGEX {
        return too_large("bytes of regular expression", pattern.len() as u64, MAX_REGEX as u64);
    }
    let bytes = pattern.as_bytes();
    // Product of the counts that close over the bytes read so far is only known at the closing bracket; a stack holds
    // the greatest product inside each open bracket.
    let mut inside: Vec<u64> = vec![1];
    let mut last = 1u64;
    let (mut at, mut in_class) = (0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => {
                at += 1;
                last = 1;
            }
            b'[' => in_class = true,
            b']' => {
                in_class = false;
                last = 1;
            }
            b'(' if !in_class => {
                if inside.len() > MAX_NESTING {
                    return too_large("brackets inside each other", inside.len() as u64, MAX_NESTING as u64);
                }
                inside.push(1);
            }
            b')' if !in_class => last = if inside.len() > 1 { inside.pop().unwrap_or(1) } else { 1 },
            b'{' if !in_class => {
                if let Some((count, length)) = repetition(&bytes[at..]) {
                    last = last.saturating_mul(count.max(1));
                    if last > MAX_REPEAT {
                        return too_large("repetitions", last, MAX_REPEAT);
                    }
                    at += length - 1;
                }
            }
            b'*' | b'+' | b'?' if !in_class => {}
            _ => last = 1,
        }
        if let Some(most) = inside.last_mut() {
            *most = (*most).max(last);
        }
        at += 1;
    }
    Ok(())
}

/// The highest count and the length of a repetition `{m}`, `{m,}`, `{m,n}` at the start of `bytes`.
fn repetition(bytes: &[u8]) -> Option<(u64, usize)> {
    let end = bytes.iter().take(64).position(|&b| b == b'}')?;
    let counts = std::str::from_utf8(&bytes[1..end]).ok()?;
    let mut most = 0;
    for count in counts.split(',').map(str::trim).filter(|count| !count.is_empty()) {
        if !count.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        most = most.max(count.parse().unwrap_or(u64::MAX));
    }
    (!counts.is_empty()).then_some((most, end + 1))
}

/// Refuses a grammar that is too long, or that brings in what this crate checks elsewhere.
pub(crate) fn check_grammar(grammar: &str) -> Result<()> {
    if grammar.len() > MAX_GRAMMAR {
        return Err(ConstrainError::TooLarge {
            place: "grammar".to_owned(),
            what: "bytes",
            found: grammar.len() as u64,
            limit: MAX_GRAMMAR as u64,
        });
    }
    let problem = if grammar.trim().is_empty() {
        "it is empty; a grammar needs at least a rule `start: ...`".to_owned()
    } else if grammar.contains("%json") {
        "`%json` is not taken inside a grammar; hand the schema in as a JSON schema constraint".to_owned()
    } else {
        return Ok(());
    };
    Err(ConstrainError::Grammar { problem })
}

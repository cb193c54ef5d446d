//! From a template as its makers wrote it to one that the engine reads: line ends, the `generation` tag, which marks the
//! assistant's words for training and has no other effect than a scope of its own, and the meter.

use crate::meter::{TooManyTokens, meter};

/// Most tags. Published templates have a few hundred.
const MAX_TAGS: usize = 10_000;

/// Line ends as Jinja2 has them: a line feed each.
pub fn unix_lines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// Prepares a source with line feeds. Lines keep their numbers.
///
/// # Errors
/// The line of the tag that is one too many, or that has too many tokens.
pub fn prepare(source: &str) -> Result<String, usize> {
    let mut out = String::with_capacity(source.len() * 2);
    let mut rest = source;
    let mut raw = false;
    let mut n_tags = 0;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let line = || source[..source.len() - rest.len()].matches('\n').count() + 1;
        let end = match rest.as_bytes().get(1) {
            Some(b'%') if !raw || is_tag(rest, "endraw") => tag_end(rest, "%}"),
            Some(b'{') if !raw => tag_end(rest, "}}"),
            Some(b'#') if !raw => rest.find("#}").map_or(rest.len(), |end| end + 2),
            _ => 1,
        };
        let (tag, after) = rest.split_at(end);
        match tag.as_bytes() {
            [b'{', kind @ (b'%' | b'{'), ..] => {
                n_tags += 1;
                if is_tag(tag, "raw") || is_tag(tag, "endraw") {
                    raw = is_tag(tag, "raw");
                }
                let put =
                    if n_tags > MAX_TAGS { Err(TooManyTokens) } else { tag_metered(tag, *kind == b'%', &mut out) };
                put.map_err(|TooManyTokens| line())?;
            }
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Writes a tag or an expression with its braces.
fn tag_metered(tag: &str, statement: bool, out: &mut String) -> Result<(), TooManyTokens> {
    for (name, scope) in [("generation", "with"), ("endgeneration", "endwith")] {
        if statement && is_tag(tag, name) {
            out.push_str(&tag.replacen(name, scope, 1));
            return Ok(());
        }
    }
    let sign = |c: Option<&u8>| usize::from(matches!(c, Some(b'-' | b'+')));
    let from = (2 + sign(tag.as_bytes().get(2))).min(tag.len());
    let close = if statement { "%}" } else { "}}" };
    let to = match tag[from..].strip_suffix(close) {
        Some(inside) => from + inside.len() - sign(inside.as_bytes().last()),
        None => tag.len(),
    };
    out.push_str(&tag[..from]);
    out.push_str(&meter(&tag[from..to], statement)?);
    out.push_str(&tag[to..]);
    Ok(())
}

/// Whether a text that starts with `{%` is the tag `name`.
fn is_tag(text: &str, name: &str) -> bool {
    let Some(inner) = text.strip_prefix("{%") else { return false };
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
    inner.strip_prefix(name).is_some_and(|after| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Where a tag or an expression ends, strings in it skipped.
fn tag_end(text: &str, close: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 2;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            _ if bytes[at..].starts_with(close.as_bytes()) => return at + close.len(),
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::{prepare, unix_lines};

    #[test]
    fn the_generation_tag_becomes_a_scope() {
        for (source, expected) in [
            ("{% generation %}a{% endgeneration %}", "{% with %}a{% endwith %}"),
            ("{%- generation -%}a{%+endgeneration-%}", "{%- with -%}a{%+endwith-%}"),
            ("{# generation #}{{ '{% generation %}' }}", "{# generation #}{{ '{% generation %}' }}"),
            (
                "{% raw %}{% generation %}{% endraw %}{% generation %}",
                "{% raw %}{% generation %}{% endraw %}{% with %}",
            ),
            ("{% set generation_x = 1 %}generation", "{% set generation_x = 1 %}generation"),
            ("{% if x == '%}' %}{%generation%}", "{% if x == '%}' %}{%with%}"),
            ("a\r\nb\rc", "a\nb\nc"),
            ("{% generation é", "{% with é"),
            ("{{ 'é\\", "{{ 'é\\"),
            ("{%-", "{%-"),
            ("{%-%}{{-}}{{}}{%", "{%-%}{{-}}{{}}{%"),
            ("{{- a -}} {{ {'b': {}} }}", "{{- a -}} {{ {'b': {}} }}"),
        ] {
            assert_eq!(prepare(&unix_lines(source)).unwrap(), expected);
        }
    }
}

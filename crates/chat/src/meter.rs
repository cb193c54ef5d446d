//! Putting a meter on what templates build.
//!
//! The engine charges for text and for items that its loops and filters visit, but not for every way in which a value can
//! hold itself many times over: `x + x` and `[x, x]` in a loop make values that are small in memory and endless when they
//! are walked. So every list, dictionary and tuple that a template writes out, and every operand of `+`, `~` and `*`, is
//! sent through the filter [`FILTER`], which measures it and passes it on unchanged.

use std::ops::Range;

/// The name of the filter; no template has one of that name.
pub const FILTER: &str = "verve_metered";

/// Most tokens of one tag. Real ones have fewer than a hundred; the engine's parser takes a stack frame for some.
const MAX_TOKENS: usize = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A string or a number.
    Literal,
    Name,
    Op,
}

#[derive(Debug, Clone, Copy)]
struct Token<'t> {
    kind: Kind,
    text: &'t str,
    start: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether an expression can end with it, so that what follows is an operator or a postfix.
    fn ends_operand(&self) -> bool {
        match self.kind {
            Kind::Literal => true,
            Kind::Name => !is_keyword(self.text),
            Kind::Op => matches!(self.text, ")" | "]" | "}"),
        }
    }
}

/// Words between expressions.
fn is_keyword(name: &str) -> bool {
    matches!(name, "and" | "or" | "not" | "in" | "is" | "if" | "else" | "elif" | "for" | "set" | "with" | "recursive")
}

/// What was found to be too much before anything ran.
#[derive(Debug, PartialEq, Eq)]
pub struct TooManyTokens;

/// The inside of a tag or an expression (between its braces and signs) with the filter put in. `statement` for `{% %}`.
/// What is no expression is left as it is: the engine says what is wrong with it.
///
/// # Errors
/// [`TooManyTokens`].
pub fn meter(inside: &str, statement: bool) -> Result<String, TooManyTokens> {
    let Some(tokens) = tokens(inside)? else { return Ok(inside.to_owned()) };
    let mut edits = Edits::default();
    let range = if statement { expressions(&tokens) } else { 0..tokens.len() };
    // What a namespace is given may come back around a loop.
    if tokens.first().is_some_and(|token| token.text == "set")
        && tokens[..range.start].iter().any(|token| token.text == ".")
    {
        wrap(&tokens, range.clone(), &mut edits);
    }
    group(&tokens, range, &mut edits);
    Ok(edits.apply(inside))
}

/// The tokens of a statement without its keyword and what it assigns to.
fn expressions(tokens: &[Token<'_>]) -> Range<usize> {
    let n = tokens.len();
    let after = |text: &str| tokens.iter().position(|token| token.text == text).map_or(n, |at| at + 1)..n;
    let open = tokens.iter().position(|token| token.text == "(");
    let close = open.and_then(|open| closing(tokens, open, n));
    match (tokens.first().map_or("", |token| token.text), open, close) {
        ("for", ..) => after("in"),
        ("set", ..) => after("="),
        ("macro", Some(open), Some(close)) => open + 1..close,
        // With names for what the macro hands back.
        ("call", Some(1), Some(close)) => close + 1..n,
        _ => 1.min(n)..n,
    }
}

fn tokens(text: &str) -> Result<Option<Vec<Token<'_>>>, TooManyTokens> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let kind = match bytes[at] {
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
                if at > bytes.len() {
                    return Ok(None);
                }
                Kind::Literal
            }
            b if b.is_ascii_digit() => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_' || decimal(bytes, at))
                {
                    at += 1;
                }
                Kind::Literal
            }
            b if b.is_ascii_alphabetic() || b == b'_' || !b.is_ascii() => {
                while at < bytes.len()
                    && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_' || !bytes[at].is_ascii())
                {
                    at += 1;
                }
                Kind::Name
            }
            _ => {
                let pair = text.get(at..at + 2).unwrap_or("");
                at += if matches!(pair, "**" | "//" | "==" | "!=" | "<=" | ">=") { 2 } else { 1 };
                Kind::Op
            }
        };
        out.push(Token { kind, text: &text[start..at], start });
        if out.len() > MAX_TOKENS {
            return Err(TooManyTokens);
        }
    }
    Ok(Some(out))
}

/// A point inside of a number: `1.5`, not the one of `a.0.b`.
fn decimal(bytes: &[u8], at: usize) -> bool {
    bytes[at] == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
}

/// Text to put in at places.
#[derive(Default)]
struct Edits {
    /// Place, order among those of one place, text.
    inserts: Vec<(usize, i64, String)>,
}

impl Edits {
    /// Puts the filter around a range of text.
    fn wrap(&mut self, range: Range<usize>) {
        // At one place, what closes comes before what opens; of what opens, the wider comes first; of what closes, the
        // narrower.
        let wide = (range.end - range.start) as i64;
        self.inserts.push((range.start, i64::MAX - wide, "((".to_owned()));
        self.inserts.push((range.end, wide - i64::MAX / 2, format!(")|{FILTER})")));
    }

    fn apply(mut self, text: &str) -> String {
        self.inserts.sort_by_key(|insert| (insert.0, insert.1));
        let mut out = String::with_capacity(text.len() + self.inserts.len() * 16);
        let mut from = 0;
        for (at, _, insert) in self.inserts {
            out.push_str(&text[from..at]);
            out.push_str(&insert);
            from = at;
        }
        out.push_str(&text[from..]);
        out
    }
}

/// Goes through the tokens between two brackets, or those of a whole tag.
fn group(tokens: &[Token<'_>], range: Range<usize>, edits: &mut Edits) {
    let mut chain = range.start;
    // Operators of the chain: token and whether it is `+` or `-`, `~`, or `*`.
    let mut ops: Vec<(usize, u8)> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let token = tokens[at];
        let after_operand = at > chain && tokens[at - 1].ends_operand();
        match (token.kind, token.text) {
            (Kind::Op, "(" | "[" | "{") => {
                let Some(close) = closing(tokens, at, range.end) else { return };
                group(tokens, at + 1..close, edits);
                if !after_operand && close > at + 1 && is_container(tokens, at, close) {
                    edits.wrap(token.start..tokens[close].end());
                }
                at = close;
            }
            (Kind::Op, "+" | "-") if after_operand => ops.push((at, b'+')),
            (Kind::Op, "~") if after_operand => ops.push((at, b'~')),
            (Kind::Op, "*") if after_operand => ops.push((at, b'*')),
            // A test is part of its operand, with the words it is made of.
            (Kind::Name, "is") if after_operand => {
                at += 1;
                while at < range.end && tokens[at].text == "not" {
                    at += 1;
                }
            }
            (Kind::Op, "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">=") => {
                finish(tokens, chain..at, &ops, edits);
                ops.clear();
                chain = at + 1;
            }
            // A name after a point is an attribute, whatever it says.
            (Kind::Name, name) if is_keyword(name) && !(at > range.start && tokens[at - 1].text == ".") => {
                finish(tokens, chain..at, &ops, edits);
                ops.clear();
                chain = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    finish(tokens, chain..range.end, &ops, edits);
}

/// Whether brackets hold a list, a dictionary or a tuple and not one expression in parentheses.
fn is_container(tokens: &[Token<'_>], open: usize, close: usize) -> bool {
    if tokens[open].text != "(" {
        return true;
    }
    let mut depth = 0;
    tokens[open + 1..close].iter().any(|token| {
        match token.text {
            _ if token.kind != Kind::Op => {}
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            "," => return depth == 0,
            _ => {}
        }
        false
    })
}

/// The bracket that closes the one at `open`.
fn closing(tokens: &[Token<'_>], open: usize, end: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().take(end).skip(open) {
        match (token.kind, token.text) {
            (Kind::Op, "(" | "[" | "{") => depth += 1,
            (Kind::Op, ")" | "]" | "}") => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Meters the operands of a chain of arithmetic. Of the three, `+` binds least and `*` most.
fn finish(tokens: &[Token<'_>], chain: Range<usize>, ops: &[(usize, u8)], edits: &mut Edits) {
    if ops.is_empty() || chain.is_empty() {
        return;
    }
    let level = [b'+', b'~', b'*'].into_iter().find(|level| ops.iter().any(|(_, op)| op == level)).unwrap_or(b'*');
    if level == b'*' {
        return wrap(tokens, chain, edits);
    }
    let mut from = chain.start;
    let cuts = ops.iter().filter(|(_, op)| *op == level).map(|(at, _)| *at).chain(std::iter::once(chain.end));
    for cut in cuts {
        let operand = from..cut;
        let inner: Vec<(usize, u8)> = ops.iter().filter(|(at, _)| operand.contains(at)).copied().collect();
        if inner.iter().any(|(_, op)| *op == b'~') {
            finish(tokens, operand.clone(), &inner, edits);
        }
        wrap(tokens, operand, edits);
        from = cut + 1;
    }
}

fn wrap(tokens: &[Token<'_>], operand: Range<usize>, edits: &mut Edits) {
    let Some(tokens) = tokens.get(operand) else { return };
    match tokens {
        [] => {}
        [only] if only.kind == Kind::Literal => {}
        [first, .., last] => edits.wrap(first.start..last.end()),
        [only] => edits.wrap(only.start..only.end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, statement: bool) -> String {
        meter(text, statement).unwrap().replace(&format!("|{FILTER}"), "")
    }

    #[test]
    fn what_is_metered() {
        for (text, expected) in [
            ("a", "a"),
            ("'x' + a", "'x' + ((a))"),
            ("a + b * c - d", "((a)) + ((b * c)) - ((d))"),
            ("a ~ 'x' ~ b.c[1:]", "((a)) ~ 'x' ~ ((b.c[1:]))"),
            ("a + b ~ c == d", "((a)) + ((((b)) ~ ((c)))) == d"),
            ("x * 3", "((x * 3))"),
            ("[a, b][0]", "(([a, b]))[0]"),
            ("f(a, b) | g(c)", "f(a, b) | g(c)"),
            ("(a, b)", "(((a, b)))"),
            ("(a or b) and not -c", "(a or b) and not -c"),
            ("{'a': b + 1}", "(({'a': ((b)) + 1}))"),
            ("a if b + c is not none else d", "a if ((b)) + ((c is not none)) else d"),
            ("a is not in [1, 2]", "a is not in (([1, 2]))"),
            ("a.items() + [] + x.not", "((a.items())) + (([])) + ((x.not))"),
            ("a is in b + c", "((a is in b)) + ((c))"),
            ("'unclosed", "'unclosed"),
            ("(a + b", "(a + b"),
        ] {
            assert_eq!(shown(text, false), expected);
        }
    }

    #[test]
    fn statements_keep_their_targets() {
        for (text, expected) in [
            (" set ns.x = [ns.x, 1] ", " set ns.x = (((([ns.x, 1])))) "),
            (" set ns.x = 'a' ", " set ns.x = 'a' "),
            (" set ns.x = ns.y | list ", " set ns.x = ((ns.y | list)) "),
            (" for (k, v) in [(1, 2)] if k + v ", " for (k, v) in (([(((1, 2)))])) if ((k)) + ((v)) "),
            (" macro m(a, b=[1, 2]) ", " macro m(a, b=(([1, 2]))) "),
            (" call(a, b) m(c + d) ", " call(a, b) m(((c)) + ((d))) "),
            (" set x ", " set x "),
            (" if a + b ", " if ((a)) + ((b)) "),
        ] {
            assert_eq!(shown(text, true), expected);
        }
    }

    #[test]
    fn endless_tags_are_refused() {
        assert_eq!(meter(&"-".repeat(MAX_TOKENS + 1), false), Err(TooManyTokens));
    }
}

//! Regular expressions: compiled once, for whole texts and for texts that come in pieces.

use regex_automata::meta;
use regex_automata::nfa::thompson::{self, NFA, State, WhichCaptures};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::Hir;

/// Most memory for one filter's automaton, bytes.
const SIZE: usize = 4 << 20;

/// How deep an expression may be nested.
const NESTING: u32 = 100;

/// The expressions of one filter, any of which may match.
#[derive(Debug)]
pub(crate) struct Patterns {
    whole: meta::Regex,
    nfa: NFA,
    /// Bytes with which a match can begin.
    first: Box<[bool; 256]>,
}

/// Reads one expression. `longest` is the most bytes a match may have, if that is limited.
pub(crate) fn parse(pattern: &str, longest: Option<usize>) -> Result<Hir, String> {
    let hir = ParserBuilder::new().nest_limit(NESTING).build().parse(pattern).map_err(|e| one_line(&e.to_string()))?;
    let properties = hir.properties();
    match properties.minimum_len() {
        Some(0) => return Err("the expression matches the empty text, which is everywhere".to_string()),
        None => return Err("the expression can match nothing".to_string()),
        Some(_) => {}
    }
    let Some(longest) = longest else { return Ok(hir) };
    match properties.maximum_len() {
        Some(length) if length <= longest => Ok(hir),
        length => {
            let found = length.map_or("without limit".to_string(), |n| format!("up to {n} bytes"));
            Err(format!(
                "the expression matches {found}; on answers it may match {longest} (max_match_bytes), since so much may have to \
                 wait while an answer is streamed: write {{1,20}} for + and {{0,20}} for *, [a-z] for \\w where that will do"
            ))
        }
    }
}

impl Patterns {
    /// From expressions that [`parse`] has read.
    pub fn new(expressions: &[Hir]) -> Result<Self, String> {
        let config = meta::Config::new().nfa_size_limit(Some(SIZE)).which_captures(WhichCaptures::None);
        let whole =
            meta::Regex::builder().configure(config).build_many_from_hir(expressions).map_err(|e| causes(&e))?;
        let config = thompson::Config::new().nfa_size_limit(Some(SIZE)).which_captures(WhichCaptures::None);
        let nfa = NFA::compiler().configure(config).build_many_from_hir(expressions).map_err(|e| causes(&e))?;
        let first = Box::new(first_bytes(&nfa));
        Ok(Self { whole, nfa, first })
    }

    /// Whether any expression matches in the text.
    pub fn is_in(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }

    pub fn nfa(&self) -> &NFA {
        &self.nfa
    }

    /// Whether a match can begin with this byte.
    pub fn can_begin(&self, byte: u8) -> bool {
        self.first[usize::from(byte)]
    }
}

/// The bytes that lead out of the start, whatever stands around it.
fn first_bytes(nfa: &NFA) -> [bool; 256] {
    let mut first = [false; 256];
    let mut seen = vec![false; nfa.states().len()];
    let mut open = vec![nfa.start_anchored()];
    while let Some(id) = open.pop() {
        if std::mem::replace(&mut seen[id.as_usize()], true) {
            continue;
        }
        match nfa.state(id) {
            State::ByteRange { trans } => (trans.start..=trans.end).for_each(|b| first[usize::from(b)] = true),
            State::Sparse(sparse) => {
                for trans in &sparse.transitions {
                    (trans.start..=trans.end).for_each(|b| first[usize::from(b)] = true);
                }
            }
            State::Dense(dense) => {
                for byte in 0..=255 {
                    first[usize::from(byte)] |= dense.matches_byte(byte).is_some();
                }
            }
            State::Look { next, .. } | State::Capture { next, .. } => open.push(*next),
            State::Union { alternates } => open.extend(alternates.iter()),
            State::BinaryUnion { alt1, alt2 } => open.extend([*alt1, *alt2]),
            State::Fail | State::Match { .. } => {}
        }
    }
    first
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    one_line(&text)
}

/// The last line of a message that draws the expression with a marker above it, which is the one that says what is wrong.
fn one_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string()
}

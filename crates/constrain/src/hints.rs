//! What the search of endings knows beforehand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use llguidance::derivre::{Regex, RegexBuilder, StateID};
use llguidance::toktrie::{TokEnv, TokTrie};

/// About a constraint: texts worth trying, and what kind of text is made.
#[derive(Clone)]
pub(crate) enum Hints {
    /// JSON.
    Json {
        /// Tokens of texts that may complete something, those tried first in front.
        texts: Arc<[Vec<u32>]>,
    },
    /// Whatever this regular expression matches. The automaton grows while it is used.
    Regex(Arc<Mutex<Automaton>>),
    /// Anything else.
    Other,
}

/// Parts of any JSON.
const JSON: [&str; 20] = [
    ",", ":", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "[]", "{}", "\"\"", "null", "true", "false", "\"a\"",
    "[0]",
];
/// Work that may go into the first state of a regular expression's automaton.
const REGEX_FUEL: u64 = 200_000;

impl Hints {
    /// Hints for JSON, with texts of a schema's parts.
    pub(crate) fn json(texts: &[String], env: &TokEnv) -> Self {
        let mut all: Vec<&str> = JSON.into_iter().chain(texts.iter().map(String::as_str)).collect();
        // What separates comes first: where it may stand, what came before is complete.
        let rank = |text: &str| usize::from(!text.starts_with([',', ':']));
        all.sort_by_key(|text| (rank(text), text.len(), *text));
        all.dedup();
        let mut texts: Vec<Vec<u32>> = all.into_iter().map(|text| env.tokenize_bytes(text.as_bytes())).collect();
        let rank = |ids: &[u32]| usize::from(!matches!(env.tok_trie().decode_raw(ids).first(), Some(b',' | b':')));
        texts.sort_by_key(|ids| (rank(ids), ids.len()));
        Self::Json { texts: texts.into() }
    }

    /// Hints for a regular expression in the grammar engine's syntax.
    pub(crate) fn regex(pattern: &str) -> Self {
        let build = || {
            let mut builder = RegexBuilder::new();
            builder.mk_regex(pattern).and_then(|root| builder.to_regex_limited(root, REGEX_FUEL))
        };
        match std::panic::catch_unwind(build) {
            Ok(Ok(regex)) => Self::Regex(Arc::new(Mutex::new(Automaton { regex, endings: HashMap::new() }))),
            _ => Self::Other,
        }
    }
}

/// The automaton of a regular expression.
pub(crate) struct Automaton {
    pub(crate) regex: Regex,
    /// The fewest bytes from a state to a match, where they were found.
    pub(crate) endings: HashMap<StateID, Vec<u8>>,
}

/// About a vocabulary: tokens that close things, and tokens that fill space.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// Made of closing brackets and quotes, a bracket first. Long ones first.
    pub(crate) brackets: Vec<u32>,
    /// Made of closing brackets and quotes, a quote first. Long ones first.
    pub(crate) quotes: Vec<u32>,
    /// Letters only, one token of each length, long ones first.
    pub(crate) fillers: Vec<u32>,
    /// The token of each byte.
    pub(crate) bytes: Box<[Option<u32>; 256]>,
}

/// Longest token that fills space, in bytes.
const MAX_FILLER: usize = 16;

impl Tokens {
    pub(crate) fn new(trie: &TokTrie) -> Self {
        let mut tokens =
            Self { brackets: Vec::new(), quotes: Vec::new(), fillers: Vec::new(), bytes: Box::new([None; 256]) };
        let mut by_length = [None; MAX_FILLER + 1];
        for id in 0..trie.vocab_size() as u32 {
            let bytes = trie.token(id);
            let Some(&first) = bytes.first() else { continue };
            if bytes.len() == 1 && tokens.bytes[first as usize].is_none() {
                tokens.bytes[first as usize] = Some(id);
            }
            if bytes.iter().all(|byte| b"}]\"".contains(byte)) {
                (if first == b'"' { &mut tokens.quotes } else { &mut tokens.brackets }).push(id);
            }
            if bytes.len() <= MAX_FILLER && bytes.iter().all(u8::is_ascii_lowercase) {
                by_length[bytes.len()].get_or_insert(id);
            }
        }
        let longest_first = |id: &u32| std::cmp::Reverse(trie.token(*id).len());
        tokens.brackets.sort_by_key(longest_first);
        tokens.quotes.sort_by_key(longest_first);
        tokens.fillers = by_length.into_iter().rev().flatten().collect();
        tokens
    }
}

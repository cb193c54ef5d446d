//! The way from a text to its end in few tokens.
//!
//! [`Search::ending`] finds tokens that complete a text. It is sound: the grammar itself accepts them, one by one. It is
//! not always the shortest way. Brackets and quotes are closed where they may be, parts that are still required come from
//! the hints, and where neither helps a few continuations are followed side by side. Everything is deterministic.

use std::collections::{HashMap, HashSet, VecDeque};

use llguidance::derivre::{Regex, StateID};
use llguidance::toktrie::{TokEnv, TokTrie};

use crate::error::{ConstrainError, Result};
use crate::hints::{Automaton, Hints, Tokens};

/// Where in JSON a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Place {
    /// Between values and strings.
    #[default]
    Outside,
    /// Behind a digit or sign of a number.
    Number,
    /// In a string or key.
    String,
    /// Behind a backslash in a string.
    Escape,
}

impl Place {
    /// The place behind more bytes of valid JSON.
    pub(crate) fn after(self, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |place, byte| match (place, byte) {
            (Self::Escape, _) => Self::String,
            (Self::String, b'\\') => Self::Escape,
            (Self::String, b'"') => Self::Outside,
            (Self::String, _) => Self::String,
            (_, b'"') => Self::String,
            (_, b'0'..=b'9' | b'-') => Self::Number,
            (Self::Number, b'.' | b'+' | b'e' | b'E') => Self::Number,
            _ => Self::Outside,
        })
    }
}

/// Longest ending that is looked for, in tokens.
pub(crate) const MAX_ENDING: usize = 8192;
/// Continuations that are followed side by side.
const WIDTH: usize = 8;
/// Most masks that one look-around computes.
const MAX_MASKS: usize = 300;
/// Most tokens that one look-around goes.
const MAX_DEPTH: usize = 96;
/// A mask of no more tokens than this is followed in full.
const FEW: usize = 24;
/// Most states of a regular expression's automaton that are looked at.
const MAX_STATES: usize = 4096;
/// Most work that goes into it at a time, in the engine's units.
const MAX_COST: u64 = 500_000;
/// Bytes that stand for many when a mask is too large to follow in full.
const SAMPLES: &[u8] = b"a0 A1\"\\-_./:@,;)}]>=+e9zZ\n";

/// What is searched with.
pub(crate) struct Search<'a> {
    pub(crate) env: &'a TokEnv,
    pub(crate) tokens: &'a Tokens,
    pub(crate) hints: &'a Hints,
}

/// A text that is followed.
#[derive(Clone)]
struct Branch {
    matcher: llguidance::Matcher,
    place: Place,
    path: Vec<u32>,
    /// Length of the path in bytes.
    bytes: usize,
    /// Closing brackets in the path.
    closed: usize,
}

impl Branch {
    fn take(&mut self, ids: &[u32], trie: &TokTrie) -> Result<()> {
        self.matcher.consume_tokens(ids).map_err(internal)?;
        for &id in ids {
            self.place = self.place.after(trie.token(id));
            self.bytes += trie.token(id).len();
            self.closed += trie.token(id).iter().filter(|byte| b")]}".contains(byte)).count();
        }
        self.path.extend_from_slice(ids);
        Ok(())
    }

    fn ends(&mut self) -> Result<bool> {
        if self.matcher.is_stopped() {
            return Ok(self.matcher.stop_reason().is_ok());
        }
        self.matcher.is_accepting().map_err(internal)
    }

    fn allows(&mut self, ids: &[u32]) -> Result<bool> {
        Ok(!ids.is_empty() && self.matcher.validate_tokens(ids).map_err(internal)? == ids.len())
    }

    /// The first of the tokens that may come next.
    fn first(&mut self, ids: &[u32]) -> Result<Option<u32>> {
        for &id in ids {
            if self.allows(&[id])? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

fn internal(error: impl std::fmt::Display) -> ConstrainError {
    ConstrainError::Internal { problem: crate::error::said(&error) }
}

impl Search<'_> {
    /// Tokens that complete the text of `matcher`, at most `most`; none where it may end as it stands. `text` are its
    /// bytes.
    pub(crate) fn ending(
        &self,
        matcher: &llguidance::Matcher,
        place: Place,
        text: impl FnOnce() -> Vec<u8>,
        most: usize,
    ) -> Result<Option<Vec<u32>>> {
        let most = most.min(MAX_ENDING);
        let mut branch = Branch { matcher: matcher.clone(), place, path: Vec::new(), bytes: 0, closed: 0 };
        if branch.ends()? {
            return Ok(Some(branch.path));
        }
        if let Hints::Regex(automaton) = self.hints
            && let Ok(mut automaton) = automaton.lock()
            && let Some(bytes) = automaton.ending(&text())
            && let Some(ids) = self.spelled(&mut branch, &bytes)?
        {
            return Ok(Some(ids).filter(|ids| ids.len() <= most));
        }
        while branch.path.len() < most {
            let step = match self.step(&mut branch)? {
                Some(step) => step,
                None => match self.around(&branch, most - branch.path.len())? {
                    Some(step) => step,
                    None => return Ok(None),
                },
            };
            branch.take(&step, self.env.tok_trie())?;
            if branch.ends()? {
                return Ok(Some(branch.path).filter(|path| path.len() <= most));
            }
        }
        Ok(None)
    }

    /// Tokens of bytes that complete the text.
    fn spelled(&self, branch: &mut Branch, bytes: &[u8]) -> Result<Option<Vec<u32>>> {
        let single = || bytes.iter().map(|&byte| self.tokens.bytes[byte as usize]).collect::<Option<Vec<u32>>>();
        for ids in [Some(self.env.tokenize_bytes(bytes)), single()].into_iter().flatten() {
            if branch.allows(&ids)? {
                let mut there = branch.clone();
                there.take(&ids, self.env.tok_trie())?;
                if there.ends()? {
                    return Ok(Some(ids));
                }
            }
        }
        Ok(None)
    }

    /// Tokens that certainly help.
    fn step(&self, branch: &mut Branch) -> Result<Option<Vec<u32>>> {
        let Hints::Json { texts } = self.hints else { return self.forced(branch) };
        if let Some(step) = self.closing(branch)? {
            return Ok(Some(step));
        }
        match branch.place {
            Place::Outside => {
                let mut starts = HashMap::new();
                for ids in texts.iter().filter(|ids| !ids.is_empty()) {
                    // Most hints fail at their first byte, and few bytes are first.
                    let first = self.env.tok_trie().token(ids[0])[0];
                    let possible = match (starts.get(&first), self.tokens.bytes[first as usize]) {
                        (Some(possible), _) => *possible,
                        (None, Some(id)) => branch.allows(&[id])?,
                        (None, None) => true,
                    };
                    starts.insert(first, possible);
                    if possible && branch.allows(ids)? {
                        return Ok(Some(ids.clone()));
                    }
                }
                match self.forced(branch)? {
                    None => Ok(branch.first(&self.tokens.quotes)?.map(|id| vec![id])),
                    forced => Ok(forced),
                }
            }
            Place::Number => Ok(None),
            Place::String | Place::Escape => match self.forced(branch)? {
                None => self.filled(branch),
                forced => Ok(forced),
            },
        }
    }

    /// A token that closes something, or a separator where what came before is complete and more must come.
    fn closing(&self, branch: &mut Branch) -> Result<Option<Vec<u32>>> {
        match branch.place {
            Place::Escape => Ok(None),
            Place::String => Ok(branch.first(&self.tokens.quotes)?.map(|id| vec![id])),
            Place::Outside | Place::Number => {
                if let Some(id) = branch.first(&self.tokens.brackets)? {
                    return Ok(Some(vec![id]));
                }
                let comma = self.tokens.bytes[b',' as usize];
                match (branch.place, comma) {
                    (Place::Number, Some(comma)) if branch.allows(&[comma])? => Ok(Some(vec![comma])),
                    _ => Ok(None),
                }
            }
        }
    }

    /// What must come next in any case.
    fn forced(&self, branch: &mut Branch) -> Result<Option<Vec<u32>>> {
        let mut ids = branch.matcher.compute_ff_tokens();
        if ids.is_empty() {
            // Without forced tokens there may still be forced bytes.
            let bytes = branch.matcher.compute_ff_bytes();
            ids = if bytes.is_empty() { Vec::new() } else { self.env.tokenize_bytes(&bytes) };
        }
        Ok(if branch.allows(&ids)? { Some(ids) } else { None })
    }

    /// Letters up to where a string may be closed, for strings that must be long.
    fn filled(&self, branch: &Branch) -> Result<Option<Vec<u32>>> {
        let mut there = Branch { path: Vec::new(), ..branch.clone() };
        for &filler in &self.tokens.fillers {
            while there.path.len() < MAX_ENDING && there.allows(&[filler])? {
                there.take(&[filler], self.env.tok_trie())?;
                if there.first(&self.tokens.quotes)?.is_some() {
                    return Ok(Some(there.path));
                }
                if there.bytes - branch.bytes > 2 * crate::schema::MAX_AT_LEAST as usize {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Looks at several continuations side by side, up to one that ends or closes something.
    fn around(&self, from: &Branch, most: usize) -> Result<Option<Vec<u32>>> {
        let json = matches!(self.hints, Hints::Json { .. });
        let mut level = vec![Branch { path: Vec::new(), bytes: 0, closed: 0, ..from.clone() }];
        let mut masks = 0;
        for _ in 0..most.min(MAX_DEPTH) {
            let mut next: Vec<Branch> = Vec::new();
            let mut seen = HashSet::new();
            let mut followed = 0;
            for branch in &mut level {
                masks += 1;
                if masks > MAX_MASKS {
                    return Ok(None);
                }
                let Some(continuations) = self.continuations(branch, &mut seen)? else { continue };
                followed += 1;
                if followed > WIDTH {
                    break;
                }
                for ids in continuations {
                    let mut there = branch.clone();
                    if there.take(&ids, self.env.tok_trie()).is_err() {
                        continue;
                    }
                    if there.ends()? || json && self.closing(&mut there)?.is_some() {
                        return Ok(Some(there.path));
                    }
                    next.push(there);
                }
            }
            // Those that closed most and went furthest, and some of those that went least: the end may be either way.
            next.sort_by(|a, b| (b.closed, b.bytes, &a.path).cmp(&(a.closed, a.bytes, &b.path)));
            if next.len() > 3 * WIDTH {
                next.drain(2 * WIDTH..next.len() - WIDTH);
            }
            level = next;
        }
        Ok(None)
    }

    /// Some of the tokens that may come next. None where a text with the same choice was `seen`: what follows is likely
    /// the same.
    fn continuations(&self, branch: &mut Branch, seen: &mut HashSet<Vec<u32>>) -> Result<Option<Vec<Vec<u32>>>> {
        if let Some(forced) = self.forced(branch)? {
            return Ok(Some(vec![forced]));
        }
        let Ok(mask) = branch.matcher.compute_mask() else { return Ok(None) };
        if !seen.insert(mask.as_slice().to_vec()) {
            return Ok(None);
        }
        let trie = self.env.tok_trie();
        let text = |id: u32| !trie.eos_tokens().contains(&id);
        if mask.num_set() <= FEW {
            return Ok(Some(mask.iter().filter(|&id| text(id)).map(|id| vec![id]).collect()));
        }
        let samples = SAMPLES.iter().filter_map(|&byte| self.tokens.bytes[byte as usize]);
        let mut ids: Vec<u32> = samples.filter(|&id| mask.is_allowed(id)).collect();
        ids.extend(self.tokens.fillers.iter().filter(|&&id| mask.is_allowed(id)).take(3));
        if ids.is_empty() {
            ids.extend(mask.iter().filter(|&id| text(id)).take(FEW));
        }
        Ok(Some(ids.into_iter().map(|id| vec![id]).collect()))
    }
}

impl Automaton {
    /// The fewest bytes that make `text` one that the regular expression matches, as far as the automaton is looked at.
    fn ending(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        let initial = self.regex.initial_state();
        let start = self.regex.transition_bytes(initial, text);
        if let Some(known) = self.endings.get(&start) {
            return Some(known.clone());
        }
        let bytes = shortest(&mut self.regex, start)?;
        if self.endings.len() < MAX_STATES {
            self.endings.insert(start, bytes.clone());
        }
        Some(bytes)
    }
}

/// The fewest bytes from a state to a match.
fn shortest(regex: &mut Regex, start: StateID) -> Option<Vec<u8>> {
    let before = regex.cost();
    let mut order: Vec<u8> = (0..=255).collect();
    // Letters and digits make the best-looking endings.
    order.sort_by_key(|byte| {
        (!byte.is_ascii_lowercase(), !byte.is_ascii_alphanumeric(), !byte.is_ascii_graphic(), *byte)
    });
    let mut from: HashMap<StateID, (StateID, u8)> = HashMap::new();
    let mut waiting = VecDeque::from([start]);
    while let Some(state) = waiting.pop_front() {
        if regex.cost() - before > MAX_COST || from.len() > MAX_STATES {
            return None;
        }
        if regex.is_accepting(state) {
            let mut bytes = Vec::new();
            let mut at = state;
            while at != start {
                let (before, byte) = *from.get(&at)?;
                bytes.push(byte);
                at = before;
            }
            bytes.reverse();
            return Some(bytes);
        }
        for &byte in &order {
            let next = regex.transition(state, byte);
            if !next.is_dead() && next.is_valid() && next != start && !from.contains_key(&next) {
                from.insert(next, (state, byte));
                waiting.push_back(next);
            }
        }
    }
    None
}

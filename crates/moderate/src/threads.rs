//! Regular expressions in text that comes character by character: all ways to match at once, each known by where it began.
//!
//! This is the simulation of a Thompson automaton (Thompson, CACM 11(6), 1968) with the start of the match carried along.
//! What an assertion such as `\b` says depends on the characters on both sides, so the states between two characters are
//! only entered when the second is known.

use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::primitives::StateID;

use crate::patterns::Patterns;

/// No thread is in the state.
const NONE: u64 = u64::MAX;

/// States with the earliest start of a thread in each.
#[derive(Debug)]
struct Threads {
    start: Vec<u64>,
    members: Vec<StateID>,
}

impl Threads {
    fn new(states: usize) -> Self {
        Self { start: vec![NONE; states], members: Vec::new() }
    }

    /// Puts a thread into a state; whether that is news.
    fn put(&mut self, id: StateID, start: u64) -> bool {
        let place = &mut self.start[id.as_usize()];
        if *place <= start {
            return false;
        }
        if *place == NONE {
            self.members.push(id);
        }
        *place = start;
        true
    }

    fn clear(&mut self) {
        for id in self.members.drain(..) {
            self.start[id.as_usize()] = NONE;
        }
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = (StateID, u64)> {
        self.members.iter().map(|id| (*id, self.start[id.as_usize()]))
    }
}

/// A search for the expressions of one filter through one text.
#[derive(Debug)]
pub(crate) struct PatternRun {
    /// Threads after the last character, before it is known what follows.
    waiting: Threads,
    /// Threads between two bytes, and room for the next step.
    present: Threads,
    open: Vec<(StateID, u64)>,
    before: Option<char>,
}

/// What stands on both sides of a place in the text.
struct Around {
    bytes: [u8; 8],
    at: usize,
    end: usize,
}

impl Around {
    fn new(before: Option<char>, after: Option<char>) -> Self {
        let mut bytes = [0; 8];
        let at = before.map_or(0, |c| c.encode_utf8(&mut bytes).len());
        let end = at + after.map_or(0, |c| c.encode_utf8(&mut bytes[at..]).len());
        Self { bytes, at, end }
    }
}

impl PatternRun {
    pub fn new(patterns: &Patterns) -> Self {
        let states = patterns.nfa().states().len();
        let threads = || Threads::new(states);
        Self { waiting: threads(), present: threads(), open: Vec::new(), before: None }
    }

    /// Follows what needs no byte from `open` on; the earliest start of a match that is complete.
    fn close(&mut self, nfa: &NFA, around: Option<&Around>) -> Option<u64> {
        let mut found: Option<u64> = None;
        while let Some((id, start)) = self.open.pop() {
            if !self.present.put(id, start) {
                continue;
            }
            match nfa.state(id) {
                State::Look { look, next } => {
                    // Between the bytes of a character no assertion holds.
                    let holds = around.is_some_and(|a| nfa.look_matcher().matches(*look, &a.bytes[..a.end], a.at));
                    if holds {
                        self.open.push((*next, start));
                    }
                }
                State::Capture { next, .. } => self.open.push((*next, start)),
                State::Union { alternates } => self.open.extend(alternates.iter().map(|id| (*id, start))),
                State::BinaryUnion { alt1, alt2 } => self.open.extend([(*alt1, start), (*alt2, start)]),
                State::Match { .. } => found = Some(found.map_or(start, |f| f.min(start))),
                State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) | State::Fail => {}
            }
        }
        found
    }

    /// Enters the states at the place between `before` and `after`.
    fn arrive(&mut self, nfa: &NFA, after: Option<char>) -> Option<u64> {
        self.present.clear();
        self.open.extend(self.waiting.iter());
        self.waiting.clear();
        let around = Around::new(self.before, after);
        self.close(nfa, Some(&around))
    }

    /// Reads the character at byte `at`; where a match begins that is complete before it.
    pub fn step(&mut self, patterns: &Patterns, at: u64, c: char) -> Option<u64> {
        let nfa = patterns.nfa();
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        let begins = patterns.can_begin(bytes[0]);
        if !begins && self.waiting.is_empty() {
            self.before = Some(c);
            return None;
        }
        if begins {
            self.waiting.put(nfa.start_anchored(), at);
        }
        let found = self.arrive(nfa, Some(c));
        for (place, byte) in bytes.iter().enumerate() {
            if place > 0 {
                self.present.clear();
                self.open.extend(self.waiting.iter());
                self.waiting.clear();
                // No match can be complete inside a character: expressions match whole ones only.
                self.close(nfa, None);
            }
            for (id, start) in self.present.iter() {
                let next = match nfa.state(id) {
                    State::ByteRange { trans } => trans.matches_byte(*byte).then_some(trans.next),
                    State::Sparse(sparse) => sparse.matches_byte(*byte),
                    State::Dense(dense) => dense.matches_byte(*byte),
                    _ => None,
                };
                if let Some(next) = next {
                    self.waiting.put(next, start);
                }
            }
        }
        self.before = Some(c);
        found
    }

    /// Ends the text; where a match begins that is complete with it.
    pub fn finish(&mut self, patterns: &Patterns) -> Option<u64> {
        self.arrive(patterns.nfa(), None)
    }

    /// Where the first match begins that may become complete.
    pub fn hold(&self) -> Option<u64> {
        self.waiting.iter().map(|(_, start)| start).min()
    }
}

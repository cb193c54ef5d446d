//! Words and phrases, in text that comes character by character.
//!
//! The text is rewritten as its plain words with one space before and after each, and an Aho-Corasick automaton runs over
//! that. Phrases are rewritten the same way, so a match is always one of whole words.

use std::collections::{HashMap, VecDeque};

use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;

use crate::normal::{Plain, plain};

/// An automaton over plain text.
#[derive(Debug)]
pub(crate) struct WordList {
    automaton: NFA,
    start: StateID,
    /// How much of a phrase a state stands for, bytes of plain text.
    depth: HashMap<StateID, usize>,
}

impl WordList {
    /// From phrases as [`crate::normal::phrase`] writes them.
    pub fn new(phrases: &[String]) -> Result<Self, String> {
        let automaton = NFA::builder().build(phrases).map_err(|e| e.to_string())?;
        let start = automaton.start_state(Anchored::No).map_err(|e| e.to_string())?;
        let mut depth = HashMap::new();
        for phrase in phrases {
            let mut state = start;
            for (read, byte) in phrase.bytes().enumerate() {
                state = automaton.next_state(Anchored::No, state, byte);
                depth.insert(state, read + 1);
            }
        }
        Ok(Self { automaton, start, depth })
    }

    /// Whether any phrase stands in the text.
    pub fn is_in(&self, text: &str) -> bool {
        let mut run = WordRun::new(self);
        text.char_indices().any(|(at, c)| run.step(self, at as u64, c).is_some()) || run.finish(self).is_some()
    }
}

/// A run of the automaton through one text.
#[derive(Debug)]
pub(crate) struct WordRun {
    state: StateID,
    /// Bytes of plain text read.
    read: usize,
    in_word: bool,
    /// Words that may begin a match: where the space before stands in the plain text, and where the word stands in the text.
    words: VecDeque<(usize, u64)>,
}

impl WordRun {
    pub fn new(list: &WordList) -> Self {
        let mut run = Self { state: list.start, read: 0, in_word: false, words: VecDeque::new() };
        run.byte(list, b' ');
        run
    }

    fn byte(&mut self, list: &WordList, byte: u8) {
        self.state = list.automaton.next_state(Anchored::No, self.state, byte);
        self.read += 1;
    }

    /// Begins a word or goes on with one.
    fn letter(&mut self, list: &WordList, at: u64, c: char) {
        if !self.in_word {
            self.in_word = true;
            self.words.push_back((self.read - 1, at));
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            self.byte(list, byte);
        }
        self.forget(list);
    }

    /// Ends a word; the start of the match that ends with it.
    fn space(&mut self, list: &WordList) -> Option<u64> {
        if !self.in_word {
            return None;
        }
        self.in_word = false;
        self.byte(list, b' ');
        let found = list.automaton.is_match(self.state).then(|| self.longest(list)).flatten();
        self.forget(list);
        found
    }

    /// Where the longest phrase begins that ends here.
    fn longest(&self, list: &WordList) -> Option<u64> {
        let automaton = &list.automaton;
        let lengths =
            (0..automaton.match_len(self.state)).map(|i| automaton.pattern_len(automaton.match_pattern(self.state, i)));
        let start = self.read - lengths.max()?;
        self.words.iter().find(|(space, _)| *space == start).map(|(_, at)| *at)
    }

    /// Drops words that cannot begin a match any more.
    fn forget(&mut self, list: &WordList) {
        let possible = self.read - list.depth.get(&self.state).copied().unwrap_or(0);
        while self.words.front().is_some_and(|(space, _)| *space < possible) {
            self.words.pop_front();
        }
    }

    /// Reads the character at byte `at`; where a match begins that is complete now.
    pub fn step(&mut self, list: &WordList, at: u64, c: char) -> Option<u64> {
        let mut found = None;
        plain(c, &mut |part| match part {
            Plain::Word(c) => self.letter(list, at, c),
            Plain::Whole(c) => {
                found = earlier(found, self.space(list));
                self.letter(list, at, c);
                found = earlier(found, self.space(list));
            }
            Plain::Between => found = earlier(found, self.space(list)),
        });
        found
    }

    /// Ends the text; where a match begins that is complete with it.
    pub fn finish(&mut self, list: &WordList) -> Option<u64> {
        self.space(list)
    }

    /// Where the first word stands that may begin a match.
    pub fn hold(&self) -> Option<u64> {
        self.words.front().map(|(_, at)| *at)
    }
}

fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

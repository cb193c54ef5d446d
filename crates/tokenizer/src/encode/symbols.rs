//! BPE over characters, as SentencePiece and Hugging Face's library do it for models of whole texts.
//!
//! A text starts as one symbol a character; characters that the vocabulary does not have become bytes or the unknown
//! token. Then the adjacent pair of the highest priority is merged, the leftmost of equals, until none is left. Two
//! characters that are neighbours in no token can never be in one, so the text is cut in front of every `▁` whose
//! left neighbour is such a character: words are merged alone and remembered, and only text without spaces is long.
//! Long text is merged with a queue in O(n log n).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::cache::{Pool, WordCache};
use super::merges::{MAX_DIRECT, Merge};
use super::table::{FixedMap, NONE};
use crate::split::{META, PreSplit};

/// What becomes of characters that no piece is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fallback {
    /// The piece of each byte; without them the unknown token takes their place.
    pub(crate) bytes: Option<Box<[u32; 256]>>,
    pub(crate) unk: Option<u32>,
    /// Whether unknown characters in a row are one token.
    pub(crate) fuse_unk: bool,
}

impl Fallback {
    /// Appends what stands for some bytes of the text; nothing where the model has nothing for them.
    pub(crate) fn push(&self, bytes: &[u8], out: &mut Vec<u32>) {
        match (&self.bytes, self.unk) {
            (Some(ids), _) => out.extend(bytes.iter().map(|byte| ids[usize::from(*byte)])),
            (None, Some(unk)) => out.push(unk),
            (None, None) => {}
        }
    }
}

/// Pairs that merge, with their priority.
#[derive(Debug)]
pub(crate) struct PairTable {
    pub(crate) merges: Vec<Merge>,
    /// Priority of each merge, lowest first; without a list it is the place in `merges`.
    priorities: Option<Vec<u32>>,
    pairs: FixedMap<u64>,
}

impl PairTable {
    /// A table of merges in order of priority. `priorities` never falls; merges with the same one are done left to
    /// right.
    pub(crate) fn new(merges: Vec<Merge>, priorities: Option<Vec<u32>>) -> Self {
        let priorities = priorities.filter(|list| list.windows(2).any(|pair| pair[0] == pair[1]));
        let entries: Vec<(u64, u32)> =
            merges.iter().zip(0..).map(|(merge, at)| (key(merge.left, merge.right), at)).collect();
        Self { pairs: FixedMap::new(&entries), merges, priorities }
    }

    /// Place of a pair's merge in the list, or [`NONE`].
    #[inline]
    fn find(&self, left: u32, right: u32) -> u32 {
        self.pairs.get(key(left, right))
    }

    #[inline]
    pub(crate) fn priority(&self, place: u32) -> u32 {
        match &self.priorities {
            Some(list) if place != NONE => list[place as usize],
            _ => place,
        }
    }

    /// Merges symbols until no pair is left; returns the place of the last merge, or [`NONE`].
    pub(crate) fn merge(&self, symbols: &mut Vec<u32>, queue: &mut Queue) -> u32 {
        if symbols.len() <= MAX_DIRECT { self.merge_direct(symbols) } else { queue.merge(self, symbols) }
    }

    fn merge_direct(&self, symbols: &mut Vec<u32>) -> u32 {
        let mut places = [NONE; MAX_DIRECT];
        let mut length = symbols.len();
        for (place, pair) in places.iter_mut().zip(symbols.windows(2)) {
            *place = self.find(pair[0], pair[1]);
        }
        let mut last = NONE;
        while length > 1 {
            let mut best = NONE;
            let mut at = 0;
            for (index, place) in places[..length - 1].iter().enumerate() {
                // Equal priorities stand next to each other in the list, so only then the order of places is not
                // that of priorities.
                if *place != NONE && (best == NONE || self.priority(*place) < self.priority(best)) {
                    best = *place;
                    at = index;
                }
            }
            if best == NONE {
                break;
            }
            last = best;
            symbols[at] = self.merges[best as usize].merged;
            symbols.copy_within(at + 2..length, at + 1);
            places.copy_within(at + 1..length - 1, at);
            length -= 1;
            if at + 1 < length {
                places[at] = self.find(symbols[at], symbols[at + 1]);
            }
            if at > 0 {
                places[at - 1] = self.find(symbols[at - 1], symbols[at]);
            }
        }
        symbols.truncate(length);
        last
    }
}

#[inline]
fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Working memory for long texts.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Priority and position.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Queue {
    fn merge(&mut self, table: &PairTable, symbols: &mut Vec<u32>) -> u32 {
        let length = symbols.len() as u32;
        self.next.clear();
        self.next.extend((1..length).chain([NONE]));
        self.previous.clear();
        self.previous.extend([NONE].into_iter().chain(0..length - 1));
        let mut first = Vec::with_capacity(symbols.len());
        for (pair, position) in symbols.windows(2).zip(0u32..) {
            let place = table.find(pair[0], pair[1]);
            if place != NONE {
                first.push(Reverse((table.priority(place), position)));
            }
        }
        self.heap = BinaryHeap::from(first);
        let mut last = NONE;
        while let Some(Reverse((priority, position))) = self.heap.pop() {
            let after = self.next[position as usize];
            if symbols[position as usize] == NONE || after == NONE {
                continue;
            }
            // Entries are not withdrawn when a neighbour changes, so each is checked when its turn comes.
            let place = table.find(symbols[position as usize], symbols[after as usize]);
            if place == NONE || table.priority(place) != priority {
                continue;
            }
            last = place;
            let merged = table.merges[place as usize].merged;
            let behind = self.next[after as usize];
            let before = self.previous[position as usize];
            symbols[position as usize] = merged;
            symbols[after as usize] = NONE;
            self.next[position as usize] = behind;
            if behind != NONE {
                self.previous[behind as usize] = position;
                self.push(table, merged, symbols[behind as usize], position);
            }
            if before != NONE {
                self.push(table, symbols[before as usize], merged, before);
            }
        }
        symbols.retain(|symbol| *symbol != NONE);
        last
    }

    fn push(&mut self, table: &PairTable, left: u32, right: u32, position: u32) {
        let place = table.find(left, right);
        if place != NONE {
            self.heap.push(Reverse((table.priority(place), position)));
        }
    }
}

/// Symbols of characters: a table for the first plane's lower half, a map for the rest.
#[derive(Debug)]
pub(crate) struct CharTable {
    low: Vec<u32>,
    high: FixedMap<u64>,
}

/// Code points below this are looked up directly.
const LOW: usize = 0x3400;

impl CharTable {
    pub(crate) fn new(chars: &HashMap<char, u32>) -> Self {
        let mut low = vec![NONE; LOW];
        let mut high = Vec::new();
        for (character, id) in chars {
            match low.get_mut(*character as usize) {
                Some(slot) => *slot = *id,
                None => high.push((u64::from(u32::from(*character)), *id)),
            }
        }
        Self { low, high: FixedMap::new(&high) }
    }

    #[inline]
    pub(crate) fn get(&self, character: char) -> u32 {
        match self.low.get(character as usize) {
            Some(id) => *id,
            None => self.high.get(u64::from(u32::from(character))),
        }
    }
}

/// What a [`SymbolBpe`] is made of.
#[derive(Debug)]
pub(crate) struct SymbolParts {
    pub(crate) split: PreSplit,
    pub(crate) chars: CharTable,
    pub(crate) table: PairTable,
    pub(crate) fallback: Fallback,
    /// Characters that are part of tokens and no tokens themselves: symbol `n_vocab + i` is the i-th.
    pub(crate) parts_only: Vec<char>,
    pub(crate) n_vocab: u32,
    /// Characters that stand in front of a `▁` inside some token.
    pub(crate) joins: HashSet<char>,
    /// Pieces that are one token whatever the merges say.
    pub(crate) whole: HashMap<Box<[u8]>, u32>,
}

/// BPE over characters.
#[derive(Debug)]
pub(crate) struct SymbolBpe {
    parts: SymbolParts,
    /// Whether text may be cut in front of a `▁`: it is a symbol of its own, so that nothing unknown reaches over it.
    cuts: bool,
    longest_whole: usize,
    pool: Pool<Scratch>,
}

/// Working memory of one encoding thread.
#[derive(Debug)]
struct Scratch {
    cache: WordCache,
    words: Words,
}

/// Working memory for words that are not in the cache.
#[derive(Debug, Default)]
struct Words {
    symbols: Vec<u32>,
    queue: Queue,
}

/// Longest text that is merged as a whole, so that positions fit 32 bits.
const MAX_LONG: usize = 1 << 30;

impl SymbolBpe {
    pub(crate) fn new(parts: SymbolParts) -> Self {
        let cuts = META.chars().all(|meta| parts.chars.get(meta) != NONE);
        let longest_whole = parts.whole.keys().map(|key| key.len()).max().unwrap_or(0);
        Self { parts, cuts, longest_whole, pool: Pool::new() }
    }

    pub(crate) fn split(&self) -> PreSplit {
        self.parts.split
    }

    pub(crate) fn merges(&self) -> &[Merge] {
        &self.parts.table.merges
    }

    pub(crate) fn fallback(&self) -> &Fallback {
        &self.parts.fallback
    }

    /// Whether whole pieces are looked up first.
    pub(crate) fn whole_pieces(&self) -> bool {
        !self.parts.whole.is_empty()
    }

    /// Appends the tokens of `text`, which may be any bytes.
    pub(crate) fn encode_into(&self, text: &[u8], out: &mut Vec<u32>) {
        let new = || Scratch { cache: WordCache::new(), words: Words::default() };
        self.pool.with(new, |scratch| {
            let mut start = 0;
            while start < text.len() {
                let end = self.parts.split.piece_end(text, start);
                let piece = &text[start..end];
                let whole = (piece.len() <= self.longest_whole).then(|| self.parts.whole.get(piece)).flatten();
                match whole {
                    Some(id) => out.push(*id),
                    None => self.encode_piece(text, start, end, scratch, out),
                }
                start = end;
            }
            // Text without spaces can be as long as it likes; what it needed is given back.
            if scratch.words.symbols.capacity() > 1 << 20 {
                scratch.words = Words::default();
            }
        });
    }

    fn encode_piece(&self, text: &[u8], start: usize, end: usize, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { cache, words } = scratch;
        let mut from = start;
        while from < end {
            let to = self.word_end(text, from, end);
            cache.encode(text, from, to, out, |word, out| self.encode_word(word, words, out));
            from = to;
        }
    }

    /// The next place behind `start` that no token reaches over, or `end`.
    #[inline]
    fn word_end(&self, text: &[u8], start: usize, end: usize) -> usize {
        const MARK: [u8; 3] = [0xe2, 0x96, 0x81];
        if !self.cuts {
            return end;
        }
        let mut at = start + 1;
        while at + MARK.len() <= end {
            if text[at] == MARK[0] && text[at..at + MARK.len()] == MARK && !self.is_joined(&text[start..at]) {
                return at;
            }
            at += 1;
        }
        end
    }

    /// Whether some token has the last character of `text` in front of a `▁`.
    fn is_joined(&self, text: &[u8]) -> bool {
        let first = (text.len().saturating_sub(4)..text.len()).rev().find(|at| text[*at] & 0xc0 != 0x80);
        let last = first.and_then(|at| std::str::from_utf8(&text[at..]).ok()).and_then(|text| text.chars().next());
        last.is_some_and(|last| self.parts.joins.contains(&last))
    }

    fn encode_word(&self, word: &[u8], words: &mut Words, out: &mut Vec<u32>) {
        for word in word.chunks(MAX_LONG) {
            words.symbols.clear();
            for chunk in word.utf8_chunks() {
                for character in chunk.valid().chars() {
                    match self.parts.chars.get(character) {
                        NONE => {
                            let mut buffer = [0; 4];
                            let bytes = character.encode_utf8(&mut buffer).as_bytes();
                            self.parts.fallback.push(bytes, &mut words.symbols);
                        }
                        id => words.symbols.push(id),
                    }
                }
                if !chunk.invalid().is_empty() {
                    self.parts.fallback.push(chunk.invalid(), &mut words.symbols);
                }
            }
            if words.symbols.is_empty() {
                continue;
            }
            self.parts.table.merge(&mut words.symbols, &mut words.queue);
            self.emit(&words.symbols, out);
        }
    }

    /// Appends symbols as tokens.
    fn emit(&self, symbols: &[u32], out: &mut Vec<u32>) {
        let fallback = &self.parts.fallback;
        let start = out.len();
        for symbol in symbols {
            let before = out.len();
            match symbol.checked_sub(self.parts.n_vocab) {
                None => out.push(*symbol),
                Some(index) => {
                    let mut buffer = [0; 4];
                    let text = self.parts.parts_only[index as usize].encode_utf8(&mut buffer);
                    fallback.push(text.as_bytes(), out);
                }
            }
            let is_unk = out.len() > before && fallback.unk == out.last().copied();
            if is_unk && fallback.fuse_unk && before > start && fallback.unk == Some(out[before - 1]) {
                out.truncate(before);
            }
        }
    }
}

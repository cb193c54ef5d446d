//! Unigram models: of all ways to cut a text into pieces, the one whose scores add up to most (Kudo, "Subword
//! Regularization", 2018), found by Viterbi's algorithm.
//!
//! Sums and ties are those of Hugging Face's library: scores are added in f64 from the start of each word, and of ways
//! with equal sums the one counts whose last piece is longest.

use std::mem;

use super::cache::{Pool, WordCache};
use super::symbols::Fallback;
use super::table::{FixedMap, NONE};
use crate::added::first_char;
use crate::split::PreSplit;

/// How far an unknown character scores below the worst piece.
const UNKNOWN_PENALTY: f64 = 10.0;
/// Longest text without a cut that is encoded as a whole, so that positions fit 32 bits.
const MAX_LONG: usize = 1 << 30;
/// Positions whose working memory is kept from call to call.
const KEPT_POSITIONS: usize = 1 << 20;

/// What a [`Unigram`] is made of.
#[derive(Debug)]
pub(crate) struct UnigramParts<'a> {
    pub(crate) split: PreSplit,
    /// Text, id and score of every piece that text may become.
    pub(crate) pieces: Vec<(&'a str, u32, f64)>,
    /// Score of the worst piece.
    pub(crate) min_score: f64,
    pub(crate) fallback: Fallback,
}

/// A unigram model; read-only apart from the pool of working memory.
#[derive(Debug)]
pub(crate) struct Unigram {
    split: PreSplit,
    trie: Trie,
    min_score: f64,
    fallback: Fallback,
    pool: Pool<Scratch>,
}

/// Working memory of one encoding thread.
#[derive(Debug)]
struct Scratch {
    cache: WordCache,
    lattice: Lattice,
}

/// The best way to each position of a word.
#[derive(Debug, Default)]
struct Lattice {
    ends: Vec<End>,
    /// Where the pieces of the best way end, and their ids.
    path: Vec<(u32, u32)>,
}

/// The best way that ends at a position.
#[derive(Clone, Copy, Debug)]
struct End {
    score: f64,
    /// Where its last piece starts; [`NONE`] when there is no way.
    from: u32,
    /// Its last piece; [`NONE`] for an unknown character.
    id: u32,
}

impl End {
    const NOWHERE: Self = Self { score: 0.0, from: NONE, id: NONE };

    #[inline]
    fn offer(&mut self, score: f64, from: u32, id: u32) {
        if self.from == NONE || score > self.score {
            *self = Self { score, from, id };
        }
    }
}

impl Unigram {
    pub(crate) fn new(parts: &UnigramParts<'_>) -> Self {
        Self {
            split: parts.split,
            trie: Trie::new(&parts.pieces),
            min_score: parts.min_score,
            fallback: parts.fallback.clone(),
            pool: Pool::new(),
        }
    }

    pub(crate) fn split(&self) -> PreSplit {
        self.split
    }

    pub(crate) fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    /// Score of the worst piece, from which that of an unknown character follows.
    pub(crate) fn min_score(&self) -> f64 {
        self.min_score
    }

    /// Appends the tokens of `text`, which may be any bytes.
    pub(crate) fn encode_into(&self, text: &[u8], out: &mut Vec<u32>) {
        let new = || Scratch { cache: WordCache::new(), lattice: Lattice::default() };
        self.pool.with(new, |Scratch { cache, lattice }| {
            let mut start = 0;
            while start < text.len() {
                let end = self.split.piece_end(text, start);
                cache.encode(text, start, end, out, |word, out| self.encode_word(word, lattice, out));
                start = end;
            }
            // A text without a cut can be as long as it likes; what it needed is given back.
            if lattice.ends.capacity() > KEPT_POSITIONS {
                *lattice = Lattice::default();
            }
        });
    }

    fn encode_word(&self, word: &[u8], lattice: &mut Lattice, out: &mut Vec<u32>) {
        for word in word.chunks(MAX_LONG) {
            self.find_best(word, &mut lattice.ends);
            lattice.trace();
            let mut start = 0;
            let mut unknown_from = None;
            for (end, id) in lattice.path.iter().rev() {
                if *id == NONE || Some(*id) == self.fallback.unk {
                    unknown_from.get_or_insert(start);
                } else {
                    if let Some(from) = unknown_from.take() {
                        self.push_unknown(&word[from..start], out);
                    }
                    out.push(*id);
                }
                start = *end as usize;
            }
            if let Some(from) = unknown_from {
                self.push_unknown(&word[from..], out);
            }
        }
    }

    /// Fills in the best way to each position of `word`.
    fn find_best(&self, word: &[u8], ends: &mut Vec<End>) {
        ends.clear();
        ends.resize(word.len() + 1, End::NOWHERE);
        let unknown = self.min_score - UNKNOWN_PENALTY;
        let mut at = 0;
        while at < word.len() {
            // A byte that is no UTF-8 is an unknown character.
            let length = if word[at].is_ascii() { 1 } else { first_char(&word[at..]).map_or(1, char::len_utf8) };
            let here = ends[at].score;
            let mut is_piece = false;
            let mut node = Trie::ROOT;
            for (byte, end) in word[at..].iter().zip(at + 1..) {
                node = self.trie.child(node, *byte);
                if node == NONE {
                    break;
                }
                let leaf = self.trie.nodes[node as usize];
                if leaf.id != NONE {
                    ends[end].offer(leaf.score + here, at as u32, leaf.id);
                    is_piece |= end == at + length;
                }
            }
            if !is_piece {
                ends[at + length].offer(unknown + here, at as u32, NONE);
            }
            at += length;
        }
    }

    /// Unknown characters in a row are one token, or the bytes that they are made of.
    fn push_unknown(&self, text: &[u8], out: &mut Vec<u32>) {
        match self.trie.find(text) {
            NONE => self.fallback.push(text, out),
            id => out.push(id),
        }
    }
}

impl Lattice {
    /// Puts the best way into `path`, last piece first.
    fn trace(&mut self) {
        let mut path = mem::take(&mut self.path);
        path.clear();
        let mut at = self.ends.len() - 1;
        while at > 0 {
            let end = self.ends[at];
            path.push((at as u32, end.id));
            at = end.from as usize;
        }
        self.path = path;
    }
}

/// A tree of the bytes of all pieces.
#[derive(Debug)]
struct Trie {
    /// Child of each node by byte: `node * 256 + byte`.
    children: FixedMap<u64>,
    /// Children of the root.
    first: Box<[u32; 256]>,
    nodes: Vec<Leaf>,
}

/// The piece that ends at a node, if one does.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    id: u32,
    score: f64,
}

impl Trie {
    const ROOT: u32 = 0;

    fn new(pieces: &[(&str, u32, f64)]) -> Self {
        let mut sorted = pieces.to_vec();
        sorted.sort_unstable_by(|a, b| a.0.cmp(b.0));
        let empty = Leaf { id: NONE, score: 0.0 };
        let mut nodes = vec![empty];
        let mut children = Vec::new();
        let mut first = Box::new([NONE; 256]);
        // Nodes on the way to the last piece: pieces in order share what they begin with.
        let mut way = vec![Self::ROOT];
        let mut last = "";
        for (text, id, score) in sorted {
            let common = last.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
            way.truncate(common + 1);
            for byte in text.bytes().skip(common) {
                let parent = way.last().copied().unwrap_or(Self::ROOT);
                let node = nodes.len() as u32;
                nodes.push(empty);
                if parent == Self::ROOT {
                    first[usize::from(byte)] = node;
                } else {
                    children.push((u64::from(parent) << 8 | u64::from(byte), node));
                }
                way.push(node);
            }
            let node = way.last().copied().unwrap_or(Self::ROOT);
            nodes[node as usize] = Leaf { id, score };
            last = text;
        }
        Self { children: FixedMap::new(&children), first, nodes }
    }

    #[inline]
    fn child(&self, node: u32, byte: u8) -> u32 {
        if node == Self::ROOT {
            return self.first[usize::from(byte)];
        }
        self.children.get(u64::from(node) << 8 | u64::from(byte))
    }

    /// The piece with exactly this text, or [`NONE`].
    fn find(&self, text: &[u8]) -> u32 {
        let mut node = Self::ROOT;
        for byte in text {
            node = self.child(node, *byte);
            if node == NONE {
                return NONE;
            }
        }
        self.nodes[node as usize].id
    }
}

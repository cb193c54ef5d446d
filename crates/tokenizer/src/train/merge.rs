//! Learning merges from counted pieces.
//!
//! All pieces lie in one linked list of tokens; each pair has its count and the places where it occurs. A merge visits
//! just the places of its pair, so the whole training takes time proportional to the number of tokens that merging
//! removes, plus look-ups. A pair with a new token can only come about while that token is made, so after that the
//! count of a pair only falls: a queue of pairs with counts that may be out of date, checked when they come up, always
//! yields the true maximum, and pairs that are too rare from the start need not be kept.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::byte_ids;
use super::count::Pieces;
use crate::bytes::BYTE_ORDER;
use crate::encode::fold;

/// No token, no place.
const NONE: u32 = u32::MAX;
/// Merges between two reports of progress.
const REPORT_EVERY: usize = 64;

/// What to learn.
pub(super) struct Options {
    /// Number of merges.
    pub(super) wanted: usize,
    /// Least count of a pair, at least one.
    pub(super) min_count: u64,
    /// Bytes that no merge may make.
    pub(super) forbidden: HashSet<Vec<u8>>,
}

/// What was learnt.
pub(super) struct Learnt {
    /// Bytes of each token, those of single bytes first.
    pub(super) tokens: Vec<Vec<u8>>,
    /// Pairs of token ids in order.
    pub(super) merges: Vec<(u32, u32)>,
}

/// A pair of tokens, `left << 32 | right`; the order of the numbers is that of the tie-break.
type Pair = u64;

fn pair_of(left: u32, right: u32) -> Pair {
    u64::from(left) << 32 | u64::from(right)
}

/// A hasher for pairs. Pairs are made of ids that the training itself gives out, so nobody can choose them to collide.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word ^ 0x243f_6a88_85a3_08d3, 0x9e37_79b9_7f4a_7c15);
    }
}

type Pairs = HashMap<Pair, Occurrences, BuildHasherDefault<PairHasher>>;

/// Count of a pair and where it occurs, in rising order. Some of the places may hold another pair by now.
#[derive(Default)]
struct Occurrences {
    count: u64,
    places: Vec<u32>,
}

/// All pieces as tokens.
struct Text {
    /// Token at each place; [`NONE`] where a token was merged into the one before.
    tokens: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Which piece a place belongs to.
    piece: Vec<u32>,
    /// Count of each piece.
    counts: Vec<u64>,
}

impl Text {
    fn new(pieces: Pieces) -> Self {
        let ids = byte_ids();
        let length = pieces.bytes.len();
        let tokens = pieces.bytes.iter().map(|byte| ids[usize::from(*byte)]).collect();
        let (mut next, mut previous, mut piece) =
            (Vec::with_capacity(length), Vec::with_capacity(length), Vec::with_capacity(length));
        let mut start = 0;
        for (end, index) in pieces.ends.iter().zip(0u32..) {
            for place in start..*end {
                next.push(if place + 1 < *end { place as u32 + 1 } else { NONE });
                previous.push(if place > start { place as u32 - 1 } else { NONE });
                piece.push(index);
            }
            start = *end;
        }
        Self { tokens, next, previous, piece, counts: pieces.counts }
    }

    fn pairs(&self) -> Pairs {
        let mut by_bytes: Vec<Occurrences> = std::iter::repeat_with(Occurrences::default).take(1 << 16).collect();
        for (place, next) in self.next.iter().enumerate() {
            if *next != NONE {
                let index = self.tokens[place] << 8 | self.tokens[*next as usize];
                let pair = &mut by_bytes[index as usize];
                pair.count += self.counts[self.piece[place] as usize];
                pair.places.push(place as u32);
            }
        }
        let used = (0u32..).zip(by_bytes).filter(|(_, pair)| pair.count > 0);
        used.map(|(index, pair)| (pair_of(index >> 8, index & 255), pair)).collect()
    }
}

/// New pairs on one side of a new token, by the token on that side.
struct Side {
    /// Index into `found` of each token, or [`NONE`].
    slots: Vec<u32>,
    found: Vec<(u32, Occurrences)>,
}

impl Side {
    fn new(n_tokens: usize) -> Self {
        Self { slots: vec![NONE; n_tokens], found: Vec::new() }
    }

    fn add(&mut self, neighbour: u32, place: u32, count: u64) {
        let slot = &mut self.slots[neighbour as usize];
        if *slot == NONE {
            *slot = self.found.len() as u32;
            self.found.push((neighbour, Occurrences::default()));
        }
        let pair = &mut self.found[*slot as usize].1;
        pair.count += count;
        pair.places.push(place);
    }

    fn take(&mut self) -> Vec<(u32, Occurrences)> {
        for (neighbour, _) in &self.found {
            self.slots[*neighbour as usize] = NONE;
        }
        std::mem::take(&mut self.found)
    }
}

impl Text {
    /// Merges `left right` at `place` into `merged`, if they still stand there, and notes the pairs that come about.
    fn merge_at(&mut self, place: u32, (left, right): (u32, u32), merged: u32, sides: &mut Sides) {
        let removed = self.next[place as usize];
        if self.tokens[place as usize] != left || removed == NONE || self.tokens[removed as usize] != right {
            return;
        }
        let count = self.counts[self.piece[place as usize] as usize];
        let before = self.previous[place as usize];
        let after = self.next[removed as usize];
        self.tokens[place as usize] = merged;
        self.tokens[removed as usize] = NONE;
        self.next[place as usize] = after;
        if before != NONE {
            sides.left.add(self.tokens[before as usize], before, count);
        }
        if after != NONE {
            self.previous[after as usize] = place;
            sides.right.add(self.tokens[after as usize], place, count);
        }
    }
}

/// The pairs that come about by one merge.
struct Sides {
    left: Side,
    right: Side,
}

/// Learns merges; `progress` is told how many are done.
pub(super) fn learn(pieces: Pieces, options: &Options, progress: &mut dyn FnMut(usize)) -> Learnt {
    let mut text = Text::new(pieces);
    let mut pairs = text.pairs();
    pairs.retain(|_, occurrences| occurrences.count >= options.min_count);
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
        pairs.iter().map(|(pair, occurrences)| (occurrences.count, Reverse(*pair))).collect();
    let mut tokens: Vec<Vec<u8>> = BYTE_ORDER.iter().map(|byte| vec![*byte]).collect();
    let mut merges = Vec::new();
    let mut sides = Sides { left: Side::new(256 + options.wanted), right: Side::new(256 + options.wanted) };

    while merges.len() < options.wanted {
        let Some((count, Reverse(pair))) = queue.pop() else { break };
        let Some(occurrences) = pairs.remove(&pair) else { continue };
        if occurrences.count < count {
            if occurrences.count >= options.min_count {
                queue.push((occurrences.count, Reverse(pair)));
                pairs.insert(pair, occurrences);
            }
            continue;
        }
        let (left, right) = ((pair >> 32) as u32, pair as u32);
        let bytes = [tokens[left as usize].as_slice(), tokens[right as usize].as_slice()].concat();
        if options.forbidden.contains(&bytes) {
            continue;
        }
        let merged = tokens.len() as u32;
        tokens.push(bytes);
        merges.push((left, right));
        for place in occurrences.places {
            text.merge_at(place, (left, right), merged, &mut sides);
        }
        for (pair, occurrences) in sides.settle(&mut pairs, (left, right), merged) {
            if occurrences.count >= options.min_count {
                queue.push((occurrences.count, Reverse(pair)));
                pairs.insert(pair, occurrences);
            }
        }
        if merges.len() % REPORT_EVERY == 0 {
            progress(merges.len());
        }
    }
    progress(merges.len());
    Learnt { tokens, merges }
}

impl Sides {
    /// Takes from the old pairs what the new ones gained, and returns the new ones.
    fn settle(
        &mut self,
        pairs: &mut Pairs,
        (left, right): (u32, u32),
        merged: u32,
    ) -> impl Iterator<Item = (Pair, Occurrences)> + use<> {
        let gained_left = self.left.take();
        let mut gained_right = self.right.take();
        let mut lose = |pair: Pair, count: u64| {
            if let Some(occurrences) = pairs.get_mut(&pair) {
                occurrences.count -= count;
            }
        };
        for (token, occurrences) in &gained_right {
            lose(pair_of(right, *token), occurrences.count);
        }
        for (token, occurrences) in &gained_left {
            if *token != merged {
                lose(pair_of(*token, left), occurrences.count);
            } else if let Some((_, follow)) = gained_right.iter_mut().find(|(token, _)| *token == left) {
                // Merged next to merged: the second was `left right` when the first was noted.
                follow.count -= occurrences.count;
            }
        }
        let on_left = gained_left.into_iter().map(move |(token, occurrences)| (pair_of(token, merged), occurrences));
        let on_right = gained_right.into_iter().map(move |(token, occurrences)| (pair_of(merged, token), occurrences));
        on_left.chain(on_right)
    }
}

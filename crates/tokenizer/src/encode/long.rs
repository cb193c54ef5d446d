//! Merging of long pieces, where the direct loop would be quadratic.
//!
//! The tokens of a piece form a doubly linked list over byte positions; a queue holds the positions at which a pair may
//! merge. In a merge list as trainers write it, every merge comes after those that make its parts, so a merge can only
//! enable merges of higher rank. The queue is then one bucket of positions per rank and a bitmap of buckets in use,
//! swept once from low to high: each merge removes a token and adds at most two queue entries, so the whole costs time
//! linear in the piece (plus one look at each word of the bitmap). Merges of the same rank only overlap when both
//! parts are the same token; such runs are merged from their left end, as the definition wants.
//!
//! For merge lists in any other order the queue is a binary heap of (rank, position): O(n log n), exact for every list.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::merges::MergeTable;
use super::table::NONE;

/// Longest piece in bytes that is merged as a whole, so that positions and queue entries fit 32 bits.
pub(super) const MAX_LONG: usize = 1 << 30;

/// Working memory beyond this many positions is given back after use.
const KEEP: usize = 1 << 20;

/// Working memory for long pieces, reused from one to the next. Between calls every bucket is empty.
#[derive(Debug, Default)]
pub(crate) struct LongScratch {
    /// Token that starts at each byte; [`NONE`] where none starts.
    tokens: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// First entry of each rank's bucket.
    heads: Vec<u32>,
    /// Bit set of ranks whose bucket is in use.
    used: Vec<u64>,
    /// Queue entries: position, and the next entry of the same bucket.
    entries: Vec<(u32, u32)>,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

impl LongScratch {
    /// Appends the tokens of `piece` to `out`; returns the rank of the last merge, or [`NONE`].
    pub(super) fn merge(&mut self, table: &MergeTable, piece: &[u8], out: &mut Vec<u32>) -> u32 {
        self.start(table, piece);
        let last_rank = if table.ascending { self.sweep(table) } else { self.pop_all(table) };
        out.extend(self.tokens.iter().filter(|token| **token != NONE));
        if self.tokens.len() > KEEP {
            *self = Self::default();
        }
        last_rank
    }

    fn start(&mut self, table: &MergeTable, piece: &[u8]) {
        let length = piece.len() as u32;
        self.tokens.clear();
        self.tokens.extend(piece.iter().map(|byte| table.byte_tokens[usize::from(*byte)]));
        self.next.clear();
        self.next.extend((1..length).chain([NONE]));
        self.previous.clear();
        self.previous.extend([NONE].into_iter().chain(0..length - 1));
        self.entries.clear();
        if table.ascending {
            self.heads.resize(table.merges.len(), NONE);
            self.used.resize(table.merges.len().div_ceil(64), 0);
        }
        for (pair, position) in piece.windows(2).zip(0..) {
            self.push(table, table.byte_rank(pair[0], pair[1]), position);
        }
    }

    fn push(&mut self, table: &MergeTable, rank: u32, position: u32) {
        if rank == NONE {
            return;
        }
        if table.ascending {
            let bucket = rank as usize;
            self.used[bucket / 64] |= 1 << (bucket % 64);
            let entry = self.entries.len() as u32;
            self.entries.push((position, std::mem::replace(&mut self.heads[bucket], entry)));
        } else {
            self.heap.push(Reverse((rank, position)));
        }
    }

    /// Does all merges, rank after rank.
    fn sweep(&mut self, table: &MergeTable) -> u32 {
        let mut last_rank = NONE;
        let mut word = 0;
        while word < self.used.len() {
            if self.used[word] == 0 {
                word += 1;
                continue;
            }
            let rank = word * 64 + self.used[word].trailing_zeros() as usize;
            self.used[word] &= self.used[word] - 1;
            let merge = table.merges[rank];
            let mut entry = std::mem::replace(&mut self.heads[rank], NONE);
            while entry != NONE {
                let (position, following) = self.entries[entry as usize];
                entry = following;
                if !self.has_pair(position, merge.left, merge.right) {
                    continue;
                }
                last_rank = rank as u32;
                if merge.left == merge.right {
                    self.merge_run(table, position, merge.left, merge.merged);
                } else {
                    self.merge_at(table, position, merge.merged);
                }
            }
        }
        last_rank
    }

    /// Merges a run of equal tokens pair by pair from its left end; `position` lies in the run.
    fn merge_run(&mut self, table: &MergeTable, mut position: u32, part: u32, merged: u32) {
        loop {
            let before = self.previous[position as usize];
            if before == NONE || self.tokens[before as usize] != part {
                break;
            }
            position = before;
        }
        while position != NONE && self.has_pair(position, part, part) {
            self.merge_at(table, position, merged);
            position = self.next[position as usize];
        }
    }

    /// Does all merges, each time the lowest-ranked and of those the leftmost.
    fn pop_all(&mut self, table: &MergeTable) -> u32 {
        let mut last_rank = NONE;
        while let Some(Reverse((rank, position))) = self.heap.pop() {
            let merge = table.merges[rank as usize];
            if self.has_pair(position, merge.left, merge.right) {
                last_rank = rank;
                self.merge_at(table, position, merge.merged);
            }
        }
        last_rank
    }

    /// Whether these two tokens stand at `position`. Queue entries are not withdrawn when a neighbour changes, so
    /// each is checked when its turn comes.
    fn has_pair(&self, position: u32, left: u32, right: u32) -> bool {
        let next = self.next[position as usize];
        self.tokens[position as usize] == left && next != NONE && self.tokens[next as usize] == right
    }

    /// Replaces the pair at `position` by `merged` and queues the two pairs that come about.
    fn merge_at(&mut self, table: &MergeTable, position: u32, merged: u32) {
        let removed = self.next[position as usize];
        let after = self.next[removed as usize];
        let before = self.previous[position as usize];
        self.tokens[position as usize] = merged;
        self.tokens[removed as usize] = NONE;
        self.next[position as usize] = after;
        if after != NONE {
            self.previous[after as usize] = position;
            self.push(table, table.rank(merged, self.tokens[after as usize]), position);
        }
        if before != NONE {
            self.push(table, table.rank(self.tokens[before as usize], merged), before);
        }
    }
}

//! Counting pieces of text with all threads, in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use rayon::prelude::*;

use crate::encode::{MAX_SHORT_PIECE, fold, piece_key};
use crate::split::PreSplit;

/// Text gathered before it is counted, in bytes.
const BATCH: usize = 16 << 20;
/// Least text that a thread counts at a time, in bytes.
const UNIT: usize = 128 << 10;
/// Longer pieces are counted in parts of this many bytes: merges across such a cut are of no use, and a piece of a
/// megabyte would take a megabyte of the table.
const MAX_PIECE: usize = 1024;
/// Parts of the table, so that threads can add to it side by side.
const SHARDS: usize = 64;
/// Slots of the table of recent pieces in front of a thread's counts, a power of two.
const RECENT: usize = 1 << 12;
/// Memory for a distinct piece, apart from and for each of its bytes: a table entry with its slack while counting;
/// tokens, links, weights and lists of occurrences while merging.
const PIECE_COST: usize = 64;
const BYTE_COST: usize = 24;

/// Builds hashers for short keys. The seed differs from run to run, so that no text can be written to collide; no
/// result depends on it.
#[derive(Clone, Copy)]
struct Seeded(u64);

struct FoldHasher(u64);

impl BuildHasher for Seeded {
    type Hasher = FoldHasher;

    fn build_hasher(&self) -> FoldHasher {
        FoldHasher(self.0)
    }
}

impl Hasher for FoldHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u128(u128::from(*byte));
        }
    }

    fn write_u128(&mut self, word: u128) {
        self.0 = fold(word as u64 ^ self.0, (word >> 64) as u64 ^ self.0.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15);
    }
}

/// A part of the table.
struct Shard {
    /// Pieces that fit the key of the encoder's cache, by that key.
    short: HashMap<u128, u64, Seeded>,
    long: HashMap<Box<[u8]>, u64>,
}

impl Shard {
    fn new(seed: Seeded) -> Self {
        Self { short: HashMap::with_hasher(seed), long: HashMap::new() }
    }

    fn add(&mut self, other: &Self) {
        for (key, count) in &other.short {
            *self.short.entry(*key).or_insert(0) += count;
        }
        for (piece, count) in &other.long {
            match self.long.get_mut(piece) {
                Some(known) => *known += count,
                None => drop(self.long.insert(piece.clone(), *count)),
            }
        }
    }

    /// Cost in memory and count of each piece.
    fn costs(&self) -> impl Iterator<Item = (usize, u64)> {
        let short = self.short.iter().map(|(key, count)| (short_length(*key), *count));
        let long = self.long.iter().map(|(piece, count)| (piece.len(), *count));
        short.chain(long).map(|(length, count)| (PIECE_COST + BYTE_COST * length, count))
    }
}

fn short_length(key: u128) -> usize {
    (key >> 120) as usize
}

/// A thread's counts of some text.
struct Local {
    seed: Seeded,
    shards: Vec<Shard>,
    /// Recent short pieces with counts that are not in the shards yet.
    recent: Vec<(u128, u64)>,
}

impl Local {
    fn new(seed: Seeded) -> Self {
        let shards = (0..SHARDS).map(|_| Shard::new(seed)).collect();
        Self { seed, shards, recent: vec![(0, 0); RECENT] }
    }

    fn count(&mut self, split: PreSplit, text: &[u8]) {
        let mut start = 0;
        while start < text.len() {
            let end = split.piece_end(text, start);
            if end - start <= MAX_SHORT_PIECE {
                let [low, high] = piece_key(text, start, end - start);
                self.count_short(u128::from(high) << 64 | u128::from(low));
            } else {
                for part in text[start..end].chunks(MAX_PIECE) {
                    self.count_part(part);
                }
            }
            start = end;
        }
    }

    #[inline]
    fn count_short(&mut self, key: u128) {
        let hash = self.seed.hash_one(key) as usize;
        let slot = &mut self.recent[hash & (RECENT - 1)];
        if slot.0 == key {
            slot.1 += 1;
            return;
        }
        let (old, count) = std::mem::replace(slot, (key, 1));
        self.add_short(old, count);
    }

    fn add_short(&mut self, key: u128, count: u64) {
        if count > 0 {
            // Bits that neither the table of recent pieces nor the maps use.
            let shard = (self.seed.hash_one(key) >> 40) as usize % SHARDS;
            *self.shards[shard].short.entry(key).or_insert(0) += count;
        }
    }

    fn count_part(&mut self, part: &[u8]) {
        if part.len() <= MAX_SHORT_PIECE {
            let [low, high] = piece_key(part, 0, part.len());
            self.count_short(u128::from(high) << 64 | u128::from(low));
            return;
        }
        let shard =
            part.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte))) % SHARDS;
        let counts = &mut self.shards[shard].long;
        match counts.get_mut(part) {
            Some(count) => *count += 1,
            None => drop(counts.insert(part.into(), 1)),
        }
    }

    fn finish(mut self) -> Vec<Shard> {
        for (key, count) in std::mem::take(&mut self.recent) {
            self.add_short(key, count);
        }
        self.shards
    }
}

/// What was dropped to stay within the memory limit.
#[derive(Clone, Copy, Default)]
pub(super) struct Dropped {
    pub(super) pieces: u64,
    pub(super) occurrences: u64,
}

/// Counts of all pieces so far.
pub(super) struct PieceCounts {
    split: PreSplit,
    memory: usize,
    seed: Seeded,
    shards: Vec<Shard>,
    /// Text that is not counted yet, and where its documents end.
    batch: Vec<u8>,
    ends: Vec<usize>,
    bytes: u64,
    dropped: Dropped,
}

impl PieceCounts {
    pub(super) fn new(split: PreSplit, memory: usize) -> Self {
        let seed = Seeded(RandomState::new().hash_one(0));
        let shards = (0..SHARDS).map(|_| Shard::new(seed)).collect();
        let batch = Vec::new();
        Self { split, memory, seed, shards, batch, ends: Vec::new(), bytes: 0, dropped: Dropped::default() }
    }

    /// Adds a document; true if a batch was counted. Batches are cut by the text alone, so that dropping pieces between
    /// them does not depend on time or threads.
    pub(super) fn push(&mut self, mut document: &[u8]) -> bool {
        let mut counted = false;
        self.bytes += document.len() as u64;
        while self.batch.len() + document.len() > BATCH {
            let cut = self.split.safe_cut(document, BATCH.saturating_sub(self.batch.len()));
            self.batch.extend_from_slice(&document[..cut]);
            self.ends.push(self.batch.len());
            document = &document[cut..];
            self.flush();
            counted = true;
        }
        self.batch.extend_from_slice(document);
        self.ends.push(self.batch.len());
        counted
    }

    /// Counts what is waiting.
    pub(super) fn flush(&mut self) {
        let chunks = self.chunks();
        let (split, seed) = (self.split, self.seed);
        let per_thread = chunks.len().div_ceil(2 * rayon::current_num_threads()).max(1);
        let counted: Vec<Vec<Shard>> = chunks
            .par_chunks(per_thread)
            .map(|chunks| {
                let mut local = Local::new(seed);
                for chunk in chunks {
                    local.count(split, chunk);
                }
                local.finish()
            })
            .collect();
        self.shards.par_iter_mut().enumerate().for_each(|(index, shard)| {
            for local in &counted {
                shard.add(&local[index]);
            }
        });
        self.batch.clear();
        self.ends.clear();
        self.drop_rarest();
    }

    /// The waiting documents, long ones cut where a piece ends anyway.
    fn chunks(&self) -> Vec<&[u8]> {
        let mut chunks = Vec::new();
        let mut start = 0;
        for end in &self.ends {
            let mut document = &self.batch[start..*end];
            while document.len() > UNIT {
                let (chunk, rest) = document.split_at(self.split.safe_cut(document, UNIT));
                chunks.push(chunk);
                document = rest;
            }
            chunks.push(document);
            start = *end;
        }
        chunks
    }

    /// If the table has outgrown the memory, drops the pieces of the lowest counts until it fills half of it.
    fn drop_rarest(&mut self) {
        let total: usize = self.shards.par_iter().map(|shard| shard.costs().map(|(cost, _)| cost).sum::<usize>()).sum();
        if total <= self.memory {
            return;
        }
        let mut by_count: std::collections::BTreeMap<u64, usize> = std::collections::BTreeMap::new();
        for (cost, count) in self.shards.iter().flat_map(Shard::costs) {
            *by_count.entry(count).or_insert(0) += cost;
        }
        let mut left = total;
        let mut threshold = 0;
        for (count, cost) in by_count {
            if left <= self.memory / 2 {
                break;
            }
            left -= cost;
            threshold = count;
        }
        let dropped = self
            .shards
            .par_iter_mut()
            .map(|shard| {
                let mut dropped = Dropped::default();
                let mut keep = |count: u64| {
                    if count <= threshold {
                        dropped.pieces += 1;
                        dropped.occurrences += count;
                    }
                    count > threshold
                };
                shard.short.retain(|_, count| keep(*count));
                shard.long.retain(|_, count| keep(*count));
                shard.short.shrink_to_fit();
                shard.long.shrink_to_fit();
                dropped
            })
            .reduce(Dropped::default, |a, b| Dropped {
                pieces: a.pieces + b.pieces,
                occurrences: a.occurrences + b.occurrences,
            });
        self.dropped.pieces += dropped.pieces;
        self.dropped.occurrences += dropped.occurrences;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// All pieces with their counts, in no particular order.
    pub(super) fn into_pieces(self) -> Pieces {
        let mut pieces = Pieces { bytes: Vec::new(), ends: Vec::new(), counts: Vec::new() };
        for shard in self.shards {
            for (key, count) in shard.short {
                pieces.push(&key.to_le_bytes()[..short_length(key)], count);
            }
            for (piece, count) in shard.long {
                pieces.push(&piece, count);
            }
        }
        pieces
    }
}

/// Distinct pieces one after the other.
pub(super) struct Pieces {
    pub(super) bytes: Vec<u8>,
    pub(super) ends: Vec<usize>,
    pub(super) counts: Vec<u64>,
}

impl Pieces {
    fn push(&mut self, piece: &[u8], count: u64) {
        self.bytes.extend_from_slice(piece);
        self.ends.push(self.bytes.len());
        self.counts.push(count);
    }

    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }
}

//! From text to token ids.
//!
//! The text is cut into pieces; a piece that is a token as a whole is looked up; any other piece is merged, by a
//! direct loop when it is short and by a linear-time queue when it is long. A small cache in front remembers the
//! result of short pieces. All of it computes the same function: starting from single bytes, merge the pair that comes
//! first in the merge list, the leftmost of equals, until no pair is in the list.

mod cache;
mod long;
mod merges;
mod symbols;
mod table;
mod unigram;

use std::collections::HashMap;

use crate::split::PreSplit;
use cache::Pool;
pub(crate) use long::LongScratch;
use merges::{MAX_DIRECT, Outcome};
pub(crate) use merges::{Merge, MergeTable};
pub(crate) use symbols::{CharTable, Fallback, PairTable, Queue, SymbolBpe, SymbolParts};
pub(crate) use table::NONE;
use table::{FixedMap, Key, PieceKey};
pub(crate) use table::{MAX_SHORT_PIECE, fold, piece_key};
pub(crate) use unigram::{Unigram, UnigramParts};

/// Slots of the piece cache, a power of two. At 32 bytes a slot it stays in a core's second-level cache.
const CACHE_SLOTS: usize = 1 << 13;
/// Most tokens a cached piece has.
const CACHE_TOKENS: usize = 4;
/// Seed of the cache's hash. Collisions only cost misses.
const CACHE_SEED: u64 = 0x1319_8a2e_0370_7344;

/// Tables for encoding; read-only apart from the pool of working memory.
#[derive(Debug)]
pub(crate) struct Encoder {
    split: PreSplit,
    merges: MergeTable,
    /// Short pieces that are one token.
    short_pieces: FixedMap<PieceKey>,
    /// Longer pieces that are one token.
    long_pieces: HashMap<Box<[u8]>, u32>,
    longest_piece: usize,
    /// Whether there are bytes without a token.
    lacks_bytes: bool,
    pool: Pool<Scratch>,
}

#[derive(Clone, Copy)]
struct CacheSlot {
    key: PieceKey,
    /// Tokens of the piece, filled up with [`NONE`].
    tokens: [u32; CACHE_TOKENS],
}

/// Working memory of one encoding thread.
struct Scratch {
    cache: Vec<CacheSlot>,
    long: LongScratch,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

impl Scratch {
    fn new() -> Self {
        // No piece has the all-zero key: the length of a piece is part of it.
        let empty = CacheSlot { key: [0; 2], tokens: [NONE; CACHE_TOKENS] };
        Self { cache: vec![empty; CACHE_SLOTS], long: LongScratch::default() }
    }
}

impl Encoder {
    /// `whole_pieces` lists the tokens that a piece of exactly their bytes becomes.
    pub(crate) fn new<'a>(
        split: PreSplit,
        merges: MergeTable,
        whole_pieces: impl Iterator<Item = (&'a [u8], u32)>,
    ) -> Self {
        let mut short = Vec::new();
        let mut long_pieces = HashMap::new();
        let mut longest_piece = 0;
        for (bytes, id) in whole_pieces {
            longest_piece = longest_piece.max(bytes.len());
            if bytes.len() <= MAX_SHORT_PIECE {
                short.push((piece_key(bytes, 0, bytes.len()), id));
            } else {
                long_pieces.insert(bytes.into(), id);
            }
        }
        let short_pieces = FixedMap::new(&short);
        let lacks_bytes = merges.byte_tokens.contains(&NONE);
        Self { split, merges, short_pieces, long_pieces, longest_piece, lacks_bytes, pool: Pool::new() }
    }

    pub(crate) fn split(&self) -> PreSplit {
        self.split
    }

    pub(crate) fn merges(&self) -> &[Merge] {
        self.merges.merges()
    }

    /// Appends the tokens of `text`, which may be any bytes.
    pub(crate) fn encode_into(&self, text: &[u8], out: &mut Vec<u32>) {
        self.pool.with(Scratch::new, |scratch| {
            let mut start = 0;
            while start < text.len() {
                let end = self.split.piece_end(text, start);
                self.encode_piece(text, start, end, scratch, out);
                start = end;
            }
        });
    }

    #[inline]
    fn encode_piece(&self, text: &[u8], start: usize, end: usize, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let length = end - start;
        if length > MAX_SHORT_PIECE {
            self.encode_long(&text[start..end], &mut scratch.long, out);
            return;
        }
        let key = piece_key(text, start, length);
        let slot = &mut scratch.cache[key.hash(CACHE_SEED) & (CACHE_SLOTS - 1)];
        if slot.key != key {
            return self.encode_uncached(&text[start..end], key, slot, out);
        }
        out.push(slot.tokens[0]);
        if slot.tokens[1] != NONE {
            out.extend(slot.tokens[1..].iter().take_while(|token| **token != NONE));
        }
    }

    #[inline(never)]
    fn encode_uncached(&self, piece: &[u8], key: PieceKey, slot: &mut CacheSlot, out: &mut Vec<u32>) {
        let mut buffer = [NONE; MAX_DIRECT];
        buffer[0] = self.short_pieces.get(key);
        let mut length = 1;
        if buffer[0] == NONE {
            let known;
            let mut piece = piece;
            if self.lacks_bytes {
                known = self.known_bytes(piece);
                piece = &known;
                if piece.is_empty() {
                    return;
                }
            }
            Outcome { length, .. } = self.merges.merge_direct(piece, &mut buffer);
        }
        out.extend_from_slice(&buffer[..length]);
        if length <= CACHE_TOKENS {
            *slot = CacheSlot { key, tokens: [NONE; CACHE_TOKENS] };
            slot.tokens[..length].copy_from_slice(&buffer[..length]);
        }
    }

    #[inline(never)]
    fn encode_long(&self, piece: &[u8], long: &mut LongScratch, out: &mut Vec<u32>) {
        if piece.len() <= self.longest_piece
            && let Some(id) = self.long_pieces.get(piece)
        {
            out.push(*id);
            return;
        }
        let known;
        let mut piece = piece;
        if self.lacks_bytes {
            known = self.known_bytes(piece);
            piece = &known;
            if piece.is_empty() {
                return;
            }
        }
        for part in piece.chunks(long::MAX_LONG) {
            self.merges.merge_piece(part, long, out);
        }
    }

    /// A piece without the bytes that have no token.
    fn known_bytes(&self, piece: &[u8]) -> Vec<u8> {
        piece.iter().copied().filter(|byte| self.merges.byte_tokens[usize::from(*byte)] != NONE).collect()
    }

    /// Bytes without a token.
    pub(crate) fn missing_bytes(&self) -> Vec<u8> {
        (0..=255u8).filter(|byte| self.merges.byte_tokens[usize::from(*byte)] == NONE).collect()
    }
}

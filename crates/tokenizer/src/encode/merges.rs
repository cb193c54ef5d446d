//! The merge tables, and the direct merge loop for short pieces.

use super::long::LongScratch;
use super::table::{FixedMap, NONE};

/// Longest piece in bytes that is merged by the direct loop, whose cost grows with the square of the length.
pub(super) const MAX_DIRECT: usize = 64;

/// One merge: two adjacent tokens become a third.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    /// Left token.
    pub(crate) left: u32,
    /// Right token.
    pub(crate) right: u32,
    /// The token whose bytes are those of both.
    pub(crate) merged: u32,
}

/// Merges in priority order, with look-up by pair. The rank of a merge is its place in that order.
#[derive(Debug)]
pub(crate) struct MergeTable {
    pub(super) merges: Vec<Merge>,
    /// Token of each byte.
    pub(super) byte_tokens: Box<[u32; 256]>,
    /// Rank of each pair of bytes, `first << 8 | second`.
    byte_pairs: Vec<u32>,
    pairs: FixedMap<u64>,
    /// Whether every merge comes after all merges that make its parts. Then ranks never fall while a piece is merged,
    /// and long pieces can be merged rank by rank.
    pub(super) ascending: bool,
}

/// What merging a piece came to.
pub(crate) struct Outcome {
    /// Number of tokens.
    pub(crate) length: usize,
    /// Rank of the last merge done, or [`NONE`].
    pub(crate) last_rank: u32,
}

/// Tokens of a piece of at most [`MAX_DIRECT`] bytes.
pub(super) type DirectBuffer = [u32; MAX_DIRECT];

impl MergeTable {
    /// Tables for `merges` over the tokens `byte_tokens` of single bytes and token ids below `n_vocab`.
    pub(crate) fn new(merges: Vec<Merge>, byte_tokens: [u32; 256], n_vocab: usize) -> Self {
        let entries: Vec<(u64, u32)> =
            merges.iter().zip(0..).map(|(merge, rank)| (pair_key(merge.left, merge.right), rank)).collect();
        let pairs = FixedMap::new(&entries);
        let mut byte_pairs = vec![NONE; 1 << 16];
        for (index, slot) in byte_pairs.iter_mut().enumerate() {
            *slot = pairs.get(pair_key(byte_tokens[index >> 8], byte_tokens[index & 255]));
        }
        let mut made_by_rank = vec![None; n_vocab];
        for (merge, rank) in merges.iter().zip(0u32..) {
            // Ranks rise, so the last one written is the largest.
            made_by_rank[merge.merged as usize] = Some(rank);
        }
        let ascending = merges.iter().zip(0u32..).all(|(merge, rank)| {
            [merge.left, merge.right].iter().all(|part| made_by_rank[*part as usize] < Some(rank))
        });
        Self { merges, byte_tokens: Box::new(byte_tokens), byte_pairs, pairs, ascending }
    }

    /// Merges in order.
    pub(crate) fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// Rank of the merge of two tokens, or [`NONE`].
    #[inline]
    pub(super) fn rank(&self, left: u32, right: u32) -> u32 {
        self.pairs.get(pair_key(left, right))
    }

    /// Rank of the merge of two bytes, or [`NONE`].
    #[inline]
    pub(super) fn byte_rank(&self, left: u8, right: u8) -> u32 {
        self.byte_pairs[usize::from(left) << 8 | usize::from(right)]
    }

    /// Tokens of a piece of any length, appended to `out`.
    pub(crate) fn merge_piece(&self, piece: &[u8], long: &mut LongScratch, out: &mut Vec<u32>) -> Outcome {
        if piece.len() <= MAX_DIRECT {
            let mut buffer = [NONE; MAX_DIRECT];
            let outcome = self.merge_direct(piece, &mut buffer);
            out.extend_from_slice(&buffer[..outcome.length]);
            return outcome;
        }
        let before = out.len();
        let last_rank = long.merge(self, piece, out);
        Outcome { length: out.len() - before, last_rank }
    }

    /// Merges the lowest-ranked pair, the leftmost of equals, until no pair has a rank. The piece is not empty.
    pub(super) fn merge_direct(&self, piece: &[u8], tokens: &mut DirectBuffer) -> Outcome {
        let mut length = piece.len();
        let mut ranks = [NONE; MAX_DIRECT];
        for (token, byte) in tokens.iter_mut().zip(piece) {
            *token = self.byte_tokens[usize::from(*byte)];
        }
        for (rank, pair) in ranks.iter_mut().zip(piece.windows(2)) {
            *rank = self.byte_rank(pair[0], pair[1]);
        }
        let mut last_rank = NONE;
        loop {
            let mut best = NONE;
            let mut at = 0;
            for (index, rank) in ranks[..length - 1].iter().enumerate() {
                if *rank < best {
                    best = *rank;
                    at = index;
                }
            }
            if best == NONE {
                return Outcome { length, last_rank };
            }
            last_rank = best;
            tokens[at] = self.merges[best as usize].merged;
            tokens.copy_within(at + 2..length, at + 1);
            ranks.copy_within(at + 1..length - 1, at);
            length -= 1;
            if at + 1 < length {
                ranks[at] = self.rank(tokens[at], tokens[at + 1]);
            }
            if at > 0 {
                ranks[at - 1] = self.rank(tokens[at - 1], tokens[at]);
            }
        }
    }
}

#[inline]
fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

//! A hash table that is built once and then only read.

/// "No value" in tables, links and ranks; no token, rank or position reaches it.
pub(crate) const NONE: u32 = u32::MAX;

/// Longest walk over occupied slots that a table is built with: look-ups of hostile keys stay cheap.
const MAX_PROBES: usize = 64;

/// Keys that can be hashed with a seed.
pub(super) trait Key: Copy + Eq + Default {
    /// A hash whose low bits are good.
    fn hash(self, seed: u64) -> usize;
}

/// Multiplies to 128 bits and folds the halves together, so that every input bit reaches the low output bits.
#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

impl Key for u64 {
    #[inline]
    fn hash(self, seed: u64) -> usize {
        fold(self ^ seed, 0x9e37_79b9_7f4a_7c15) as usize
    }
}

/// A piece of at most [`MAX_SHORT_PIECE`] bytes: its bytes, zeros, and its length in the last byte.
pub(crate) type PieceKey = [u64; 2];

/// Longest piece that fits a [`PieceKey`].
pub(crate) const MAX_SHORT_PIECE: usize = 15;

impl Key for PieceKey {
    #[inline]
    fn hash(self, seed: u64) -> usize {
        fold(self[0] ^ seed, self[1] ^ 0x9e37_79b9_7f4a_7c15) as usize
    }
}

/// The key of `text[start..start + length]`, `length` at most [`MAX_SHORT_PIECE`].
#[inline]
pub(crate) fn piece_key(text: &[u8], start: usize, length: usize) -> PieceKey {
    let raw = match text[start..].first_chunk::<16>() {
        // The common case is one wide load; near the end of the text the bytes are copied one by one.
        Some(chunk) => u128::from_le_bytes(*chunk),
        None => text[start..start + length].iter().rev().fold(0, |raw, byte| raw << 8 | u128::from(*byte)),
    };
    let bits = 8 * length as u32;
    let key = raw & ((1u128 << bits) - 1) | (length as u128) << 120;
    [key as u64, (key >> 64) as u64]
}

/// Open addressing at a load of at most one half, with a bound on the length of every probe.
#[derive(Debug)]
pub(super) struct FixedMap<K> {
    slots: Vec<(K, u32)>,
    seed: u64,
}

impl<K: Key> FixedMap<K> {
    /// A table of `entries`; of entries with the same key the last one counts. No value is [`NONE`].
    pub(super) fn new(entries: &[(K, u32)]) -> Self {
        let mut size = (entries.len() * 2).next_power_of_two().max(2);
        let mut seed = 0x243f_6a88_85a3_08d3u64;
        loop {
            // Keys that collide under one seed are spread by the next; a larger table ends the search for certain.
            for _ in 0..8 {
                if let Some(map) = Self::build(entries, size, seed) {
                    return map;
                }
                seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            }
            size *= 2;
        }
    }

    fn build(entries: &[(K, u32)], size: usize, seed: u64) -> Option<Self> {
        let mut slots = vec![(K::default(), NONE); size];
        for (key, value) in entries {
            let mut at = key.hash(seed) & (size - 1);
            let mut probes = 0;
            while slots[at].1 != NONE && slots[at].0 != *key {
                at = (at + 1) & (size - 1);
                probes += 1;
                if probes > MAX_PROBES {
                    return None;
                }
            }
            slots[at] = (*key, *value);
        }
        Some(Self { slots, seed })
    }

    /// The value of `key`, or [`NONE`].
    #[inline]
    pub(super) fn get(&self, key: K) -> u32 {
        let mask = self.slots.len() - 1;
        let mut at = key.hash(self.seed) & mask;
        loop {
            let (found, value) = self.slots[at];
            if found == key || value == NONE {
                return value;
            }
            at = (at + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        let entries: Vec<(u64, u32)> = (0..10_000u64).map(|n| (n << 32 | (n * 7), n as u32)).collect();
        let map = FixedMap::new(&entries);
        for (key, value) in &entries {
            assert_eq!(map.get(*key), *value);
        }
        assert_eq!(map.get(1), NONE);
        assert_eq!(FixedMap::<u64>::new(&[]).get(0), NONE);
        // The default key is a key like any other.
        assert_eq!(FixedMap::new(&[(0u64, 5), (0u64, 6)]).get(0), 6);
    }

    #[test]
    fn piece_keys_are_the_same_near_the_end_and_differ_by_length() {
        let text = b"hello world\0\0 and some more text behind it";
        let key = piece_key(text, 6, 5);
        assert_eq!(key, piece_key(b"world", 0, 5));
        assert_ne!(key, piece_key(text, 6, 6));
        assert_ne!(piece_key(b"\0", 0, 1), piece_key(b"\0\0", 0, 2));
        assert_eq!(piece_key(b"0123456789abcde", 0, 15), piece_key(b"0123456789abcde--", 0, 15));
    }
}

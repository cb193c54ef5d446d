//! Which training row comes when: a pure function of (seed, row number).

use crate::error::{Error, Result};
use crate::format::Split;

/// Rounds of the Feistel network. Four make a pseudo-random permutation of a large domain (Luby and Rackoff 1988);
/// narrow halves need more to look shuffled.
const ROUNDS: usize = 8;

/// Finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of u64 in which every input bit moves every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A random number for each (seed, epoch, purpose).
fn keyed(seed: u64, epoch: u64, purpose: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    mix(mix(mix(seed.wrapping_add(GOLDEN)) ^ epoch).wrapping_add(GOLDEN) ^ purpose.wrapping_mul(GOLDEN))
}

/// A pseudo-random permutation of `0..n` that is computed point by point, without a table.
///
/// A balanced Feistel network permutes the next power of four; a point that falls outside `0..n` is sent through it again
/// until it falls inside (cycle walking, Black and Rogaway 2002), fewer than four times on average.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` that belongs to this seed and epoch.
    ///
    /// # Panics
    /// If `n` is zero or above 2^62.
    pub fn new(n: u64, seed: u64, epoch: u64) -> Self {
        assert!(n > 0 && n <= 1 << 62, "a permutation of {n} points");
        let bits = u64::BITS - (n - 1).leading_zeros();
        let keys = std::array::from_fn(|round| keyed(seed, epoch, 1 + round as u64));
        Self { n, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Number of points.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Where `index` goes.
    ///
    /// # Panics
    /// If `index` is not below `n`.
    pub fn apply(&self, index: u64) -> u64 {
        assert!(index < self.n, "point {index} of a permutation of {}", self.n);
        let mut x = index;
        loop {
            x = self.network(x);
            // Ends: the network is a bijection, so walking its cycle comes back to `index`, which is inside.
            if x < self.n {
                return x;
            }
        }
    }

    fn network(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            // The top bits are the best mixed ones.
            let f = mix(right ^ key) >> (u64::BITS - self.half_bits);
            (left, right) = (right, left ^ f);
        }
        (left << self.half_bits) | right
    }
}

/// The order of training rows.
///
/// The training tokens are taken as a ring (the last document is followed by the first, as any document is followed by
/// another). One epoch cuts the ring into `n_tokens / n_ctx` rows, side by side, and visits them in a pseudo-random
/// order, each once. A row is `n_ctx + 1` tokens: inputs and, one further, targets; so neighbouring rows share one token,
/// and every token is predicted once. Each epoch starts its cuts at another place, so that a text trained on repeatedly
/// is not always cut at the same words; up to `n_ctx - 1` tokens are left out of an epoch, other ones each time.
///
/// Row `k` of a run depends on (seed, k) alone. A step with `r` rows that begins when `k` rows have been read takes rows
/// `k..k + r`; the trainer keeps the count, since a batch ramp changes `r`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowOrder {
    n_tokens: u64,
    n_ctx: usize,
    seed: u64,
}

impl RowOrder {
    /// The order for a training sequence of `n_tokens` and rows of `n_ctx` predictions.
    ///
    /// # Errors
    /// [`Error::TooFewTokens`] if not one row fits; [`Error::Options`] if the context is zero.
    pub fn new(n_tokens: u64, n_ctx: usize, seed: u64) -> Result<Self> {
        check_fits(Split::Train, n_tokens, n_ctx)?;
        Ok(Self { n_tokens, n_ctx, seed })
    }

    /// Rows in one epoch.
    pub fn rows_per_epoch(&self) -> u64 {
        self.n_tokens / self.n_ctx as u64
    }

    /// Length of the token sequence.
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// Predictions in a row.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Tokens in a row: `n_ctx + 1`.
    pub fn row_tokens(&self) -> usize {
        self.n_ctx + 1
    }

    /// The epoch (counted from zero) in which row `index` of the run falls.
    pub fn epoch(&self, index: u64) -> u64 {
        index / self.rows_per_epoch()
    }

    /// Position in the training sequence at which row `index` of the run starts. The row wraps around the end.
    pub fn start(&self, index: u64) -> u64 {
        let n_rows = self.rows_per_epoch();
        let (epoch, in_epoch) = (index / n_rows, index % n_rows);
        let row = Permutation::new(n_rows, self.seed, epoch).apply(in_epoch);
        // No overflow: the phase is below n_tokens and row * n_ctx too.
        let phase = keyed(self.seed, epoch, 0) % self.n_tokens;
        let start = u128::from(phase) + u128::from(row) * self.n_ctx as u128;
        (start % u128::from(self.n_tokens)) as u64
    }
}

/// Checks that one row of `n_ctx + 1` tokens fits into `n_tokens`.
pub(crate) fn check_fits(split: Split, n_tokens: u64, n_ctx: usize) -> Result<()> {
    if n_ctx == 0 {
        return Err(Error::Options { field: "n_ctx", problem: "a context has at least one token".to_owned() });
    }
    let needed = (n_ctx as u64).saturating_add(1);
    if n_tokens < needed {
        return Err(Error::TooFewTokens { split, found: n_tokens, needed, n_ctx, largest: n_tokens.saturating_sub(1) });
    }
    Ok(())
}

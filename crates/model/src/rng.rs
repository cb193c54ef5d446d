//! Random numbers addressed by what they are for, so that no order of calls and no thread can change them.

/// Philox4x32 with 10 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): four random words for
/// each 128-bit counter under a 64-bit key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let a = MULTIPLIERS[0] * u64::from(counter[0]);
        let b = MULTIPLIERS[1] * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// One stream of random numbers: everything drawn from one (seed, purpose).
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    key: [u32; 2],
    place: [u32; 2],
}

impl Stream {
    /// The stream of `seed` for `purpose`, a name such as `init/layers.3.attn_qkv.weight`.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let hash = blake3::hash(purpose.as_bytes());
        let bytes = hash.as_bytes();
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { key: [seed as u32, (seed >> 32) as u32], place: [word(0), word(4)] }
    }

    /// Four random words at `index`.
    pub fn words(&self, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, self.place[0], self.place[1]], self.key)
    }

    /// A uniform number in `[0, 1)` with 53 random bits.
    pub fn uniform(&self, index: u64) -> f64 {
        let words = self.words(index);
        let bits = u64::from(words[0]) << 32 | u64::from(words[1]);
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts `len` normal numbers of mean 0 and standard deviation `std` (Box and Muller 1958): element `i` depends
    /// on (seed, purpose, i) alone.
    pub fn fill_normal(&self, std: f64, len: usize, mut put: impl FnMut(usize, f64)) {
        for group in 0..len.div_ceil(4) {
            let words = self.words(group as u64);
            for pair in 0..2 {
                // In (0, 1), never 0: the logarithm is finite.
                let radius = (-2.0 * ((f64::from(words[2 * pair]) + 0.5) / 2f64.powi(32)).ln()).sqrt() * std;
                let angle = std::f64::consts::TAU * f64::from(words[2 * pair + 1]) / 2f64.powi(32);
                for (half, value) in [radius * angle.cos(), radius * angle.sin()].into_iter().enumerate() {
                    let index = 4 * group + 2 * pair + half;
                    if index < len {
                        put(index, value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123's `kat_vectors` for philox4x32_10.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniform_is_uniform_and_depends_on_seed_purpose_and_index() {
        let stream = Stream::new(7, "a");
        let values: Vec<f64> = (0..20_000).map(|i| stream.uniform(i)).collect();
        assert!(values.iter().all(|v| (0.0..1.0).contains(v)));
        let mean = values.iter().sum::<f64>() / 20_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert_ne!(stream.uniform(0), stream.uniform(1));
        assert_ne!(stream.uniform(0), Stream::new(8, "a").uniform(0));
        assert_ne!(stream.uniform(0), Stream::new(7, "b").uniform(0));
    }
}

//! Seeded data. Random, never zeros: a kernel that forgets an element must be seen.

use verve_ops::Real;

/// A source of test data from a counter-based generator: the same seed and the same calls give the same data everywhere.
/// Each call draws from a stream of its own, so the data of one call does not depend on the lengths of those before it.
#[derive(Debug, Clone)]
pub struct Data {
    seed: u64,
    stream: u64,
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that mixes all bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Data {
    /// Data of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, stream: 0 }
    }

    /// Uniform in `[0, 1)`, 53 bits, by index.
    fn draw(&mut self) -> impl Fn(u64) -> f64 + use<> {
        self.stream += 1;
        let key = mix(self.seed.wrapping_add(mix(self.stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        move |index| (mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 11) as f64 * 2f64.powi(-53)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, len: usize, low: f64, high: f64) -> Vec<f64> {
        let draw = self.draw();
        (0..len as u64).map(|i| low + (high - low) * draw(i)).collect()
    }

    /// Normal with mean 0 and standard deviation 1 (Box and Muller 1958).
    pub fn normal(&mut self, len: usize) -> Vec<f64> {
        let draw = self.draw();
        (0..len as u64)
            .map(|i| (-2.0 * (1.0 - draw(2 * i)).ln()).sqrt() * (std::f64::consts::TAU * draw(2 * i + 1)).cos())
            .collect()
    }

    /// Integers in `0..limit`.
    pub fn ids(&mut self, len: usize, limit: usize) -> Vec<u32> {
        let draw = self.draw();
        (0..len as u64).map(|i| (draw(i) * limit as f64) as u32).collect()
    }

    /// `0..len` in random order.
    pub fn permutation(&mut self, len: usize) -> Vec<u32> {
        let keys = self.uniform(len, 0.0, 1.0);
        let mut order: Vec<u32> = (0..len as u32).collect();
        order.sort_by(|&a, &b| keys[a as usize].total_cmp(&keys[b as usize]));
        order
    }
}

/// The values as an element type holds them, so that a wider reference starts from the same numbers.
pub fn rounded<E: Real>(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|x| E::from_f64(x).to_f64()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_data_and_streams_differ() {
        let (mut a, mut b) = (Data::new(7), Data::new(7));
        assert_eq!(a.normal(5), b.normal(9)[..5]);
        assert_eq!(a.ids(20, 10), b.ids(20, 10));
        assert_ne!(a.normal(5), a.normal(5));
        assert_ne!(Data::new(1).normal(5), Data::new(2).normal(5));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut data = Data::new(3);
        let n = 100_000;
        let moments = |x: &[f64]| {
            let mean = x.iter().sum::<f64>() / n as f64;
            (mean, x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64)
        };
        let (mean, variance) = moments(&data.normal(n));
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "normal: {mean} {variance}");
        let uniform = data.uniform(n, -1.0, 3.0);
        assert!(uniform.iter().all(|x| (-1.0..3.0).contains(x)));
        let (mean, variance) = moments(&uniform);
        assert!((mean - 1.0).abs() < 0.02 && (variance - 16.0 / 12.0).abs() < 0.03, "uniform: {mean} {variance}");
        let ids = data.ids(n, 7);
        assert!((0..7).all(|id| (ids.iter().filter(|&&x| x == id).count() as f64 / n as f64 - 1.0 / 7.0).abs() < 0.01));
    }

    #[test]
    fn a_permutation_holds_each_number_once() {
        let mut order = Data::new(5).permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}

//! Comparison of numbers with a bound, and of bits.

use std::fmt;

use verve_ops::{Element, Real};

/// How far a number may be from what is expected: `relative * |expected| + of_rms * rms`, with the root mean square of all
/// expected numbers. The first part allows for rounding at the store, the second for the sums behind it, whose error does
/// not shrink where the result happens to cancel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Factor on the expected number itself.
    pub relative: f64,
    /// Factor on the root mean square of the expected numbers.
    pub of_rms: f64,
}

impl Bound {
    /// Nothing is allowed.
    pub const EXACT: Self = Self { relative: 0.0, of_rms: 0.0 };

    /// One factor for both parts.
    pub fn new(factor: f64) -> Self {
        Self { relative: factor, of_rms: factor }
    }
}

/// The worst of the numbers that are too far off.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// Place of the worst number.
    pub index: usize,
    /// The number there.
    pub found: f64,
    /// What it should be.
    pub expected: f64,
    /// How far it may be.
    pub allowed: f64,
    /// How many numbers are too far off.
    pub wrong: usize,
    /// Place of the first of them.
    pub first_wrong: usize,
    /// How many numbers there are.
    pub len: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, found, expected, allowed, wrong, first_wrong, len } = self;
        let error = (found - expected).abs();
        write!(
            f,
            "{wrong} of {len} numbers are off, the first at [{first_wrong}]; worst at [{index}]: found {found:e}, expected \
             {expected:e}, error {error:.3e}, allowed {allowed:.3e} ({:.1} times)",
            error / allowed
        )
    }
}

/// Compares element by element; NaN is never close to anything. Returns the largest share of the allowed error that was
/// used. Panics if the lengths differ.
pub fn compare<F: Real, E: Real>(found: &[F], expected: &[E], bound: Bound) -> Result<f64, Mismatch> {
    assert!(found.len() == expected.len(), "found {} numbers, expected {}", found.len(), expected.len());
    let squares: f64 = expected.iter().map(|e| e.to_f64() * e.to_f64()).sum();
    let rms = (squares / expected.len().max(1) as f64).sqrt();
    let mut worst = 0.0;
    let mut mismatch: Option<Mismatch> = None;
    for (index, (f, e)) in found.iter().zip(expected).enumerate() {
        let (f, e) = (f.to_f64(), e.to_f64());
        let allowed = bound.relative * e.abs() + bound.of_rms * rms;
        let error = (f - e).abs();
        if f == e {
            continue;
        }
        // Infinite or not a number on one side: worse than any number.
        let share = if error.is_finite() { error / allowed } else { f64::INFINITY };
        let worse = share > worst;
        worst = share.max(worst);
        if share > 1.0 {
            let seen = mismatch.take();
            let (wrong, first_wrong) = seen.as_ref().map_or((1, index), |m| (m.wrong + 1, m.first_wrong));
            let this = Mismatch { index, found: f, expected: e, allowed, wrong, first_wrong, len: found.len() };
            mismatch = Some(match seen {
                Some(seen) if !worse => Mismatch { wrong, ..seen },
                _ => this,
            });
        }
    }
    mismatch.map_or(Ok(worst), Err)
}

/// [`compare`], as an assertion. `what` names the numbers in the message.
#[track_caller]
pub fn assert_close<F: Real, E: Real>(what: &str, found: &[F], expected: &[E], bound: Bound) {
    if let Err(mismatch) = compare(found, expected, bound) {
        panic!("{what}: {mismatch}");
    }
}

/// Asserts that two slices hold the same bits.
#[track_caller]
pub fn assert_bits<T: Element>(what: &str, found: &[T], expected: &[T]) {
    assert!(found.len() == expected.len(), "{what}: found {} elements, expected {}", found.len(), expected.len());
    let same = |(f, e): (&T, &T)| bytemuck::bytes_of(f) == bytemuck::bytes_of(e);
    if let Some(index) = found.iter().zip(expected).position(|pair| !same(pair)) {
        let wrong = found.iter().zip(expected).filter(|&pair| !same(pair)).count();
        panic!(
            "{what}: {wrong} of {} elements differ in their bits, the first at [{index}]: found {:?}, expected {:?}",
            found.len(),
            found[index],
            expected[index]
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_worst_number_and_counts_the_wrong_ones() {
        let expected = [1.0, -2.0, 3.0, 0.0];
        assert_eq!(compare(&expected, &expected, Bound::EXACT), Ok(0.0));
        let found = [1.0f32, -2.001, 3.5, 0.0];
        let mismatch = compare(&found, &expected, Bound { relative: 1e-6, of_rms: 0.0 }).unwrap_err();
        assert_eq!((mismatch.index, mismatch.wrong, mismatch.first_wrong, mismatch.len), (2, 2, 1, 4));
        assert!(mismatch.to_string().contains("found 3.5e0, expected 3e0"), "{mismatch}");
        let share = compare(&[1.0, -2.0, 3.0, 1e-6], &expected, Bound { relative: 0.0, of_rms: 1e-6 }).unwrap();
        assert!((0.5..0.6).contains(&share), "{share}");
    }

    #[test]
    fn nan_and_infinity_are_never_close() {
        let bound = Bound::new(1.0);
        assert!(compare(&[f64::NAN, 1.0], &[1.0, 1.0], bound).is_err());
        assert!(compare(&[f64::NAN], &[f64::NAN], bound).is_err());
        assert_eq!(compare(&[f64::NAN, 9.0], &[1.0, 1.0], bound).unwrap_err().index, 0);
        assert!(compare(&[f64::INFINITY], &[1.0], bound).is_err());
        assert!(compare(&[f64::INFINITY], &[f64::INFINITY], bound).is_ok());
    }

    #[test]
    #[should_panic(expected = "1 of 2 elements differ in their bits, the first at [1]")]
    fn bits_tell_zero_from_minus_zero() {
        assert_bits("zeros", &[0.0f32, 0.0], &[0.0f32, -0.0]);
    }
}

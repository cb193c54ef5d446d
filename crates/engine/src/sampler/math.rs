//! The exponential and the maximum over a vocabulary, in loops that the compiler vectorises. No library function is used
//! for the exponential, so that every machine gives the same bits.

/// Independent partial results, as many as a wide vector has.
const LANES: usize = 16;

/// `e^x` for `x <= 0`, within two units in the last place; 0 below -87, where the result would be subnormal.
///
/// The range is reduced to `|r| <= ln(2) / 2`, where the polynomial of Cephes' `expf` (Moshier) holds.
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 x 2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    // ln(2) in two parts: products of the first with small whole numbers are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let inside = if x > -87.0 { x } else { -87.0 };
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = inside - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let value = p * r * r + r + 1.0;
    // The low bits of the shifted number are the whole number: no conversion, which would check for overflow.
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x > -87.0 { value * power } else { 0.0 }
}

/// The largest value, or `None` when one is NaN or plus infinity. Minus infinity when there are none.
pub(crate) fn maximum(values: &[f32]) -> Option<f32> {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut good = [true; LANES];
    let mut take = |chunk: &[f32]| {
        for ((largest, good), &value) in largest.iter_mut().zip(&mut good).zip(chunk) {
            *good &= value < f32::INFINITY;
            *largest = if value > *largest { value } else { *largest };
        }
    };
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    chunks.for_each(&mut take);
    take(rest);
    good.iter().all(|&g| g).then(|| largest.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// The sum, added in a fixed order in `f64`.
pub(crate) fn sum(values: &[f32]) -> f64 {
    let mut sums = [0f64; LANES];
    for chunk in values.chunks(LANES) {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(value);
        }
    }
    sums.iter().sum()
}

/// `sum of e^(x - max)`, added in a fixed order in `f64`.
pub(crate) fn sum_exp(values: &[f32], max: f32) -> f64 {
    let mut sums = [0f64; LANES];
    for chunk in values.chunks(LANES) {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(exp(value - max));
        }
    }
    sums.iter().sum()
}

/// A number that is greater for a greater `value`, and for the lower `id` of equal values. `value` is not NaN; the two
/// zeros are equal.
pub(crate) fn rank(value: f32, id: u32) -> u64 {
    // Adding 0 turns -0 into 0.
    let bits = (value + 0.0).to_bits();
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ordered) << 32 | u64::from(!id)
}

/// The id in a [`rank`].
pub(crate) fn ranked_id(rank: u64) -> u32 {
    !(rank as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_the_last_places() {
        let mut x = 0f32;
        let mut worst = 0f64;
        while x > -87.0 {
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
            x -= 0.000_937;
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(-86.999) > 0.0);
    }

    #[test]
    fn maximum_sees_every_place_and_every_bad_value() {
        for len in [1, 2, 15, 16, 17, 33, 100] {
            let values: Vec<f32> = (0..len).map(|i| -(i as f32) - 1.0).collect();
            assert_eq!(maximum(&values), Some(-1.0));
            for place in 0..len {
                let mut changed = values.clone();
                changed[place] = 3.0;
                assert_eq!(maximum(&changed), Some(3.0));
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                    changed[place] = bad;
                    assert_eq!(maximum(&changed), None, "{bad} at {place} of {len}");
                }
                changed[place] = f32::NEG_INFINITY;
                assert!(maximum(&changed).is_some());
            }
        }
        assert_eq!(maximum(&[]), Some(f32::NEG_INFINITY));
    }

    #[test]
    fn ranks_order_by_value_then_lower_id() {
        let inf = f32::INFINITY;
        let values = [-inf, f32::MIN, -1.5, -1e-40, 0.0, 1e-40, 0.25, 7.0, f32::MAX, inf];
        for pair in values.windows(2) {
            assert!(rank(pair[0], 0) < rank(pair[1], u32::MAX), "{pair:?}");
        }
        assert!(rank(1.0, 4) > rank(1.0, 5));
        assert!(rank(-0.0, 4) > rank(0.0, 5));
        assert!(rank(0.0, 4) > rank(-0.0, 5));
        assert_eq!(ranked_id(rank(-3.0, 50_256)), 50_256);
    }
}

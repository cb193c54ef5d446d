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
    each_chunk(values, f32::NEG_INFINITY, |chunk| {
        for lane in 0..LANES {
            good[lane] &= chunk[lane] < f32::INFINITY;
            largest[lane] = if chunk[lane] > largest[lane] { chunk[lane] } else { largest[lane] };
        }
    });
    good.iter().all(|&g| g).then(|| largest.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// The largest value; none is NaN. Minus infinity when there are none.
pub(crate) fn greatest(values: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    each_chunk(values, f32::NEG_INFINITY, |chunk| {
        for lane in 0..LANES {
            largest[lane] = if chunk[lane] > largest[lane] { chunk[lane] } else { largest[lane] };
        }
    });
    largest.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// The sum, added in a fixed order in `f64`.
pub(crate) fn sum(values: &[f32]) -> f64 {
    let mut sums = [0f64; LANES];
    add(&mut sums, values);
    sums.iter().sum()
}

/// `sum of e^(x - max)`, added in a fixed order in `f64`.
pub(crate) fn sum_exp(values: &[f32], max: f32) -> f64 {
    sum_of(values, |value| exp(value - max))
}

/// Sum and number of the weights above 0 whose logits are `least` or more.
pub(crate) fn weight_from(weights: &[f32], logits: &[f32], least: f32) -> (f64, usize) {
    let weight = sum_of_pairs(weights, logits, |weight, logit| if logit >= least { weight } else { 0.0 });
    let number = sum_of_pairs(weights, logits, |weight, logit| if weight > 0.0 && logit >= least { 1.0 } else { 0.0 });
    (weight, number as usize)
}

/// `sum of weight x logit`, added in a fixed order; what has no weight counts for nothing.
pub(crate) fn weighted_sum(weights: &[f32], logits: &[f32]) -> f64 {
    sum_of_pairs(weights, logits, |weight, logit| if weight > 0.0 { weight * logit } else { 0.0 })
}

/// The standard deviation of what is above minus infinity, of all values at once (not of a sample); 0 when there are none.
pub(crate) fn deviation(values: &[f32]) -> f64 {
    let n = sum_of(values, |value| if value > f32::NEG_INFINITY { 1.0 } else { 0.0 }).max(1.0);
    let mean = sum_of(values, |value| if value > f32::NEG_INFINITY { value } else { 0.0 }) / n;
    // What rounding the mean leaves is put right at the end.
    let near = mean as f32;
    let square = |value: f32| if value > f32::NEG_INFINITY { (value - near) * (value - near) } else { 0.0 };
    let left = mean - f64::from(near);
    (sum_of(values, square) / n - left * left).max(0.0).sqrt()
}

/// Terms that are computed before they are added. Loops that do one thing each are what the compiler vectorises.
const TERMS: usize = 16 * LANES;

/// The sum of a function, added in a fixed order in `f64`.
fn sum_of(values: &[f32], term: impl Fn(f32) -> f32) -> f64 {
    let mut sums = [0f64; LANES];
    let mut terms = [0f32; TERMS];
    for values in values.chunks(TERMS) {
        for (out, &value) in terms.iter_mut().zip(values) {
            *out = term(value);
        }
        add(&mut sums, &terms[..values.len()]);
    }
    sums.iter().sum()
}

/// The sum of a function of two, added in a fixed order in `f64`.
fn sum_of_pairs(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f64 {
    let mut sums = [0f64; LANES];
    let mut terms = [0f32; TERMS];
    for (a, b) in a.chunks(TERMS).zip(b.chunks(TERMS)) {
        for ((out, &a), &b) in terms.iter_mut().zip(a).zip(b) {
            *out = term(a, b);
        }
        add(&mut sums, &terms[..a.len().min(b.len())]);
    }
    sums.iter().sum()
}

/// Adds each value to its lane's sum.
fn add(sums: &mut [f64; LANES], values: &[f32]) {
    each_chunk(values, 0.0, |chunk| {
        for lane in 0..LANES {
            sums[lane] += f64::from(chunk[lane]);
        }
    });
}

/// Calls `take` for all chunks, the last of them filled up with `neutral`.
fn each_chunk(values: &[f32], neutral: f32, mut take: impl FnMut(&[f32; LANES])) {
    let (chunks, rest) = values.as_chunks();
    for chunk in chunks {
        take(chunk);
    }
    if !rest.is_empty() {
        take(&padded(rest, neutral));
    }
}

/// A whole chunk of what is left behind whole chunks.
fn padded(rest: &[f32], neutral: f32) -> [f32; LANES] {
    let mut chunk = [neutral; LANES];
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// The natural logarithm of a positive number that is not subnormal, within a few units in the last place; minus infinity
/// for smaller ones. As for [`exp`], every machine gives the same bits.
pub(crate) fn ln(x: f64) -> f64 {
    if x < f64::MIN_POSITIVE {
        return f64::NEG_INFINITY;
    }
    // x = 2^n m with m from 1/sqrt(2) to sqrt(2), and ln(m) = 2 artanh(s) with |s| < 0.172.
    const MANTISSA: u64 = (1 << 52) - 1;
    const HALF_SQRT2: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits() & MANTISSA;
    let bits = x.to_bits();
    let halve = u64::from(bits & MANTISSA >= HALF_SQRT2);
    let n = (bits >> 52) as f64 - 1023.0 + halve as f64;
    let m = f64::from_bits(bits & MANTISSA | (1023 - halve) << 52);
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    // 2 s (1 + s^2/3 + s^4/5 + ...): the last term is below half a unit of the first.
    let series = (1..12).rev().fold(0.0, |sum, k| (sum + 1.0 / f64::from(2 * k + 1)) * square);
    n * std::f64::consts::LN_2 + 2.0 * s * (1.0 + series)
}

/// The first place that holds `value`.
pub(crate) fn first_of(values: &[f32], value: f32) -> Option<u32> {
    const WIDE: usize = 4 * LANES;
    let holds = |chunk: &[f32]| chunk.iter().fold(false, |found, &other| found | (other == value));
    let chunk = values.chunks(WIDE).position(holds)?;
    let place = values[chunk * WIDE..].iter().position(|&other| other == value)?;
    Some((chunk * WIDE + place) as u32)
}

/// Sets the logits of ids that a bit mask does not allow to minus infinity: bit `id % 32` of word `id / 32`.
pub(crate) fn rule_out(logits: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (group, word) in logits.chunks_mut(32).zip(words) {
        match word {
            u32::MAX => {}
            0 => group.fill(f32::NEG_INFINITY),
            word => {
                for (bit, logit) in group.iter_mut().enumerate() {
                    *logit = if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
                }
            }
        }
    }
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
    fn ln_is_exact_to_the_last_places() {
        let mut x = 1e-300;
        while x < 1e300 {
            let (found, exact) = (ln(x), x.ln());
            assert!((found - exact).abs() <= 4.0 * f64::EPSILON * exact.abs().max(0.25), "{x}: {found}, not {exact}");
            x *= 1.371;
        }
        for x in [1.0 - 1e-9, 1.0 + 1e-9, std::f64::consts::SQRT_2, std::f64::consts::FRAC_1_SQRT_2, 2.0, 49_152.0] {
            assert!((ln(x) / x.ln() - 1.0).abs() < 1e-15, "{x}");
        }
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
    }

    #[test]
    fn deviation_leaves_out_what_is_not_finite() {
        let inf = f32::INFINITY;
        assert_eq!(deviation(&[1.0, -inf, 3.0]), 1.0);
        assert_eq!(deviation(&[]), 0.0);
        assert_eq!(deviation(&[-inf]), 0.0);
        let values: Vec<f32> = (0..100).map(|i| (i * i % 17) as f32 + 1e6).collect();
        let exact = |f: &dyn Fn(f64) -> f64| values.iter().map(|&v| f(f64::from(v))).sum::<f64>() / 100.0;
        let mean = exact(&|v| v);
        assert!((deviation(&values) - exact(&|v| (v - mean).powi(2)).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn first_of_is_the_first_of_many() {
        for len in [1, 63, 64, 65, 200] {
            for place in 0..len {
                let mut values = vec![0.0f32; len];
                values[place] = 2.0;
                values[len - 1] = 2.0;
                assert_eq!(first_of(&values, 2.0), Some(place as u32));
            }
        }
        assert_eq!(first_of(&[1.0], 2.0), None);
    }

    #[test]
    fn a_mask_rules_out_zeros_and_what_is_behind_it() {
        let mut logits = vec![1.0f32; 150];
        rule_out(&mut logits, &[u32::MAX, 0, 0b101, 1 << 31]);
        let left: Vec<usize> = (0..150).filter(|&id| logits[id] == 1.0).collect();
        assert_eq!(left, (0..32).chain([64, 66, 127]).collect::<Vec<_>>());
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

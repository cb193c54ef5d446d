//! Frequency factors of rotary positions (`rope_freqs.weight`): files have Llama 3's scaling as one divisor for each
//! frequency, configurations have it as four numbers.

use std::f32::consts::TAU;

use crate::config::RotaryScaling;
use crate::rope::frequencies;

/// Largest relative difference of factors that are the same scaling. Files have them rounded to `f32`, and programs
/// differ in how they round on the way.
const TOLERANCE: f32 = 1e-4;

/// What Llama 3.1 and later have.
const USUAL: (f64, f64, usize) = (1.0, 4.0, 8192);

/// The divisors of the `d_rot / 2` frequencies; `None` for a scaling that files say otherwise.
pub(super) fn factors(scaling: RotaryScaling, theta: f64, d_rot: usize) -> Option<Vec<f32>> {
    let RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = scaling else {
        return None;
    };
    let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
    let context = original_context as f32;
    let divisor = |frequency: f32| {
        let wavelength = TAU / frequency;
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Some(frequencies(theta, d_rot).into_iter().map(divisor).collect())
}

/// The scaling that has these divisors; `None` if it is not Llama 3's.
///
/// What divides the lowest frequencies is the factor. The share that a frequency between the two limits keeps is linear
/// in the frequency, so two of them give the limits, up to a common scale that changes nothing: the lower is set to 1.
pub(super) fn scaling_of(found: &[f32], theta: f64, d_rot: usize) -> Option<RotaryScaling> {
    if found.iter().all(|factor| *factor == 1.0) {
        return Some(RotaryScaling::None);
    }
    let most = found.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let same = |scaling: &RotaryScaling| {
        let expected = factors(*scaling, theta, d_rot).unwrap_or_default();
        expected.len() == found.len() && expected.iter().zip(found).all(|(a, b)| (a - b).abs() <= TOLERANCE * a)
    };
    let scaling = |low: f64, high: f64, context: usize| RotaryScaling::Llama3 {
        factor: f64::from(most),
        low_freq_factor: low,
        high_freq_factor: high,
        original_context: context,
    };
    let usual = scaling(USUAL.0, USUAL.1, USUAL.2);
    if same(&usual) {
        return Some(usual);
    }
    let kept = |factor: f32| (1.0 / f64::from(factor) - 1.0 / f64::from(most)) / (1.0 - 1.0 / f64::from(most));
    let between: Vec<(f64, f64)> = frequencies(theta, d_rot)
        .into_iter()
        .zip(found)
        .filter(|(_, factor)| **factor > 1.0 && **factor < most)
        .map(|(frequency, factor)| (f64::from(frequency / TAU), kept(*factor)))
        .collect();
    let ((x1, y1), (x2, y2)) = (*between.first()?, *between.last()?);
    let slope = (y1 - y2) / (x1 - x2);
    // At the frequency of the lower limit nothing is kept, at that of the upper everything.
    let (low_at, high_at) = (x1 - y1 / slope, x1 + (1.0 - y1) / slope);
    let (context, high) = (1.0 / low_at, high_at / low_at);
    if !(context.is_finite() && (1.0..1e9).contains(&context) && high > 1.0) {
        return None;
    }
    // As its author wrote it, if that is near: a power of two, a whole ratio.
    let round = (context.round() as usize, high);
    let near = ((context as usize).next_power_of_two(), high.round());
    let below = (near.0 / 2, near.1);
    [near, below, round].into_iter().map(|(context, high)| scaling(1.0, high, context)).find(same)
}

#[cfg(test)]
mod tests {
    use super::{factors, scaling_of};
    use crate::config::RotaryScaling;

    fn llama3(factor: f64, low: f64, high: f64, context: usize) -> RotaryScaling {
        RotaryScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_context: context }
    }

    #[test]
    fn scalings_are_found_from_their_factors() {
        for (theta, d_rot) in [(500_000.0, 64), (500_000.0, 128), (10_000.0, 96)] {
            for (factor, high, context) in [(8.0, 4.0, 8192), (32.0, 4.0, 8192), (4.0, 8.0, 2048), (16.0, 3.0, 1024)] {
                let scaling = llama3(factor, 1.0, high, context);
                let found = factors(scaling, theta, d_rot).unwrap();
                assert_eq!(found.len(), d_rot / 2);
                assert_eq!(scaling_of(&found, theta, d_rot), Some(scaling), "{theta} {d_rot}");
            }
            // The same waves said otherwise.
            let found = factors(llama3(8.0, 2.0, 8.0, 4096), theta, d_rot).unwrap();
            assert_eq!(scaling_of(&found, theta, d_rot), Some(llama3(8.0, 1.0, 4.0, 2048)));
        }
    }

    #[test]
    fn other_factors_are_nobodys() {
        let mut found = factors(llama3(8.0, 1.0, 4.0, 8192), 500_000.0, 64).unwrap();
        found[0] = 1.5;
        assert_eq!(scaling_of(&found, 500_000.0, 64), None);
        assert_eq!(scaling_of(&[f32::NAN; 32], 500_000.0, 64), None);
        assert_eq!(scaling_of(&[2.0; 32], 500_000.0, 64), None);
        assert_eq!(scaling_of(&[1.0; 32], 500_000.0, 64), Some(RotaryScaling::None));
        assert_eq!(scaling_of(&[8.0, 1.0, 4.0], 500_000.0, 64), None);
    }
}

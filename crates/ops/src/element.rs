//! Element types of buffers.

use half::{bf16, f16};

/// Anything a buffer can hold: plain data, safe to copy to a device and to a file.
pub trait Element: bytemuck::Pod + Default + Send + Sync + std::fmt::Debug + PartialEq + 'static {
    /// Name in files and messages, for example `bf16`.
    const NAME: &'static str;
}

/// An element that is a real number: what weights, activations, statistics and gradients are made of.
pub trait Real: Element + PartialOrd {
    /// Rounds to nearest, ties to even.
    fn from_f64(value: f64) -> Self;
    /// Exact: every element type here fits in an `f64`.
    fn to_f64(self) -> f64;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Exact for `f32` and `bf16`, rounded for `f64`.
    fn to_f32(self) -> f32;
}

impl Element for u8 {
    const NAME: &'static str = "u8";
}

impl Element for i8 {
    const NAME: &'static str = "i8";
}

impl Element for f16 {
    const NAME: &'static str = "f16";
}

impl Element for u32 {
    const NAME: &'static str = "u32";
}

impl Element for f32 {
    const NAME: &'static str = "f32";
}

impl Element for f64 {
    const NAME: &'static str = "f64";
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
}

impl Real for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f32(value: f32) -> Self {
        value
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Real for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f32(value: f32) -> Self {
        f64::from(value)
    }
    fn to_f32(self) -> f32 {
        self as f32
    }
}

impl Real for bf16 {
    fn from_f64(value: f64) -> Self {
        // `bf16::from_f64` overlooks the low half of the number, so that it takes some numbers for ties that are none.
        // Rounded to odd in between, the second rounding sees on which side of a tie the number is.
        let near = value as f32;
        let exact = value.is_nan() || f64::from(near) == value;
        let toward_zero = near.to_bits() - u32::from(!exact && f64::from(near).abs() > value.abs());
        bf16::from_f32(f32::from_bits(toward_zero | u32::from(!exact)))
    }
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_of_f64_rounds_once() {
        let step = 2f64.powi(-7);
        for sign in [1.0, -1.0] {
            for (value, expected) in [
                (1.0 + step / 2.0, 1.0),
                (1.0 + step / 2.0 + 1e-15, 1.0 + step),
                (1.0 + step / 2.0 - 1e-15, 1.0),
                (1.0 + step * 1.5, 1.0 + step * 2.0),
                (1.0 + step * 1.5 - 1e-15, 1.0 + step),
                (1.0 + step * 1.5 - 1e-7, 1.0 + step),
                (3.389_531_389_251_535_5e38, 3.389_531_389_251_535_5e38),
                (1e300, f64::INFINITY),
                (1e-300, 0.0),
                (0.0, 0.0),
            ] {
                let found = <bf16 as Real>::from_f64(sign * value);
                assert_eq!(Real::to_f64(found), sign * expected, "{}", sign * value);
                assert_eq!(found.is_sign_negative(), sign < 0.0);
            }
        }
        assert!(<bf16 as Real>::from_f64(f64::NAN).is_nan());
    }
}

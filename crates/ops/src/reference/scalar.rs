//! The arithmetic that the reference needs of a number type.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::Real;

/// A number type the reference computes in: `f32` or `f64`. Not `bf16`, which nothing should accumulate in.
pub trait Scalar:
    Real
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// `e^self`.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The larger of the two; the other one if one is not a number.
    fn max(self, other: Self) -> Self;
    /// The error function, `2 / sqrt(pi) * integral of e^(-t^2) from 0 to self`.
    fn erf(self) -> Self {
        Self::from_f64(erf(self.to_f64()))
    }
}

macro_rules! scalar {
    ($type:ty) => {
        impl Scalar for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            fn exp(self) -> Self {
                <$type>::exp(self)
            }
            fn ln(self) -> Self {
                <$type>::ln(self)
            }
            fn sqrt(self) -> Self {
                <$type>::sqrt(self)
            }
            fn tanh(self) -> Self {
                <$type>::tanh(self)
            }
            fn max(self, other: Self) -> Self {
                <$type>::max(self, other)
            }
        }
    };
}

scalar!(f32);
scalar!(f64);

/// The error function by its series `2 / sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!` (Abramowitz and Stegun 7.1.6),
/// whose terms all have one sign, so that nothing cancels. Beyond 6 the result is 1 to the last bit.
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() >= 6.0 {
        return x.signum();
    }
    let square = x * x;
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > sum.abs() * 1e-18 {
        term *= 2.0 * square / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-square).exp() * sum
}

/// `sum_i a[i] * b[i]`, added in index order.
pub(super) fn dot<R: Scalar>(a: &[R], b: &[R]) -> R {
    let mut sum = R::ZERO;
    for (&a, &b) in a.iter().zip(b) {
        sum += a * b;
    }
    sum
}

/// `y += a * x`.
pub(super) fn add_scaled<R: Scalar>(y: &mut [R], a: R, x: &[R]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn erf_has_the_tabulated_values() {
        // Abramowitz and Stegun, table 7.1, and mpmath for the tail.
        for (x, expected) in [
            (0.0, 0.0),
            (1e-10, 1.1283791670955126e-10),
            (0.5, 0.5204998778130465),
            (1.0, 0.8427007929497149),
            (2.0, 0.9953222650189527),
            (3.0, 0.9999779095030014),
            (5.0, 0.9999999999984626),
            (7.0, 1.0),
        ] {
            assert!((erf(x) - expected).abs() <= 1e-15 * expected, "erf({x}) = {}, expected {expected}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert!(erf(f64::NAN).is_nan());
    }
}

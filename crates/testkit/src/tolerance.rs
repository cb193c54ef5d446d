//! The one table of tolerances.
//!
//! An error comes from rounding the result when it is stored, and from rounding inside the operation. Both are counted in
//! units of the unit roundoff `u`: `2^-53` for `f64`, `2^-24` for `f32`, `2^-8` for `bf16`. A sum of `n` random terms is off
//! by about `sqrt(n) u` of its size. The factors leave room for other orders of summation and for polynomials in place of
//! `exp` and `tanh`, and are far below what one forgotten or doubled term would do.

use verve_ops::Real;

use crate::Bound;

/// Half the distance from 1 to the next larger number.
pub fn unit_roundoff<E: Real>() -> f64 {
    match E::NAME {
        "f64" => 2f64.powi(-53),
        "f32" => 2f64.powi(-24),
        "bf16" => 2f64.powi(-8),
        other => panic!("no unit roundoff for {other}"),
    }
}

/// What an operation does to numbers, as far as errors go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Class {
    /// Moves numbers: same bits.
    Exact,
    /// A few products and sums of the inputs: embedding, rotation.
    Few,
    /// `exp`, `tanh`, `erf` and what is made of them.
    Function,
    /// A sum of this many products of the inputs.
    Product(usize),
    /// [`Class::Product`] times [`Class::Function`].
    ProductOfFunction(usize),
    /// Normalised rows of this many elements, and their gradients.
    Norm(usize),
    /// Softmax over this many scores, then a sum weighted with it; the weights may be rounded to `Elem` on the way.
    Softmax(usize),
    /// The gradient of [`Class::Softmax`].
    SoftmaxBackward(usize),
    /// The same on a machine whose products take operands of `Elem`: the weights and the gradients of the scores are rounded to
    /// it one by one.
    RoundedSoftmaxBackward(usize),
    /// Log-sum-exp of this many sums, not rounded to `Elem` on the way.
    LogSumExp(usize),
    /// One step of the optimizer.
    Step,
}

/// In which type a result is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// [`verve_ops::Backend::Elem`].
    Elem,
    /// [`verve_ops::Backend::Acc`].
    Acc,
}

/// What is allowed for a class, on a backend with these types. `slack` multiplies the errors inside the operation, for
/// inputs that are harder than normal numbers around 0; usually 1.
pub fn bound<E: Real, A: Real>(class: Class, stored: Stored, slack: f64) -> Bound {
    let (u_elem, u_acc) = (unit_roundoff::<E>(), unit_roundoff::<A>());
    let root = |n: usize| (n as f64).sqrt();
    // Rounding inside the operation: (in units of u_acc, in units of u_elem). The second only where Elem is narrower.
    let (in_acc, in_elem) = match class {
        Class::Exact => return Bound::EXACT,
        Class::Few => (4.0, 0.0),
        Class::Function => (64.0, 0.0),
        Class::Product(n) => (8.0 + 2.0 * root(n), 0.0),
        Class::ProductOfFunction(n) => (72.0 + 2.0 * root(n), 0.0),
        Class::Norm(n) => (16.0 + 2.0 * root(n), 0.0),
        Class::Softmax(n) => (32.0 + 4.0 * root(n), 2.0),
        // The gradients of early keys and values, which many queries see, are much larger than the rest.
        Class::SoftmaxBackward(n) => (64.0 + 16.0 * root(n), 4.0),
        Class::RoundedSoftmaxBackward(n) => (64.0 + 16.0 * root(n), 16.0),
        Class::LogSumExp(n) => (16.0 + 2.0 * root(n), 0.0),
        Class::Step => (8.0, 0.0),
    };
    let of_rms = slack * in_acc * u_acc + if u_elem > u_acc { in_elem * u_elem } else { 0.0 };
    let u_stored = match stored {
        Stored::Elem => u_elem,
        Stored::Acc => u_acc,
    };
    // Correct rounding is within 1 u of a result that is itself off by a little.
    Bound { relative: 1.01 * u_stored + 8.0 * slack * u_acc, of_rms }
}

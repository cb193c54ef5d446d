//! Gradients by finite differences, the oracle of every backward.

use crate::compare::{Bound, assert_close};

/// Step of the differences. With the fourth-order formula the error is about `step^4 = 1e-12` from the formula and
/// `1e-16 / step = 1e-13` from rounding, in units of the function.
const STEP: f64 = 1e-3;

/// The gradient of `loss` at `at` by central differences of fourth order:
/// `(8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12 h`. Points must be further than `2e-3` from any kink.
pub fn numeric_gradient(at: &[f64], mut loss: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let mut x = at.to_vec();
    (0..at.len())
        .map(|i| {
            let mut shifted = |steps: f64| {
                x[i] = at[i] + steps * STEP;
                loss(&x)
            };
            let near = shifted(1.0) - shifted(-1.0);
            let far = shifted(2.0) - shifted(-2.0);
            x[i] = at[i];
            (8.0 * near - far) / (12.0 * STEP)
        })
        .collect()
}

/// Asserts that `gradient` is the gradient of `loss` at `at`, within `1e-8` of its size.
#[track_caller]
pub fn assert_gradient(what: &str, gradient: &[f64], at: &[f64], loss: impl FnMut(&[f64]) -> f64) {
    assert_close(what, gradient, &numeric_gradient(at, loss), Bound::new(1e-8));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(x: &[f64]) -> f64 {
        x[0].exp() * x[1].sin() + x[0] * x[2].powi(3)
    }

    #[test]
    fn agrees_with_calculus() {
        let x = [0.3f64, -1.2, 0.7];
        let gradient = [x[0].exp() * x[1].sin() + x[2].powi(3), x[0].exp() * x[1].cos(), 3.0 * x[0] * x[2].powi(2)];
        assert_gradient("loss", &gradient, &x, loss);
    }

    #[test]
    #[should_panic(expected = "loss: 1 of 3 numbers are off")]
    fn sees_a_wrong_gradient() {
        let x = [0.3f64, -1.2, 0.7];
        let gradient = [x[0].exp() * x[1].sin() + x[2].powi(3), x[0].exp() * x[1].cos(), 3.0 * x[2].powi(2)];
        assert_gradient("loss", &gradient, &x, loss);
    }
}

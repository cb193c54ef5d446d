//! Elementary functions on vectors. Each lane's result depends on that lane alone.

use verve_ops::Activation;

use super::Simd;

/// `e^x`, at most 2 units in the last place off. Results below the normal range (`x < -87.33`) are 0: denormals would
/// slow down every product they enter. `e^0 = 1` exactly; NaN stays NaN.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const LOWEST: f32 = -87.336_54;
    // Bounds that keep the exponent arithmetic in range; NaN passes through as the second operand. The lower one is where
    // results become denormal: producing one, only to replace it by 0, costs a hundred cycles or more.
    let t = s.max(s.splat(LOWEST), s.min(s.splat(89.0), x));
    let n = s.round(s.mul(t, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts: n times the first is exact.
    let r = s.fnma(n, s.splat(0.693_359_4), t);
    let r = s.fnma(n, s.splat(-2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    p = s.fma(p, r, s.splat(1.398_199_9e-3));
    p = s.fma(p, r, s.splat(8.333_452e-3));
    p = s.fma(p, r, s.splat(4.166_579_6e-2));
    p = s.fma(p, r, s.splat(1.666_666_5e-1));
    p = s.fma(p, r, s.splat(5.0e-1));
    p = s.fma(p, s.mul(r, r), r);
    let y = s.scale_pow2(s.add(p, s.splat(1.0)), n);
    s.select_lt(x, s.splat(LOWEST), s.splat(0.0), y)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// `sigmoid(x)` and `1 - sigmoid(x)`, both with their full relative accuracy above `x = -80`: in derivatives the second is
/// multiplied by large numbers where it is small.
#[inline(always)]
fn sigmoid_and_rest<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let one = s.splat(1.0);
    // Bounded so that it stays finite; NaN passes through as the second operand.
    let e = exp(s, s.min(s.splat(80.0), s.sub(s.splat(0.0), x)));
    let g = s.div(one, s.add(one, e));
    (g, s.mul(e, g))
}

/// Hyperbolic tangent, with an absolute error below 2e-7.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let two_sigmoid = s.mul(s.splat(2.0), sigmoid(s, s.add(x, x)));
    s.sub(two_sigmoid, s.splat(1.0))
}

/// Distribution function of the standard normal, `(1 + erf(x / sqrt 2)) / 2`, and `e^(-x^2 / 2)`.
#[inline(always)]
fn normal<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let z = s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.abs(z);
    let sq = s.mul(z, z);
    // Near 0: erf as an odd polynomial. Minimax coefficients of both branches after N. Juffa.
    let mut small = s.splat(-5.967_617e-4);
    small = s.fma(small, sq, s.splat(4.991_194e-3));
    small = s.fma(small, sq, s.splat(-2.676_813_5e-2));
    small = s.fma(small, sq, s.splat(1.128_199_2e-1));
    small = s.fma(small, sq, s.splat(-3.761_253_4e-1));
    small = s.fma(small, sq, s.splat(1.283_791_7e-1));
    let erf = s.fma(small, z, z);
    let near = s.fma(erf, s.splat(0.5), s.splat(0.5));
    // Farther out: erfc(t) = e^poly(t), so that the lower tail keeps its relative accuracy.
    let mut r = s.fma(s.splat(-1.728_534_7e-5), t, s.splat(3.831_972e-4));
    let u = s.fma(s.splat(-3.883_964_4e-3), t, s.splat(2.425_464_2e-2));
    r = s.fma(r, sq, u);
    r = s.fma(r, t, s.splat(-1.067_778_8e-1));
    r = s.fma(r, t, s.splat(-6.348_468_7e-1));
    r = s.fma(r, t, s.splat(-1.287_175_1e-1));
    r = s.fnma(t, s.splat(1.0), s.mul(r, t));
    let half_tail = s.mul(s.splat(0.5), exp(s, r));
    let far = s.select_lt(z, s.splat(0.0), half_tail, s.sub(s.splat(1.0), half_tail));
    let cdf = s.select_lt(t, s.splat(0.927_734_4), near, far);
    (cdf, exp(s, s.sub(s.splat(0.0), sq)))
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

/// `2 u` for the inner function `u` of the tanh form of GELU.
#[inline(always)]
fn gelu_inner<S: Simd>(s: S, x: S::F) -> S::F {
    let sq = s.mul(x, x);
    let cubic = s.fma(sq, s.splat(2.0 * SQRT_2_OVER_PI * GELU_CUBIC), s.splat(2.0 * SQRT_2_OVER_PI));
    s.mul(x, cubic)
}

/// `sigmoid(2 u)`: `(1 + tanh u) / 2` without cancellation.
#[inline(always)]
fn gelu_gate<S: Simd>(s: S, x: S::F) -> S::F {
    sigmoid(s, gelu_inner(s, x))
}

/// An activation function.
#[inline(always)]
pub fn activation<S: Simd>(s: S, kind: Activation, x: S::F) -> S::F {
    match kind {
        Activation::GeluTanh => s.mul(x, gelu_gate(s, x)),
        Activation::GeluErf => s.mul(x, normal(s, x).0),
        // In this order NaN stays NaN.
        Activation::Relu => s.max(s.splat(0.0), x),
        Activation::Silu => s.mul(x, sigmoid(s, x)),
    }
}

/// The derivative of an activation function at its input `x`.
#[inline(always)]
pub fn activation_derivative<S: Simd>(s: S, kind: Activation, x: S::F) -> S::F {
    let one = s.splat(1.0);
    match kind {
        Activation::GeluTanh => {
            let (g, rest) = sigmoid_and_rest(s, gelu_inner(s, x));
            // x * d(2u)/dx
            let sq = s.mul(x, x);
            let slope = s.fma(sq, s.splat(6.0 * SQRT_2_OVER_PI * GELU_CUBIC), s.splat(2.0 * SQRT_2_OVER_PI));
            let inner = s.mul(s.mul(x, slope), rest);
            s.fma(g, inner, g)
        }
        Activation::GeluErf => {
            const INV_SQRT_2_PI: f32 = 0.398_942_3;
            let (cdf, bell) = normal(s, x);
            s.fma(s.mul(x, s.splat(INV_SQRT_2_PI)), bell, cdf)
        }
        Activation::Relu => s.select_lt(s.splat(0.0), x, one, s.mul(x, s.splat(0.0))),
        Activation::Silu => {
            let (g, rest) = sigmoid_and_rest(s, x);
            s.mul(g, s.fma(x, rest, one))
        }
    }
}

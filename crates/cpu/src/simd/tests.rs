use half::bf16;
use verve_ops::Activation;
use verve_testkit::{Data, Guarded, assert_bits};

use super::product::{Product, Span, Start, Transpose};
use super::{CpuElem, Kernel, Simd, math, rows};
use crate::isa::{Isa, SimdLevel};

/// One vector operation over rows of any length: `out = op(a, b, c)`.
struct Map<'a> {
    op: Op,
    a: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    out: &'a mut [f32],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Fma,
    Fnma,
    Max,
    Min,
    Sqrt,
    Abs,
    Round,
    ScalePow2,
    SelectLt,
    Exp,
    Sigmoid,
    Tanh,
    Act(Activation),
    Slope(Activation),
}

impl Kernel for Map<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut i = 0;
        while i < self.out.len() {
            let (a, b, c) = (s.load(&self.a[i..]), s.load(&self.b[i..]), s.load(&self.c[i..]));
            let y = match self.op {
                Op::Add => s.add(a, b),
                Op::Sub => s.sub(a, b),
                Op::Mul => s.mul(a, b),
                Op::Div => s.div(a, b),
                Op::Fma => s.fma(a, b, c),
                Op::Fnma => s.fnma(a, b, c),
                Op::Max => s.max(a, b),
                Op::Min => s.min(a, b),
                Op::Sqrt => s.sqrt(s.abs(a)),
                Op::Abs => s.abs(a),
                Op::Round => s.round(a),
                Op::ScalePow2 => s.scale_pow2(a, s.round(b)),
                Op::SelectLt => s.select_lt(a, b, c, a),
                Op::Exp => math::exp(s, a),
                Op::Sigmoid => math::sigmoid(s, a),
                Op::Tanh => math::tanh(s, a),
                Op::Act(kind) => math::activation(s, kind, a),
                Op::Slope(kind) => math::activation_derivative(s, kind, a),
            };
            s.store(y, &mut self.out[i..]);
            i += S::LANES;
        }
    }
}

fn map(isa: Isa, op: Op, a: &[f32], b: &[f32], c: &[f32]) -> Vec<f32> {
    let mut out = Guarded::new(&vec![f32::NAN; a.len()], 7.5);
    isa.dispatch(Map { op, a, b, c, out: out.slice() });
    out.check(&format!("{op:?} at {isa}")).to_vec()
}

/// `op` of each element.
fn of(isa: Isa, op: Op, x: &[f32]) -> Vec<f32> {
    map(isa, op, x, x, x)
}

fn floats(seed: u64, len: usize, low: f64, high: f64) -> Vec<f32> {
    Data::new(seed).uniform(len, low, high).into_iter().map(|x| x as f32).collect()
}

#[test]
fn operations_that_round_once_give_the_same_bits_at_every_level() {
    let specials = [0.0, -0.0, 1.0, -1.5, 2.5, 3.5, -2.5, 0.5, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-30];
    let mut a = floats(1, 1009, -100.0, 100.0);
    let mut b = floats(2, 1009, -100.0, 100.0);
    for (i, x) in specials.iter().enumerate() {
        for (j, y) in specials.iter().enumerate() {
            (a[i * specials.len() + j], b[i * specials.len() + j]) = (*x, *y);
        }
    }
    let c = floats(3, 1009, -10.0, 10.0);
    let finite = |values: &[f32]| values.iter().map(|x| if x.abs() < 1000.0 { *x } else { 3.5 }).collect::<Vec<_>>();
    type Plain = fn(f32, f32, f32) -> f32;
    let table: [(Op, Plain); 11] = [
        (Op::Add, |a, b, _| a + b),
        (Op::Sub, |a, b, _| a - b),
        (Op::Mul, |a, b, _| a * b),
        (Op::Div, |a, b, _| a / b),
        (Op::Max, |a, b, _| if a > b { a } else { b }),
        (Op::Min, |a, b, _| if a < b { a } else { b }),
        (Op::Sqrt, |a, _, _| a.abs().sqrt()),
        (Op::Abs, |a, _, _| a.abs()),
        (Op::Round, |a, _, _| a.round_ties_even()),
        (Op::ScalePow2, |a, b, _| (f64::from(a) * 2f64.powi(b.round_ties_even() as i32)) as f32),
        (Op::SelectLt, |a, b, c| if a < b { c } else { a }),
    ];
    for isa in Isa::available() {
        for (op, plain) in table {
            let integral = matches!(op, Op::Round | Op::ScalePow2);
            let (a, b) = if integral { (finite(&a), finite(&b)) } else { (a.clone(), b.clone()) };
            for len in [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 1009] {
                let found = map(isa, op, &a[..len], &b[..len], &c[..len]);
                for i in 0..len {
                    let expected = plain(a[i], b[i], c[i]);
                    // The sign of a rounded zero is not promised.
                    let same = found[i].to_bits() == expected.to_bits()
                        || (found[i].is_nan() && expected.is_nan())
                        || (integral && found[i] == expected);
                    assert!(same, "{op:?}({}, {}, {}) = {} at {isa}, not {expected}", a[i], b[i], c[i], found[i]);
                }
            }
        }
    }
}

#[test]
fn multiply_add_rounds_once_where_the_level_has_it() {
    let (a, b) = (floats(4, 500, -2.0, 2.0), floats(5, 500, -2.0, 2.0));
    // Near cancellation: one rounding or two make a difference.
    let c: Vec<f32> = a.iter().zip(&b).map(|(a, b)| -(a * b) * (1.0 + 1e-6)).collect();
    let minus: Vec<f32> = a.iter().map(|a| -a).collect();
    for isa in Isa::available() {
        let fused = isa.level() > SimdLevel::Portable || cfg!(any(target_feature = "fma", target_arch = "aarch64"));
        let expected: Vec<f32> =
            (0..500).map(|i| if fused { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] }).collect();
        assert_bits(&format!("fma at {isa}"), &map(isa, Op::Fma, &a, &b, &c), &expected);
        assert_bits(&format!("fnma at {isa}"), &map(isa, Op::Fnma, &minus, &b, &c), &expected);
    }
}

/// Largest error in units of the last place of the exact result.
fn worst_ulps(found: &[f32], exact: &[f64]) -> f64 {
    let error = |(found, exact): (&f32, &f64)| {
        let near = (*exact as f32).abs().max(f32::MIN_POSITIVE);
        (f64::from(*found) - exact).abs() / f64::from(near.next_up() - near)
    };
    found.iter().zip(exact).map(error).fold(0.0, f64::max)
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let x = [floats(6, 20_000, -87.3, 88.7), floats(7, 20_000, -1.0, 1.0)].concat();
    let exact: Vec<f64> = x.iter().map(|x| f64::from(*x).exp()).collect();
    for isa in Isa::available() {
        let worst = worst_ulps(&of(isa, Op::Exp, &x), &exact);
        assert!(worst <= 2.0, "exp at {isa}: {worst} units in the last place");
        let found = of(isa, Op::Exp, &[0.0, -0.0, -88.0, -1e30, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -87.4]);
        assert_eq!(found[..5], [1.0, 1.0, 0.0, 0.0, 0.0], "{isa}");
        assert!(found[5] == f32::INFINITY && found[6].is_nan() && found[7] == 0.0, "{isa}: {found:?}");
    }
}

/// The error function, from its series and the continued fraction of its complement.
fn erf(x: f64) -> f64 {
    let t = x.abs();
    let value = if t < 3.0 {
        let (mut term, mut sum, mut n) = (t, t, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= -t * t / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..60).rev().fold(t, |rest, k| t + f64::from(k) / 2.0 / rest);
        1.0 - (-t * t).exp() / fraction / std::f64::consts::PI.sqrt()
    };
    value.copysign(x)
}

#[test]
fn smooth_functions_are_close_everywhere() {
    let x = [floats(8, 20_000, -12.0, 12.0), floats(9, 5_000, -0.5, 0.5)].concat();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let inner = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    type Exact<'a> = &'a dyn Fn(f64) -> f64;
    let cases: [(Op, f64, Exact<'_>); 6] = [
        (Op::Sigmoid, 2e-7, &sigmoid),
        (Op::Tanh, 2e-7, &|x: f64| x.tanh()),
        (Op::Act(Activation::GeluTanh), 1.5e-6, &|x: f64| x * sigmoid(2.0 * inner(x))),
        (Op::Act(Activation::GeluErf), 1.5e-6, &|x: f64| x * (1.0 + erf(x / 2f64.sqrt())) / 2.0),
        (Op::Act(Activation::Silu), 1.5e-6, &|x: f64| x * sigmoid(x)),
        (Op::Act(Activation::Relu), 0.0, &|x: f64| x.max(0.0)),
    ];
    for isa in Isa::available() {
        for (op, bound, exact) in &cases {
            for (x, found) in x.iter().zip(of(isa, *op, &x)) {
                let error = (f64::from(found) - exact(f64::from(*x))).abs();
                assert!(error <= *bound, "{op:?}({x}) = {found} at {isa}: off by {error:e}");
            }
        }
        for kind in [Activation::GeluTanh, Activation::GeluErf, Activation::Silu] {
            let (_, _, exact) = cases.iter().find(|case| case.0 == Op::Act(kind)).unwrap();
            for (x, found) in x.iter().zip(of(isa, Op::Slope(kind), &x)) {
                let (x, h) = (f64::from(*x), 1e-4);
                // Fourth order: the difference itself is good to about 1e-11.
                let numeric =
                    (8.0 * (exact(x + h) - exact(x - h)) - (exact(x + 2.0 * h) - exact(x - 2.0 * h))) / (12.0 * h);
                let error = (f64::from(found) - numeric).abs();
                assert!(error <= 6e-7, "slope of {kind:?} at {x}, {isa}: {found}, off by {error:e}");
            }
        }
    }
}

#[test]
fn a_lane_does_not_depend_on_its_neighbours_or_its_place() {
    let x = floats(10, 100, -20.0, 20.0);
    for isa in Isa::available() {
        for op in [Op::Exp, Op::Tanh, Op::Act(Activation::GeluErf), Op::Slope(Activation::GeluTanh)] {
            let all = of(isa, op, &x);
            for from in [1, 5, 16, 17] {
                for len in [1, 3, 8, 20] {
                    assert_bits(
                        &format!("{op:?} at {isa}"),
                        &of(isa, op, &x[from..from + len]),
                        &all[from..from + len],
                    );
                }
            }
        }
    }
}

struct Convert<'a, A, B>(&'a [A], &'a mut [B]);

impl<A: CpuElem, B: CpuElem> Kernel for Convert<'_, A, B> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        rows::convert(s, self.0, self.1);
    }
}

#[test]
fn every_bf16_widens_exactly_and_every_rounding_is_to_nearest_even() {
    let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    // Around every bf16 of both signs: the number, ties, and numbers next to ties.
    let near: Vec<f32> = (0..=u16::MAX)
        .flat_map(|high| {
            [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| f32::from_bits(u32::from(high) << 16 | low))
        })
        .collect();
    for isa in Isa::available() {
        let mut wide = vec![0.0f32; all.len()];
        isa.dispatch(Convert(&all, &mut wide));
        for (high, x) in wide.iter().enumerate() {
            assert_eq!(x.to_bits(), (high as u32) << 16, "{isa}");
        }
        let mut narrow = Guarded::new(&vec![bf16::ZERO; near.len()], bf16::from_f32(7.5));
        isa.dispatch(Convert(&near, narrow.slice()));
        for (found, x) in narrow.check("narrow").iter().zip(&near) {
            let expected = bf16::from_f32(*x);
            let same = found.to_bits() == expected.to_bits() || (found.is_nan() && x.is_nan());
            assert!(same, "{x} ({:#x}) at {isa}: {found}, not {expected}", x.to_bits());
        }
    }
}

struct RowSums<'a>(&'a mut [f32]);

impl Kernel for RowSums<'_> {
    type Out = [f32; 5];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; 5] {
        let (top, exp_sum) = rows::max_and_exp_sum(s, self.0);
        let (max, sum) = (rows::max(s, self.0), rows::sum(s, self.0));
        [top, exp_sum, max, sum, rows::exp_sum(s, self.0, top)]
    }
}

#[test]
fn reductions_of_rows_of_any_length() {
    for isa in Isa::available() {
        for len in [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 257] {
            let x = floats(len as u64, len, -5.0, -1.0);
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut row = Guarded::new(&x, 100.0);
            let [top, exp_sum, max, sum, again] = isa.dispatch(RowSums(row.slice()));
            let weights: Vec<f64> = x.iter().map(|x| (f64::from(*x) - f64::from(largest)).exp()).collect();
            let (exact_sum, exact_exp) = (x.iter().map(|x| f64::from(*x)).sum::<f64>(), weights.iter().sum::<f64>());
            assert_eq!((top, max), (largest, largest), "{isa}, {len}");
            let close = |found: f32, exact: f64| (f64::from(found) - exact).abs() < 1e-6 * exact.abs();
            assert!(close(sum, exact_sum), "sum of {len} at {isa}: {sum}, not {exact_sum}");
            assert!(close(exp_sum, exact_exp) && close(again, exact_exp), "{exp_sum} {again} {exact_exp}");
            let found = row.check("exp_sum");
            assert!(found.iter().zip(&weights).all(|(found, exact)| close(*found, *exact)), "{isa}, {len}");
        }
    }
}

/// What a small product must be: for each element one chain of multiply-adds as the level makes them.
fn chain(isa: Isa, start: f32, pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let fused = isa.level() > SimdLevel::Portable || cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    pairs.fold(start, |sum, (a, b)| if fused { a.mul_add(b, sum) } else { sum + a * b })
}

fn check_products<B: CpuElem>(isa: Isa) {
    for (rows, cols, depth) in
        [(1, 16, 1), (1, 64, 64), (5, 32, 7), (6, 64, 33), (7, 16, 0), (13, 80, 64), (64, 48, 20)]
    {
        for transposed in [false, true] {
            for start in [Start::Zero, Start::Add] {
                for spans in 0..4 {
                    let ends: Vec<u32> =
                        (0..rows as u32).map(|i| (i + 1) * cols.min(depth) as u32 / rows as u32).collect();
                    let span = match spans {
                        0 => Span::All,
                        1 => Span::Columns(&ends),
                        2 => Span::DepthBelow(&ends),
                        _ => Span::DepthFromRow,
                    };
                    let (row_step, depth_step) = if transposed { (1, rows + 3) } else { (depth + 2, 1) };
                    let mut a = floats(20, rows * (depth + 2) + depth * (rows + 3) + 1, -1.0, 1.0);
                    for i in 0..rows {
                        for k in 0..depth {
                            let outside = match span {
                                Span::DepthBelow(ends) => k >= ends[i] as usize,
                                Span::DepthFromRow => k < i,
                                _ => false,
                            };
                            if outside {
                                a[i * row_step + k * depth_step] = 0.0;
                            }
                        }
                    }
                    let b: Vec<B> =
                        floats(21, (depth + 1) * (cols + 5), -1.0, 1.0).into_iter().map(B::from_f32).collect();
                    let before = floats(22, rows * (cols + 4), -1.0, 1.0);
                    let mut c = Guarded::new(&before, 7.5);
                    isa.dispatch(Product {
                        a: &a,
                        a_strides: (row_step, depth_step),
                        b: &b,
                        b_stride: cols + 5,
                        c: c.slice(),
                        c_stride: cols + 4,
                        rows,
                        cols,
                        depth,
                        start,
                        span,
                    });
                    let what = format!("[{rows}, {depth}] x [{depth}, {cols}], {start:?}, {span:?} at {isa}");
                    let c = c.check(&what);
                    for i in 0..rows {
                        for j in 0..cols + 4 {
                            let at = i * (cols + 4) + j;
                            let pairs = (0..depth).map(|k| {
                                (a[i * row_step + k * depth_step], b[k * (cols + 5) + j.min(cols - 1)].to_f32())
                            });
                            let first = if start == Start::Add { before[at] } else { 0.0 };
                            let expected = chain(isa, first, pairs);
                            let wanted = match span {
                                Span::Columns(ends) => j < ends[i] as usize,
                                _ => j < cols,
                            };
                            if wanted {
                                assert_eq!(c[at], expected, "{what}: [{i}, {j}]");
                            } else {
                                assert!(c[at] == before[at] || (j < cols && c[at] == expected), "{what}: [{i}, {j}]");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn small_products_are_chains_whatever_the_tile() {
    for isa in Isa::available() {
        check_products::<f32>(isa);
        check_products::<bf16>(isa);
    }
}

#[test]
fn transposes() {
    for isa in Isa::available() {
        for (rows, cols) in [(8, 8), (64, 16), (16, 64), (64, 80), (24, 40)] {
            let src = floats(30, rows * cols, -1.0, 1.0);
            let mut dst = Guarded::new(&vec![0.0; rows * cols], 7.5);
            isa.dispatch(Transpose { src: &src, dst: dst.slice(), rows, cols });
            let dst = dst.check("transpose");
            for (i, x) in src.iter().enumerate() {
                assert_eq!(dst[i % cols * rows + i / cols], *x, "{rows} x {cols} at {isa}");
            }
        }
    }
}

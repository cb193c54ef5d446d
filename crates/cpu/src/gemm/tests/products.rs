//! [`multiply`] itself: every operand layout, storage type, unit and target.

use half::bf16;

use super::*;
use crate::gemm::finish::{FinishForward, Forward};
use crate::gemm::product::{Columns, Machine, Product, Target, multiply};
use crate::gemm::view::{Order, View};
use crate::pool::{Pool, Scratch, SharedMut};

/// An operand `[len, k]`, also as plain values for the chain.
struct Operand<E> {
    data: Vec<E>,
    stride: usize,
    order: Order,
    k: usize,
}

impl<E: CpuElem> Operand<E> {
    fn new(random: &mut Random, len: usize, k: usize, order: Order, padding: usize) -> Self {
        let (outer, inner) = if order == Order::KInner { (len, k) } else { (k, len) };
        let stride = inner + padding;
        Operand { data: random.vec(outer * stride), stride, order, k }
    }

    fn view(&self) -> View<'_> {
        View::new::<E>(&self.data, self.stride, self.order)
    }

    fn rows(&self, len: usize) -> Vec<Vec<f32>> {
        let at = |i, k| if self.order == Order::KInner { i * self.stride + k } else { k * self.stride + i };
        (0..len).map(|i| (0..self.k).map(|k| self.data[at(i, k)].to_f32()).collect()).collect()
    }
}

struct Setup {
    isa: Isa,
    pool: Pool,
    scratch: Scratch,
}

impl Setup {
    fn all() -> Vec<Setup> {
        let new = |isa| Setup { isa, pool: Pool::new(2).unwrap(), scratch: Scratch::new(2) };
        Isa::available().into_iter().map(new).collect()
    }

    fn machine(&self) -> Machine<'_> {
        Machine { isa: self.isa, pool: &self.pool, scratch: &self.scratch }
    }
}

const CANARY: f32 = 1234.5;

/// Runs one product into a wider output and compares everything in it.
fn check<A: CpuElem, B: CpuElem>(setup: &Setup, unit: Unit, rows: usize, cols: usize, a: &Operand<A>, b: &Operand<B>) {
    let k = a.k;
    let what = format!("{} {unit:?} {rows} x {cols} x {k} {:?} {:?}", setup.isa, a.order, b.order);
    let (a_rows, b_rows) = (a.rows(rows), b.rows(cols));
    let width = cols + 5;
    let product = Product { rows, cols, k, unit, a: a.view(), b: Columns::View(b.view()) };
    let expect = |start: &dyn Fn(usize, usize) -> f32| {
        let mut expected = vec![CANARY; rows * width + 7];
        for r in 0..rows {
            for c in 0..cols {
                let start = start(r, c);
                expected[r * width + c] = chain(setup.isa, unit, start, k, |k| a_rows[r][k], |k| b_rows[c][k]);
            }
        }
        expected
    };
    let mut out = vec![CANARY; rows * width + 7];
    let finish = FinishForward::<f32> { out: SharedMut::new(&mut out), width, bias: None, end: Forward::Store };
    multiply(setup.machine(), &product, &Target::Finish(finish));
    assert_bits(&out, &expect(&|_, _| 0.0), &what);
    // The same added to what is there.
    let old = |r: usize, c: usize| (r * 3 + c) as f32 * 0.125 - 2.0;
    let mut out = vec![CANARY; rows * width + 7];
    for r in 0..rows {
        (0..cols).for_each(|c| out[r * width + c] = old(r, c));
    }
    let mut sums = vec![0.5; rows + 3];
    let row_sums = (a.order == Order::KOuter).then(|| SharedMut::new(&mut sums));
    let target: Target<'_, FinishForward<'_, f32>> =
        Target::Accumulate { out: SharedMut::new(&mut out), width, row_sums };
    multiply(setup.machine(), &product, &target);
    assert_bits(&out, &expect(&old), &what);
    if a.order == Order::KOuter {
        let half = |x: f32| if unit == Unit::Pair { bf16::from_f32(x).to_f32() } else { x };
        let mut expected = vec![0.5; rows + 3];
        for (sum, row) in expected.iter_mut().zip(&a_rows) {
            row.iter().for_each(|x| *sum += half(*x));
        }
        assert_bits(&sums, &expected, &what);
    }
}

#[test]
fn every_size_is_the_chain_of_the_order_rule() {
    let setups = Setup::all();
    let mut random = Random(1);
    for rows in SIZES {
        for cols in SIZES {
            for k in SIZES {
                // The three products of training, in turn, so that all meet all kinds of sizes.
                let (a, b) = match (rows + cols + k) % 3 {
                    0 => (Order::KInner, Order::KInner),
                    1 => (Order::KInner, Order::KOuter),
                    _ => (Order::KOuter, Order::KOuter),
                };
                let a = Operand::<f32>::new(&mut random, rows, k, a, 0);
                let b = Operand::<f32>::new(&mut random, cols, k, b, 0);
                for setup in &setups {
                    check(setup, Unit::F32, rows, cols, &a, &b);
                }
            }
        }
    }
}

#[test]
fn every_layout_type_and_unit_gives_the_chain() {
    fn layouts<A: CpuElem, B: CpuElem>(setups: &[Setup], sizes: [usize; 3], random: &mut Random) {
        let [rows, cols, k] = sizes;
        for a_order in [Order::KInner, Order::KOuter] {
            for b_order in [Order::KInner, Order::KOuter] {
                let padding = random.below(3);
                let a = Operand::<A>::new(random, rows, k, a_order, padding);
                let b = Operand::<B>::new(random, cols, k, b_order, padding);
                for setup in setups {
                    for unit in [Unit::F32, Unit::Pair] {
                        check(setup, unit, rows, cols, &a, &b);
                    }
                }
            }
        }
    }
    let setups = Setup::all();
    let mut random = Random(2);
    for sizes in
        [[1, 1, 1], [5, 33, 2], [14, 32, 64], [15, 31, 65], [29, 100, 3], [64, 17, 129], [3, 70, 700], [15, 33, 1539]]
    {
        layouts::<f32, f32>(&setups, sizes, &mut random);
        layouts::<bf16, bf16>(&setups, sizes, &mut random);
        layouts::<f32, bf16>(&setups, sizes, &mut random);
    }
}

#[test]
fn products_beyond_one_chunk_continue_their_chains() {
    let setups = Setup::all();
    let mut random = Random(3);
    // Much `k` and many columns: chunks of `k`, of columns and of rows with partial sums between them.
    for [rows, cols, k] in [[30, 300, 9001], [2100, 260, 4200]] {
        let a = Operand::<f32>::new(&mut random, rows, k, Order::KInner, 0);
        let b = Operand::<bf16>::new(&mut random, cols, k, Order::KOuter, 1);
        let setup = setups.last().unwrap();
        // All elements would take long: some rows are enough to see every chunk.
        let product = Product { rows, cols, k, unit: Unit::F32, a: a.view(), b: Columns::View(b.view()) };
        let mut out = vec![CANARY; rows * cols];
        let finish =
            FinishForward::<f32> { out: SharedMut::new(&mut out), width: cols, bias: None, end: Forward::Store };
        multiply(setup.machine(), &product, &Target::Finish(finish));
        let (a_rows, b_rows) = (a.rows(rows), b.rows(cols));
        for r in [0, 13, rows / 2, rows - 1] {
            let expected: Vec<f32> =
                (0..cols).map(|c| chain(setup.isa, Unit::F32, 0.0, k, |k| a_rows[r][k], |k| b_rows[c][k])).collect();
            assert_bits(&out[r * cols..][..cols], &expected, &(rows, cols, k, r));
        }
    }
}

#[test]
fn gradients_beyond_one_chunk_continue_their_chains() {
    let setups = Setup::all();
    let mut random = Random(4);
    // Several chunks of `k` and of columns, then of `k` and of rows.
    for (unit, [rows, cols, k]) in
        [(Unit::F32, [40, 3000, 1101]), (Unit::Pair, [40, 3000, 2201]), (Unit::F32, [10_100, 33, 401])]
    {
        let a = Operand::<bf16>::new(&mut random, rows, k, Order::KOuter, 0);
        let b = Operand::<bf16>::new(&mut random, cols, k, Order::KOuter, 0);
        let (a_rows, b_rows) = (a.rows(rows), b.rows(cols));
        let setup = setups.last().unwrap();
        let product = Product { rows, cols, k, unit, a: a.view(), b: Columns::View(b.view()) };
        let (mut out, mut sums) = (vec![0.25; rows * cols], vec![-0.5; rows]);
        let target: Target<'_, FinishForward<'_, f32>> = Target::Accumulate {
            out: SharedMut::new(&mut out),
            width: cols,
            row_sums: Some(SharedMut::new(&mut sums)),
        };
        multiply(setup.machine(), &product, &target);
        for r in [0, 13, 14, rows / 2, rows - 1] {
            let expected: Vec<f32> =
                (0..cols).map(|c| chain(setup.isa, unit, 0.25, k, |k| a_rows[r][k], |k| b_rows[c][k])).collect();
            assert_bits(&out[r * cols..][..cols], &expected, &(unit, r));
        }
        let expected: Vec<f32> = a_rows.iter().map(|row| row.iter().fold(-0.5, |sum, x| sum + x)).collect();
        assert_bits(&sums, &expected, &unit);
    }
}

#[test]
fn products_of_pairs_treat_denormals_as_the_instruction_does() {
    let setups = Setup::all();
    let mut random = Random(5);
    let (rows, cols, k) = (15, 33, 67);
    let mut a = Operand::<bf16>::new(&mut random, rows, k, Order::KInner, 1);
    let mut b = Operand::<bf16>::new(&mut random, cols, k, Order::KInner, 1);
    // Denormal elements, denormal products and denormal sums, among others that are not.
    for (i, x) in a.data.iter_mut().chain(&mut b.data).enumerate() {
        let scale = [1e-39, 1e-19, 1e-19, 1e-20, 1.0][i % 5];
        *x = bf16::from_f32(x.to_f32() * scale);
    }
    assert!(a.data.iter().any(|x| x.to_f32() != 0.0 && x.to_f32().abs() < f32::MIN_POSITIVE));
    for setup in &setups {
        for unit in [Unit::F32, Unit::Pair] {
            check(setup, unit, rows, cols, &a, &b);
        }
    }
}

#[test]
fn what_is_not_finite_spoils_its_own_sums_and_no_others() {
    let mut random = Random(6);
    let (rows, cols, k) = (17, 35, 67);
    for setup in Setup::all() {
        for unit in [Unit::F32, Unit::Pair] {
            for order in [Order::KInner, Order::KOuter] {
                let mut a = Operand::<f32>::new(&mut random, rows, k, order, 0);
                let mut b = Operand::<f32>::new(&mut random, cols, k, order, 0);
                let at = |i: usize, k: usize, stride: usize| {
                    if order == Order::KInner { i * stride + k } else { k * stride + i }
                };
                a.data[at(3, 66, a.stride)] = f32::NAN;
                a.data[at(16, 0, a.stride)] = f32::NEG_INFINITY;
                b.data[at(34, 5, b.stride)] = f32::from_bits(0x7f80_0001);
                b.data[at(8, 0, b.stride)] = 0.0;
                let product = Product { rows, cols, k, unit, a: a.view(), b: Columns::View(b.view()) };
                let mut out = vec![0.0; rows * cols];
                let finish = FinishForward::<f32> {
                    out: SharedMut::new(&mut out),
                    width: cols,
                    bias: None,
                    end: Forward::Store,
                };
                multiply(setup.machine(), &product, &Target::Finish(finish));
                for (i, x) in out.iter().enumerate() {
                    let (r, c) = (i / cols, i % cols);
                    let nan = r == 3 || c == 34 || (r == 16 && c == 8);
                    assert_eq!(x.is_nan(), nan, "{} {unit:?} {order:?} {r} {c}: {x}", setup.isa);
                    assert_eq!(x.is_infinite(), r == 16 && !nan, "{} {unit:?} {order:?} {r} {c}: {x}", setup.isa);
                }
            }
        }
    }
}

#[test]
fn nothing_to_add_leaves_everything_as_it_was() {
    for setup in Setup::all() {
        let (rows, cols) = (20, 37);
        let (a, b) = (View::new::<f32>(&[], 20, Order::KOuter), View::new::<f32>(&[], 37, Order::KOuter));
        let product = Product { rows, cols, k: 0, unit: Unit::F32, a, b: Columns::View(b) };
        let (mut out, mut sums) = (vec![1.5; rows * cols], vec![2.5; rows]);
        let target: Target<'_, FinishForward<'_, f32>> = Target::Accumulate {
            out: SharedMut::new(&mut out),
            width: cols,
            row_sums: Some(SharedMut::new(&mut sums)),
        };
        multiply(setup.machine(), &product, &target);
        assert!(out.iter().all(|x| *x == 1.5) && sums.iter().all(|x| *x == 2.5));
    }
}

#[test]
fn nothing_to_sum_is_zero_and_nothing_to_write_is_fine() {
    for setup in Setup::all() {
        for (rows, cols) in [(3, 5), (0, 5), (3, 0)] {
            let (a, b) = (View::new::<f32>(&[], 0, Order::KInner), View::new::<f32>(&[], 0, Order::KInner));
            let product = Product { rows, cols, k: 0, unit: Unit::F32, a, b: Columns::View(b) };
            let mut out = vec![1.0; rows * cols];
            let finish =
                FinishForward::<f32> { out: SharedMut::new(&mut out), width: cols, bias: None, end: Forward::Store };
            multiply(setup.machine(), &product, &Target::Finish(finish));
            assert!(out.iter().all(|x| *x == 0.0));
        }
    }
}

//! Operations with quantised weights: the products with the dequantised weights, or those with 8-bit activations to the bit,
//! whatever rows are in the call.

use std::ops::Range;

use verve_ops::args::{EmbedPrepared, InferEpilogue, LinearPrepared, Logits};
use verve_ops::quant::{ACTIVATION_BLOCK, ActivationPrecision, QuantKind};
use verve_ops::reference::Reference;
use verve_ops::{Activation, Backend, EmbedShape, HeadShape, InferBackend, LinearShape, Real};

use super::case::{Draw, Outputs, compare_outputs};
use super::prepared::rows_stand_alone;
use crate::quant::{QuantWeight, set_halves};
use crate::tolerance::Class;
use crate::{Host, assert_bits, rounded};

/// A quantised weight and rows to multiply with it.
#[derive(Clone)]
struct Case {
    precision: ActivationPrecision,
    weight: QuantWeight,
    rows: usize,
    inp: Vec<f64>,
    bias: Vec<f64>,
    residual: Vec<f64>,
}

impl Case {
    fn new<B: Backend>(seed: u64, parts: &[(QuantKind, usize)], d_in: usize, rows: usize) -> Self {
        let mut draw = Draw::<B>::new(seed);
        let weight = QuantWeight::random(&mut draw.data, parts, d_in);
        let d_out = weight.d_out();
        Case {
            precision: ActivationPrecision::Exact,
            rows,
            inp: draw.scaled_elems(rows * d_in, 1.0 / (d_in as f64).sqrt(), 0.0),
            bias: draw.elems(d_out),
            residual: draw.elems(rows * d_out),
            weight,
        }
    }

    fn with(self, precision: ActivationPrecision) -> Self {
        Case { precision, ..self }
    }

    fn label(&self) -> String {
        let (d_in, parts) = (self.weight.d_in, self.weight.sizes());
        format!("quantised weight {parts:?} of rows of {d_in}, times {} rows, {:?}", self.rows, self.precision)
    }

    fn prepared<X: InferBackend>(&self, host: Host<'_, X>) -> X::Weight {
        let (parts, d_in) = (self.weight.parts(), self.weight.d_in);
        host.0.prepare_quantized(&parts, d_in, self.precision).unwrap_or_else(|e| panic!("{}: {e}", self.label()))
    }

    fn linear<X: InferBackend>(
        &self,
        host: Host<'_, X>,
        weight: &X::Weight,
        end: Option<Activation>,
        rows: Range<usize>,
    ) -> Vec<f64> {
        let (d_in, d_out) = (self.weight.d_in, self.weight.d_out());
        let (inp, residual) = (
            host.long_elems(&self.inp[rows.start * d_in..rows.end * d_in]),
            host.long_elems(&self.residual[rows.start * d_out..rows.end * d_out]),
        );
        let mut out = host.unset_long(rows.len() * d_out);
        host.0.linear_prepared(LinearPrepared {
            inp: &inp,
            weight,
            bias: Some(&host.elems(&self.bias)),
            out: &mut out,
            epilogue: match end {
                None => InferEpilogue::Residual(&residual),
                Some(activation) => InferEpilogue::Activate(activation),
            },
            shape: LinearShape { rows: rows.len(), d_in, d_out },
        });
        host.read_long("linear_prepared, quantised", &out)
    }

    fn logits<X: InferBackend>(&self, host: Host<'_, X>, weight: &X::Weight, rows: Range<usize>) -> Vec<f64> {
        let (d_in, d_out) = (self.weight.d_in, self.weight.d_out());
        let shape = HeadShape { rows: rows.len(), d_model: d_in, n_vocab: d_out };
        let mut out = host.unset_long(rows.len() * d_out);
        let inp = host.long_elems(&self.inp[rows.start * d_in..rows.end * d_in]);
        host.0.logits(Logits { inp: &inp, weight, out: &mut out, shape });
        host.read_long("logits, quantised", &out)
    }

    fn run<X: InferBackend>(&self, host: Host<'_, X>) -> Outputs {
        let (weight, d_in) = (self.prepared(host), self.weight.d_in);
        let mut outputs = Outputs::default();
        outputs.acc("logits", self.logits(host, &weight, 0..self.rows), Class::Product(d_in));
        outputs.elem("linear", self.linear(host, &weight, None, 0..self.rows), Class::Product(d_in));
        // Offsets make weights that are all of one sign: sums in which much cancels.
        outputs.with_slack(2.0)
    }
}

const PRECISIONS: [ActivationPrecision; 3] =
    [ActivationPrecision::Exact, ActivationPrecision::Int8, ActivationPrecision::Int16];
const ROUNDED: [ActivationPrecision; 2] = [ActivationPrecision::Int8, ActivationPrecision::Int16];

/// Every format, rows and outputs around the edges of tiles and panels; then parts of several formats.
fn cases<B: Backend>() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, kind) in QuantKind::ALL.into_iter().enumerate() {
        let block = kind.block_len();
        // Blocks of 32 also as an odd number of them.
        let widths = if block == 32 { [1, 3, 19] } else { [1, 2, 3] };
        for (j, rows) in [1, 2, 3, 4, 5, 9, 17, 40, 66, 100].into_iter().enumerate() {
            let d_out = [1, 7, 31, 33, 64, 65, 100][(i + j) % 7];
            let seed = 1700 + (i * 10 + j) as u64;
            cases.push(Case::new::<B>(seed, &[(kind, d_out)], widths[j % 3] * block, rows));
        }
    }
    let all: Vec<_> = QuantKind::ALL.into_iter().enumerate().map(|(i, kind)| (kind, 5 + 17 * i % 40)).collect();
    let three = [(QuantKind::Q4K, 48), (QuantKind::Q4K, 9), (QuantKind::Q6K, 9)];
    for (i, rows) in [1, 6, 16, 70].into_iter().enumerate() {
        cases.push(Case::new::<B>(1800 + i as u64, &three, 512, rows));
        cases.push(Case::new::<B>(1810 + i as u64, &all, 256, rows));
    }
    // `k` in several blocks of the caches, and as many columns as are packed at once.
    cases.push(Case::new::<B>(1820, &[(QuantKind::Q5_1, 300), (QuantKind::Q3K, 20)], 9 * 512, 40));
    cases
}

/// `linear_prepared` and `logits` against `f64`.
pub fn products<B: InferBackend>(backend: &B) {
    for case in cases::<B>() {
        let (found, expected) = (case.run(Host(backend)), case.run(Host(&Reference::<f64>::new())));
        compare_outputs::<B>(&format!("{} on {}", case.label(), backend.describe()), &found, &expected);
        let (sizes, d_in) = (case.weight.sizes(), case.weight.d_in);
        let blocks: usize = case.weight.parts.iter().map(|(_, blocks, _)| blocks.len()).sum();
        assert!(backend.prepared_quantized_bytes(&sizes, d_in) >= blocks, "prepared_quantized_bytes: {}", case.label());
    }
}

/// No row's result depends on the other rows in the call.
pub fn rows_are_independent<B: InferBackend>(backend: &B) {
    let host = Host(backend);
    for (i, kind) in QuantKind::ALL.into_iter().enumerate() {
        let other = QuantKind::ALL[(i + 3) % QuantKind::ALL.len()];
        for precision in PRECISIONS {
            let case = Case::new::<B>(1900 + i as u64, &[(kind, 37), (other, 20)], 768, 66).with(precision);
            let weight = case.prepared(host);
            for end in [None, Some(Activation::Silu)] {
                rows_stand_alone(&case.label(), |rows| case.linear(host, &weight, end, rows));
            }
            rows_stand_alone(&format!("logits, {}", case.label()), |rows| case.logits(host, &weight, rows));
        }
    }
}

/// The embedding gives the dequantised values, rounded.
pub fn embed<B: InferBackend>(backend: &B) {
    let host = Host(backend);
    for (i, kind) in QuantKind::ALL.into_iter().enumerate() {
        let mut draw = Draw::<B>::new(2000 + i as u64);
        let (d_model, n_vocab, rows, n_positions) = (512, 45, 50, 9);
        let weight = QuantWeight::random(&mut draw.data, &[(kind, 40), (QuantKind::Q8_0, 5)], d_model);
        let values = weight.values();
        let pos = draw.elems(n_positions * d_model);
        let (tokens, positions) = (draw.data.ids(rows, n_vocab), draw.data.ids(rows, n_positions));
        let pos_table = host.elems(&pos);
        let precision = PRECISIONS[i % 3];
        for with_positions in [false, true] {
            let mut out = host.unset_long(rows * d_model);
            backend.embed_prepared(EmbedPrepared {
                tokens: &host.long_ids(&tokens),
                positions: &host.long_ids(&positions),
                table: &backend
                    .prepare_quantized(&weight.parts(), d_model, precision)
                    .unwrap_or_else(|e| panic!("{e}")),
                pos_table: with_positions.then_some(&pos_table),
                out: &mut out,
                shape: EmbedShape { rows, d_model, n_vocab, n_positions: if with_positions { n_positions } else { 0 } },
            });
            let expected = (0..rows * d_model).map(|at| {
                let (n, c) = (at / d_model, at % d_model);
                let value = values[tokens[n] as usize * d_model + c];
                let offset = if with_positions { pos[positions[n] as usize * d_model + c] } else { 0.0 };
                let narrow = B::Acc::from_f32(value).to_f64();
                if with_positions { B::Acc::from_f64(narrow + offset).to_f64() } else { narrow }
            });
            let expected = rounded::<B::Elem>(expected.collect());
            assert_bits(&format!("embed_prepared, {kind}"), &host.read_long("embed_prepared", &out), &expected);
        }
    }
}

/// Blocks with scales that are no numbers, as a damaged file may have: nothing panics, and the other outputs have the
/// bits that they have without them.
pub fn damaged<B: InferBackend>(backend: &B) {
    let host = Host(backend);
    for (i, kind) in QuantKind::ALL.into_iter().enumerate() {
        for (rows, precision) in [1, 40].into_iter().flat_map(|rows| PRECISIONS.map(|precision| (rows, precision))) {
            let sound = Case::new::<B>(2100 + i as u64, &[(kind, 40)], 512, rows).with(precision);
            let mut case = Case::new::<B>(2100 + i as u64, &[(kind, 40)], 512, rows).with(precision);
            let (_, blocks, _) = &mut case.weight.parts[0];
            let row_bytes = kind.bytes(512);
            let damaged = [(3, f32::NAN), (11, f32::INFINITY), (39, f32::NEG_INFINITY)];
            for (row, value) in damaged {
                set_halves(kind, &mut blocks[row * row_bytes..][..kind.block_bytes()], value);
            }
            let found = case.logits(host, &case.prepared(host), 0..rows);
            let expected = sound.logits(host, &sound.prepared(host), 0..rows);
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let is_damaged = damaged.iter().any(|(row, _)| *row == at % 40);
                let right = if is_damaged { !found.is_finite() } else { found.to_bits() == expected.to_bits() };
                assert!(right, "{kind}, {rows} rows, damaged outputs: output {at} is {found}, without {expected}");
            }
        }
    }
}

/// Results of every format, for comparison of bits: a third of the cases with each precision.
pub fn outputs<B: InferBackend>(backend: &B) -> Vec<(String, Outputs)> {
    let int8 = cases::<B>().into_iter().skip(1).step_by(3).map(|case| case.with(ActivationPrecision::Int8));
    let int16 = cases::<B>().into_iter().skip(2).step_by(3).map(|case| case.with(ActivationPrecision::Int16));
    let all: Vec<_> = cases::<B>().into_iter().step_by(3).chain(int8).chain(int16).collect();
    all.iter().map(|case| (case.label(), case.run(Host(backend)))).collect()
}

/// Logits of a case on the reference in `f32`, whose bits 8-bit products must have.
fn defined(case: &Case) -> Vec<f64> {
    let reference = Reference::<f32>::new();
    let host = Host(&reference);
    case.logits(host, &case.prepared(host), 0..case.rows)
}

/// Asserts the same bits, or no number in both.
fn assert_defined(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{what}: output {at} is {found:e}, not {expected:e}");
    }
}

/// Products with 8-bit activations: `logits` has the bits of the definition and is as near to the product with exact
/// activations as the rounding allows; `linear_prepared` is what its end makes of them.
pub fn int8_products<B: InferBackend>(backend: &B) {
    let host = Host(backend);
    let mut cases = cases::<B>();
    cases.retain(|case| case.rows <= 40);
    // Every number of rows up to several tiles.
    for rows in 1..=40 {
        let (kind, other) = (QuantKind::ALL[rows % 10], QuantKind::ALL[(rows + rows / 10 + 1) % 10]);
        cases.push(Case::new::<B>(2200 + rows as u64, &[(kind, 45), (other, 9)], 256, rows));
    }
    let cases = cases.into_iter().enumerate().flat_map(|(i, case)| {
        // Two parts take the same kernels: every second case is enough.
        let precisions = if i % 2 == 0 { &ROUNDED[..1] } else { &ROUNDED };
        precisions.iter().map(move |&precision| (i, case.clone().with(precision))).collect::<Vec<_>>()
    });
    for (i, case) in cases {
        let weight = case.prepared(host);
        let found = case.logits(host, &weight, 0..case.rows);
        let label = format!("{} on {}", case.label(), backend.describe());
        assert_defined(&label, &found, &defined(&case));
        if i % 3 == 0 {
            compare_outputs::<B>(&label, &case.run(host), &case.run(Host(&Reference::<f64>::new())));
        }
        near_exact(&label, &case, &found);
    }
}

/// Asserts the bound of [`verve_ops::quant::int8`] on the error.
fn near_exact(label: &str, case: &Case, found: &[f64]) {
    let (d_in, d_out, values) = (case.weight.d_in, case.weight.d_out(), case.weight.values());
    let sizes: Vec<f64> = values.iter().map(|w| f64::from(w.abs())).collect();
    // In f32: a sum and an offset for each group, neither of which is more than a few times the largest weight times the
    // activations. Scale and factor of the activations are rounded too.
    let chain = |largest: f64, inp: &[f64]| {
        let roundings = 8.0 * (d_in / 8) as f64;
        roundings * 2f64.powi(-24) * 4.0 * largest * inp.iter().map(|x| x.abs()).sum::<f64>()
    };
    let steps_of_largest = if case.precision == ActivationPrecision::Int16 { 64_516.0 } else { 254.0 };
    for n in 0..case.rows {
        let inp = &case.inp[n * d_in..][..d_in];
        let steps: Vec<f64> = inp
            .chunks(ACTIVATION_BLOCK)
            .map(|block| block.iter().fold(0f64, |most, x| most.max(x.abs())) / steps_of_largest)
            .collect();
        for o in 0..d_out {
            let row = o * d_in..(o + 1) * d_in;
            let exact: f64 = values[row.clone()].iter().zip(inp).map(|(w, x)| f64::from(*w) * x).sum();
            let sizes = &sizes[row];
            let rounding: f64 =
                sizes.chunks(ACTIVATION_BLOCK).zip(&steps).map(|(w, step)| step * w.iter().sum::<f64>()).sum();
            let largest = sizes.iter().fold(0f64, |most, w| most.max(*w));
            let (found, bound) = (found[n * d_out + o], rounding + chain(largest, inp));
            assert!(
                (found - exact).abs() <= bound,
                "{label}: output ({n}, {o}) is {found}, exactly {exact}: more than {bound} off"
            );
        }
    }
}

/// Activations that are no numbers, very large, very small or zero: what is defined for them, and nothing for other rows.
pub fn int8_hostile<B: InferBackend>(backend: &B) {
    let host = Host(backend);
    let strange = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::from(f32::MAX),
        f64::from(f32::MIN_POSITIVE),
        1e-40,
        4e-37,
        9e-35,
        1e-34,
        -0.0,
        0.0,
    ];
    for (i, kind) in QuantKind::ALL.into_iter().enumerate() {
        for (rows, precision) in [(1, 0), (3, 1), (40, 0), (2, 1), (41, 1)] {
            let d_in = 512;
            let mut case = Case::new::<B>(2300 + i as u64, &[(kind, 40)], d_in, rows).with(ROUNDED[precision]);
            for (n, row) in case.inp.chunks_exact_mut(d_in).enumerate().filter(|(n, _)| rows < 40 || n % 3 == 1) {
                let value = rounded::<B::Elem>(vec![strange[(n + i + rows) % strange.len()]])[0];
                // One value among others, in the middle of a row; or a block of nothing else.
                if n % 2 == 0 {
                    row[77 + n] = value;
                } else {
                    row[32..64].fill(value);
                }
            }
            let found = case.logits(host, &case.prepared(host), 0..rows);
            assert_defined(&format!("{}, hostile activations", case.label()), &found, &defined(&case));
            for (inp, found) in case.inp.chunks_exact(d_in).zip(found.chunks_exact(40)) {
                if inp.iter().any(|x| !x.is_finite()) {
                    assert!(found.iter().all(|x| x.is_nan()), "{}: a row with no number in it", case.label());
                }
            }
        }
    }
}

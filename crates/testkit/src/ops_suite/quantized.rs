//! Operations with quantised weights: the products with the dequantised weights, whatever rows are in the call.

use std::ops::Range;

use verve_ops::args::{EmbedPrepared, InferEpilogue, LinearPrepared, Logits};
use verve_ops::quant::QuantKind;
use verve_ops::reference::Reference;
use verve_ops::{Activation, Backend, EmbedShape, HeadShape, InferBackend, LinearShape, Real};

use super::case::{Draw, Outputs, compare_outputs};
use super::prepared::rows_stand_alone;
use crate::quant::{QuantWeight, set_halves};
use crate::tolerance::Class;
use crate::{Host, assert_bits, rounded};

/// A quantised weight and rows to multiply with it.
struct Case {
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
            rows,
            inp: draw.scaled_elems(rows * d_in, 1.0 / (d_in as f64).sqrt(), 0.0),
            bias: draw.elems(d_out),
            residual: draw.elems(rows * d_out),
            weight,
        }
    }

    fn label(&self) -> String {
        let (d_in, parts) = (self.weight.d_in, self.weight.sizes());
        format!("quantised weight {parts:?} of rows of {d_in}, times {} rows", self.rows)
    }

    fn prepared<X: InferBackend>(&self, host: Host<'_, X>) -> X::Weight {
        let (parts, d_in) = (self.weight.parts(), self.weight.d_in);
        host.0.prepare_quantized(&parts, d_in).unwrap_or_else(|e| panic!("{}: {e}", self.label()))
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
        let case = Case::new::<B>(1900 + i as u64, &[(kind, 37), (other, 20)], 768, 66);
        let weight = case.prepared(host);
        for end in [None, Some(Activation::Silu)] {
            rows_stand_alone(&case.label(), |rows| case.linear(host, &weight, end, rows));
        }
        rows_stand_alone(&format!("logits, {}", case.label()), |rows| case.logits(host, &weight, rows));
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
        for with_positions in [false, true] {
            let mut out = host.unset_long(rows * d_model);
            backend.embed_prepared(EmbedPrepared {
                tokens: &host.long_ids(&tokens),
                positions: &host.long_ids(&positions),
                table: &backend.prepare_quantized(&weight.parts(), d_model).unwrap_or_else(|e| panic!("{e}")),
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
        for rows in [1, 40] {
            let sound = Case::new::<B>(2100 + i as u64, &[(kind, 40)], 512, rows);
            let mut case = Case::new::<B>(2100 + i as u64, &[(kind, 40)], 512, rows);
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

/// Results of every format, for comparison of bits: a third of the cases.
pub fn outputs<B: InferBackend>(backend: &B) -> Vec<(String, Outputs)> {
    cases::<B>().iter().step_by(3).map(|case| (case.label(), case.run(Host(backend)))).collect()
}

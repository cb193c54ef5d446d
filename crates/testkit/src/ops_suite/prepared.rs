//! Operations with prepared weights: the same bits as with plain ones, whatever rows are in the call.

use std::ops::Range;

use verve_ops::args::{EmbedPrepared, Gate, GatherRows, InferEpilogue, LinearPrepared, Logits, Norm, Rope};
use verve_ops::{
    Activation, Backend, EmbedShape, HeadShape, InferBackend, LinearShape, NormKind, NormShape, RopeShape,
};

use super::case::{Case, Draw};
use super::linear::{self, Fused, LinearCase};
use super::rope;
use crate::tolerance::{Class, Stored, bound};
use crate::{Host, assert_bits, assert_close, shapes};

/// The output of a prepared linear layer for some rows of a case.
fn linear_rows<X: InferBackend>(
    host: Host<'_, X>,
    weight: &X::Weight,
    case: &LinearCase,
    rows: Range<usize>,
) -> Vec<f64> {
    let LinearShape { d_in, d_out, .. } = case.shape;
    let bias = case.bias.as_ref().map(|bias| host.elems(bias));
    let residual = host.long_elems(&case.residual[rows.start * d_out..rows.end * d_out]);
    let mut out = host.unset_long(rows.len() * d_out);
    host.0.linear_prepared(LinearPrepared {
        inp: &host.long_elems(&case.inp[rows.start * d_in..rows.end * d_in]),
        weight,
        bias: bias.as_ref(),
        out: &mut out,
        epilogue: match case.fused {
            Fused::Store => InferEpilogue::Store,
            Fused::Residual => InferEpilogue::Residual(&residual),
            Fused::Activate(activation) => InferEpilogue::Activate(activation),
        },
        shape: LinearShape { rows: rows.len(), d_in, d_out },
    });
    host.read_long("linear_prepared", &out)
}

fn prepare<X: InferBackend>(host: Host<'_, X>, weight: &[f64], d_out: usize, d_in: usize) -> X::Weight {
    host.0.prepare(&host.elems(weight), d_out, d_in).unwrap_or_else(|e| panic!("prepare [{d_out}, {d_in}]: {e}"))
}

/// The same bits as `linear`, in every case of `linear`.
pub fn linear<B: InferBackend>(backend: &B) {
    let host = Host(backend);
    for case in linear::cases::<B>() {
        let LinearShape { rows, d_in, d_out } = case.shape;
        assert!(backend.prepared_bytes(d_out, d_in) >= d_out * d_in, "prepared_bytes of [{d_out}, {d_in}]");
        let weight = prepare(host, &case.weight, d_out, d_in);
        let found = linear_rows(host, &weight, &case, 0..rows);
        let (expected, _) = case.forward(host);
        assert_bits(&format!("{}: linear_prepared and linear", case.label()), &found, &expected);
    }
}

/// The head's logits against `f64`, in `Acc`.
pub fn logits<B: InferBackend>(backend: &B) {
    for &(rows, d_model, n_vocab) in shapes::LINEAR {
        let mut draw = Draw::<B>::new(1300);
        let inp = draw.elems(rows * d_model);
        let weight = draw.scaled_elems(n_vocab * d_model, 1.0 / (d_model as f64).sqrt(), 0.0);
        let shape = HeadShape { rows, d_model, n_vocab };
        let found = logits_rows(Host(backend), &inp, &prepare(Host(backend), &weight, n_vocab, d_model), shape);
        let exact = Host(&verve_ops::reference::Reference::<f64>::new());
        let expected = logits_rows(exact, &inp, &prepare(exact, &weight, n_vocab, d_model), shape);
        let bound = bound::<B::Elem, B::Acc>(Class::Product(d_model), Stored::Acc, 1.0);
        assert_close(&format!("logits {shape:?} on {}", backend.describe()), &found, &expected, bound);
    }
}

fn logits_rows<X: InferBackend>(host: Host<'_, X>, inp: &[f64], weight: &X::Weight, shape: HeadShape) -> Vec<f64> {
    let mut out = host.unset_long(shape.rows * shape.n_vocab);
    host.0.logits(Logits { inp: &host.long_elems(inp), weight, out: &mut out, shape });
    host.read_long("logits", &out)
}

/// Gathered rows, repeated and out of order, bit for bit.
pub fn gather_rows<B: InferBackend>(backend: &B) {
    let host = Host(backend);
    for &cols in shapes::LENGTHS {
        let mut draw = Draw::<B>::new(1400 + cols as u64);
        let inp = draw.elems(9 * cols);
        for n_rows in [0, 1, 5, 33] {
            let rows = draw.data.ids(n_rows, 9);
            let mut out = host.unset_long(n_rows * cols);
            let (inp_buf, rows_buf) = (host.elems(&inp), host.long_ids(&rows));
            backend.gather_rows(GatherRows { inp: &inp_buf, rows: &rows_buf, n_rows, out: &mut out, cols });
            let expected: Vec<f64> =
                rows.iter().flat_map(|&row| inp[row as usize * cols..][..cols].iter().copied()).collect();
            assert_bits("gather_rows", &host.read_long("gather_rows", &out), &expected);
        }
    }
}

/// The prepared embedding gives the bits of `embed`.
pub fn embed<B: InferBackend>(backend: &B) {
    let host = Host(backend);
    for (d_model, n_vocab, n_positions) in [(1, 1, 1), (17, 5, 0), (64, 33, 8), (129, 100, 40), (96, 257, 0)] {
        let case = EmbedRows::new::<B>(d_model, n_vocab, n_positions);
        let table = prepare(host, &case.table, n_vocab, d_model);
        let found = case.prepared(host, &table, 0..case.tokens.len());
        let plain = host.elems(&case.table);
        let pos_table = host.elems(&case.pos_table);
        let mut out = host.unset_long(found.len());
        backend.embed(verve_ops::args::Embed {
            tokens: &host.buffer(&case.tokens),
            positions: &host.buffer(&case.positions),
            table: &plain,
            pos_table: (n_positions > 0).then_some(&pos_table),
            out: &mut out,
            shape: case.shape,
        });
        assert_bits(&format!("embed_prepared {:?}", case.shape), &found, &host.read_long("embed", &out));
    }
}

/// Rows to embed.
struct EmbedRows {
    shape: EmbedShape,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    table: Vec<f64>,
    pos_table: Vec<f64>,
}

impl EmbedRows {
    fn new<B: Backend>(d_model: usize, n_vocab: usize, n_positions: usize) -> Self {
        let mut draw = Draw::<B>::new(1500 + d_model as u64);
        let rows = 66;
        Self {
            shape: EmbedShape { rows, d_model, n_vocab, n_positions },
            tokens: draw.data.ids(rows, n_vocab),
            positions: draw.data.ids(rows, n_positions),
            table: draw.elems(n_vocab * d_model),
            pos_table: draw.elems(n_positions * d_model),
        }
    }

    fn prepared<X: InferBackend>(&self, host: Host<'_, X>, table: &X::Weight, rows: Range<usize>) -> Vec<f64> {
        let pos_table = host.elems(&self.pos_table);
        let mut out = host.unset_long(rows.len() * self.shape.d_model);
        host.0.embed_prepared(EmbedPrepared {
            tokens: &host.long_ids(&self.tokens[rows.clone()]),
            positions: &host.long_ids(&self.positions[rows.clone()]),
            table,
            pos_table: (self.shape.n_positions > 0).then_some(&pos_table),
            out: &mut out,
            shape: EmbedShape { rows: rows.len(), ..self.shape },
        });
        host.read_long("embed_prepared", &out)
    }
}

/// Asserts that an operation on some of 66 rows gives the bits that it gives for them among all.
pub(super) fn rows_stand_alone(what: &str, run: impl Fn(Range<usize>) -> Vec<f64>) {
    let rows = 66;
    let all = run(0..rows);
    let width = all.len() / rows;
    for &(first, count) in shapes::ROW_RANGES {
        let expected = &all[first * width..(first + count) * width];
        assert_bits(
            &format!("{what}: {count} rows from {first}, alone and among {rows}"),
            &run(first..first + count),
            expected,
        );
    }
}

/// No row's result depends on the other rows in the call. (Attention over the cache is tested with the cache.)
pub fn rows_are_independent<B: InferBackend>(backend: &B) {
    let host = Host(backend);
    for (i, (d_in, d_out)) in [(17, 33), (64, 64), (129, 65), (300, 48), (96, 257)].into_iter().enumerate() {
        let mut draw = Draw::<B>::new(1600 + i as u64);
        let mut case = LinearCase::new(&mut draw, LinearShape { rows: 66, d_in, d_out }, Fused::Store);
        let weight = prepare(host, &case.weight, d_out, d_in);
        for fused in
            [Fused::Store, Fused::Residual, Fused::Activate(Activation::GeluTanh), Fused::Activate(Activation::Silu)]
        {
            case.fused = fused;
            rows_stand_alone(&case.label(), |rows| linear_rows(host, &weight, &case, rows));
        }
        let shape = HeadShape { rows: 66, d_model: d_in, n_vocab: d_out };
        rows_stand_alone(&format!("logits {shape:?}"), |rows| {
            let shape = HeadShape { rows: rows.len(), ..shape };
            logits_rows(host, &case.inp[rows.start * d_in..rows.end * d_in], &weight, shape)
        });
        for kind in [NormKind::Layer, NormKind::Rms] {
            rows_stand_alone(&format!("{kind:?} norm of {d_in}"), |rows| norm_rows(host, &case.inp, d_in, kind, rows));
        }
        for activation in super::activation::ACTIVATIONS {
            rows_stand_alone(&format!("gate {activation:?}"), |rows| {
                let elements = rows.start * d_out..rows.end * d_out;
                gate_rows(host, &case.residual[elements.clone()], &case.d_out[elements], activation)
            });
        }
        let embed = EmbedRows::new::<B>(d_in, 40, if i % 2 == 0 { 50 } else { 0 });
        let table = prepare(host, &embed.table, 40, d_in);
        rows_stand_alone(&format!("embed_prepared {:?}", embed.shape), |rows| embed.prepared(host, &table, rows));
    }
    for (d_head, d_rot) in [(16, 16), (80, 32), (6, 6), (64, 64)] {
        let shape = RopeShape { rows: 66, row_width: 5 * d_head, n_heads: 4, d_head, d_rot, n_positions: 90 };
        rows_stand_alone(&format!("rope {shape:?}"), |rows| rope_rows(host, shape, rows));
    }
}

fn norm_rows<X: Backend>(host: Host<'_, X>, inp: &[f64], cols: usize, kind: NormKind, rows: Range<usize>) -> Vec<f64> {
    let (mut out, mut stats) = (host.unset_long(rows.len() * cols), host.unset_long(rows.len() * 2));
    host.0.norm(Norm {
        inp: &host.long_elems(&inp[rows.start * cols..rows.end * cols]),
        weight: &host.elems(&Draw::<X>::new(5).elems(cols)),
        bias: None,
        out: &mut out,
        stats: &mut stats,
        shape: NormShape { rows: rows.len(), cols, kind, eps: 1e-5 },
    });
    host.read_long("norm", &out)
}

fn gate_rows<X: Backend>(host: Host<'_, X>, gate: &[f64], up: &[f64], activation: Activation) -> Vec<f64> {
    let mut out = host.unset_long(gate.len());
    let (gate_buf, up_buf) = (host.long_elems(gate), host.long_elems(up));
    host.0.gate(Gate { gate: &gate_buf, up: &up_buf, out: &mut out, len: gate.len(), activation });
    host.read_long("gate", &out)
}

fn rope_rows<X: Backend>(host: Host<'_, X>, shape: RopeShape, rows: Range<usize>) -> Vec<f64> {
    let mut draw = Draw::<X>::new(6);
    let x = draw.elems(shape.rows * shape.row_width);
    let positions = draw.data.ids(shape.rows, shape.n_positions);
    let mut x = host.long_in_place(&x[rows.start * shape.row_width..rows.end * shape.row_width]);
    host.0.rope(Rope {
        x: &mut x,
        table: &host.accs(&rope::table::<X>(shape.n_positions, shape.d_rot)),
        positions: &host.long_ids(&positions[rows.clone()]),
        shape: RopeShape { rows: rows.len(), ..shape },
    });
    host.read_long("rope", &x)
}

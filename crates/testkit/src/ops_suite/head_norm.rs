//! Cases of the norm of heads and of scaled sums.

use verve_ops::args::{HeadNorm, HeadNormBackward, ScaledSum};
use verve_ops::{Backend, HeadNormShape, NormKind};

use super::case::{Case, Draw, Outputs};
use crate::Host;
use crate::tolerance::Class;

pub struct HeadNormCase {
    shape: HeadNormShape,
    inp: Vec<f64>,
    weights: [Vec<f64>; 2],
    d_out: Vec<f64>,
    d_weights: [Vec<f64>; 2],
}

pub fn cases<B: Backend>() -> Vec<HeadNormCase> {
    let mut cases = Vec::new();
    // rows, n_heads, n_kv_heads, d_head
    let sizes =
        [(1, 1, 1, 2), (5, 4, 2, 8), (3, 3, 1, 17), (67, 2, 2, 64), (9, 6, 2, 80), (130, 4, 1, 33), (2, 4, 1, 256)];
    for (i, (rows, n_heads, n_kv_heads, d_head)) in sizes.into_iter().enumerate() {
        for (kind, eps) in [(NormKind::Rms, 1e-6), (NormKind::RmsPlusOne, 0.3)] {
            let mut draw = Draw::<B>::new(900 + 10 * i as u64 + u64::from(kind == NormKind::Rms));
            let shape = HeadNormShape { rows, n_heads, n_kv_heads, d_head, kind, eps };
            cases.push(HeadNormCase {
                shape,
                inp: draw.scaled_elems(rows * shape.row_width(), 1.5, 0.25),
                weights: [draw.elems(d_head), draw.elems(d_head)],
                d_out: draw.elems(rows * shape.row_width()),
                d_weights: [draw.accs(d_head), draw.accs(d_head)],
            });
        }
    }
    cases
}

impl Case for HeadNormCase {
    fn label(&self) -> String {
        format!("head_norm {:?}", self.shape)
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let shape = self.shape;
        let class = Class::Norm(shape.d_head);
        let mut outputs = Outputs::default();
        let [q_weight, k_weight] = self.weights.each_ref().map(|weight| host.elems(weight));
        let mut out = host.unset_long(self.inp.len());
        let inp = host.long_elems(&self.inp);
        host.0.head_norm(HeadNorm { inp: &inp, q_weight: &q_weight, k_weight: &k_weight, out: &mut out, shape });
        let out = host.read_long("head_norm", &out);
        let mut d_rows = host.elems(&self.d_out);
        let [mut d_q_weight, mut d_k_weight] = self.d_weights.each_ref().map(|weight| host.accs(weight));
        host.0.head_norm_backward(HeadNormBackward {
            inp: &host.elems(&self.inp),
            q_weight: &q_weight,
            k_weight: &k_weight,
            d_rows: &mut d_rows,
            d_q_weight: &mut d_q_weight,
            d_k_weight: &mut d_k_weight,
            shape,
        });
        let d_rows = host.read(&d_rows);
        // Values pass.
        for (i, place) in (0..self.inp.len()).map(|i| (i, i % shape.row_width())) {
            let is_value = place >= (shape.n_heads + shape.n_kv_heads) * shape.d_head;
            let same = out[i] == self.inp[i] && d_rows[i] == self.d_out[i];
            assert!(!is_value || same, "{}: value [{i}] was changed", self.label());
        }
        outputs.elem("out", out, class);
        outputs.elem("d_rows", d_rows, class);
        outputs.acc("d_q_weight", host.read(&d_q_weight), Class::Norm(shape.rows * shape.n_heads));
        outputs.acc("d_k_weight", host.read(&d_k_weight), Class::Norm(shape.rows * shape.n_kv_heads));
        outputs.with_slack(2.0)
    }
}

pub struct ScaledSumCase {
    x: Vec<f64>,
    y: Option<Vec<f64>>,
    factor: f32,
}

pub fn sum_cases<B: Backend>() -> Vec<ScaledSumCase> {
    let mut draw = Draw::<B>::new(990);
    [(1, 1.0, true), (7, 25.25, false), (33, 1.0, true), (70_001, -0.5, true)]
        .into_iter()
        .map(|(len, factor, add)| ScaledSumCase { x: draw.elems(len), y: add.then(|| draw.elems(len)), factor })
        .collect()
}

impl Case for ScaledSumCase {
    fn label(&self) -> String {
        format!("scaled_sum of {} with {}", self.x.len(), self.factor)
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let mut outputs = Outputs::default();
        let mut x = host.long_in_place(&self.x);
        let y = self.y.as_ref().map(|y| host.long_elems(y));
        host.0.scaled_sum(ScaledSum { x: &mut x, factor: self.factor, y: y.as_ref(), len: self.x.len() });
        outputs.elem("x", host.read_long("scaled_sum", &x), Class::Few);
        outputs
    }
}

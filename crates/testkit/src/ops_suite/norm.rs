//! Cases of the normalisations.

use verve_ops::args::{Norm, NormBackward};
use verve_ops::reference::Reference;
use verve_ops::{Backend, NormKind, NormShape};

use super::case::{Case, Draw, Outputs};
use crate::tolerance::Class;
use crate::{Host, rounded};

pub struct NormCase {
    shape: NormShape,
    inp: Vec<f64>,
    weight: Vec<f64>,
    bias: Option<Vec<f64>>,
    /// As the forward of the reference gives them.
    stats: Vec<f64>,
    d_out: Vec<f64>,
    d_inp: Vec<f64>,
    d_weight: Vec<f64>,
    d_bias: Vec<f64>,
    slack: f64,
}

impl NormCase {
    fn new<B: Backend>(seed: u64, shape: NormShape, bias: bool, offset: f64) -> Self {
        let mut draw = Draw::<B>::new(seed);
        let NormShape { rows, cols, .. } = shape;
        let mut case = Self {
            shape,
            inp: draw.scaled_elems(rows * cols, 1.5, offset),
            weight: draw.elems(cols),
            bias: bias.then(|| draw.elems(cols)),
            stats: Vec::new(),
            d_out: draw.elems(rows * cols),
            d_inp: draw.elems(rows * cols),
            d_weight: draw.accs(cols),
            d_bias: draw.accs(cols),
            slack: 1.0 + offset.abs(),
        };
        case.stats = rounded::<B::Acc>(case.forward(Host(&Reference::<f64>::new())).1);
        case
    }

    /// Output and statistics.
    fn forward<X: Backend>(&self, host: Host<'_, X>) -> (Vec<f64>, Vec<f64>) {
        let bias = self.bias.as_ref().map(|bias| host.elems(bias));
        let (mut out, mut stats) = (host.unset_long(self.inp.len()), host.unset_long(2 * self.shape.rows));
        host.0.norm(Norm {
            inp: &host.long_elems(&self.inp),
            weight: &host.elems(&self.weight),
            bias: bias.as_ref(),
            out: &mut out,
            stats: &mut stats,
            shape: self.shape,
        });
        (host.read_long("norm", &out), host.read_long("norm stats", &stats))
    }
}

pub fn cases<B: Backend>() -> Vec<NormCase> {
    let mut cases = Vec::new();
    let sizes = [
        (1, 3),
        (2, 8),
        (1, 17),
        (3, 33),
        (5, 63),
        (7, 64),
        (4, 65),
        (17, 129),
        (65, 100),
        (33, 257),
        (130, 96),
        (2, 1000),
    ];
    for (i, (rows, cols)) in sizes.into_iter().enumerate() {
        let seed = 200 + 10 * i as u64;
        let layer = NormShape { rows, cols, kind: NormKind::Layer, eps: 1e-5 };
        let rms = NormShape { rows, cols, kind: NormKind::Rms, eps: 1e-6 };
        cases.push(NormCase::new::<B>(seed, layer, true, 0.0));
        cases.push(NormCase::new::<B>(seed + 1, layer, false, 0.5));
        cases.push(NormCase::new::<B>(seed + 2, rms, false, 0.5));
        cases.push(NormCase::new::<B>(seed + 3, NormShape { kind: NormKind::RmsPlusOne, ..rms }, false, 0.5));
    }
    // A large eps, which must be inside the root; a large mean, on which `mean(x^2) - mean^2` cancels.
    let odd = NormShape { rows: 9, cols: 77, kind: NormKind::Layer, eps: 0.7 };
    cases.push(NormCase::new::<B>(400, odd, true, 0.0));
    cases.push(NormCase::new::<B>(401, NormShape { kind: NormKind::Rms, ..odd }, false, 0.0));
    cases.push(NormCase::new::<B>(402, NormShape { eps: 1e-5, cols: 300, ..odd }, true, 30.0));
    cases
}

impl Case for NormCase {
    fn label(&self) -> String {
        format!("norm {:?}, {}", self.shape, if self.bias.is_some() { "with bias" } else { "no bias" })
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let class = Class::Norm(self.shape.cols);
        let mut outputs = Outputs::default();
        let (out, stats) = self.forward(host);
        outputs.elem("out", out, class);
        if self.shape.kind != NormKind::Layer {
            assert!(stats.iter().step_by(2).all(|&mean| mean == 0.0), "{}: the mean must be 0", self.label());
        }
        outputs.acc("stats", stats, class);

        let mut d_inp = host.elems(&self.d_inp);
        let (mut d_weight, mut d_bias) = (host.accs(&self.d_weight), host.accs(&self.d_bias));
        host.0.norm_backward(NormBackward {
            d_out: &host.elems(&self.d_out),
            inp: &host.elems(&self.inp),
            weight: &host.elems(&self.weight),
            stats: &host.accs(&self.stats),
            d_inp: &mut d_inp,
            d_weight: &mut d_weight,
            d_bias: self.bias.is_some().then_some(&mut d_bias),
            shape: self.shape,
        });
        outputs.elem("d_inp", host.read(&d_inp), class);
        outputs.acc("d_weight", host.read(&d_weight), Class::Norm(self.shape.rows));
        outputs.acc("d_bias", host.read(&d_bias), Class::Norm(self.shape.rows));
        outputs.with_slack(self.slack)
    }
}

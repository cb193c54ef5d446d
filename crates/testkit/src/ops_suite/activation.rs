//! Cases of the pointwise and gated activations.

use verve_ops::args::{Activate, ActivateBackward, Gate, GateBackward};
use verve_ops::{Activation, Backend};

use super::case::{Case, Draw, Outputs, to_elem};
use crate::tolerance::Class;
use crate::{Host, shapes};

pub const ACTIVATIONS: [Activation; 4] =
    [Activation::GeluTanh, Activation::GeluErf, Activation::Relu, Activation::Silu];

pub struct ActivationCase {
    activation: Activation,
    inp: Vec<f64>,
    up: Vec<f64>,
    d_out: Vec<f64>,
}

impl ActivationCase {
    fn new<B: Backend>(seed: u64, activation: Activation, mut inp: Vec<f64>) -> Self {
        inp = to_elem::<B>(inp);
        let mut draw = Draw::<B>::new(seed);
        let (up, d_out) = (draw.elems(inp.len()), draw.elems(inp.len()));
        Self { activation, inp, up, d_out }
    }
}

pub fn cases<B: Backend>() -> Vec<ActivationCase> {
    let mut cases = Vec::new();
    for (a, activation) in ACTIVATIONS.into_iter().enumerate() {
        let mut draw = Draw::<B>::new(700 + a as u64);
        for &len in shapes::LENGTHS {
            cases.push(ActivationCase::new::<B>(len as u64, activation, draw.data.normal(len)));
        }
        // Far into both tails; then so far that exponentials overflow and cubes are huge.
        cases.push(ActivationCase::new::<B>(1, activation, draw.data.uniform(3001, -12.0, 12.0)));
        cases.push(ActivationCase::new::<B>(2, activation, draw.data.uniform(501, -300.0, 300.0)));
        cases.push(ActivationCase::new::<B>(3, activation, draw.data.uniform(65, -1e6, 1e6)));
    }
    cases
}

impl Case for ActivationCase {
    fn label(&self) -> String {
        let (low, high) = self.inp.iter().fold((0.0f64, 0.0f64), |(low, high), &x| (low.min(x), high.max(x)));
        format!("{:?} of {} elements in {low}..={high}", self.activation, self.inp.len())
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let (activation, len) = (self.activation, self.inp.len());
        let mut outputs = Outputs::default();
        let inp = host.elems(&self.inp);
        let mut out = host.unset(len);
        host.0.activate(Activate { inp: &inp, out: &mut out, activation });
        outputs.elem("out", host.read(&out), Class::Function);

        let d_out = host.elems(&self.d_out);
        let mut d_inp = host.unset(len);
        host.0.activate_backward(ActivateBackward { d_out: &d_out, inp: &inp, d_inp: &mut d_inp, activation });
        outputs.elem("d_inp", host.read(&d_inp), Class::Function);

        let mut gated = host.unset_long(len);
        let (long_gate, long_up) = (host.long_elems(&self.inp), host.long_elems(&self.up));
        host.0.gate(Gate { gate: &long_gate, up: &long_up, out: &mut gated, len, activation });
        outputs.elem("gated", host.read_long("gate", &gated), Class::Function);

        let up = host.elems(&self.up);
        let (mut d_gate, mut d_up) = (host.unset(len), host.unset(len));
        host.0.gate_backward(GateBackward {
            d_out: &d_out,
            gate: &inp,
            up: &up,
            d_gate: &mut d_gate,
            d_up: &mut d_up,
            activation,
        });
        outputs.elem("d_gate", host.read(&d_gate), Class::Function);
        outputs.elem("d_up", host.read(&d_up), Class::Function);
        outputs
    }
}

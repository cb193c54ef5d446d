//! Cases of AdamW.

use verve_ops::args::AdamW;
use verve_ops::{AdamWStep, Backend};

use super::case::{Case, Draw, Outputs, to_elem};
use crate::tolerance::Class;
use crate::{Host, assert_bits, rounded, shapes};

pub struct AdamWCase {
    weight: Vec<f64>,
    master: Option<Vec<f64>>,
    grad: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    step: AdamWStep,
}

pub fn cases<B: Backend>() -> Vec<AdamWCase> {
    let mut cases = Vec::new();
    for (i, len) in shapes::LENGTHS.iter().copied().chain([5000]).enumerate() {
        let mut draw = Draw::<B>::new(1200 + i as u64);
        let n = 1 + i as i32;
        let step = AdamWStep {
            lr: 3e-2,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: if i % 2 == 0 { 0.1 } else { 0.0 },
            bias_correction1: 1.0 - 0.9f32.powi(n),
            bias_correction2: 1.0 - 0.95f32.powi(n),
            grad_scale: [1.0, 0.125, 0.3][i % 3],
        };
        let master = draw.accs(len);
        let (grad, m, v) = (draw.accs(len), draw.accs(len), draw.uniform_accs(len, 1e-4, 1.0));
        let case = |master: Option<Vec<f64>>, weight| AdamWCase {
            weight,
            master,
            grad: grad.clone(),
            m: m.clone(),
            v: v.clone(),
            step,
        };
        cases.push(case(Some(master.clone()), vec![f64::NAN; len]));
        cases.push(case(None, to_elem::<B>(master.clone())));
        // The first step: no moments yet, eps that counts.
        let zero = vec![0.0; len];
        let grad = rounded::<B::Acc>(grad.iter().map(|g| g * 1e-8).collect());
        cases.push(AdamWCase {
            weight: vec![f64::NAN; len],
            master: Some(master),
            grad,
            m: zero.clone(),
            v: zero,
            step: AdamWStep { bias_correction1: 0.1, bias_correction2: 0.05, ..step },
        });
    }
    cases
}

impl Case for AdamWCase {
    fn label(&self) -> String {
        let master = if self.master.is_some() { "with" } else { "without" };
        format!("adamw of {} elements, {master} master, {:?}", self.weight.len(), self.step)
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let mut outputs = Outputs::default();
        let mut weight = host.elems(&self.weight);
        let mut master = self.master.as_ref().map(|master| host.accs(master));
        let (mut m, mut v) = (host.accs(&self.m), host.accs(&self.v));
        host.0.adamw(AdamW {
            weight: &mut weight,
            master: master.as_mut(),
            grad: &host.accs(&self.grad),
            m: &mut m,
            v: &mut v,
            step: self.step,
        });
        if let Some(master) = master {
            let mut again = host.unset(self.weight.len());
            host.0.round(&master, &mut again);
            let what = format!("{}: weight and rounded master", self.label());
            assert_bits(&what, &host.download(&weight), &host.download(&again));
            outputs.acc("master", host.read(&master), Class::Step);
        } else {
            outputs.elem("weight", host.read(&weight), Class::Step);
        }
        outputs.acc("m", host.read(&m), Class::Step);
        outputs.acc("v", host.read(&v), Class::Step);
        outputs
    }
}

//! Cases of the output head and its loss.

use verve_ops::args::{HeadLoss, HeadLossBackward};
use verve_ops::{Backend, HeadShape, IGNORE_TARGET};

use super::case::{Case, Draw, Outputs};
use crate::Host;
use crate::tolerance::Class;

pub struct LossCase {
    shape: HeadShape,
    /// Rows of the workspace.
    chunk: usize,
    inp: Vec<f64>,
    weight: Vec<f64>,
    targets: Vec<u32>,
    d_weight: Vec<f64>,
    grad_scale: f32,
    slack: f64,
}

pub fn cases<B: Backend>() -> Vec<LossCase> {
    // rows, d_model, n_vocab, chunk, every which target is ignored (0: none), size of the logits
    let sizes = [
        (1, 1, 1, 1, 0, 1.0),
        (1, 17, 3, 4, 0, 1.0),
        (3, 8, 17, 1, 2, 1.0),
        (7, 33, 65, 3, 0, 1.0),
        (17, 64, 129, 17, 3, 1.0),
        (33, 65, 257, 8, 5, 1.0),
        (64, 16, 100, 64, 0, 3.0),
        (65, 48, 1000, 16, 4, 1.0),
        (130, 96, 300, 32, 0, 1.0),
        (5, 20, 50, 2, 1, 1.0),
        // Logits of several hundred.
        (9, 30, 77, 4, 3, 150.0),
    ];
    let case =
        |(i, (rows, d_model, n_vocab, chunk, ignored, size)): (usize, (usize, usize, usize, usize, usize, f64))| {
            let mut draw = Draw::<B>::new(1100 + i as u64);
            let mut targets = draw.data.ids(rows, n_vocab);
            if ignored > 0 {
                targets.iter_mut().step_by(ignored).for_each(|target| *target = IGNORE_TARGET);
            }
            LossCase {
                shape: HeadShape { rows, d_model, n_vocab },
                chunk,
                inp: draw.elems(rows * d_model),
                weight: draw.scaled_elems(n_vocab * d_model, size / (d_model as f64).sqrt(), 0.0),
                targets,
                d_weight: draw.accs(n_vocab * d_model),
                grad_scale: 0.37,
                slack: size,
            }
        };
    sizes.into_iter().enumerate().map(case).collect()
}

impl Case for LossCase {
    fn label(&self) -> String {
        let ignored = self.targets.iter().filter(|&&target| target == IGNORE_TARGET).count();
        format!("head loss {:?}, {} rows at a time, {ignored} ignored", self.shape, self.chunk)
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let shape = self.shape;
        let (inp, weight) = (host.elems(&self.inp), host.elems(&self.weight));
        let targets = host.buffer(&self.targets);
        let mut outputs = Outputs::default();
        let class = Class::LogSumExp(shape.d_model + shape.n_vocab);

        let (mut losses, mut logits) = (host.unset(shape.rows), host.unset(self.chunk * shape.n_vocab));
        host.0.head_loss(HeadLoss {
            inp: &inp,
            weight: &weight,
            targets: &targets,
            losses: &mut losses,
            logits: &mut logits,
            shape,
        });
        outputs.acc("losses", host.read(&losses), class);

        let (mut losses, mut logits) = (host.unset(shape.rows), host.unset(self.chunk * shape.n_vocab));
        let (mut d_inp, mut d_weight) = (host.unset(self.inp.len()), host.accs(&self.d_weight));
        host.0.head_loss_backward(HeadLossBackward {
            inp: &inp,
            weight: &weight,
            targets: &targets,
            losses: &mut losses,
            logits: &mut logits,
            d_inp: &mut d_inp,
            d_weight: &mut d_weight,
            grad_scale: self.grad_scale,
            shape,
        });
        outputs.acc("losses of the backward", host.read(&losses), class);
        outputs.elem("d_inp", host.read(&d_inp), Class::SoftmaxBackward(shape.d_model + shape.n_vocab));
        outputs.acc("d_weight", host.read(&d_weight), Class::SoftmaxBackward(shape.d_model + shape.rows));
        outputs.with_slack(self.slack)
    }
}

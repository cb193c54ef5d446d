//! Cases of the linear layer and its gradients.

use verve_ops::args::{Activate, Epilogue, InputGrad, Linear, LinearBackwardInput, LinearBackwardWeight};
use verve_ops::{Activation, Backend, LinearShape};

use super::case::{Case, Draw, Outputs};
use crate::tolerance::Class;
use crate::{Host, assert_bits, shapes};

/// What is fused behind the product.
#[derive(Debug, Clone, Copy)]
pub enum Fused {
    Store,
    Residual,
    Activate(Activation),
}

pub struct LinearCase {
    pub shape: LinearShape,
    pub fused: Fused,
    pub inp: Vec<f64>,
    pub weight: Vec<f64>,
    pub bias: Option<Vec<f64>>,
    pub residual: Vec<f64>,
    pub d_out: Vec<f64>,
    d_inp: Vec<f64>,
    d_weight: Vec<f64>,
    d_bias: Vec<f64>,
}

impl LinearCase {
    pub fn new<B: Backend>(draw: &mut Draw<B>, shape: LinearShape, fused: Fused) -> Self {
        let LinearShape { rows, d_in, d_out } = shape;
        Self {
            shape,
            fused,
            inp: draw.elems(rows * d_in),
            // So that the product is about as large as the bias and the residual.
            weight: draw.scaled_elems(d_out * d_in, 1.0 / (d_in as f64).sqrt(), 0.0),
            bias: Some(draw.elems(d_out)),
            residual: draw.elems(rows * d_out),
            d_out: draw.elems(rows * d_out),
            d_inp: draw.elems(rows * d_in),
            d_weight: draw.accs(d_out * d_in),
            d_bias: draw.accs(d_out),
        }
    }

    /// `out` and, if there is an activation, `pre`.
    pub fn forward<X: Backend>(&self, host: Host<'_, X>) -> (Vec<f64>, Vec<f64>) {
        let len = self.shape.rows * self.shape.d_out;
        let bias = self.bias.as_ref().map(|bias| host.elems(bias));
        let residual = host.elems(&self.residual);
        let (mut out, mut pre) = (host.unset(len), host.unset(len));
        host.0.linear(Linear {
            inp: &host.elems(&self.inp),
            weight: &host.elems(&self.weight),
            bias: bias.as_ref(),
            out: &mut out,
            epilogue: match self.fused {
                Fused::Store => Epilogue::Store,
                Fused::Residual => Epilogue::Residual(&residual),
                Fused::Activate(activation) => Epilogue::Activate { activation, pre: &mut pre },
            },
            shape: self.shape,
        });
        if let Fused::Activate(activation) = self.fused {
            // The activation is that of the rounded `pre`, bit for bit, because recomputing must give the same.
            let mut again = host.unset(len);
            host.0.activate(Activate { inp: &pre, out: &mut again, activation });
            let what = format!("{}: out and activate(pre)", self.label());
            assert_bits(&what, &host.download(&out), &host.download(&again));
        }
        (host.read(&out), host.read(&pre))
    }
}

/// Each shape with one way of fusing; the ways and the bias take turns.
pub fn cases<B: Backend>() -> Vec<LinearCase> {
    let ways = [
        Fused::Store,
        Fused::Activate(Activation::GeluTanh),
        Fused::Residual,
        Fused::Activate(Activation::GeluErf),
        Fused::Store,
        Fused::Activate(Activation::Silu),
        Fused::Residual,
        Fused::Activate(Activation::Relu),
    ];
    let case = |(i, &(rows, d_in, d_out)): (usize, &(usize, usize, usize))| {
        let mut draw = Draw::<B>::new(500 + i as u64);
        let mut case = LinearCase::new(&mut draw, LinearShape { rows, d_in, d_out }, ways[i % ways.len()]);
        if i % 3 == 0 {
            case.bias = None;
        }
        case
    };
    // Each shape twice, so that it meets another way of fusing.
    let n = shapes::LINEAR.len();
    (0..2 * n).map(|i| case((i + i / n, &shapes::LINEAR[i % n]))).collect()
}

/// The forward.
impl Case for LinearCase {
    fn label(&self) -> String {
        let bias = if self.bias.is_some() { "with bias" } else { "no bias" };
        format!("linear {:?}, {:?}, {bias}", self.shape, self.fused)
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let class = Class::Product(self.shape.d_in);
        let mut outputs = Outputs::default();
        let (out, pre) = self.forward(host);
        match self.fused {
            // The output is exactly the activation of `pre`, which has its own cases.
            Fused::Activate(_) => outputs.elem("pre", pre, class),
            Fused::Store | Fused::Residual => outputs.elem("out", out, class),
        }
        outputs
    }
}

/// The backward of the same cases.
pub struct LinearBackwardCase(pub LinearCase);

impl Case for LinearBackwardCase {
    fn label(&self) -> String {
        self.0.label().replacen("linear", "linear backward", 1)
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let case = &self.0;
        let shape = case.shape;
        let mut outputs = Outputs::default();
        // What was fused behind the product of the layer before decides how the gradient of this input goes on.
        let pre = host.elems(&case.inp);
        let (mut d_inp, write) = match case.fused {
            Fused::Store => (host.unset(case.inp.len()), InputGrad::Set),
            Fused::Residual => (host.elems(&case.d_inp), InputGrad::Add),
            Fused::Activate(activation) => {
                (host.unset(case.inp.len()), InputGrad::ThroughActivation { activation, pre: &pre })
            }
        };
        let d_out = host.elems(&case.d_out);
        let weight = host.elems(&case.weight);
        host.0.linear_backward_input(LinearBackwardInput {
            d_out: &d_out,
            weight: &weight,
            d_inp: &mut d_inp,
            write,
            shape,
        });
        let class = match case.fused {
            Fused::Activate(_) => Class::ProductOfFunction(shape.d_out),
            Fused::Store | Fused::Residual => Class::Product(shape.d_out),
        };
        outputs.elem("d_inp", host.read(&d_inp), class);

        let (mut d_weight, mut d_bias) = (host.accs(&case.d_weight), host.accs(&case.d_bias));
        host.0.linear_backward_weight(LinearBackwardWeight {
            d_out: &d_out,
            inp: &host.elems(&case.inp),
            d_weight: &mut d_weight,
            d_bias: case.bias.is_some().then_some(&mut d_bias),
            shape,
        });
        outputs.acc("d_weight", host.read(&d_weight), Class::Product(shape.rows));
        outputs.acc("d_bias", host.read(&d_bias), Class::Product(shape.rows));
        outputs
    }
}

//! Cases of causal attention.

use verve_ops::args::{Attention, AttentionBackward};
use verve_ops::reference::Reference;
use verve_ops::{AttnShape, Backend};

use super::case::{Case, Draw, Outputs};
use crate::tolerance::Class;
use crate::{Host, rounded, shapes};

pub struct AttentionCase {
    pub shape: AttnShape,
    qkv: Vec<f64>,
    slack: f64,
}

impl AttentionCase {
    /// Sequences with normal queries and keys times `heat`, which makes scores of about `heat^2`.
    pub fn new<B: Backend>(seed: u64, shape: AttnShape, heat: f64) -> Self {
        let qkv = Draw::<B>::new(seed).scaled_elems(shape.rows() * shape.qkv_width(), heat, 0.0);
        Self { shape, qkv, slack: (heat * heat).max(1.0) }
    }

    /// Rows of queries, keys and values.
    pub fn qkv(&self) -> &[f64] {
        &self.qkv
    }
}

fn shape(batch: usize, seq_len: usize, heads: (usize, usize), d_head: usize, window: Option<usize>) -> AttnShape {
    let (n_heads, n_kv_heads) = heads;
    AttnShape { batch, seq_len, n_heads, n_kv_heads, d_head, window, scale: 1.0 / (d_head as f32).sqrt() }
}

pub fn cases<B: Backend>() -> Vec<AttentionCase> {
    let mut shapes = vec![
        shape(1, 1, (1, 1), 1, None),
        shape(2, 3, (2, 1), 4, None),
        shape(1, 17, (3, 3), 10, Some(1)),
        shape(3, 17, (4, 2), 16, Some(5)),
        shape(1, 200, (2, 2), 16, None),
        shape(2, 130, (4, 2), 32, Some(64)),
        shape(1, 257, (2, 1), 24, Some(100)),
    ];
    for (i, &d_head) in shapes::HEAD_WIDTHS.iter().enumerate() {
        let heads = [(1, 1), (4, 2), (3, 3), (6, 2), (4, 1), (2, 2)][i];
        shapes.push(shape(1, 1, heads, d_head, None));
        shapes.push(shape(2, 33, heads, d_head, Some(17)));
        shapes.push(shape(1, [63, 64, 65, 129, 66, 97][i], heads, d_head, None));
        // A window as long as the sequence, and longer: the same as none.
        shapes.push(shape(1, 20, (2, 1), d_head, Some(20 + i)));
    }
    let mut cases: Vec<_> =
        shapes.iter().enumerate().map(|(i, &shape)| AttentionCase::new::<B>(900 + i as u64, shape, 1.0)).collect();
    // Scores of several hundred: the exponential overflows without the maximum taken off.
    cases.push(AttentionCase::new::<B>(980, shape(1, 40, (2, 1), 16, None), 16.0));
    cases.push(AttentionCase::new::<B>(981, shape(2, 70, (2, 2), 64, Some(33)), 12.0));
    cases
}

/// Output and log-sum-exp of a backend.
fn forward<X: Backend>(host: Host<'_, X>, case: &AttentionCase) -> (Vec<f64>, Vec<f64>) {
    let shape = case.shape;
    let (mut out, mut lse) = (host.unset(shape.rows() * shape.out_width()), host.unset(shape.rows() * shape.n_heads));
    host.0.attention(Attention { qkv: &host.elems(&case.qkv), out: &mut out, lse: &mut lse, shape });
    (host.read(&out), host.read(&lse))
}

/// The forward.
impl Case for AttentionCase {
    fn label(&self) -> String {
        format!("attention {:?}", self.shape)
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let class = self.shape.seq_len + self.shape.d_head;
        let mut outputs = Outputs::default();
        let (out, lse) = forward(host, self);
        outputs.elem("out", out, Class::Softmax(class));
        outputs.acc("lse", lse, Class::LogSumExp(class));
        outputs.with_slack(self.slack)
    }
}

/// The backward of the same cases, from the output and log-sum-exp that the reference gives.
pub struct AttentionBackwardCase {
    case: AttentionCase,
    out: Vec<f64>,
    lse: Vec<f64>,
    d_out: Vec<f64>,
    class: fn(usize) -> Class,
}

/// `class` is what is allowed: [`Class::SoftmaxBackward`] or [`Class::RoundedSoftmaxBackward`].
pub fn backward_cases<B: Backend>(class: fn(usize) -> Class) -> Vec<AttentionBackwardCase> {
    let with_forward = |(i, case): (usize, AttentionCase)| {
        let (out, lse) = forward(Host(&Reference::<f64>::new()), &case);
        let d_out = Draw::<B>::new(1000 + i as u64).elems(out.len());
        AttentionBackwardCase { out: rounded::<B::Elem>(out), lse: rounded::<B::Acc>(lse), d_out, class, case }
    };
    cases::<B>().into_iter().enumerate().map(with_forward).collect()
}

impl Case for AttentionBackwardCase {
    fn label(&self) -> String {
        format!("attention backward {:?}", self.case.shape)
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let shape = self.case.shape;
        let mut outputs = Outputs::default();
        let mut d_qkv = host.unset(self.case.qkv.len());
        host.0.attention_backward(AttentionBackward {
            qkv: &host.elems(&self.case.qkv),
            out: &host.elems(&self.out),
            lse: &host.accs(&self.lse),
            d_out: &host.elems(&self.d_out),
            d_qkv: &mut d_qkv,
            shape,
        });
        let class = (self.class)(shape.seq_len + shape.d_head);
        outputs.elem("d_qkv", host.read(&d_qkv), class);
        outputs.with_slack(self.case.slack)
    }
}

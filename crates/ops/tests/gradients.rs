//! Every backward of the reference against central differences of its forward, in `f64`.
//!
//! The function differentiated is `sum_i r_i out_i` with random `r`, which is then the gradient of the output. Gradients
//! that an operation adds to start from random numbers, which must be found again under the gradient.

use verve_ops::args::*;
use verve_ops::reference::{HostBuf, Reference};
use verve_ops::*;
use verve_testkit::{Data, assert_bits, assert_gradient};

type Exact = Reference<f64>;

const ACTIVATIONS: [Activation; 4] = [Activation::GeluTanh, Activation::GeluErf, Activation::Relu, Activation::Silu];

fn exact() -> Exact {
    Reference::new()
}

fn buf<T: Clone>(values: &[T]) -> HostBuf<T> {
    values.to_vec().into()
}

fn zeros(len: usize) -> HostBuf<f64> {
    vec![0.0; len].into()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What was added to `before`.
fn added(after: &HostBuf<f64>, before: &[f64]) -> Vec<f64> {
    after.as_slice().iter().zip(before).map(|(after, before)| after - before).collect()
}

/// Normal numbers, none so close to 0 that a difference would step over the kink of ReLU.
fn off_zero(data: &mut Data, len: usize) -> Vec<f64> {
    data.normal(len).into_iter().map(|x| if x.abs() < 0.01 { x + 0.05 } else { x }).collect()
}

#[test]
fn embed() {
    let mut data = Data::new(1);
    let shape = EmbedShape { rows: 9, d_model: 5, n_vocab: 4, n_positions: 6 };
    // Nine tokens out of four: some repeat.
    let (tokens, positions) = (buf(&data.ids(9, 4)), buf(&data.ids(9, 6)));
    let (table, pos_table, r) = (data.normal(20), data.normal(30), data.normal(45));
    let loss = |table: &[f64], pos_table: &[f64]| {
        let (table, pos_table, mut out) = (buf(table), buf(pos_table), zeros(45));
        let pos_table = Some(&pos_table);
        exact().embed(Embed { tokens: &tokens, positions: &positions, table: &table, pos_table, out: &mut out, shape });
        dot(out.as_slice(), &r)
    };
    let (before, pos_before) = (data.normal(20), data.normal(30));
    let (mut d_table, mut d_pos_table) = (buf(&before), buf(&pos_before));
    exact().embed_backward(EmbedBackward {
        tokens: &tokens,
        positions: &positions,
        d_out: &buf(&r),
        d_table: &mut d_table,
        d_pos_table: Some(&mut d_pos_table),
        shape,
    });
    assert_gradient("d_table", &added(&d_table, &before), &table, |table| loss(table, &pos_table));
    assert_gradient("d_pos_table", &added(&d_pos_table, &pos_before), &pos_table, |pos| loss(&table, pos));
}

#[test]
fn norm() {
    for (kind, with_bias) in [(NormKind::Layer, true), (NormKind::Layer, false), (NormKind::Rms, false)] {
        let mut data = Data::new(2);
        // An eps large enough to matter.
        let shape = NormShape { rows: 4, cols: 7, kind, eps: 0.01 };
        let inp: Vec<f64> = data.normal(28).iter().map(|x| 0.7 + x).collect();
        let (weight, bias, r) = (data.normal(7), data.normal(7), data.normal(28));
        let forward = |inp: &[f64], weight: &[f64], bias: &[f64]| {
            let (inp, weight, bias) = (buf(inp), buf(weight), buf(bias));
            let (mut out, mut stats) = (zeros(28), zeros(8));
            let bias = with_bias.then_some(&bias);
            exact().norm(Norm { inp: &inp, weight: &weight, bias, out: &mut out, stats: &mut stats, shape });
            (dot(out.as_slice(), &r), stats)
        };
        let (_, stats) = forward(&inp, &weight, &bias);
        let (inp_before, weight_before, bias_before) = (data.normal(28), data.normal(7), data.normal(7));
        let (mut d_inp, mut d_weight, mut d_bias) = (buf(&inp_before), buf(&weight_before), buf(&bias_before));
        exact().norm_backward(NormBackward {
            d_out: &buf(&r),
            inp: &buf(&inp),
            weight: &buf(&weight),
            stats: &stats,
            d_inp: &mut d_inp,
            d_weight: &mut d_weight,
            d_bias: with_bias.then_some(&mut d_bias),
            shape,
        });
        let what = |field: &str| format!("{kind:?} norm, {field}");
        assert_gradient(&what("d_inp"), &added(&d_inp, &inp_before), &inp, |x| forward(x, &weight, &bias).0);
        assert_gradient(&what("d_weight"), &added(&d_weight, &weight_before), &weight, |w| forward(&inp, w, &bias).0);
        if with_bias {
            assert_gradient(&what("d_bias"), &added(&d_bias, &bias_before), &bias, |b| forward(&inp, &weight, b).0);
        }
    }
}

/// Value of a linear layer's function, with the epilogue that `epilogue` gives.
fn linear_loss(
    shape: LinearShape,
    inp: &[f64],
    weight: &[f64],
    bias: &[f64],
    r: &[f64],
    epilogue: Epilogue<'_, Exact>,
) -> f64 {
    let mut out = zeros(shape.rows * shape.d_out);
    let (inp, weight, bias) = (buf(inp), buf(weight), buf(bias));
    exact().linear(Linear { inp: &inp, weight: &weight, bias: Some(&bias), out: &mut out, epilogue, shape });
    dot(out.as_slice(), r)
}

#[test]
fn linear() {
    let mut data = Data::new(3);
    let shape = LinearShape { rows: 3, d_in: 5, d_out: 4 };
    let (inp, weight, bias, r) = (data.normal(15), data.normal(20), data.normal(4), data.normal(12));
    let residual = buf(&data.normal(12));
    // The residual adds a constant: it changes the value and no gradient.
    let loss = |inp: &[f64], weight: &[f64], bias: &[f64]| {
        linear_loss(shape, inp, weight, bias, &r, Epilogue::Residual(&residual))
    };
    let plain = linear_loss(shape, &inp, &weight, &bias, &r, Epilogue::Store);
    let with_residual = loss(&inp, &weight, &bias);
    assert!((with_residual - plain - dot(residual.as_slice(), &r)).abs() < 1e-12);

    let (d_out, weight_buf) = (buf(&r), buf(&weight));
    let before = data.normal(15);
    let (mut set, mut add) = (zeros(15), buf(&before));
    for (d_inp, write) in [(&mut set, InputGrad::Set), (&mut add, InputGrad::Add)] {
        exact().linear_backward_input(LinearBackwardInput { d_out: &d_out, weight: &weight_buf, d_inp, write, shape });
    }
    assert_gradient("d_inp, set", set.as_slice(), &inp, |inp| loss(inp, &weight, &bias));
    assert_gradient("d_inp, added", &added(&add, &before), &inp, |inp| loss(inp, &weight, &bias));

    let (weight_before, bias_before) = (data.normal(20), data.normal(4));
    let (mut d_weight, mut d_bias) = (buf(&weight_before), buf(&bias_before));
    exact().linear_backward_weight(LinearBackwardWeight {
        d_out: &d_out,
        inp: &buf(&inp),
        d_weight: &mut d_weight,
        d_bias: Some(&mut d_bias),
        shape,
    });
    assert_gradient("d_weight", &added(&d_weight, &weight_before), &weight, |weight| loss(&inp, weight, &bias));
    assert_gradient("d_bias", &added(&d_bias, &bias_before), &bias, |bias| loss(&inp, &weight, bias));
}

/// Two layers with an activation between them: the first layer's epilogue forward, the second one's `InputGrad` backward.
#[test]
fn linear_through_activation() {
    for activation in ACTIVATIONS {
        let mut data = Data::new(4);
        let first = LinearShape { rows: 3, d_in: 2, d_out: 5 };
        let second = LinearShape { rows: 3, d_in: 5, d_out: 4 };
        let (inp, weight, bias) = (data.normal(6), data.normal(10), off_zero(&mut data, 5));
        let (second_weight, r) = (data.normal(20), data.normal(12));
        let forward = |bias: &[f64]| {
            let (inp, weight, bias) = (buf(&inp), buf(&weight), buf(bias));
            let (mut hidden, mut pre) = (zeros(15), zeros(15));
            exact().linear(Linear {
                inp: &inp,
                weight: &weight,
                bias: Some(&bias),
                out: &mut hidden,
                epilogue: Epilogue::Activate { activation, pre: &mut pre },
                shape: first,
            });
            let loss = linear_loss(second, hidden.as_slice(), &second_weight, &[0.0; 4], &r, Epilogue::Store);
            (loss, pre)
        };
        let (_, pre) = forward(&bias);
        let mut d_pre = zeros(15);
        exact().linear_backward_input(LinearBackwardInput {
            d_out: &buf(&r),
            weight: &buf(&second_weight),
            d_inp: &mut d_pre,
            write: InputGrad::ThroughActivation { activation, pre: &pre },
            shape: second,
        });
        let mut d_bias = zeros(5);
        exact().linear_backward_weight(LinearBackwardWeight {
            d_out: &d_pre,
            inp: &buf(&inp),
            d_weight: &mut zeros(10),
            d_bias: Some(&mut d_bias),
            shape: first,
        });
        assert_gradient(&format!("{activation:?}"), d_bias.as_slice(), &bias, |bias| forward(bias).0);
    }
}

#[test]
fn activations() {
    for activation in ACTIVATIONS {
        let mut data = Data::new(5);
        let inp: Vec<f64> = off_zero(&mut data, 60).iter().map(|x| 2.0 * x).collect();
        let (up, r) = (data.normal(60), data.normal(60));
        let activate = |inp: &[f64]| {
            let mut out = zeros(60);
            exact().activate(Activate { inp: &buf(inp), out: &mut out, activation });
            dot(out.as_slice(), &r)
        };
        let gate = |gate: &[f64], up: &[f64]| {
            let mut out = zeros(60);
            exact().gate(Gate { gate: &buf(gate), up: &buf(up), out: &mut out, len: 60, activation });
            dot(out.as_slice(), &r)
        };
        let mut d_inp = zeros(60);
        let (inp_buf, d_out) = (buf(&inp), buf(&r));
        exact().activate_backward(ActivateBackward { d_out: &d_out, inp: &inp_buf, d_inp: &mut d_inp, activation });
        assert_gradient(&format!("{activation:?}, d_inp"), d_inp.as_slice(), &inp, activate);

        let (mut d_gate, mut d_up) = (zeros(60), zeros(60));
        exact().gate_backward(GateBackward {
            d_out: &d_out,
            gate: &inp_buf,
            up: &buf(&up),
            d_gate: &mut d_gate,
            d_up: &mut d_up,
            activation,
        });
        assert_gradient(&format!("{activation:?}, d_gate"), d_gate.as_slice(), &inp, |x| gate(x, &up));
        assert_gradient(&format!("{activation:?}, d_up"), d_up.as_slice(), &up, |up| gate(&inp, up));
    }
}

#[test]
fn rope() {
    let mut data = Data::new(6);
    // A head that does not rotate at all, and dimensions of each head that do not.
    let shape = RopeShape { rows: 4, row_width: 18, n_heads: 2, d_head: 6, d_rot: 4, n_positions: 50 };
    let angles = data.uniform(100, 0.0, 6.0);
    let table: Vec<f64> =
        angles.chunks_exact(2).flat_map(|a| [a[0].cos(), a[1].cos(), a[0].sin(), a[1].sin()]).collect();
    let (table, positions) = (buf(&table), buf(&data.ids(4, 50)));
    let (x, r) = (data.normal(72), data.normal(72));
    let loss = |x: &[f64]| {
        let mut x = buf(x);
        exact().rope(Rope { x: &mut x, table: &table, positions: &positions, shape });
        dot(x.as_slice(), &r)
    };
    let mut d_x = buf(&r);
    exact().rope_backward(Rope { x: &mut d_x, table: &table, positions: &positions, shape });
    assert_gradient("rope", d_x.as_slice(), &x, loss);

    // The formula by hand, for one pair.
    let mut rotated = buf(&x);
    exact().rope(Rope { x: &mut rotated, table: &table, positions: &positions, shape });
    let position = positions.as_slice()[1] as usize;
    let (cos, sin) = (angles[2 * position + 1].cos(), angles[2 * position + 1].sin());
    let (a, b) = (x[18 + 6 + 1], x[18 + 6 + 3]);
    assert!((rotated.as_slice()[18 + 6 + 1] - (a * cos - b * sin)).abs() < 1e-14);
    assert!((rotated.as_slice()[18 + 6 + 3] - (b * cos + a * sin)).abs() < 1e-14);
}

fn attention_shapes() -> Vec<AttnShape> {
    let shape = |n_heads, n_kv_heads, window| AttnShape {
        batch: 2,
        seq_len: 5,
        n_heads,
        n_kv_heads,
        d_head: 3,
        window,
        scale: 0.6,
    };
    vec![shape(2, 2, None), shape(4, 2, None), shape(3, 1, Some(2)), shape(2, 1, Some(1)), shape(1, 1, Some(9))]
}

fn attend(shape: AttnShape, qkv: &[f64]) -> (HostBuf<f64>, HostBuf<f64>) {
    let (mut out, mut lse) = (zeros(shape.rows() * shape.out_width()), zeros(shape.rows() * shape.n_heads));
    exact().attention(Attention { qkv: &buf(qkv), out: &mut out, lse: &mut lse, shape });
    (out, lse)
}

#[test]
fn attention() {
    for shape in attention_shapes() {
        let mut data = Data::new(7);
        let qkv = data.normal(shape.rows() * shape.qkv_width());
        let r = data.normal(shape.rows() * shape.out_width());
        let (out, lse) = attend(shape, &qkv);
        // Overwritten, so what was there before must not be seen.
        let mut d_qkv = buf(&data.normal(qkv.len()));
        exact().attention_backward(AttentionBackward {
            qkv: &buf(&qkv),
            out: &out,
            lse: &lse,
            d_out: &buf(&r),
            d_qkv: &mut d_qkv,
            shape,
        });
        assert_gradient(&format!("{shape:?}"), d_qkv.as_slice(), &qkv, |qkv| dot(attend(shape, qkv).0.as_slice(), &r));
    }
}

/// The forward from its definition, with a full matrix of weights: differences of the forward say nothing about a forward
/// that is itself wrong.
#[test]
fn attention_is_a_masked_softmax() {
    for shape in attention_shapes() {
        let qkv = Data::new(8).normal(shape.rows() * shape.qkv_width());
        let (out, lse) = attend(shape, &qkv);
        let d = shape.d_head;
        for b in 0..shape.batch {
            for h in 0..shape.n_heads {
                let kv = h * shape.n_kv_heads / shape.n_heads;
                let row = |t: usize, head: usize| &qkv[(b * shape.seq_len + t) * shape.qkv_width() + head * d..][..d];
                for i in 0..shape.seq_len {
                    let sees = |j: usize| j <= i && i - j < shape.window.unwrap_or(usize::MAX);
                    let weights: Vec<f64> = (0..shape.seq_len)
                        .map(|j| match sees(j) {
                            true => (f64::from(shape.scale) * dot(row(i, h), row(j, shape.n_heads + kv))).exp(),
                            false => 0.0,
                        })
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    let n = b * shape.seq_len + i;
                    assert!((lse.as_slice()[n * shape.n_heads + h] - sum.ln()).abs() < 1e-12, "{shape:?}");
                    for c in 0..d {
                        let value = |j: usize| row(j, shape.n_heads + shape.n_kv_heads + kv)[c];
                        let expected: f64 = weights.iter().enumerate().map(|(j, w)| w / sum * value(j)).sum();
                        let found = out.as_slice()[n * shape.out_width() + h * d + c];
                        assert!((found - expected).abs() < 1e-12, "{shape:?} at {b} {h} {i} {c}: {found} {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn head_loss() {
    let mut data = Data::new(9);
    let shape = HeadShape { rows: 6, d_model: 4, n_vocab: 7 };
    let targets = buf(&[3, IGNORE_TARGET, 0, 6, 3, IGNORE_TARGET]);
    let (inp, weight) = (data.normal(24), data.normal(28));
    let grad_scale = 0.25;
    let losses = |inp: &[f64], weight: &[f64]| {
        let (mut losses, mut logits) = (zeros(6), zeros(14));
        exact().head_loss(HeadLoss {
            inp: &buf(inp),
            weight: &buf(weight),
            targets: &targets,
            losses: &mut losses,
            logits: &mut logits,
            shape,
        });
        losses.into_vec()
    };
    let loss = |inp: &[f64], weight: &[f64]| f64::from(grad_scale) * losses(inp, weight).iter().sum::<f64>();

    let before = data.normal(28);
    let (mut backward_losses, mut logits) = (zeros(6), zeros(7));
    let (mut d_inp, mut d_weight) = (buf(&data.normal(24)), buf(&before));
    exact().head_loss_backward(HeadLossBackward {
        inp: &buf(&inp),
        weight: &buf(&weight),
        targets: &targets,
        losses: &mut backward_losses,
        logits: &mut logits,
        d_inp: &mut d_inp,
        d_weight: &mut d_weight,
        grad_scale,
        shape,
    });
    assert_gradient("d_inp", d_inp.as_slice(), &inp, |inp| loss(inp, &weight));
    assert_gradient("d_weight", &added(&d_weight, &before), &weight, |weight| loss(&inp, weight));
    assert_bits("losses of forward and backward", backward_losses.as_slice(), &losses(&inp, &weight));
    assert!(d_inp.as_slice()[4..8].iter().all(|&d| d == 0.0), "an ignored target has no gradient");

    // The definition, without taking the maximum off.
    for (n, &target) in targets.as_slice().iter().enumerate() {
        let logits: Vec<f64> = (0..7).map(|v| dot(&inp[4 * n..][..4], &weight[4 * v..][..4])).collect();
        let expected = match target {
            IGNORE_TARGET => 0.0,
            _ => -(logits[target as usize].exp() / logits.iter().map(|l| l.exp()).sum::<f64>()).ln(),
        };
        assert!((backward_losses.as_slice()[n] - expected).abs() < 1e-12, "row {n}");
    }
}

#[test]
fn activations_by_their_definitions() {
    let apply = |activation, x: f64| {
        let mut out = zeros(1);
        exact().activate(Activate { inp: &buf(&[x]), out: &mut out, activation });
        out.as_slice()[0]
    };
    // Values of PyTorch 2: gelu(approximate="tanh"), gelu, relu, silu.
    for (activation, x, expected) in [
        (Activation::GeluTanh, 1.0, 0.841_191_990_608_300_7),
        (Activation::GeluTanh, -2.0, -0.045_402_305_912_109_5),
        (Activation::GeluErf, 1.0, 0.841_344_746_068_542_9),
        (Activation::GeluErf, -2.0, -0.045_500_263_896_358_42),
        (Activation::Relu, 1.5, 1.5),
        (Activation::Relu, -1.5, 0.0),
        (Activation::Silu, 1.0, 0.731_058_578_630_004_9),
        (Activation::Silu, -2.0, -0.238_405_844_044_234_9),
    ] {
        let found = apply(activation, x);
        assert!((found - expected).abs() < 1e-12, "{activation:?}({x}) = {found}, expected {expected}");
    }
}

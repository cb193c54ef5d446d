//! The operations of the backend that are products.

use verve_ops::args::*;
use verve_ops::{Activation, EmbedShape, HeadShape, IGNORE_TARGET, InferBackend, LinearShape};

use super::*;

const ACTIVATIONS: [Activation; 4] = [Activation::GeluTanh, Activation::GeluErf, Activation::Relu, Activation::Silu];

/// Elementwise results of the backend's own activation, which the fused ones must equal.
fn activated<E: CpuElem>(backend: &CpuBackend<E>, pre: &[E], activation: Activation) -> Vec<E> {
    let (inp, mut out) = (buf(pre), CpuBuf::zeroed(pre.len()).unwrap());
    backend.activate(Activate { inp: &inp, out: &mut out, activation });
    out.to_vec()
}

struct Layer<E: CpuElem> {
    shape: LinearShape,
    inp: CpuBuf<E>,
    weight: CpuBuf<E>,
    bias: CpuBuf<E>,
    other: CpuBuf<E>,
}

impl<E: CpuElem> Layer<E> {
    fn new(rows: usize, d_in: usize, d_out: usize) -> Self {
        let mut random = Random((rows * 1_000_000 + d_in * 1000 + d_out) as u64);
        Layer {
            shape: LinearShape { rows, d_in, d_out },
            inp: random.buf(rows * d_in),
            weight: random.buf(d_out * d_in),
            bias: random.buf(d_out),
            other: random.buf(rows * d_out.max(d_in)),
        }
    }

    fn out(&self) -> CpuBuf<E> {
        CpuBuf::zeroed(self.shape.rows * self.shape.d_out).unwrap()
    }

    fn run(
        &self,
        backend: &CpuBackend<E>,
        bias: Option<&CpuBuf<E>>,
        epilogue: Epilogue<'_, CpuBackend<E>>,
        out: &mut CpuBuf<E>,
    ) {
        backend.linear(Linear { inp: &self.inp, weight: &self.weight, bias, out, epilogue, shape: self.shape });
    }

    fn sums(&self, isa: Isa) -> Vec<f32> {
        let LinearShape { rows, d_in, d_out } = self.shape;
        let mut sums = Vec::new();
        for n in 0..rows {
            for o in 0..d_out {
                let a = |k: usize| self.inp[n * d_in + k].to_f32();
                let b = |k: usize| self.weight[o * d_in + k].to_f32();
                sums.push(chain(isa, Unit::of::<E>(isa), 0.0, d_in, a, b));
            }
        }
        sums
    }

    fn residual(&self) -> CpuBuf<E> {
        buf(&self.other[..self.shape.rows * self.shape.d_out])
    }
}

fn forward_is_chain_bias_end_and_rounding<E: CpuElem>() {
    for backend in backends::<E>() {
        for (rows, d_in, d_out) in [(1, 3, 1), (3, 17, 65), (65, 129, 17), (17, 257, 63)] {
            let layer = Layer::<E>::new(rows, d_in, d_out);
            let what = backend.describe();
            let sums = layer.sums(backend.isa());
            let biased = |i: usize| sums[i] + layer.bias[i % d_out].to_f32();
            let rounded =
                |values: &dyn Fn(usize) -> f32| -> Vec<E> { (0..sums.len()).map(|i| E::from_f32(values(i))).collect() };
            let mut out = layer.out();
            layer.run(&backend, None, Epilogue::Store, &mut out);
            assert_bits(&out, &rounded(&|i| sums[i]), &what);
            layer.run(&backend, Some(&layer.bias), Epilogue::Store, &mut out);
            assert_bits(&out, &rounded(&biased), &what);
            let residual = layer.residual();
            layer.run(&backend, Some(&layer.bias), Epilogue::Residual(&residual), &mut out);
            assert_bits(&out, &rounded(&|i| residual[i].to_f32() + biased(i)), &what);
            for activation in ACTIVATIONS {
                let mut pre = layer.out();
                layer.run(&backend, Some(&layer.bias), Epilogue::Activate { activation, pre: &mut pre }, &mut out);
                assert_bits(&pre, &rounded(&biased), &what);
                assert_bits(&out, &activated(&backend, &pre, activation), &(what.clone(), activation));
            }
        }
    }
}

#[test]
fn forward_is_chain_bias_end_and_rounding_f32() {
    forward_is_chain_bias_end_and_rounding::<f32>();
}

#[test]
fn forward_is_chain_bias_end_and_rounding_bf16() {
    forward_is_chain_bias_end_and_rounding::<half::bf16>();
}

fn input_gradient_is_chain_and_end<E: CpuElem>() {
    for backend in backends::<E>() {
        for (rows, d_in, d_out) in [(1, 1, 3), (3, 65, 17), (65, 17, 129), (17, 63, 257)] {
            let layer = Layer::<E>::new(rows, d_in, d_out);
            let (isa, what, shape) = (backend.isa(), backend.describe(), layer.shape);
            let d_out_buf = layer.residual();
            let sum = |i: usize| {
                let a = |k: usize| d_out_buf[i / d_in * d_out + k].to_f32();
                chain(isa, Unit::of::<E>(isa), 0.0, d_out, a, |k| layer.weight[k * d_in + i % d_in].to_f32())
            };
            let sums: Vec<f32> = (0..rows * d_in).map(sum).collect();
            let old = buf(&layer.other[..rows * d_in]);
            let run = |write| {
                let mut d_inp = buf(&old);
                backend.linear_backward_input(LinearBackwardInput {
                    d_out: &d_out_buf,
                    weight: &layer.weight,
                    d_inp: &mut d_inp,
                    write,
                    shape,
                });
                d_inp.to_vec()
            };
            let set: Vec<E> = sums.iter().map(|x| E::from_f32(*x)).collect();
            assert_bits(&run(InputGrad::Set), &set, &what);
            let added: Vec<E> = sums.iter().zip(old.iter()).map(|(x, old)| E::from_f32(old.to_f32() + x)).collect();
            assert_bits(&run(InputGrad::Add), &added, &what);
            for activation in ACTIVATIONS {
                let found = run(InputGrad::ThroughActivation { activation, pre: &layer.inp });
                for (i, found) in found.iter().enumerate() {
                    let x = layer.inp[i].to_f64();
                    let expected = f64::from(sums[i]) * slope(activation, x);
                    let tolerance = f64::from(sums[i].abs()) * 2e-6 + 1e-6;
                    let tolerance = tolerance + if size_of::<E>() == 2 { expected.abs() / 256.0 } else { 0.0 };
                    assert!(
                        (found.to_f64() - expected).abs() <= tolerance,
                        "{what} {activation:?} {found:?} {expected}"
                    );
                }
            }
        }
    }
}

/// Central difference of the exact activation.
fn slope(activation: Activation, x: f64) -> f64 {
    fn erf(x: f64) -> f64 {
        // Series; |x| < 1 here.
        let (mut sum, mut term) = (x, x);
        for n in 1..40 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }
    let value = |x: f64| match activation {
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
    };
    let h = if activation == Activation::Relu { x.abs() / 2.0 } else { 1e-5 };
    (value(x + h) - value(x - h)) / (2.0 * h)
}

#[test]
fn input_gradient_is_chain_and_end_f32() {
    input_gradient_is_chain_and_end::<f32>();
}

#[test]
fn input_gradient_is_chain_and_end_bf16() {
    input_gradient_is_chain_and_end::<half::bf16>();
}

fn weight_gradient_of_two_halves_is_that_of_the_whole<E: CpuElem>() {
    for backend in backends::<E>() {
        let (rows, d_in, d_out) = (130, 65, 33);
        let layer = Layer::<E>::new(rows, d_in, d_out);
        let d_out_buf = layer.residual();
        let run = |cuts: &[usize]| {
            let mut random = Random(7);
            let (mut d_weight, mut d_bias) = (random.buf::<f32>(d_out * d_in), random.buf::<f32>(d_out));
            for cut in cuts.windows(2) {
                let (from, to) = (cut[0], cut[1]);
                backend.linear_backward_weight(LinearBackwardWeight {
                    d_out: &buf(&d_out_buf[from * d_out..to * d_out]),
                    inp: &buf(&layer.inp[from * d_in..to * d_in]),
                    d_weight: &mut d_weight,
                    d_bias: Some(&mut d_bias),
                    shape: LinearShape { rows: to - from, d_in, d_out },
                });
            }
            [d_weight.to_vec(), d_bias.to_vec()].concat()
        };
        let whole = run(&[0, rows]);
        assert_bits(&run(&[0, 64, rows]), &whole, &backend.describe());
        let mut random = Random(7);
        let (start, bias) = (random.vec::<f32>(d_out * d_in), random.vec::<f32>(d_out));
        let isa = backend.isa();
        for o in 0..d_out {
            let a = |n: usize| d_out_buf[n * d_out + o].to_f32();
            for i in 0..d_in {
                let b = |n: usize| layer.inp[n * d_in + i].to_f32();
                let expected = chain(isa, Unit::of::<E>(isa), start[o * d_in + i], rows, a, b);
                assert_eq!(whole[o * d_in + i].to_bits(), expected.to_bits(), "{} {o} {i}", backend.describe());
            }
            let expected = (0..rows).fold(bias[o], |sum, n| sum + a(n));
            assert_eq!(whole[d_out * d_in + o].to_bits(), expected.to_bits(), "{} bias {o}", backend.describe());
        }
    }
}

#[test]
fn weight_gradient_of_two_halves_is_that_of_the_whole_f32() {
    weight_gradient_of_two_halves_is_that_of_the_whole::<f32>();
}

#[test]
fn weight_gradient_of_two_halves_is_that_of_the_whole_bf16() {
    weight_gradient_of_two_halves_is_that_of_the_whole::<half::bf16>();
}

fn prepared_weights_give_the_bits_of_plain_ones<E: CpuElem>() {
    for backend in backends::<E>() {
        for (d_in, d_out) in [(1, 1), (17, 65), (64, 129), (257, 300), (129, 31), (901, 40)] {
            let packed = |layer: &Layer<E>| backend.prepare(&layer.weight, d_out, d_in).unwrap();
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 33, 64, 65, 100] {
                let layer = Layer::<E>::new(rows, d_in, d_out);
                let (shape, weight, residual) = (layer.shape, packed(&layer), layer.residual());
                let what = (backend.describe(), shape);
                let plain = |epilogue| {
                    let mut out = layer.out();
                    let (inp, weight, bias) = (&layer.inp, &layer.weight, Some(&layer.bias));
                    backend.linear(Linear { inp, weight, bias, out: &mut out, epilogue, shape });
                    out.to_vec()
                };
                // One element more than needed: it must stay as it was.
                let prepared = |epilogue| {
                    let mut out = CpuBuf::zeroed(rows * d_out + 1).unwrap();
                    out[rows * d_out] = E::from_f32(7.0);
                    let (inp, bias) = (&layer.inp, Some(&layer.bias));
                    backend.linear_prepared(LinearPrepared {
                        inp,
                        weight: &weight,
                        bias,
                        out: &mut out,
                        epilogue,
                        shape,
                    });
                    assert_eq!(out[rows * d_out].to_f32(), 7.0);
                    out[..rows * d_out].to_vec()
                };
                assert_bits(&prepared(InferEpilogue::Store), &plain(Epilogue::Store), &what);
                let plain_residual = plain(Epilogue::Residual(&residual));
                assert_bits(&prepared(InferEpilogue::Residual(&residual)), &plain_residual, &what);
                let activation = ACTIVATIONS[rows % 4];
                let plain_activated = plain(Epilogue::Activate { activation, pre: &mut layer.out() });
                assert_bits(&prepared(InferEpilogue::Activate(activation)), &plain_activated, &what);
                let mut out = CpuBuf::zeroed(rows * d_out).unwrap();
                let shape = HeadShape { rows, d_model: d_in, n_vocab: d_out };
                backend.logits(Logits { inp: &layer.inp, weight: &weight, out: &mut out, shape });
                assert_bits(&out, &layer.sums(backend.isa()), &what);
            }
            assert_eq!(packed(&Layer::<E>::new(1, d_in, d_out)).bytes(), backend.prepared_bytes(d_out, d_in));
        }
    }
}

#[test]
fn prepared_weights_give_the_bits_of_plain_ones_f32() {
    prepared_weights_give_the_bits_of_plain_ones::<f32>();
}

#[test]
fn prepared_weights_give_the_bits_of_plain_ones_bf16() {
    prepared_weights_give_the_bits_of_plain_ones::<half::bf16>();
}

fn embedding_reads_prepared_tables<E: CpuElem>() {
    for backend in backends::<E>() {
        let mut random = Random(11);
        let shape = EmbedShape { rows: 40, d_model: 51, n_vocab: 70, n_positions: 9 };
        let table = random.buf::<E>(shape.n_vocab * shape.d_model);
        let pos_table = random.buf::<E>(shape.n_positions * shape.d_model);
        let packed = backend.prepare(&table, shape.n_vocab, shape.d_model).unwrap();
        let ids = |random: &mut Random, n| buf_ids(&(0..40).map(|_| random.below(n) as u32).collect::<Vec<_>>());
        let (tokens, positions) = (ids(&mut random, 70), ids(&mut random, 9));
        for pos_table in [None, Some(&pos_table)] {
            let mut plain = CpuBuf::<E>::zeroed(shape.rows * shape.d_model).unwrap();
            backend.embed(Embed {
                tokens: &tokens,
                positions: &positions,
                table: &table,
                pos_table,
                out: &mut plain,
                shape,
            });
            let mut out = CpuBuf::<E>::zeroed(shape.rows * shape.d_model).unwrap();
            let (tokens, positions, table) = (&tokens, &positions, &packed);
            backend.embed_prepared(EmbedPrepared { tokens, positions, table, pos_table, out: &mut out, shape });
            assert_bits(&out, &plain, &backend.describe());
        }
    }
}

fn buf_ids(values: &[u32]) -> CpuBuf<u32> {
    let mut buf = CpuBuf::zeroed(values.len()).unwrap();
    buf.copy_from_slice(values);
    buf
}

#[test]
fn embedding_reads_prepared_tables_of_both_types() {
    embedding_reads_prepared_tables::<f32>();
    embedding_reads_prepared_tables::<half::bf16>();
}

/// Losses, gradient of the input, gradient of the weight.
fn head<E: CpuElem>(backend: &CpuBackend<E>, shape: HeadShape, workspace: usize, scale: f32) -> [Vec<f32>; 4] {
    let mut random = Random(13);
    let HeadShape { rows, d_model, n_vocab } = shape;
    let (inp, weight) = (random.buf::<E>(rows * d_model), random.buf::<E>(n_vocab * d_model));
    let targets: Vec<u32> =
        (0..rows).map(|n| if n % 5 == 3 { IGNORE_TARGET } else { random.below(n_vocab) as u32 }).collect();
    let targets = buf_ids(&targets);
    let zeros = |len| CpuBuf::<f32>::zeroed(len).unwrap();
    let mut logits = zeros(workspace);
    let (mut only, mut losses) = (zeros(rows), zeros(rows));
    let mut d_inp = CpuBuf::<E>::zeroed(rows * d_model).unwrap();
    let mut d_weight = random.buf::<f32>(n_vocab * d_model);
    let (inp, weight, targets) = (&inp, &weight, &targets);
    backend.head_loss(HeadLoss { inp, weight, targets, losses: &mut only, logits: &mut logits, shape });
    backend.head_loss_backward(HeadLossBackward {
        inp,
        weight,
        targets,
        losses: &mut losses,
        logits: &mut logits,
        d_inp: &mut d_inp,
        d_weight: &mut d_weight,
        grad_scale: scale,
        shape,
    });
    [only.to_vec(), losses.to_vec(), d_inp.iter().map(|x| x.to_f32()).collect(), d_weight.to_vec()]
}

fn head_matches_plain_arithmetic<E: CpuElem>() {
    for backend in backends::<E>() {
        for (rows, d_model, n_vocab) in [(1, 1, 1), (7, 17, 65), (33, 64, 257), (20, 129, 63)] {
            let (shape, scale) = (HeadShape { rows, d_model, n_vocab }, 0.37);
            let found = head(&backend, shape, n_vocab * 8 + 3, scale);
            // Whatever the workspace, the bits are the same.
            for chunk in [2, 20, rows + rows % 2] {
                for (found, other) in found.iter().zip(head(&backend, shape, n_vocab * chunk, scale)) {
                    assert_bits(found, &other, &(backend.describe(), shape, chunk));
                }
            }
            assert_bits(&found[0], &found[1], &backend.describe());
            let mut random = Random(13);
            let (inp, weight) = (random.vec::<E>(rows * d_model), random.vec::<E>(n_vocab * d_model));
            let targets: Vec<Option<usize>> =
                (0..rows).map(|n| if n % 5 == 3 { None } else { Some(random.below(n_vocab)) }).collect();
            let mut d_weight: Vec<f64> = random.vec::<f32>(n_vocab * d_model).iter().map(|x| f64::from(*x)).collect();
            let close = |found: f32, expected: f64, tolerance: f64, what: &str| {
                let off = (f64::from(found) - expected).abs();
                assert!(off <= tolerance, "{} {shape:?} {what}: {found} {expected}", backend.describe());
            };
            let coarse = if size_of::<E>() == 2 { 4e-3 } else { 2e-6 };
            for n in 0..rows {
                let Some(target) = targets[n] else {
                    assert_eq!(found[0][n], 0.0);
                    assert!(found[2][n * d_model..][..d_model].iter().all(|x| *x == 0.0));
                    continue;
                };
                let x = |c: usize| inp[n * d_model + c].to_f64();
                let w = |v: usize, c: usize| weight[v * d_model + c].to_f64();
                let logits: Vec<f64> =
                    (0..n_vocab).map(|v| (0..d_model).map(|c| x(c) * w(v, c)).sum::<f64>()).collect();
                let lse = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
                close(found[0][n], lse - logits[target], 2e-5, "loss");
                let d = |v: usize| f64::from(scale) * ((logits[v] - lse).exp() - if v == target { 1.0 } else { 0.0 });
                for c in 0..d_model {
                    let expected: f64 = (0..n_vocab).map(|v| d(v) * w(v, c)).sum();
                    close(found[2][n * d_model + c], expected, coarse * (1.0 + expected.abs()), "d_inp");
                    (0..n_vocab).for_each(|v| d_weight[v * d_model + c] += d(v) * x(c));
                }
            }
            // Dot products of bf16 take the gradients of the logits rounded to it.
            let rounded = size_of::<E>() == 2 && backend.isa().features().bf16_dot;
            for (found, expected) in found[3].iter().zip(&d_weight) {
                let tolerance = if rounded { coarse * (1.0 + expected.abs()) } else { 1e-5 };
                close(*found, *expected, tolerance, "d_weight");
            }
        }
    }
}

#[test]
fn head_matches_plain_arithmetic_f32() {
    head_matches_plain_arithmetic::<f32>();
}

#[test]
fn head_matches_plain_arithmetic_bf16() {
    head_matches_plain_arithmetic::<half::bf16>();
}

fn head_with_a_large_vocabulary<E: CpuElem>() {
    let backend = CpuBackend::<E>::new(2, Isa::detect()).unwrap();
    // More columns than are packed at once.
    let shape = HeadShape { rows: 5, d_model: 32, n_vocab: 50_257 };
    let found = head(&backend, shape, shape.n_vocab * 2, 0.5);
    for (found, other) in found.iter().zip(head(&backend, shape, shape.n_vocab * 5 + 9, 0.5)) {
        assert_bits(found, &other, &shape);
    }
    let HeadShape { rows, d_model, n_vocab } = shape;
    let mut random = Random(13);
    let (inp, weight) = (random.vec::<E>(rows * d_model), random.vec::<E>(n_vocab * d_model));
    for n in (0..rows).filter(|n| n % 5 != 3) {
        let target = random.below(n_vocab);
        let logit = |v: usize| -> f64 {
            (0..d_model).map(|c| inp[n * d_model + c].to_f64() * weight[v * d_model + c].to_f64()).sum()
        };
        let lse = (0..n_vocab).map(|v| logit(v).exp()).sum::<f64>().ln();
        let expected = lse - logit(target);
        assert!((f64::from(found[1][n]) - expected).abs() < 2e-5, "{n}: {} {expected}", found[1][n]);
    }
}

#[test]
fn head_with_a_large_vocabulary_of_both_types() {
    head_with_a_large_vocabulary::<f32>();
    head_with_a_large_vocabulary::<half::bf16>();
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    fn all<E: CpuElem>() {
        for isa in Isa::available() {
            over_threads::<E, E>(isa, |backend| {
                let layer = Layer::<E>::new(150, 300, 130);
                let (mut out, mut pre) = (layer.out(), layer.out());
                let epilogue = Epilogue::Activate { activation: Activation::GeluTanh, pre: &mut pre };
                let (inp, weight, bias) = (&layer.inp, &layer.weight, Some(&layer.bias));
                backend.linear(Linear { inp, weight, bias, out: &mut out, epilogue, shape: layer.shape });
                out.to_vec()
            });
            over_threads::<E, E>(isa, |backend| {
                let layer = Layer::<E>::new(5, 300, 700);
                let weight = backend.prepare(&layer.weight, 700, 300).unwrap();
                let mut out = layer.out();
                let (inp, bias, epilogue) = (&layer.inp, Some(&layer.bias), InferEpilogue::Store);
                let shape = layer.shape;
                backend.linear_prepared(LinearPrepared { inp, weight: &weight, bias, out: &mut out, epilogue, shape });
                out.to_vec()
            });
            over_threads::<E, E>(isa, |backend| {
                let layer = Layer::<E>::new(150, 130, 400);
                let mut d_inp = CpuBuf::zeroed(150 * 130).unwrap();
                backend.linear_backward_input(LinearBackwardInput {
                    d_out: &layer.residual(),
                    weight: &layer.weight,
                    d_inp: &mut d_inp,
                    write: InputGrad::ThroughActivation { activation: Activation::GeluTanh, pre: &layer.inp },
                    shape: layer.shape,
                });
                d_inp.to_vec()
            });
            over_threads::<E, f32>(isa, |backend| {
                head(backend, HeadShape { rows: 50, d_model: 40, n_vocab: 333 }, 333 * 16, 0.1).concat()
            });
            over_threads::<E, f32>(isa, |backend| {
                let layer = Layer::<E>::new(300, 70, 90);
                let mut d_weight = CpuBuf::zeroed(70 * 90).unwrap();
                let mut d_bias = CpuBuf::zeroed(90).unwrap();
                backend.linear_backward_weight(LinearBackwardWeight {
                    d_out: &layer.residual(),
                    inp: &layer.inp,
                    d_weight: &mut d_weight,
                    d_bias: Some(&mut d_bias),
                    shape: layer.shape,
                });
                [d_weight.to_vec(), d_bias.to_vec()].concat()
            });
        }
    }
    all::<f32>();
    all::<half::bf16>();
}

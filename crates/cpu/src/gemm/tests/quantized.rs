//! Products with quantised weights are the chains over the dequantised weights, bit by bit.

use verve_ops::args::{InferEpilogue, LinearPrepared, Logits};
use verve_ops::quant::{ActivationPrecision, QuantKind, QuantPart};
use verve_ops::{HeadShape, InferBackend, LinearShape};
use verve_testkit::Data;
use verve_testkit::quant::{QuantWeight, set_halves};

use super::*;
use crate::gemm::quant;

fn logits<E: CpuElem>(backend: &CpuBackend<E>, weight: &QuantWeight, inp: &CpuBuf<E>, rows: usize) -> Vec<f32> {
    let prepared = backend.prepare_quantized(&weight.parts(), weight.d_in, ActivationPrecision::Exact).unwrap();
    assert_eq!(prepared.bytes(), backend.prepared_quantized_bytes(&weight.sizes(), weight.d_in));
    let shape = HeadShape { rows, d_model: weight.d_in, n_vocab: weight.d_out() };
    let mut out = CpuBuf::zeroed(rows * shape.n_vocab).unwrap();
    backend.logits(Logits { inp, weight: &prepared, out: &mut out, shape });
    out.to_vec()
}

fn products_are_chains<E: CpuElem>() {
    for backend in backends::<E>() {
        let isa = backend.isa();
        for (i, kind) in QuantKind::ALL.into_iter().enumerate() {
            // All numbers of rows of a register tile, several tiles, and the blocked product.
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 24, 25, 33] {
                let other = QuantKind::ALL[(i + rows) % QuantKind::ALL.len()];
                let (d_in, d_out) = (256 * (1 + rows % 3), [34, 9, 67][rows % 3]);
                let mut data = Data::new((i * 100 + rows) as u64);
                let weight = QuantWeight::random(&mut data, &[(kind, d_out), (other, 3)], d_in);
                let values = weight.values();
                let inp = Random(rows as u64).buf::<E>(rows * d_in);
                let found = logits(&backend, &weight, &inp, rows);
                let chains: Vec<f32> = (0..found.len())
                    .map(|at| {
                        let (n, o) = (at / (d_out + 3), at % (d_out + 3));
                        let (a, b) = (&inp[n * d_in..], &values[o * d_in..]);
                        chain(isa, Unit::F32, 0.0, d_in, |k| a[k].to_f32(), |k| b[k])
                    })
                    .collect();
                assert_bits(&found, &chains, &(backend.describe(), kind, other, rows));
            }
        }
    }
}

#[test]
fn products_are_chains_of_dequantised_weights_f32() {
    products_are_chains::<f32>();
}

#[test]
fn products_are_chains_of_dequantised_weights_bf16() {
    products_are_chains::<bf16>();
}

/// Longer rows than the blocked product takes at once, and more columns.
#[test]
fn large_products_are_chains_too() {
    let backend = CpuBackend::<f32>::new(2, Isa::detect()).unwrap();
    for (kind, d_in, d_out) in [(QuantKind::Q4K, 11_008, 300), (QuantKind::Q8_0, 4128, 257)] {
        let weight = QuantWeight::random(&mut Data::new(3), &[(kind, d_out)], d_in);
        let (values, rows) = (weight.values(), 40);
        let inp = Random(5).buf::<f32>(rows * d_in);
        let found = logits(&backend, &weight, &inp, rows);
        for at in (0..found.len()).step_by(53) {
            let (a, b) = (&inp[at / d_out * d_in..], &values[at % d_out * d_in..]);
            let expected = chain(backend.isa(), Unit::F32, 0.0, d_in, |k| a[k], |k| b[k]);
            assert_eq!(found[at].to_bits(), expected.to_bits(), "{kind} {at}");
        }
    }
}

#[test]
fn widened_codes_are_the_dequantised_weights() {
    for backend in backends::<f32>() {
        for kind in QuantKind::ALL {
            let (d_in, rows) = (768, 37);
            let weight = QuantWeight::random(&mut Data::new(9), &[(kind, rows)], d_in);
            let values = weight.values();
            let parts = quant::prepare(&backend, &weight.parts(), d_in, ActivationPrecision::Exact).unwrap().parts;
            let nr = parts[0].form.nr;
            for k in [0..d_in, 32..64, 96..416, 736..768] {
                for panel in 0..parts[0].n_panels() {
                    let mut found = vec![7u32; k.len() * nr];
                    quant::widen(backend.isa(), &parts[0], panel, k.clone(), &mut found);
                    for (at, found) in found.iter().enumerate() {
                        let (o, k) = (panel * nr + at % nr, k.start + at / nr);
                        let expected = if o < rows { values[o * d_in + k] } else { 0.0 };
                        let found = f32::from_bits(*found);
                        assert!(found == expected, "{} {kind} ({k}, {o}): {found} {expected}", backend.describe());
                    }
                }
            }
            for row in 0..rows {
                parts[0].row(row, |k, x| assert_eq!(x.to_bits(), values[row * d_in + k].to_bits(), "{kind}"));
            }
        }
    }
}

#[test]
fn empty_weights_and_rows_are_fine() {
    for backend in backends::<bf16>() {
        empty_weights_and_rows(&backend, ActivationPrecision::Exact);
        empty_weights_and_rows(&backend, ActivationPrecision::Int8);
    }
}

fn empty_weights_and_rows(backend: &CpuBackend<bf16>, precision: ActivationPrecision) {
    for (rows, d_in, d_out) in [(0, 32, 5), (2, 32, 0), (2, 0, 5), (30, 0, 5), (30, 32, 0)] {
        let blocks = vec![0x3c; d_out * d_in / 32 * 34];
        let part = QuantPart { kind: QuantKind::Q8_0, blocks: &blocks, rows: d_out };
        let none = QuantPart { kind: QuantKind::Q4_0, blocks: &[], rows: 0 };
        let weight = backend.prepare_quantized(&[none, part, none], d_in, precision).unwrap();
        let mut out = buf(&vec![bf16::from_f32(3.0); rows * d_out]);
        backend.linear_prepared(LinearPrepared {
            inp: &Random(1).buf(rows * d_in),
            weight: &weight,
            bias: None,
            out: &mut out,
            epilogue: InferEpilogue::Store,
            shape: LinearShape { rows, d_in, d_out },
        });
        assert!(d_in > 0 || out.iter().all(|x| x.to_f32() == 0.0), "a sum of nothing is 0");
    }
    let empty = backend.prepare_quantized(&[], 32, precision).unwrap();
    assert_eq!((empty.d_out(), empty.bytes()), (0, 0));
}

/// Every bit pattern of the 16-bit scales in some block: what they do to their own outputs is unspecified, but none may
/// reach beyond.
#[test]
fn any_scale_is_survived() {
    for backend in backends::<f32>() {
        for kind in QuantKind::ALL {
            let d_in = 2048;
            let mut weight = QuantWeight::random(&mut Data::new(4), &[(kind, 33)], d_in);
            let (_, blocks, _) = &mut weight.parts[0];
            let strange = [f32::NAN, f32::INFINITY, -f32::INFINITY, 65504.0, -65504.0, 6e-8, -6e-8, 0.0, -0.0];
            for (block, value) in blocks.chunks_exact_mut(kind.block_bytes()).zip(strange.iter().cycle()).skip(9) {
                set_halves(kind, block, *value);
            }
            let inp = Random(6).buf::<f32>(40 * d_in);
            let (few, many) = (logits(&backend, &weight, &inp, 3), logits(&backend, &weight, &inp, 40));
            for (few, many) in few.iter().zip(&many) {
                assert!(few.to_bits() == many.to_bits() || few.is_nan() && many.is_nan(), "{kind}: {few} {many}");
            }
        }
    }
}

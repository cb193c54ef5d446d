//! The block formats against the `gguf` package, and the quantisers' errors.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::panic::catch_unwind;

use verve_ops::quant::{QuantKind, QuantPart, check_parts};
use verve_testkit::{Data, Golden};

fn golden() -> Golden {
    Golden::load("quant")
}

#[test]
fn dequantisation_has_the_bits_of_the_gguf_package() {
    let golden = golden();
    for kind in QuantKind::ALL {
        let blocks = golden.u8s(&format!("blocks.{kind}"));
        let expected = golden.f32s(&format!("values.{kind}"));
        assert_eq!(golden.shape(&format!("blocks.{kind}"))[1], kind.block_bytes(), "{kind}");
        assert_eq!(golden.shape(&format!("values.{kind}"))[1], kind.block_len(), "{kind}");
        let mut found = vec![0.5; expected.len()];
        kind.dequantize(blocks, &mut found);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{kind}: value {i} is {found}, not {expected}");
        }
    }
}

#[test]
fn quantisation_has_the_bytes_of_the_gguf_package() {
    let golden = golden();
    let rows = golden.f32s("rows");
    for kind in [QuantKind::Q8_0, QuantKind::Q4_0] {
        let expected = golden.u8s(&format!("quantized.{kind}"));
        let mut found = vec![0xa5; expected.len()];
        kind.quantize(&rows, &mut found);
        for (i, (found, expected)) in
            found.chunks(kind.block_bytes()).zip(expected.chunks(kind.block_bytes())).enumerate()
        {
            assert_eq!(found, expected, "{kind}: block {i}");
        }
    }
}

fn round_trip(kind: QuantKind, values: &[f32]) -> Vec<f32> {
    let (mut blocks, mut back) = (vec![0xa5; kind.bytes(values.len())], vec![0.5; values.len()]);
    kind.quantize(values, &mut blocks);
    kind.dequantize(&blocks, &mut back);
    back
}

/// Root mean square of the error, as a part of that of the values.
fn relative_error(kind: QuantKind, values: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = round_trip(kind, values).iter().zip(values).map(|(y, x)| square(y - x)).sum();
    (error / values.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

fn writable() -> impl Iterator<Item = QuantKind> {
    QuantKind::ALL.into_iter().filter(|kind| kind.can_quantize())
}

#[test]
fn errors_of_normal_values_are_small() {
    // What is reached, plus 1 %: a worse search or a lost bit is seen.
    let bounds =
        [(QuantKind::Q8_0, 0.0055), (QuantKind::Q4_0, 0.0871), (QuantKind::Q4K, 0.0722), (QuantKind::Q6K, 0.0179)];
    assert!(writable().eq(bounds.iter().map(|(kind, _)| *kind)));
    for scale in [1e-3, 0.02, 1.0, 50.0] {
        let values: Vec<f32> = Data::new(31).normal(1 << 15).into_iter().map(|x| (x * scale) as f32).collect();
        for (kind, bound) in bounds {
            let error = relative_error(kind, &values);
            assert!(error < bound, "{kind} of values of size {scale}: error {error}");
        }
    }
}

#[test]
fn values_that_a_format_can_hold_come_back() {
    for kind in writable() {
        for x in [0.0, 1.0, -1.0, 0.375, -24.0] {
            let back = round_trip(kind, &[x; 256]);
            assert!(back.iter().all(|y| (y - x).abs() <= 2e-3 * x.abs()), "{kind} of {x}: {:?}", &back[..4]);
        }
        // One large value among zeros, at both ends of the block and of either sign.
        for (at, x) in [(0, 3.0), (255, 3.0), (17, -3.0)] {
            let mut values = [0f32; 256];
            values[at] = x;
            let back = round_trip(kind, &values);
            for (i, (y, x)) in back.iter().zip(values).enumerate() {
                assert!((y - x).abs() <= 2e-3 * x.abs(), "{kind}: value {i} is {y}, not {x}");
            }
        }
    }
}

#[test]
fn quantisation_survives_any_values() {
    let extremes = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -1e-45];
    for kind in writable() {
        for (i, x) in extremes.into_iter().enumerate() {
            round_trip(kind, &[x; 256]);
            let mut values: Vec<f32> = Data::new(7).normal(256).into_iter().map(|x| x as f32).collect();
            values[i * 9] = x;
            values[200] = extremes[(i + 3) % extremes.len()];
            round_trip(kind, &values);
        }
    }
}

#[test]
fn tiny_and_huge_values_stay_finite_and_close() {
    for kind in [QuantKind::Q4K, QuantKind::Q6K] {
        for scale in [1e-38, 1e-10, 1e-5, 1e4] {
            let values: Vec<f32> = Data::new(8).normal(1024).into_iter().map(|x| (x * scale) as f32).collect();
            let back = round_trip(kind, &values);
            let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
            for (y, x) in back.iter().zip(&values) {
                assert!((y - x).abs() <= largest, "{kind}: {y} for {x}");
            }
        }
    }
}

#[test]
fn formats_differ_in_what_they_keep() {
    let values: Vec<f32> = Data::new(32).normal(1 << 12).into_iter().map(|x| x as f32).collect();
    let error = |kind| relative_error(kind, &values);
    assert!(error(QuantKind::Q8_0) < error(QuantKind::Q6K));
    assert!(error(QuantKind::Q6K) < error(QuantKind::Q4K));
    assert!(error(QuantKind::Q4K) < error(QuantKind::Q4_0));
    // Offsets: values far from 0 lose little.
    let far: Vec<f32> = values.iter().map(|x| x - 10.0).collect();
    assert!(error(QuantKind::Q4K) > 8.0 * relative_error(QuantKind::Q4K, &far));
}

#[test]
fn sizes_are_checked() {
    for kind in QuantKind::ALL {
        assert_eq!(kind.bytes(kind.block_len() * 3), kind.block_bytes() * 3);
        assert!(kind.block_len().is_multiple_of(kind.group_len()));
        let (len, bytes) = (kind.block_len(), kind.block_bytes());
        assert!(catch_unwind(|| kind.bytes(len + 1)).is_err());
        assert!(catch_unwind(|| kind.dequantize(&vec![0; bytes - 1], &mut vec![0.0; len])).is_err());
        assert!(catch_unwind(|| kind.dequantize(&vec![0; bytes], &mut vec![0.0; len - 1])).is_err());
        assert!(catch_unwind(|| kind.quantize(&vec![0.0; len], &mut vec![0; bytes + 1])).is_err());
        assert_eq!(catch_unwind(|| kind.quantize(&vec![0.0; len], &mut vec![0; bytes])).is_ok(), kind.can_quantize());
        let blocks = vec![0; 6 * bytes];
        let part = |rows| QuantPart { kind, blocks: &blocks, rows };
        assert_eq!(check_parts(&[part(6), part(6)], len), 12);
        assert_eq!(check_parts(&[part(3)], 2 * len), 3);
        assert!(catch_unwind(|| check_parts(&[part(5)], len)).is_err());
        assert!(catch_unwind(|| check_parts(&[part(usize::MAX)], len)).is_err());
        assert!(catch_unwind(|| check_parts(&[part(6)], len + 1)).is_err());
    }
}

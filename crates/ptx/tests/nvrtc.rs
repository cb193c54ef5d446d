//! Kernels as NVRTC compiles them, against the same computed in Rust.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Device, bf16, noise};

#[test]
fn vector_add() {
    let mut device = Device::new(include_str!("golden/vector_add.ptx"));
    let n = 1000;
    let (a, b) = (noise(1, n), noise(2, n));
    let (pa, pb, out) = (device.put(&a), device.put(&b), device.put(&vec![0f32; n]));
    device.launch("vector_add", [8, 1, 1], [128, 1, 1], 0, &[out, pa, pb, n as u64], &[8, 8, 8, 4]).unwrap();
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(device.get::<f32>(out, n), expected);
}

#[test]
fn vectors_of_four() {
    for flag in [0, 1] {
        let mut device = Device::new(include_str!("golden/vector_add.ptx"));
        let n = 301;
        let (x, o) = (noise(3, n * 4), noise(4, n * 4));
        let (px, out) = (device.put(&x), device.put(&o));
        let a = 1.7f32;
        let params = [out, px, u64::from(a.to_bits()), n as u64, flag];
        device.launch("saxpy4", [2, 1, 1], [64, 1, 1], 0, &params, &[8, 8, 4, 8, 1]).unwrap();
        let expected: Vec<f32> = x
            .chunks(4)
            .zip(o.chunks(4))
            .flat_map(|(v, o)| {
                let z = o[2] + if flag == 1 { v[2] } else { a };
                [a.mul_add(v[0], o[0]), a.mul_add(v[1], o[1]), z, v[3] / o[3]]
            })
            .collect();
        assert_eq!(device.get::<f32>(out, n * 4), expected);
    }
}

#[test]
fn block_reduction() {
    let mut device = Device::new(include_str!("golden/reduce.ptx"));
    let (rows, columns, threads) = (5, 777, 192);
    let x = noise(5, rows * columns);
    let y: Vec<i32> = x.iter().map(|v| (v * 1e6) as i32).collect();
    let (px, py) = (device.put(&x), device.put(&y));
    let (sums, largest) = (device.put(&vec![0f32; rows]), device.put(&vec![0i32; rows]));
    let params = [sums, largest, px, py, columns as u64];
    device.launch("row_sum", [rows as u32, 1, 1], [threads, 1, 1], 0, &params, &[8, 8, 8, 8, 4]).unwrap();
    let tree = |mut v: Vec<f32>| {
        for d in [16, 8, 4, 2, 1] {
            v = (0..32).map(|l| v[l] + v[l ^ d]).collect();
        }
        v[0]
    };
    let threads = threads as usize;
    for r in 0..rows {
        let row = &x[r * columns..][..columns];
        let own = |t: usize| row.iter().skip(t).step_by(threads).fold(0f32, |s, v| s + v);
        let mut parts: Vec<f32> = (0..threads / 32).map(|w| tree((0..32).map(|l| own(w * 32 + l)).collect())).collect();
        parts.resize(32, 0.0);
        assert_eq!(device.get::<f32>(sums, rows)[r], tree(parts), "row {r}");
        assert_eq!(device.get::<i32>(largest, rows)[r], *y[r * columns..][..columns].iter().max().unwrap());
    }
}

#[test]
fn transpose() {
    let mut device = Device::new(include_str!("golden/transpose.ptx"));
    let (rows, columns) = (70, 45);
    let x = noise(6, rows * columns);
    let (px, out) = (device.put(&x), device.put(&vec![0f32; rows * columns]));
    let params = [out, px, rows as u64, columns as u64];
    device.launch("transpose", [2, 3, 1], [32, 8, 1], 0, &params, &[8, 8, 4, 4]).unwrap();
    let expected: Vec<f32> = (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect();
    assert_eq!(device.get::<f32>(out, rows * columns), expected);
}

fn collatz(mut n: u32, limit: u32) -> u32 {
    let mut steps = 0;
    while n != 1 {
        if steps >= limit {
            return u32::MAX;
        }
        n = if n % 2 == 1 { n.wrapping_mul(3) + 1 } else { n / 2 };
        steps += 1;
    }
    steps
}

fn divergent(v: u32, limit: u32) -> u32 {
    if v == 0 {
        return 7;
    }
    let mut total = 0u32;
    for k in 0..v % 5 {
        if k == 3 {
            continue;
        }
        match collatz(v + k, limit) {
            u32::MAX => break,
            c => total = total.wrapping_add(c),
        }
    }
    match v % 7 {
        0 => total ^ 0x55,
        1 => total.wrapping_mul(3),
        2 => total.wrapping_add(v / 11),
        3 => total.count_ones() + v.leading_zeros(),
        4 => total.reverse_bits(),
        5 => total.wrapping_sub(v.trailing_zeros() + 1),
        _ => total << 3 | v >> 29,
    }
}

#[test]
fn divergent_lanes() {
    let mut device = Device::new(include_str!("golden/divergent.ptx"));
    let n = 333;
    let x: Vec<u32> = (0..n as u32).map(|i| if i % 17 == 0 { 0 } else { i * 7919 % 10007 }).collect();
    let (px, out) = (device.put(&x), device.put(&vec![0u32; n]));
    device.launch("divergent", [3, 1, 1], [128, 1, 1], 0, &[out, px, n as u64, 60], &[8, 8, 4, 4]).unwrap();
    let expected: Vec<u32> = x.iter().map(|v| divergent(*v, 60)).collect();
    assert_eq!(device.get::<u32>(out, n), expected);
}

#[test]
fn local_array_and_constants() {
    let mut device = Device::new(include_str!("golden/local_array.ptx"));
    let n = 100usize;
    let picks: Vec<u8> = (0..n * 8).map(|i| (i * i * 31 + i) as u8).collect();
    let (pp, out) = (device.put(&picks), device.put(&vec![0i32; n]));
    device.launch("local_array", [2, 1, 1], [64, 1, 1], 0, &[out, pp, n as u64], &[8, 8, 4]).unwrap();
    let weights = [3, -1, 4, 1, -5, 9, 2, -6];
    let expected: Vec<i32> = (0..n)
        .map(|i| {
            let mut table: Vec<i32> = (0..16).map(|k| k * k - i as i32).collect();
            let picks = &picks[i * 8..][..8];
            picks.iter().for_each(|p| table[(usize::from(*p) * 7) & 15] += weights[usize::from(*p) & 7]);
            picks.iter().fold(0i32, |s, p| s.wrapping_mul(31).wrapping_add(table[usize::from(*p) & 15]))
        })
        .collect();
    assert_eq!(device.get::<i32>(out, n), expected);
    let (counter, _) = device.module.variable("counter").unwrap();
    assert_eq!(device.get::<u32>(counter, 1), [n as u32]);
}

#[test]
fn math_functions() {
    let mut device = Device::new(include_str!("golden/math.ptx"));
    let n = 200;
    let mut x: Vec<f32> = noise(8, n).iter().map(|v| v * 12.0).collect();
    x[..6].copy_from_slice(&[0.0, -0.0, 1e-40, 30000.5, -2.5, 1e20]);
    let (px, out, outd) = (device.put(&x), device.put(&vec![0f32; n * 16]), device.put(&vec![0f64; n]));
    device.launch("math", [7, 1, 1], [32, 1, 1], 0, &[out, px, outd, n as u64], &[8, 8, 8, 4]).unwrap();
    let (found, found_d) = (device.get::<f32>(out, n * 16), device.get::<f64>(outd, n));
    for (i, &x) in x.iter().enumerate() {
        let (d, f) = (f64::from(x), &found[i * 16..][..16]);
        let close = |n: usize, expected: f64, ulp: f32| {
            let e = expected as f32;
            let ok = f[n] == e || (f[n] - e).abs() <= ulp * e.abs() * f32::EPSILON + 1e-38;
            assert!(ok, "function {n} of {x}: {} and not {e}", f[n]);
        };
        close(0, d.exp(), 2.0);
        close(1, f64::from(x.abs() + 1e-3).ln(), 2.0);
        close(2, d.abs().sqrt(), 0.0);
        close(3, 1.0 / f64::from(x.abs() + 1.0).sqrt(), 2.0);
        close(4, d.tanh(), 4.0);
        close(5, 1.0 / (1.0 + (-d).exp()), 32.0);
        close(6, f64::from(x / (x * x + 1.0)), 4.0);
        close(7, f64::from(x.floor() + (x * 3.0).ceil()), 0.0);
        close(8, f64::from((x * 5.0).round_ties_even()), 0.0);
        close(9, f64::from((x * 100.0) as i32 as f32), 0.0);
        close(10, f64::from(x.clamp(-1.0, 1.0)), 0.0);
        close(11, d.exp2(), 2.0);
        close(12, d.sin(), 4.0);
        close(13, d.cos(), 4.0);
        close(14, d.abs().powf(f64::from(0.37f32)), 8.0);
        let expected = d.mul_add(d, (d * d + 1.0).sqrt() / 3.0);
        assert!((found_d[i] - expected).abs() <= 1e-15 * expected.abs(), "{} and not {expected}", found_d[i]);
    }
}

#[test]
fn matmul_with_tensor_cores() {
    let mut device = Device::new(include_str!("golden/matmul.ptx"));
    let (m, n, k) = (128, 64, 96);
    let (a, b) = (bf16(&noise(9, m * k)), bf16(&noise(10, k * n)));
    let (pa, pb, out) = (device.put(&a), device.put(&b), device.put(&vec![0f32; m * n]));
    let params = [out, pa, pb, m as u64, n as u64, k as u64];
    let shared = 2 * (64 * 40 + 32 * 72) * 2;
    device.launch("matmul", [1, 2, 1], [128, 1, 1], shared, &params, &[8, 8, 8, 4, 4, 4]).unwrap();
    let wide = |v: u16| f32::from_bits(u32::from(v) << 16);
    let found = device.get::<f32>(out, m * n);
    for row in 0..m {
        for column in 0..n {
            let sum = (0..k).fold(0f32, |s, i| s + wide(a[row * k + i]) * wide(b[i * n + column]));
            assert_eq!(found[row * n + column], sum, "row {row}, column {column}");
        }
    }
}

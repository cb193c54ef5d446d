//! Instructions of single lanes, against the same in Rust.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{bits, run};

/// Compares `body` with a function of its three inputs.
#[track_caller]
fn check(body: &str, expected: impl Fn(u64, u64, u64) -> u64) {
    let n = 32 * 40;
    let (a, b, c) = (bits(1, n), bits(2, n), bits(3, n));
    let found = run(body, &a, &b, &c);
    for i in 0..n {
        let expected = expected(a[i], b[i], c[i]);
        assert_eq!(
            found[i], expected,
            "{body}: {:#x} {:#x} {:#x}: {:#x} and not {expected:#x}",
            a[i], b[i], c[i], found[i]
        );
    }
}

/// Results in `%r9`.
#[track_caller]
fn check32(body: &str, expected: impl Fn(u32, u32, u32) -> u32) {
    check(&format!("{body} cvt.u64.u32 %d9, %r9;"), |a, b, c| u64::from(expected(a as u32, b as u32, c as u32)));
}

/// Results in `%f9`; any NaN is as good as another.
#[track_caller]
fn check_f32(body: &str, expected: impl Fn(f32, f32, f32) -> f32) {
    let nan = "setp.nan.f32 %p9, %f9, %f9; mov.b32 %r9, %f9; selp.b32 %r9, 0x7FFFFFFF, %r9, %p9;";
    check32(&format!("{body} {nan}"), |a, b, c| {
        let v = expected(f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
        if v.is_nan() { 0x7FFF_FFFF } else { v.to_bits() }
    });
}

#[test]
fn integer_arithmetic() {
    check32("add.s32 %r9, %r1, %r2;", |a, b, _| a.wrapping_add(b));
    check32("add.sat.s32 %r9, %r1, %r2;", |a, b, _| (a as i32).saturating_add(b as i32) as u32);
    check32("sub.s32 %r9, %r1, -7;", |a, _, _| a.wrapping_add(7));
    check("sub.s64 %d9, %d1, %d2;", |a, b, _| a.wrapping_sub(b));
    check("add.s16 %h9, %h1, %h2; cvt.u64.u16 %d9, %h9;", |a, b, _| u64::from((a as u16).wrapping_add(b as u16)));
    check32("mul.lo.u32 %r9, %r1, %r2;", |a, b, _| a.wrapping_mul(b));
    check32("mul.hi.u32 %r9, %r1, %r2;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    check32("mul.hi.s32 %r9, %r1, %r2;", |a, b, _| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
    check("mul.hi.u64 %d9, %d1, %d2;", |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64);
    check("mul.hi.s64 %d9, %d1, %d2;", |a, b, _| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64);
    check("mul.wide.s32 %d9, %r1, %r2;", |a, b, _| (i64::from(a as i32) * i64::from(b as i32)) as u64);
    check("mul.wide.u16 %r9, %h1, %h2; cvt.u64.u32 %d9, %r9;", |a, b, _| (a & 0xFFFF) * (b & 0xFFFF));
    check("mad.wide.u32 %d9, %r1, %r2, %d3;", |a, b, c| (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c));
    check("mad.lo.s64 %d9, %d1, %d2, %d3;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check32("mad.hi.s32 %r9, %r1, %r2, %r3;", |a, b, c| {
        (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c)
    });
    check32("mul24.lo.s32 %r9, %r1, %r2;", |a, b, _| ((a as i32) << 8 >> 8).wrapping_mul((b as i32) << 8 >> 8) as u32);
    check32("or.b32 %r2, %r2, 1; div.s32 %r9, %r1, %r2;", |a, b, _| (a as i32).wrapping_div((b | 1) as i32) as u32);
    check32("or.b32 %r2, %r2, 1; rem.u32 %r9, %r1, %r2;", |a, b, _| a % (b | 1));
    check("or.b64 %d2, %d2, 1; div.u64 %d9, %d1, %d2;", |a, b, _| a / (b | 1));
    check("or.b64 %d2, %d2, 1; rem.s64 %d9, %d1, %d2;", |a, b, _| (a as i64).wrapping_rem((b | 1) as i64) as u64);
    check32("abs.s32 %r9, %r1;", |a, _, _| (a as i32).wrapping_abs() as u32);
    check("neg.s64 %d9, %d1;", |a, _, _| a.wrapping_neg());
    check32("min.s32 %r9, %r1, %r2;", |a, b, _| (a as i32).min(b as i32) as u32);
    check32("max.u32 %r9, %r1, %r2;", |a, b, _| a.max(b));
    check32("sad.u32 %r9, %r1, %r2, %r3;", |a, b, c| a.abs_diff(b).wrapping_add(c));
    // 128-bit arithmetic in two halves.
    check("add.cc.u64 %d4, %d1, %d2; addc.u64 %d9, %d3, 0;", |a, b, c| {
        c.wrapping_add(u64::from(a.checked_add(b).is_none()))
    });
    check("sub.cc.u64 %d4, %d1, %d2; subc.u64 %d9, %d3, 0;", |a, b, c| c.wrapping_sub(u64::from(a < b)));
    check32("add.cc.u32 %r4, %r1, %r2; addc.cc.u32 %r5, %r3, %r3; addc.u32 %r9, 0, 0;", |a, b, c| {
        let carry = (u64::from(a) + u64::from(b)) >> 32;
        ((u64::from(c) * 2 + carry) >> 32) as u32
    });
}

#[test]
fn bits_and_shifts() {
    check("and.b64 %d9, %d1, %d2;", |a, b, _| a & b);
    check32("xor.b32 %r9, %r1, 0xFF;", |a, _, _| a ^ 0xFF);
    check("not.b16 %h9, %h1; cvt.u64.u16 %d9, %h9;", |a, _, _| u64::from(!(a as u16)));
    check32("cnot.b32 %r9, %r1;", |a, _, _| u32::from(a == 0));
    for table in [0x80u32, 0x96, 0xE8, 0xCA, 0xEA, 0x1B, 0x37, 0xD8] {
        check32(&format!("lop3.b32 %r9, %r1, %r2, %r3, {table:#x};"), |a, b, c| {
            (0..32).fold(0, |out, n| {
                let row = (a >> n & 1) << 2 | (b >> n & 1) << 1 | (c >> n & 1);
                out | (table >> row & 1) << n
            })
        });
    }
    check32("shl.b32 %r9, %r1, %r2;", |a, b, _| if b > 31 { 0 } else { a << b });
    check32("shr.u32 %r9, %r1, %r2;", |a, b, _| if b > 31 { 0 } else { a >> b });
    check32("shr.s32 %r9, %r1, %r2;", |a, b, _| (a as i32 >> b.min(31)) as u32);
    check("shr.s64 %d9, %d1, %r2;", |a, b, _| (a as i64 >> (b as u32).min(63)) as u64);
    check("shr.s16 %h9, %h1, %r2; cvt.u64.u16 %d9, %h9;", |a, b, _| u64::from((a as i16 >> (b as u32).min(15)) as u16));
    check("shl.b64 %d9, %d1, 40;", |a, _, _| a << 40);
    let both = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    check32("shf.l.wrap.b32 %r9, %r1, %r2, %r3;", |a, b, c| (both(a, b) << (c & 31) >> 32) as u32);
    check32("shf.r.wrap.b32 %r9, %r1, %r2, %r3;", |a, b, c| (both(a, b) >> (c & 31)) as u32);
    check32("shf.r.clamp.b32 %r9, %r1, %r2, %r3;", |a, b, c| (both(a, b) >> c.min(32)) as u32);
    check("popc.b64 %r9, %d1; cvt.u64.u32 %d9, %r9;", |a, _, _| u64::from(a.count_ones()));
    check32("clz.b32 %r9, %r1;", |a, _, _| a.leading_zeros());
    check32("brev.b32 %r9, %r1;", |a, _, _| a.reverse_bits());
    check32("bfind.u32 %r9, %r1;", |a, _, _| a.checked_ilog2().unwrap_or(u32::MAX));
    check32("bfind.s32 %r9, %r1;", |a, _, _| {
        let magnitude = if (a as i32) < 0 { !a } else { a };
        magnitude.checked_ilog2().unwrap_or(u32::MAX)
    });
    check32("bfind.shiftamt.u32 %r9, %r1;", |a, _, _| if a == 0 { u32::MAX } else { a.leading_zeros() });
    // Bit by bit, as the documentation defines it.
    let field = |a: u64, p: u32, n: u32, width: u32, signed: bool| {
        let (p, n) = (p & 255, n & 255);
        let bit = |i: u32| a >> i & 1;
        let fill = if signed && n > 0 { bit((p + n - 1).min(width - 1)) } else { 0 };
        (0..width).fold(0u64, |d, i| d | (if i < n && p + i < width { bit(p + i) } else { fill }) << i)
    };
    check32("bfe.u32 %r9, %r1, %r2, %r3;", |a, b, c| field(u64::from(a), b, c, 32, false) as u32);
    check32("bfe.s32 %r9, %r1, %r2, %r3;", |a, b, c| field(u64::from(a), b, c, 32, true) as u32);
    check("bfe.u64 %d9, %d1, %r2, %r3;", |a, b, c| field(a, b as u32, c as u32, 64, false));
    check32("bfi.b32 %r9, %r1, %r2, %r3, 9;", |a, b, c| {
        let p = c & 255;
        (0..9).filter(|i| p + i < 32).fold(b, |d, i| d & !(1 << (p + i)) | (a >> i & 1) << (p + i))
    });
    check("bfi.b64 %d9, %d1, %d2, 8, 40;", |a, b, _| b & !(0xFF_FFFF_FFFF << 8) | (a & 0xFF_FFFF_FFFF) << 8);
    check32("prmt.b32 %r9, %r1, %r2, %r3;", |a, b, c| {
        let bytes = [a.to_le_bytes(), b.to_le_bytes()].concat();
        u32::from_le_bytes(std::array::from_fn(|n| {
            let pick = c >> (4 * n) & 15;
            let byte = bytes[pick as usize & 7];
            if pick & 8 == 0 {
                byte
            } else if byte & 0x80 == 0 {
                0
            } else {
                0xFF
            }
        }))
    });
    let dot = |a: u32, b: u32, c: u32, f: fn(u8) -> i32, g: fn(u8) -> i32| {
        a.to_le_bytes().iter().zip(b.to_le_bytes()).fold(c as i32, |s, (x, y)| s.wrapping_add(f(*x) * g(y))) as u32
    };
    check32("dp4a.s32.s32 %r9, %r1, %r2, %r3;", |a, b, c| dot(a, b, c, |x| i32::from(x as i8), |x| i32::from(x as i8)));
    check32("dp4a.u32.s32 %r9, %r1, %r2, %r3;", |a, b, c| dot(a, b, c, i32::from, |x| i32::from(x as i8)));
}

#[test]
fn float_arithmetic() {
    check_f32("add.f32 %f9, %f1, %f2;", |a, b, _| a + b);
    check_f32("sub.rn.f32 %f9, %f1, %f2;", |a, b, _| a - b);
    check_f32("mul.f32 %f9, %f1, 0f40490FDB;", |a, _, _| a * f32::from_bits(0x4049_0FDB));
    check_f32("fma.rn.f32 %f9, %f1, %f2, %f3;", f32::mul_add);
    check_f32("div.rn.f32 %f9, %f1, %f2;", |a, b, _| a / b);
    check_f32("rcp.rn.f32 %f9, %f1;", |a, _, _| 1.0 / a);
    check_f32("sqrt.rn.f32 %f9, %f1;", |a, _, _| a.sqrt());
    check_f32("abs.f32 %f9, %f1;", |a, _, _| a.abs());
    check_f32("neg.f32 %f9, %f1;", |a, _, _| -a);
    check_f32("copysign.f32 %f9, %f1, %f2;", |a, b, _| b.copysign(a));
    let flush = |v: f32| if v.is_subnormal() { 0f32.copysign(v) } else { v };
    check_f32("add.ftz.f32 %f9, %f1, %f2;", move |a, b, _| flush(flush(a) + flush(b)));
    check_f32("fma.rn.ftz.f32 %f9, %f1, %f2, %f3;", move |a, b, c| flush(flush(a).mul_add(flush(b), flush(c))));
    check_f32("add.sat.f32 %f9, %f1, %f2;", |a, b, _| if a + b > 0.0 { (a + b).min(1.0) } else { 0.0 });
    check_f32("min.f32 %f9, %f1, %f2;", |a, b, _| match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => f32::from_bits(a.to_bits() | b.to_bits()),
        _ => a.min(b),
    });
    check_f32("max.NaN.f32 %f9, %f1, %f2;", |a, b, _| match a.is_nan() || b.is_nan() {
        true => f32::NAN,
        false if a == b => f32::from_bits(a.to_bits() & b.to_bits()),
        false => a.max(b),
    });
    check_f32("ex2.approx.f32 %f9, %f1;", |a, _, _| f64::from(a).exp2() as f32);
    check_f32("lg2.approx.f32 %f9, %f1;", |a, _, _| f64::from(a).log2() as f32);
    check_f32("rsqrt.approx.f32 %f9, %f1;", |a, _, _| (1.0 / f64::from(a).sqrt()) as f32);
    check_f32("tanh.approx.f32 %f9, %f1;", |a, _, _| f64::from(a).tanh() as f32);
    check(
        "fma.rn.f64 %e9, %e1, %e2, 0d3FF0000000000000; abs.f64 %e9, %e9; setp.nan.f64 %p1, %e9, %e9; @%p1 mov.f64 %e9, 0d0000000000000000; mov.b64 %d9, %e9;",
        |a, b, _| {
            let v = f64::from_bits(a).mul_add(f64::from_bits(b), 1.0).abs();
            if v.is_nan() { 0 } else { v.to_bits() }
        },
    );
}

/// The largest f32 that is at most `exact`, where `exact` has more bits than f64: given as a sum that f64 rounds to `near`.
fn directed(near: f32, compare: std::cmp::Ordering, mode: &str) -> f32 {
    use std::cmp::Ordering::{Equal, Greater, Less};
    // `compare` is that of the rounded value with the exact one.
    match (mode, compare) {
        (_, Equal) => near,
        ("rm", Greater) => near.next_down(),
        ("rp", Less) => near.next_up(),
        ("rz", Greater) if near > 0.0 => near.next_down(),
        ("rz", Less) if near < 0.0 => near.next_up(),
        _ => near,
    }
}

#[test]
fn directed_rounding() {
    // Products of f32 are exact in f64.
    for mode in ["rm", "rp", "rz"] {
        check_f32(&format!("mul.{mode}.f32 %f9, %f1, %f2;"), |a, b, _| {
            let exact = f64::from(a) * f64::from(b);
            let near = a * b;
            match f64::from(near).partial_cmp(&exact) {
                Some(order) => directed(near, order, mode),
                None => f32::NAN,
            }
        });
        // Sums of numbers of like size are too.
        check_f32(
            &format!("cvt.rn.f32.s32 %f1, %r1; cvt.rn.f32.s32 %f2, %r2; add.{mode}.f32 %f9, %f1, %f2;"),
            |a, b, _| {
                let (a, b) = (a.to_bits() as i32 as f32, b.to_bits() as i32 as f32);
                let exact = f64::from(a) + f64::from(b);
                directed(a + b, f64::from(a + b).partial_cmp(&exact).unwrap(), mode)
            },
        );
    }
    // Where f64 would round twice: 1 + 2^-24 + 2^-60 is above the middle between two neighbours.
    let tiny = f32::from_bits((127 - 30) << 23);
    let found = run(
        "fma.rn.f32 %f9, %f1, %f1, %f2; mov.b32 %r9, %f9; cvt.u64.u32 %d9, %r9;",
        &[u64::from(tiny.to_bits()); 32],
        &[u64::from((1.0f32 + f32::EPSILON).to_bits()); 32],
        &[0; 32],
    );
    assert_eq!(found[0] as u32, (1.0f32 + f32::EPSILON).to_bits());
    let half = f32::from_bits((127 - 24) << 23) + 1.0;
    assert_eq!(half, 1.0, "a tie to even");
    let a = 1.0 + f32::EPSILON * 2.0;
    // (1 + 2e)(1 - 2e) + ... : the product needs 48 bits.
    let b = 1.0 - f32::EPSILON * 2.0;
    let found = run(
        "fma.rz.f32 %f9, %f1, %f2, %f3; mov.b32 %r9, %f9; cvt.u64.u32 %d9, %r9;",
        &[u64::from(a.to_bits()); 32],
        &[u64::from(b.to_bits()); 32],
        &[u64::from(1e-30f32.to_bits()); 32],
    );
    assert_eq!(found[0] as u32, 1f32.next_down().to_bits());
}

#[test]
fn comparisons() {
    let bit = |v: bool| u32::from(v);
    let select = "selp.u32 %r9, 1, 0, %p1;";
    check32(&format!("setp.lt.s32 %p1, %r1, %r2; {select}"), move |a, b, _| bit((a as i32) < b as i32));
    check32(&format!("setp.hs.u32 %p1, %r1, %r2; {select}"), move |a, b, _| bit(a >= b));
    check(&format!("setp.gt.u16 %p1, %h1, %h2; {select} cvt.u64.u32 %d9, %r9;"), |a, b, _| {
        u64::from(a as u16 > b as u16)
    });
    check(&format!("setp.le.s64 %p1, %d1, %d2; {select} cvt.u64.u32 %d9, %r9;"), |a, b, _| {
        u64::from(a as i64 <= b as i64)
    });
    let float =
        |f: fn(f32, f32) -> bool| move |a: u32, b: u32, _: u32| u32::from(f(f32::from_bits(a), f32::from_bits(b)));
    check32(&format!("setp.ne.f32 %p1, %f1, %f2; {select}"), float(|a, b| a != b && !a.is_nan() && !b.is_nan()));
    check32(&format!("setp.neu.f32 %p1, %f1, %f2; {select}"), float(|a, b| a != b));
    check32(&format!("setp.ltu.f32 %p1, %f1, %f2; {select}"), float(|a, b| a < b || a.is_nan() || b.is_nan()));
    check32(&format!("setp.num.f32 %p1, %f1, %f2; {select}"), float(|a, b| !a.is_nan() && !b.is_nan()));
    check32(
        "setp.eq.s32 %p2, %r3, 0; setp.lt.and.u32 %p1|%p3, %r1, %r2, !%p2; selp.u32 %r9, 1, 0, %p1; @%p3 add.u32 %r9, %r9, 2;",
        |a, b, c| u32::from(a < b && c != 0) + 2 * u32::from(a >= b && c != 0),
    );
    check32("set.gt.u32.s32 %r9, %r1, %r2;", |a, b, _| if a as i32 > b as i32 { u32::MAX } else { 0 });
    check32(
        "setp.lt.u32 %p1, %r1, %r2; setp.lt.u32 %p2, %r2, %r3; and.pred %p4, %p1, %p2; xor.pred %p5, %p1, %p2; not.pred %p6, %p5; selp.b32 %r9, 1, 0, %p4; @%p6 or.b32 %r9, %r9, 2;",
        |a, b, c| u32::from(a < b && b < c) | (2 * u32::from((a < b) == (b < c))),
    );
    check32("slct.b32.s32 %r9, %r1, %r2, %r3;", |a, b, c| if c as i32 >= 0 { a } else { b });
    check32("testp.subnormal.f32 %p1, %f1; selp.u32 %r9, 1, 0, %p1;", |a, _, _| {
        u32::from(f32::from_bits(a).is_subnormal())
    });
}

#[test]
fn moves_and_vectors() {
    check("mov.b64 {%r5, %r6}, %d1; mov.b64 %d9, {%r6, %r5};", |a, _, _| a.rotate_left(32));
    check("mov.b32 {%h5, %h6}, %r1; mov.b32 %r9, {%h6, %h2}; cvt.u64.u32 %d9, %r9;", |a, b, _| {
        (a >> 16 & 0xFFFF) | (b & 0xFFFF) << 16
    });
    check("setp.lt.u64 %p1, %d1, %d2; mov.u64 %d9, 5; @!%p1 mov.u64 %d9, 6;", |a, b, _| if a < b { 5 } else { 6 });
    check(
        "mov.u32 %r9, %laneid; mov.u32 %r8, %lanemask_lt; popc.b32 %r8, %r8; sub.u32 %r9, %r9, %r8; cvt.u64.u32 %d9, %r9;",
        |_, _, _| 0,
    );
}

#[test]
fn conversions() {
    check("cvt.s64.s32 %d9, %r1;", |a, _, _| a as i32 as u64);
    check("cvt.s32.s8 %r9, %r1; cvt.s64.s32 %d9, %r9;", |a, _, _| a as i8 as u64);
    check("cvt.u16.u8 %h9, %h1; cvt.u64.u16 %d9, %h9;", |a, _, _| a & 0xFF);
    check("cvt.s16.s8 %h9, %h1; cvt.u64.u16 %d9, %h9;", |a, _, _| u64::from(a as i8 as u16));
    check("cvt.s64.s8 %d9, %d1;", |a, _, _| a as i8 as u64);
    check("cvt.u32.u64 %r9, %d1; cvt.u64.u32 %d9, %r9;", |a, _, _| a & 0xFFFF_FFFF);
    check("cvt.sat.s8.s32 %r9, %r1; cvt.s64.s32 %d9, %r9;", |a, _, _| {
        u64::from((a as i32).clamp(-128, 127) as u32) as i32 as u64
    });
    check("cvt.sat.u8.s32 %r9, %r1; cvt.u64.u32 %d9, %r9;", |a, _, _| (a as i32).clamp(0, 255) as u64);
    check32("cvt.rzi.s32.f32 %r9, %f1;", |a, _, _| f32::from_bits(a) as i32 as u32);
    check32("cvt.rni.u32.f32 %r9, %f1;", |a, _, _| f32::from_bits(a).round_ties_even() as u32);
    check32("cvt.rpi.s32.f32 %r9, %f1;", |a, _, _| f32::from_bits(a).ceil() as i32 as u32);
    check32("cvt.rni.s8.f32 %r9, %f1; and.b32 %r9, %r9, 0xFF;", |a, _, _| {
        u32::from(f32::from_bits(a).round_ties_even() as i8 as u8)
    });
    check("cvt.rmi.s64.f32 %d9, %f1;", |a, _, _| {
        let v = f32::from_bits(a as u32);
        if v.is_nan() { 1 << 63 } else { v.floor() as i64 as u64 }
    });
    check_f32("cvt.rn.f32.s32 %f9, %r1;", |a, _, _| a.to_bits() as i32 as f32);
    check_f32("cvt.rn.f32.u32 %f9, %r1;", |a, _, _| a.to_bits() as f32);
    check("cvt.rn.f32.s64 %f9, %d1; mov.b32 %r9, %f9; cvt.u64.u32 %d9, %r9;", |a, _, _| {
        u64::from((a as i64 as f32).to_bits())
    });
    check("cvt.rz.f32.u64 %f9, %d1; mov.b32 %r9, %f9; cvt.u64.u32 %d9, %r9;", |a, _, _| {
        let keep = 40u32.saturating_sub(a.leading_zeros());
        u64::from(((a >> keep << keep) as f32).to_bits())
    });
    check_f32("cvt.rni.f32.f32 %f9, %f1;", |a, _, _| a.round_ties_even());
    check_f32("cvt.sat.f32.f32 %f9, %f1;", |a, _, _| if a > 0.0 { a.min(1.0) } else { 0.0 });
    check_f32("cvt.f64.f32 %e9, %f1; add.f64 %e9, %e9, 0d3DF0000000000000; cvt.rn.f32.f64 %f9, %e9;", |a, _, _| {
        (f64::from(a) + f64::from_bits(0x3DF0_0000_0000_0000)) as f32
    });
}

/// The nearest number of 16 bits, by search: `value` gives what bits mean.
fn nearest(v: f64, value: impl Fn(u16) -> f64) -> u16 {
    let (mut low, mut high) = (0u16, 0x7FFF);
    while low < high {
        let middle = low + (high - low) / 2;
        if value(middle) >= v.abs() || value(middle).is_nan() { high = middle } else { low = middle + 1 }
    }
    let sign = if v.is_sign_negative() { 0x8000 } else { 0 };
    let (above, below) = (low, low.saturating_sub(1));
    // Beyond the largest finite number the next one would be is where infinity begins.
    let step = value(below) - value(below.saturating_sub(1));
    let upper = if value(above).is_infinite() { value(below) + step } else { value(above) };
    let (up, down) = (upper - v.abs(), v.abs() - value(below));
    let pick = if up < down || (up == down && above.is_multiple_of(2)) { above } else { below };
    sign | if v == 0.0 { 0 } else { pick }
}

#[test]
fn sixteen_bit_floats() {
    let bf16 = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
    let f16 = |bits: u16| {
        let (e, m) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3FF));
        match e {
            0 => m * 2f64.powi(-24),
            31 if m == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1.0 + m / 1024.0) * 2f64.powi(e - 15),
        }
    };
    let mut numbers: Vec<f32> =
        bits(5, 32 * 40).iter().map(|b| f32::from_bits(*b as u32)).map(|v| if v.is_nan() { 1.5 } else { v }).collect();
    numbers[..8].copy_from_slice(&[
        65504.0,
        65519.9,
        65520.0,
        6e-8,
        2.9e-8,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        3.39e38,
    ]);
    let a: Vec<u64> = numbers.iter().map(|v| u64::from(v.to_bits())).collect();
    let zero = vec![0; a.len()];
    let found = run(
        "cvt.rn.bf16.f32 %h4, %f1; cvt.rn.f16.f32 %h5, %f1; cvt.rn.bf16x2.f32 %r4, %f1, %f2; mov.b32 %r5, {%h4, %h5}; mov.b64 %d9, {%r5, %r4};",
        &a,
        &zero,
        &zero,
    );
    for (v, found) in numbers.iter().zip(found) {
        let v = f64::from(*v);
        let (b, h) = (nearest(v, bf16), nearest(v, f16));
        if v.is_finite() {
            assert_eq!(found as u16, b, "bf16 of {v}");
            assert_eq!((found >> 16) as u16, h, "f16 of {v}");
            assert_eq!((found >> 32) as u32, u32::from(b) << 16, "pair of {v}");
        }
    }
    let widened = run(
        "mov.b32 {%h5, %h6}, %r1; cvt.f32.f16 %f5, %h5; mov.b32 %r5, %f5; cvt.u64.u32 %d9, %r5;",
        &(0..65536).collect::<Vec<_>>(),
        &vec![0; 65536],
        &vec![0; 65536],
    );
    for (bits, found) in widened.iter().enumerate() {
        let expected = f16(bits as u16 & 0x7FFF) as f32;
        let expected = if bits & 0x8000 == 0 { expected } else { -expected };
        let found = f32::from_bits(*found as u32);
        assert!(found == expected || found.is_nan() && expected.is_nan(), "f16 {bits:#x}: {found} and not {expected}");
    }
    // One rounding: 1 + 2^-8 (a tie) plus the least bit of the product.
    let one = 0x3F80u64;
    let found = run("fma.rn.bf16 %h9, %h1, %h2, %h3; cvt.u64.u16 %d9, %h9;", &[0x3380; 32], &[0x3380; 32], &[one; 32]);
    assert_eq!(found[0], one);
    let found =
        run("add.rn.bf16x2 %r9, %r1, %r2; cvt.u64.u32 %d9, %r9;", &[0x3F80_4000; 32], &[0x3B80_3F80; 32], &[0; 32]);
    assert_eq!(found[0], 0x3F80_4040);
}

#[test]
fn tf32_and_relu() {
    check32("cvt.rna.tf32.f32 %r9, %f1;", |a, _, _| {
        if f32::from_bits(a).is_nan() { 0x7FFF_FFFF } else { a.wrapping_add(0x1000) & !0x1FFF }
    });
    check("cvt.rn.relu.bf16x2.f32 %r9, 0fBF800000, 0f3F800000; cvt.u64.u32 %d9, %r9;", |_, _, _| 0x3F80);
}

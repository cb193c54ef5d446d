//! Instructions of whole warps, and functions.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Device, bits, noise, run};

fn lanes(body: &str, a: &[u64], expected: impl Fn(usize, &dyn Fn(usize) -> u32) -> u32) {
    let zero = vec![0; 32];
    let found = run(&format!("{body} cvt.u64.u32 %d9, %r9;"), a, &zero, &zero);
    let value = |lane: usize| a[lane] as u32;
    for (lane, found) in found.iter().enumerate() {
        assert_eq!(*found as u32, expected(lane, &value), "{body}: lane {lane}");
    }
}

#[test]
fn shuffles() {
    let a = bits(1, 32);
    let all = "0xffffffff";
    lanes(&format!("shfl.sync.bfly.b32 %r9, %r1, 5, 31, {all};"), &a, |l, v| v(l ^ 5));
    lanes(&format!("shfl.sync.up.b32 %r9, %r1, 3, 0, {all};"), &a, |l, v| v(if l < 3 { l } else { l - 3 }));
    lanes(&format!("shfl.sync.down.b32 %r9, %r1, 30, 31, {all};"), &a, |l, v| v(if l > 1 { l } else { l + 30 }));
    // Segments of eight lanes.
    let c = (32 - 8) << 8;
    lanes(&format!("shfl.sync.up.b32 %r9, %r1, 2, {c}, {all};"), &a, |l, v| v(if l % 8 < 2 { l } else { l - 2 }));
    lanes(&format!("shfl.sync.down.b32 %r9, %r1, 3, {}, {all};", c | 31), &a, |l, v| {
        v(if l % 8 > 4 { l } else { l + 3 })
    });
    lanes(
        &format!("mov.u32 %r2, %laneid; mul.lo.u32 %r2, %r2, 5; shfl.sync.idx.b32 %r9, %r1, %r2, {}, {all};", c | 31),
        &a,
        |l, v| v(l / 8 * 8 + l * 5 % 8),
    );
    lanes(&format!("shfl.sync.down.b32 %r9|%p1, %r1, 4, 31, {all}; selp.u32 %r9, 1, 0, %p1;"), &a, |l, _| {
        u32::from(l < 28)
    });
    // Each half has its own mask.
    let halves = "mov.u32 %r2, %laneid; and.b32 %r2, %r2, 16; mov.u32 %r3, 0xffff; shl.b32 %r3, %r3, %r2;";
    lanes(&format!("{halves} shfl.sync.bfly.b32 %r9, %r1, 7, 31, %r3;"), &a, |l, v| v(l ^ 7));
    lanes(&format!("{halves} redux.sync.add.u32 %r9, %r1, %r3;"), &a, |l, v| {
        (l / 16 * 16..l / 16 * 16 + 16).fold(0, |s, i| s.wrapping_add(v(i)))
    });
}

#[test]
fn votes_and_reductions() {
    let a = bits(2, 32);
    let p = "setp.gt.s32 %p1, %r1, 40;";
    let ballot = (0..32).fold(0, |m, l| m | u32::from(a[l] as i32 > 40) << l);
    lanes(&format!("{p} vote.sync.ballot.b32 %r9, %p1, 0xffffffff;"), &a, |_, _| ballot);
    lanes(&format!("{p} vote.sync.any.pred %p2, %p1, 0xffffffff; selp.u32 %r9, 1, 0, %p2;"), &a, |_, _| 1);
    lanes(&format!("{p} vote.sync.all.pred %p2, !%p1, 0xffffffff; selp.u32 %r9, 1, 0, %p2;"), &a, |_, _| 0);
    lanes("redux.sync.max.s32 %r9, %r1, 0xffffffff;", &a, |_, v| (0..32).map(|l| v(l) as i32).max().unwrap() as u32);
    lanes("redux.sync.min.u32 %r9, %r1, 0xffffffff;", &a, |_, v| (0..32).map(v).min().unwrap());
    lanes("redux.sync.xor.b32 %r9, %r1, 0xffffffff;", &a, |_, v| (0..32).fold(0, |s, l| s ^ v(l)));
    lanes("and.b32 %r1, %r1, 3; match.any.sync.b32 %r9, %r1, 0xffffffff;", &a, |l, v| {
        (0..32).fold(0, |m, k| m | u32::from(v(k) & 3 == v(l) & 3) << k)
    });
    lanes("setp.lt.u32 %p1, %r1, 40; mov.u32 %r9, 0; @%p1 activemask.b32 %r9;", &a, |l, v| {
        if v(l) < 40 { (0..32).fold(0, |m, k| m | u32::from(v(k) < 40) << k) } else { 0 }
    });
}

/// A kernel of one warp that loads `n` registers a lane, runs `op`, and stores four.
fn fragments(op: &str, input: &[u32], n: usize, shared: usize) -> Vec<u32> {
    let load: String =
        (0..n).map(|i| format!("ld.global.u32 %r{i}, [%x1+{}]; mov.b32 %f{i}, %r{i};\n", i * 4)).collect();
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 out) {{
.shared .align 16 .b8 s[{}]; .reg .b32 %r<40>; .reg .f32 %f<40>; .reg .b64 %x<5>; .reg .b32 %t;
mov.u32 %t, %tid.x; ld.param.u64 %x1, [a]; ld.param.u64 %x2, [out];
mad.wide.u32 %x1, %t, {}, %x1; mad.wide.u32 %x2, %t, 16, %x2;
{load}{op}
st.global.v4.u32 [%x2], {{%r30, %r31, %r32, %r33}};
ret; }}\n",
        shared.max(16),
        n * 4
    );
    let mut device = Device::new(&text);
    let (a, out) = (device.put(input), device.put(&[0u32; 128]));
    device.launch("k", [1, 1, 1], [32, 1, 1], 0, &[a, out], &[8, 8]).unwrap_or_else(|e| panic!("{e}"));
    device.get(out, 128)
}

/// The place of element `i` of A in m16n8k16 with 16-bit elements, from the tables of the documentation.
fn a16(lane: usize, i: usize) -> (usize, usize) {
    let row = if matches!(i, 0 | 1 | 4 | 5) { lane / 4 } else { lane / 4 + 8 };
    (row, lane % 4 * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
}

fn b16(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, lane / 4)
}

fn c(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { lane / 4 } else { lane / 4 + 8 }, lane % 4 * 2 + (i & 1))
}

#[test]
fn product_of_bf16() {
    let (a, b, sums) = (noise(1, 256), noise(2, 128), noise(3, 128));
    let bf16 = |v: f32| v.to_bits() >> 16;
    let mut input = Vec::new();
    for lane in 0..32 {
        let a = |i: usize| bf16(a[a16(lane, i).0 * 16 + a16(lane, i).1]);
        let b = |i: usize| bf16(b[b16(lane, i).0 * 8 + b16(lane, i).1]);
        input.extend((0..4).map(|r| a(2 * r) | a(2 * r + 1) << 16));
        input.extend((0..2).map(|r| b(2 * r) | b(2 * r + 1) << 16));
        input.extend((0..4).map(|i| sums[c(lane, i).0 * 8 + c(lane, i).1].to_bits()));
    }
    let op = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f30,%f31,%f32,%f33}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f6,%f7,%f8,%f9};
mov.b32 %r30, %f30; mov.b32 %r31, %f31; mov.b32 %r32, %f32; mov.b32 %r33, %f33;";
    let found = fragments(op, &input, 10, 0);
    let wide = |v: f32| f32::from_bits(v.to_bits() & 0xFFFF_0000);
    for lane in 0..32 {
        for i in 0..4 {
            let (row, column) = c(lane, i);
            let sum = (0..16).fold(sums[row * 8 + column], |s, k| s + wide(a[row * 16 + k]) * wide(b[k * 8 + column]));
            assert_eq!(f32::from_bits(found[lane * 4 + i]), sum, "lane {lane}, element {i}");
        }
    }
}

#[test]
fn product_of_tf32() {
    let (a, b) = (noise(4, 128), noise(5, 64));
    let mut input = Vec::new();
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        input.extend([(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)].map(|(r, k)| a[r * 8 + k].to_bits()));
        input.extend([t, t + 4].map(|k| b[k * 8 + g].to_bits()));
    }
    let op = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f30,%f31,%f32,%f33}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {0f3F800000,0f3F800000,0f3F800000,0f3F800000};
mov.b32 %r30, %f30; mov.b32 %r31, %f31; mov.b32 %r32, %f32; mov.b32 %r33, %f33;";
    let found = fragments(op, &input, 6, 0);
    let cut = |v: f32| f32::from_bits(v.to_bits() & !0x1FFF);
    for lane in 0..32 {
        for i in 0..4 {
            let (row, column) = c(lane, i);
            let sum = (0..8).fold(1.0, |s, k| s + cut(a[row * 8 + k]) * cut(b[k * 8 + column]));
            assert_eq!(f32::from_bits(found[lane * 4 + i]), sum, "lane {lane}, element {i}");
        }
    }
}

#[test]
fn product_of_bytes() {
    for (types, a_signed, b_signed) in [("s8.s8", true, true), ("u8.s8", false, true)] {
        let raw = bits(6, 16 * 32 + 32 * 8);
        let (a, b) = raw.split_at(16 * 32);
        let a_place = |lane: usize, i: usize| {
            let row = if i < 4 || (8..12).contains(&i) { lane / 4 } else { lane / 4 + 8 };
            row * 32 + lane % 4 * 4 + (i & 3) + if i >= 8 { 16 } else { 0 }
        };
        let b_place = |lane: usize, i: usize| (lane % 4 * 4 + (i & 3) + if i >= 4 { 16 } else { 0 }) * 8 + lane / 4;
        let mut input = Vec::new();
        for lane in 0..32 {
            let word =
                |f: &dyn Fn(usize) -> u64, r: usize| (0..4).fold(0, |w, n| w | (f(r * 4 + n) as u32 & 0xFF) << (8 * n));
            input.extend((0..4).map(|r| word(&|i| a[a_place(lane, i)], r)));
            input.extend((0..2).map(|r| word(&|i| b[b_place(lane, i)], r)));
        }
        let op = format!(
            "mma.sync.aligned.m16n8k32.row.col.s32.{types}.s32 {{%r30,%r31,%r32,%r33}}, {{%r0,%r1,%r2,%r3}}, {{%r4,%r5}}, {{1,1,1,1}};"
        );
        let found = fragments(&op, &input, 6, 0);
        let byte = |v: u64, signed: bool| if signed { i32::from(v as i8) } else { i32::from(v as u8) };
        for lane in 0..32 {
            for i in 0..4 {
                let (row, column) = c(lane, i);
                let sum =
                    (0..32).fold(1, |s, k| s + byte(a[row * 32 + k], a_signed) * byte(b[k * 8 + column], b_signed));
                assert_eq!(found[lane * 4 + i] as i32, sum, "{types}: lane {lane}, element {i}");
            }
        }
    }
}

#[test]
fn matrices_in_shared_memory() {
    // Four matrices of 8 rows of 16 bytes each; element (m, row, column) is 64 m + 8 row + column.
    let input: Vec<u32> =
        (0..32).flat_map(|lane| (0..4).map(move |w| (lane * 8 + w * 2) | (lane * 8 + w * 2 + 1) << 16)).collect();
    let place = "mov.u32 %r20, s; mad.lo.u32 %r21, %t, 16, %r20; st.shared.v4.u32 [%r21], {%r0,%r1,%r2,%r3}; bar.warp.sync 0xffffffff;";
    let element = |m: usize, row: usize, column: usize| (64 * m + 8 * row + column) as u32;
    let found = fragments(
        &format!("{place} ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r30,%r31,%r32,%r33}}, [%r21];"),
        &input,
        4,
        512,
    );
    let turned = fragments(
        &format!("{place} ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{%r30,%r31,%r32,%r33}}, [%r21];"),
        &input,
        4,
        512,
    );
    let moved = fragments(
        &format!(
            "{place} ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r4,%r5,%r6,%r7}}, [%r21]; movmatrix.sync.aligned.m8n8.trans.b16 %r30, %r4; movmatrix.sync.aligned.m8n8.trans.b16 %r31, %r5; movmatrix.sync.aligned.m8n8.trans.b16 %r32, %r6; movmatrix.sync.aligned.m8n8.trans.b16 %r33, %r7;"
        ),
        &input,
        4,
        512,
    );
    for lane in 0..32 {
        for m in 0..4 {
            let (r, c) = (lane / 4, lane % 4 * 2);
            assert_eq!(found[lane * 4 + m], element(m, r, c) | element(m, r, c + 1) << 16);
            assert_eq!(turned[lane * 4 + m], element(m, c, r) | element(m, c + 1, r) << 16);
        }
    }
    assert_eq!(turned, moved);
}

#[test]
fn functions_that_call_themselves() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64
.func (.param .b32 out) fib(.param .b32 n) {
  .reg .b32 %r<9>; .reg .pred %p<2>;
  ld.param.u32 %r1, [n];
  setp.lt.u32 %p1, %r1, 2;
  mov.u32 %r2, %r1;
  @%p1 bra DONE;
  { .param .b32 a; .param .b32 b; add.u32 %r3, %r1, -1; st.param.b32 [a], %r3; call (b), fib, (a); ld.param.b32 %r4, [b]; }
  { .param .b32 a; .param .b32 b; add.u32 %r3, %r1, -2; st.param.b32 [a], %r3; call (b), fib, (a); ld.param.b32 %r5, [b]; }
  add.u32 %r2, %r4, %r5;
DONE:
  st.param.b32 [out], %r2;
  ret;
}
.visible .entry k(.param .u64 out) {
  .reg .b32 %r<9>; .reg .b64 %x<4>; .param .b32 a; .param .b32 b;
  mov.u32 %r1, %tid.x; ld.param.u64 %x1, [out]; mad.wide.u32 %x1, %r1, 4, %x1;
  st.param.b32 [a], %r1; call.uni (b), fib, (a); ld.param.b32 %r2, [b];
  st.global.u32 [%x1], %r2; ret;
}";
    let mut device = Device::new(text);
    let out = device.put(&[0u32; 12]);
    device.launch("k", [1, 1, 1], [12, 1, 1], 0, &[out], &[8]).unwrap();
    assert_eq!(device.get::<u32>(out, 12), [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]);
}

#[test]
fn atomics_on_integers() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64
.visible .entry k(.param .u64 a) {
  .reg .b32 %r<9>; .reg .b64 %x<4>; .reg .b64 %d<4>;
  mov.u32 %r1, %tid.x; ld.param.u64 %x1, [a];
  atom.global.add.u32 %r2, [%x1], %r1;
  atom.global.max.s32 %r2, [%x1+4], %r1;
  atom.global.min.s32 %r2, [%x1+8], %r1;
  red.global.or.b32 [%x1+12], %r1;
  atom.global.cas.b32 %r2, [%x1+16], 7, %r1;
  atom.global.inc.u32 %r2, [%x1+20], 9;
  atom.global.exch.b32 %r3, [%x1+24], %r1;
  cvt.u64.u32 %d1, %r1; red.global.add.u64 [%x1+32], %d1;
  ret;
}";
    let mut device = Device::new(text);
    let out = device.put(&[0i32, -5, 40, 0, 7, 0, 100, 0, -1, 0]);
    device.launch("k", [1, 1, 1], [32, 1, 1], 0, &[out], &[8]).unwrap();
    assert_eq!(device.get::<i32>(out, 10), [496, 31, 0, 31, 0, 2, 31, 0, 495, 1]);
}

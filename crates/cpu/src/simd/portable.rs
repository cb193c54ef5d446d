//! Vectors as arrays, for the compiler to vectorise.

use half::{bf16, f16};

use super::{Kernel, Simd};

const N: usize = 8;

/// No instructions beyond what the build targets.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

/// Whether `mul_add` is one instruction; elsewhere it would be a library call.
const FMA: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// Adding and subtracting 1.5 x 2^23 rounds to an integer, which is then in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;

pub(super) fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Portable)
}

#[inline(always)]
fn map(a: [f32; N], f: impl Fn(f32) -> f32) -> [f32; N] {
    let mut out = a;
    for x in &mut out {
        *x = f(*x);
    }
    out
}

#[inline(always)]
fn zip(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    let mut out = a;
    for i in 0..N {
        out[i] = f(a[i], b[i]);
    }
    out
}

#[inline(always)]
fn narrow(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    bf16::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded } as u16)
}

#[inline(always)]
fn widen(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

impl Simd for Portable {
    const LANES: usize = N;
    const TILE_ROWS: usize = 4;
    const TILE_VECS: usize = 1;
    type F = [f32; N];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; N] {
        [x; N]
    }
    #[inline(always)]
    fn load(self, src: &[f32]) -> [f32; N] {
        if let Some(full) = src.first_chunk::<N>() {
            return *full;
        }
        let mut v = [0.0; N];
        v[..src.len()].copy_from_slice(src);
        v
    }
    #[inline(always)]
    fn store(self, v: [f32; N], dst: &mut [f32]) {
        if let Some(full) = dst.first_chunk_mut::<N>() {
            *full = v;
            return;
        }
        let len = dst.len();
        dst.copy_from_slice(&v[..len]);
    }
    #[inline(always)]
    fn load_bf16(self, src: &[bf16]) -> [f32; N] {
        let mut v = [0.0; N];
        if let Some(full) = src.first_chunk::<N>() {
            for i in 0..N {
                v[i] = widen(full[i]);
            }
            return v;
        }
        for (x, y) in v.iter_mut().zip(src) {
            *x = widen(*y);
        }
        v
    }
    #[inline(always)]
    fn store_bf16(self, v: [f32; N], dst: &mut [bf16]) {
        if let Some(full) = dst.first_chunk_mut::<N>() {
            for i in 0..N {
                full[i] = narrow(v[i]);
            }
            return;
        }
        for (x, y) in dst.iter_mut().zip(v) {
            *x = narrow(y);
        }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> [f32; N] {
        // SAFETY: the caller's promise; arrays of `f32` are aligned as `f32`.
        unsafe { *src.cast() }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: [f32; N], dst: *mut f32) {
        // SAFETY: the caller's promise; arrays of `f32` are aligned as `f32`.
        unsafe { *dst.cast() = v }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, src: *const bf16) -> [f32; N] {
        // SAFETY: the caller's promise; arrays of `bf16` are aligned as `bf16`.
        self.load_bf16(unsafe { &*src.cast::<[bf16; N]>() })
    }
    #[inline(always)]
    unsafe fn load_f16_ptr(self, src: *const f16) -> [f32; N] {
        // SAFETY: the caller's promise.
        unsafe { *src.cast::<[f16; N]>() }.map(f16::to_f32)
    }
    #[inline(always)]
    unsafe fn load_i8_ptr(self, src: *const i8) -> [f32; N] {
        // SAFETY: the caller's promise.
        unsafe { *src.cast::<[i8; N]>() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn transpose8(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        for i in 0..8 {
            for j in 0..8 {
                // SAFETY: the caller's promise.
                unsafe { *dst.add(j * dst_stride + i) = src.add(i * src_stride + j).read_unaligned() };
            }
        }
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        run(kernel)
    }

    #[inline(always)]
    fn add(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        let mut out = c;
        for i in 0..N {
            out[i] = if FMA { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] };
        }
        out
    }
    #[inline(always)]
    fn fnma(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        self.fma(map(a, |x| -x), b, c)
    }
    #[inline(always)]
    fn max(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; N]) -> [f32; N] {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    fn abs(self, a: [f32; N]) -> [f32; N] {
        map(a, f32::abs)
    }
    #[inline(always)]
    fn round(self, a: [f32; N]) -> [f32; N] {
        map(a, |x| (x + ROUND) - ROUND)
    }
    #[inline(always)]
    fn scale_pow2(self, a: [f32; N], n: [f32; N]) -> [f32; N] {
        zip(a, n, |a, n| {
            let n = (n + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
            let half = n >> 1;
            let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
            a * power(half) * power(n - half)
        })
    }
    #[inline(always)]
    fn select_lt(self, a: [f32; N], b: [f32; N], x: [f32; N], y: [f32; N]) -> [f32; N] {
        let mut out = y;
        for i in 0..N {
            out[i] = if a[i] < b[i] { x[i] } else { y[i] };
        }
        out
    }
    #[inline(always)]
    fn sum(self, a: [f32; N]) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    fn max_lane(self, a: [f32; N]) -> f32 {
        let mut m = a[0];
        for x in a {
            m = if x > m { x } else { m };
        }
        m
    }
}

//! 512-bit vectors: AVX-512 F, BW, VL, DQ.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Simd};

/// Proof that the host has AVX-512 F, BW, VL and DQ.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

/// # Safety
/// The host must have AVX-512 F, BW, VL and DQ, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx512(()))
}

/// An intrinsic call.
macro_rules! op {
    ($call:expr) => {{
        // SAFETY: register operands only; `Avx512` values exist only inside `run`, whose caller vouches for the host.
        unsafe { $call }
    }};
}

const N: usize = 16;

/// The first `n < 16` lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    (1u16 << n) - 1
}

impl Simd for Avx512 {
    const LANES: usize = N;
    const TILE_ROWS: usize = 6;
    const TILE_VECS: usize = 4;
    type F = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, src: &[f32]) -> __m512 {
        if src.len() >= N {
            // SAFETY: sixteen elements are there.
            unsafe { _mm512_loadu_ps(src.as_ptr()) }
        } else {
            // SAFETY: the mask keeps the load inside the slice.
            unsafe { _mm512_maskz_loadu_ps(mask(src.len()), src.as_ptr()) }
        }
    }
    #[inline(always)]
    fn store(self, v: __m512, dst: &mut [f32]) {
        if dst.len() >= N {
            // SAFETY: sixteen elements are there.
            unsafe { _mm512_storeu_ps(dst.as_mut_ptr(), v) }
        } else {
            // SAFETY: the mask keeps the store inside the slice.
            unsafe { _mm512_mask_storeu_ps(dst.as_mut_ptr(), mask(dst.len()), v) }
        }
    }
    #[inline(always)]
    fn load_bf16(self, src: &[bf16]) -> __m512 {
        // SAFETY: sixteen elements are there, or the mask keeps the load inside the slice.
        unsafe {
            let half = if src.len() >= N {
                _mm256_loadu_si256(src.as_ptr().cast())
            } else {
                _mm256_maskz_loadu_epi16(mask(src.len()), src.as_ptr().cast())
            };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        }
    }
    #[inline(always)]
    fn store_bf16(self, v: __m512, dst: &mut [bf16]) {
        // The AVX512-BF16 conversion is not used: it flushes denormals.
        let packed = op!({
            let bits = _mm512_castps_si512(v);
            let high = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
            let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, bias));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)))
        });
        if dst.len() >= N {
            // SAFETY: sixteen elements are there.
            unsafe { _mm256_storeu_si256(dst.as_mut_ptr().cast(), packed) }
        } else {
            // SAFETY: the mask keeps the store inside the slice.
            unsafe { _mm256_mask_storeu_epi16(dst.as_mut_ptr().cast(), mask(dst.len()), packed) }
        }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(src) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: __m512, dst: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(dst, v) }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, src: *const bf16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let half = _mm256_loadu_si256(src.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16_ptr(self, src: *const f16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(src.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8_ptr(self, src: *const i8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(src.cast()))) }
    }

    #[inline(always)]
    unsafe fn transpose8(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: the caller's promise; the host has AVX2.
        unsafe { super::avx2::transpose8(src, src_stride, dst, dst_stride) }
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        // SAFETY: a value of this type exists only where the host has the instructions.
        unsafe { run(kernel) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        op!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale_pow2(self, a: __m512, n: __m512) -> __m512 {
        op!(_mm512_scalef_ps(a, n))
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x))
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        op!({
            let half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let quad = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            let pair = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        })
    }
    #[inline(always)]
    fn max_lane(self, a: __m512) -> f32 {
        op!({
            let half = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let quad = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            let pair = _mm_max_ps(quad, _mm_movehl_ps(quad, quad));
            _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)))
        })
    }
}

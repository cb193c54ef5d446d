//! 256-bit vectors: AVX2 and FMA.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Simd};

/// Proof that the host has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// # Safety
/// The host must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2(()))
}

/// An intrinsic call.
macro_rules! op {
    ($call:expr) => {{
        // SAFETY: register operands only; `Avx2` values exist only inside `run`, whose caller vouches for the host.
        unsafe { $call }
    }};
}

const N: usize = 8;

/// Eight ones, then eight zeros: the mask of `n` lanes begins at `8 - n`.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
fn mask(n: usize) -> __m256i {
    let from = &MASKS[N - n..][..N];
    // SAFETY: the slice has eight elements; AVX is there because an `Avx2` is.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// [`Simd::transpose8`], also for AVX-512.
///
/// # Safety
/// The host must have AVX; otherwise as [`Simd::transpose8`].
#[inline(always)]
pub(super) unsafe fn transpose8(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
    // SAFETY: the caller's promises.
    unsafe {
        // Halves of rows i and i + 4 side by side, so that what remains is to transpose 4 x 4 in each half.
        let half = |i: usize, j: usize| {
            let low = _mm256_castps128_ps256(_mm_loadu_ps(src.add(i * src_stride + j)));
            _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(src.add((i + 4) * src_stride + j)))
        };
        for j in [0, 4] {
            let (a, b, c, d) = (half(0, j), half(1, j), half(2, j), half(3, j));
            let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            _mm256_storeu_ps(dst.add(j * dst_stride), _mm256_shuffle_ps::<0x44>(ab_low, cd_low));
            _mm256_storeu_ps(dst.add((j + 1) * dst_stride), _mm256_shuffle_ps::<0xee>(ab_low, cd_low));
            _mm256_storeu_ps(dst.add((j + 2) * dst_stride), _mm256_shuffle_ps::<0x44>(ab_high, cd_high));
            _mm256_storeu_ps(dst.add((j + 3) * dst_stride), _mm256_shuffle_ps::<0xee>(ab_high, cd_high));
        }
    }
}

impl Simd for Avx2 {
    const LANES: usize = N;
    const TILE_ROWS: usize = 6;
    const TILE_VECS: usize = 2;
    type F = __m256;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        op!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, src: &[f32]) -> __m256 {
        if src.len() >= N {
            // SAFETY: eight elements are there.
            unsafe { _mm256_loadu_ps(src.as_ptr()) }
        } else {
            // SAFETY: the mask keeps the load inside the slice.
            unsafe { _mm256_maskload_ps(src.as_ptr(), mask(src.len())) }
        }
    }
    #[inline(always)]
    fn store(self, v: __m256, dst: &mut [f32]) {
        if dst.len() >= N {
            // SAFETY: eight elements are there.
            unsafe { _mm256_storeu_ps(dst.as_mut_ptr(), v) }
        } else {
            // SAFETY: the mask keeps the store inside the slice.
            unsafe { _mm256_maskstore_ps(dst.as_mut_ptr(), mask(dst.len()), v) }
        }
    }
    #[inline(always)]
    fn load_bf16(self, src: &[bf16]) -> __m256 {
        if src.len() >= N {
            // SAFETY: eight elements are there.
            unsafe { self.load_bf16_ptr(src.as_ptr()) }
        } else {
            let mut part = [bf16::ZERO; N];
            part[..src.len()].copy_from_slice(src);
            // SAFETY: the array has eight elements.
            unsafe { self.load_bf16_ptr(part.as_ptr()) }
        }
    }
    #[inline(always)]
    fn store_bf16(self, v: __m256, dst: &mut [bf16]) {
        // SAFETY: register operands, and a store to an array of its size; the host has AVX2.
        let part = unsafe {
            let bits = _mm256_castps_si256(v);
            let high = _mm256_srli_epi32::<16>(bits);
            let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
            let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, bias));
            let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let result = _mm256_blendv_epi8(rounded, quiet, nan);
            // Packs within 128-bit halves, then brings the two halves together.
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(result, result));
            _mm256_castsi256_si128(packed)
        };
        if dst.len() >= N {
            // SAFETY: eight elements are there.
            unsafe { _mm_storeu_si128(dst.as_mut_ptr().cast(), part) }
        } else {
            let mut all = [bf16::ZERO; N];
            // SAFETY: the array has eight elements.
            unsafe { _mm_storeu_si128(all.as_mut_ptr().cast(), part) };
            let len = dst.len();
            dst.copy_from_slice(&all[..len]);
        }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(src) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: __m256, dst: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(dst, v) }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, src: *const bf16) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let half = _mm_loadu_si128(src.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16_ptr(self, src: *const f16) -> __m256 {
        // SAFETY: the caller's promise; the host has F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(src.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8_ptr(self, src: *const i8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(src.cast()))) }
    }

    #[inline(always)]
    unsafe fn transpose8(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: the caller's promise; the host has AVX2.
        unsafe { transpose8(src, src_stride, dst, dst_stride) }
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        // SAFETY: a value of this type exists only where the host has the instructions.
        unsafe { run(kernel) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        op!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        op!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        op!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale_pow2(self, a: __m256, n: __m256) -> __m256 {
        op!({
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let rest = _mm256_sub_epi32(n, half);
            let one = _mm256_set1_epi32(127);
            let first = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, one)));
            let second = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(rest, one)));
            _mm256_mul_ps(_mm256_mul_ps(a, first), second)
        })
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        op!(_mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        op!({
            let quad = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        })
    }
    #[inline(always)]
    fn max_lane(self, a: __m256) -> f32 {
        op!({
            let quad = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_max_ps(quad, _mm_movehl_ps(quad, quad));
            _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)))
        })
    }
}

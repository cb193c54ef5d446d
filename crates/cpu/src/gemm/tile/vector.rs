//! The vectors that the register tiles are made of.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Some `f32` side by side, or as many pairs of `bf16`.
///
/// All methods are inlined into functions that enable the vector's instructions.
pub(in crate::gemm) trait Vector: Copy {
    const LANES: usize;

    /// # Safety
    /// For all methods: the host has the vector's instructions; pointers are valid for [`Vector::LANES`] elements.
    unsafe fn zero() -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The same four bytes in each lane.
    unsafe fn splat(unit: u32) -> Self;
    /// `self + a * b`, rounded once where the level has fused multiply-add.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// The first `bf16` of each pair as `f32`.
    unsafe fn low(self) -> Self;
    /// The second `bf16` of each pair as `f32`.
    unsafe fn high(self) -> Self;
    /// What one unit of `k` adds to a sum.
    #[inline(always)]
    unsafe fn accumulate(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.fma(a, b) }
    }
}

/// What the compiler makes of plain loops. Rounds after the multiplication unless the build target has fused
/// multiply-add: emulating that in software would be slower by orders of magnitude.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Portable(pub(in crate::gemm) [f32; 4]);

impl Portable {
    #[inline(always)]
    fn map(self, f: impl Fn(u32) -> u32) -> Self {
        Portable(self.0.map(|x| f32::from_bits(f(x.to_bits()))))
    }
}

impl Vector for Portable {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Portable([0.0; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Portable(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn splat(unit: u32) -> Self {
        Portable([f32::from_bits(unit); 4])
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        let mut sum = self.0;
        for ((sum, a), b) in sum.iter_mut().zip(a.0).zip(b.0) {
            *sum = if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                a.mul_add(b, *sum)
            } else {
                *sum + a * b
            };
        }
        Portable(sum)
    }
    #[inline(always)]
    unsafe fn low(self) -> Self {
        self.map(|x| x << 16)
    }
    #[inline(always)]
    unsafe fn high(self) -> Self {
        self.map(|x| x & 0xffff_0000)
    }
}

/// Eight lanes of AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Avx2(pub(in crate::gemm) __m256);

#[cfg(target_arch = "x86_64")]
impl Vector for Avx2 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise, here and below.
        Avx2(unsafe { _mm256_setzero_ps() })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(unit: u32) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_set1_ps(f32::from_bits(unit)) })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn low(self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(self.0))) })
    }
    #[inline(always)]
    unsafe fn high(self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_and_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32))) })
    }
}

/// Sixteen lanes of AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Avx512(pub(in crate::gemm) __m512);

#[cfg(target_arch = "x86_64")]
impl Vector for Avx512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise, here and below.
        Avx512(unsafe { _mm512_setzero_ps() })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(unit: u32) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_set1_ps(f32::from_bits(unit)) })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn low(self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(self.0))) })
    }
    #[inline(always)]
    unsafe fn high(self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe {
            let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(self.0), mask))
        })
    }
}

/// Sixteen lanes of AVX-512 whose units are pairs for the dot-product instruction of AVX512-BF16, `VDPBF16PS`. By Intel's
/// manual (Software Developer's Manual, volume 2) it adds the products of the second elements, then those of the first,
/// each with one rounding to nearest even; denormal inputs count as zero and denormal sums become zero, whatever the
/// control register says. The tests run it where the host has it, and [`Emulated`] everywhere.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512Dot(Avx512);

#[cfg(target_arch = "x86_64")]
impl Vector for Avx512Dot {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise, here and below.
        Avx512Dot(unsafe { Avx512::zero() })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        Avx512Dot(unsafe { Avx512::load(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { self.0.store(to) }
    }
    #[inline(always)]
    unsafe fn splat(unit: u32) -> Self {
        // SAFETY: as above.
        Avx512Dot(unsafe { Avx512::splat(unit) })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Avx512Dot(unsafe { self.0.fma(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn low(self) -> Self {
        // SAFETY: as above.
        Avx512Dot(unsafe { self.0.low() })
    }
    #[inline(always)]
    unsafe fn high(self) -> Self {
        // SAFETY: as above.
        Avx512Dot(unsafe { self.0.high() })
    }
    #[inline(always)]
    unsafe fn accumulate(self, a: Self, b: Self) -> Self {
        // SAFETY: as above; the casts only rename 512 bits.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a.0.0), _mm512_castps_si512(b.0.0));
            let (a, b) = (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b));
            Avx512Dot(Avx512(_mm512_dpbf16_ps(self.0.0, a, b)))
        }
    }
}

/// What [`Avx512Dot`] computes, without the instruction: checks layouts and order on hosts that lack it.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(super) struct Emulated<V>(V);

#[cfg(test)]
impl<V: Vector> Emulated<V> {
    /// Denormals as zeros of their sign.
    ///
    /// # Safety
    /// As for all methods of [`Vector`].
    #[inline(always)]
    unsafe fn flushed(self) -> Self {
        let mut lanes = [0f32; 16];
        // SAFETY: the caller's promise; no vector has more lanes.
        unsafe {
            self.0.store(lanes.as_mut_ptr());
            for x in &mut lanes {
                *x = if x.abs() < f32::MIN_POSITIVE { 0f32.copysign(*x) } else { *x };
            }
            Emulated(V::load(lanes.as_ptr()))
        }
    }
}

#[cfg(test)]
impl<V: Vector> Vector for Emulated<V> {
    const LANES: usize = V::LANES;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise, here and below.
        Emulated(unsafe { V::zero() })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        Emulated(unsafe { V::load(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { self.0.store(to) }
    }
    #[inline(always)]
    unsafe fn splat(unit: u32) -> Self {
        // SAFETY: as above.
        Emulated(unsafe { V::splat(unit) })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Emulated(unsafe { self.0.fma(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn low(self) -> Self {
        // SAFETY: as above.
        Emulated(unsafe { self.0.low() })
    }
    #[inline(always)]
    unsafe fn high(self) -> Self {
        // SAFETY: as above.
        Emulated(unsafe { self.0.high() })
    }
    #[inline(always)]
    unsafe fn accumulate(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let sum = self.flushed().fma(a.high().flushed(), b.high().flushed()).flushed();
            sum.fma(a.low().flushed(), b.low().flushed()).flushed()
        }
    }
}

//! What the kernels need of a vector to read codes and scales.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::f16;

#[cfg(target_arch = "x86_64")]
use crate::gemm::tile::vector::{Avx2, Avx512};
use crate::gemm::tile::vector::{Portable, Vector};

/// Vectors that read codes out of 32-bit words, one word for each lane.
pub(super) trait Codes: Vector {
    /// A word for each lane.
    type Words: Copy;

    /// # Safety
    /// For all methods: the host has the vector's instructions; pointers are valid for [`Vector::LANES`] elements.
    unsafe fn words(from: *const u8) -> Self::Words;
    /// Each word `>> n`, for `n < 32`.
    unsafe fn lowered(words: Self::Words, n: u32) -> Self::Words;
    /// Each word `<< n`, for `n < 32`.
    unsafe fn raised(words: Self::Words, n: u32) -> Self::Words;
    /// Each word `& mask`.
    unsafe fn masked(words: Self::Words, mask: u32) -> Self::Words;
    /// Each word `| (high & mask)`.
    unsafe fn joined(words: Self::Words, high: Self::Words, mask: u32) -> Self::Words;
    /// Byte `BYTE` of each word, as a number.
    unsafe fn byte<const BYTE: usize>(words: Self::Words) -> Self;
    /// Bits `shift..shift + 4` of each word, as a number.
    unsafe fn nibble(words: Self::Words, shift: u32) -> Self;
    /// Numbers of 16 bits, widened.
    unsafe fn halves(from: *const u8) -> Self;
    /// Signed bytes, as numbers.
    unsafe fn bytes(from: *const u8) -> Self;
    /// The same word in each lane.
    unsafe fn same_words(word: u32) -> Self::Words;
    unsafe fn store_words(words: Self::Words, to: *mut u8);
    /// Words as signed integers, which an `f32` has exactly.
    unsafe fn numbers(words: Self::Words) -> Self;
    /// `self * other`.
    unsafe fn times(self, other: Self) -> Self;
    /// `self + a * b`, rounded once at every level.
    unsafe fn fused(self, a: Self, b: Self) -> Self;
}

/// `a * b + c`, rounded once, without the instruction. The product is exact in `f64`. The sum is rounded to odd there: where it
/// is not exact and its last bit is even, the neighbour on the other side of the exact sum is taken. As `f64` has more than
/// two bits beyond those of `f32`, rounding once more gives what rounding the exact sum would (Boldo and Melquiond, Emulation
/// of a FMA and Correctly Rounded Sums, 2008).
pub(super) fn fused(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // What the sum lost, exactly (Knuth's TwoSum).
    let from_c = sum - product;
    let lost = (product - (sum - from_c)) + (c - from_c);
    let bits = sum.to_bits();
    if lost == 0.0 || !sum.is_finite() || bits & 1 == 1 {
        return sum as f32;
    }
    let away = (lost > 0.0) == (sum > 0.0);
    f64::from_bits(if away { bits + 1 } else { bits - 1 }) as f32
}

impl Codes for Portable {
    type Words = [u32; 4];

    #[inline(always)]
    unsafe fn words(from: *const u8) -> [u32; 4] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[u32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn lowered(words: [u32; 4], n: u32) -> [u32; 4] {
        words.map(|word| word >> n)
    }
    #[inline(always)]
    unsafe fn raised(words: [u32; 4], n: u32) -> [u32; 4] {
        words.map(|word| word << n)
    }
    #[inline(always)]
    unsafe fn masked(words: [u32; 4], mask: u32) -> [u32; 4] {
        words.map(|word| word & mask)
    }
    #[inline(always)]
    unsafe fn joined(mut words: [u32; 4], high: [u32; 4], mask: u32) -> [u32; 4] {
        for (word, high) in words.iter_mut().zip(high) {
            *word |= high & mask;
        }
        words
    }
    #[inline(always)]
    unsafe fn byte<const BYTE: usize>(words: [u32; 4]) -> Self {
        // As `i32`, which the base instruction set converts.
        Portable(words.map(|word| (word >> (8 * BYTE) & 255) as i32 as f32))
    }
    #[inline(always)]
    unsafe fn nibble(words: [u32; 4], shift: u32) -> Self {
        Portable(words.map(|word| (word >> shift & 15) as i32 as f32))
    }
    #[inline(always)]
    unsafe fn halves(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        Portable(unsafe { from.cast::<[u16; 4]>().read_unaligned() }.map(|bits| f16::from_bits(bits).to_f32()))
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        Portable(unsafe { from.cast::<[i8; 4]>().read_unaligned() }.map(f32::from))
    }
    #[inline(always)]
    unsafe fn same_words(word: u32) -> [u32; 4] {
        [word; 4]
    }
    #[inline(always)]
    unsafe fn store_words(words: [u32; 4], to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[u32; 4]>().write_unaligned(words) }
    }
    #[inline(always)]
    unsafe fn numbers(words: [u32; 4]) -> Self {
        Portable(words.map(|word| word as i32 as f32))
    }
    #[inline(always)]
    unsafe fn times(mut self, other: Self) -> Self {
        for (x, y) in self.0.iter_mut().zip(other.0) {
            *x *= y;
        }
        self
    }
    #[inline(always)]
    unsafe fn fused(mut self, a: Self, b: Self) -> Self {
        for ((sum, a), b) in self.0.iter_mut().zip(a.0).zip(b.0) {
            *sum = if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                a.mul_add(b, *sum)
            } else {
                fused(a, b, *sum)
            };
        }
        self
    }
}

/// Moves byte `byte` of each word to the place of its first and clears the rest.
#[cfg(target_arch = "x86_64")]
const fn first_byte(byte: u8) -> [u8; 64] {
    let mut places = [0x80; 64];
    let mut i = 0;
    while i < 64 {
        // Places count within 16 bytes.
        places[i] = (i % 16) as u8 + byte;
        i += 4;
    }
    places
}

#[cfg(target_arch = "x86_64")]
static FIRST_BYTE: [[u8; 64]; 4] = [first_byte(0), first_byte(1), first_byte(2), first_byte(3)];

#[cfg(target_arch = "x86_64")]
impl Codes for Avx2 {
    type Words = __m256i;

    #[inline(always)]
    unsafe fn words(from: *const u8) -> __m256i {
        // SAFETY: the caller's promise, here and below.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    unsafe fn lowered(words: __m256i, n: u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_srlv_epi32(words, _mm256_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    unsafe fn raised(words: __m256i, n: u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_sllv_epi32(words, _mm256_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    unsafe fn masked(words: __m256i, mask: u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_and_si256(words, _mm256_set1_epi32(mask as i32)) }
    }
    #[inline(always)]
    unsafe fn joined(words: __m256i, high: __m256i, mask: u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_or_si256(words, Self::masked(high, mask)) }
    }
    #[inline(always)]
    unsafe fn byte<const BYTE: usize>(words: __m256i) -> Self {
        // SAFETY: as above; the table has 64 bytes.
        unsafe {
            let places = _mm256_loadu_si256(FIRST_BYTE[BYTE].as_ptr().cast());
            Avx2(_mm256_cvtepi32_ps(_mm256_shuffle_epi8(words, places)))
        }
    }
    #[inline(always)]
    unsafe fn nibble(words: __m256i, shift: u32) -> Self {
        // SAFETY: as above.
        unsafe { Avx2(_mm256_cvtepi32_ps(Self::masked(Self::lowered(words, shift), 15))) }
    }
    #[inline(always)]
    unsafe fn halves(from: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { Avx2(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { Avx2(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn same_words(word: u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_set1_epi32(word as i32) }
    }
    #[inline(always)]
    unsafe fn store_words(words: __m256i, to: *mut u8) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(to.cast(), words) }
    }
    #[inline(always)]
    unsafe fn numbers(words: __m256i) -> Self {
        // SAFETY: as above.
        unsafe { Avx2(_mm256_cvtepi32_ps(words)) }
    }
    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Avx2(_mm256_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn fused(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { self.fma(a, b) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Codes for Avx512 {
    type Words = __m512i;

    #[inline(always)]
    unsafe fn words(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise, here and below.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn lowered(words: __m512i, n: u32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srlv_epi32(words, _mm512_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    unsafe fn raised(words: __m512i, n: u32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_sllv_epi32(words, _mm512_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    unsafe fn masked(words: __m512i, mask: u32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_and_si512(words, _mm512_set1_epi32(mask as i32)) }
    }
    #[inline(always)]
    unsafe fn joined(words: __m512i, high: __m512i, mask: u32) -> __m512i {
        // SAFETY: as above. The truth table is that of `a | (b & c)`.
        unsafe { _mm512_ternarylogic_epi32::<0xf8>(words, high, _mm512_set1_epi32(mask as i32)) }
    }
    #[inline(always)]
    unsafe fn byte<const BYTE: usize>(words: __m512i) -> Self {
        // SAFETY: as above; the table has 64 bytes.
        unsafe {
            let places = _mm512_loadu_si512(FIRST_BYTE[BYTE].as_ptr().cast());
            Avx512(_mm512_cvtepi32_ps(_mm512_shuffle_epi8(words, places)))
        }
    }
    /// A look-up: the permutation reads only the low four bits of each index, so that nothing needs a mask.
    #[inline(always)]
    unsafe fn nibble(words: __m512i, shift: u32) -> Self {
        // SAFETY: as above.
        unsafe {
            let numbers =
                _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0);
            Avx512(_mm512_permutexvar_ps(Self::lowered(words, shift), numbers))
        }
    }
    #[inline(always)]
    unsafe fn halves(from: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn same_words(word: u32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(word as i32) }
    }
    #[inline(always)]
    unsafe fn store_words(words: __m512i, to: *mut u8) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(to.cast(), words) }
    }
    #[inline(always)]
    unsafe fn numbers(words: __m512i) -> Self {
        // SAFETY: as above.
        unsafe { Avx512(_mm512_cvtepi32_ps(words)) }
    }
    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn fused(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { self.fma(a, b) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fused;

    /// Any bits, and numbers whose sums cancel or end halfway between two others.
    fn operand() -> impl Strategy<Value = f32> {
        prop_oneof![
            any::<u32>().prop_map(f32::from_bits),
            (-4096i32..4096, -30i32..30).prop_map(|(x, e)| x as f32 * 2f32.powi(e))
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn fused_rounds_once(a in operand(), b in operand(), c in operand(), near in any::<bool>(), ulps in -4i32..4) {
            // Often a sum in which almost everything cancels.
            let c = if near { f32::from_bits((-(a * b)).to_bits().wrapping_add_signed(ulps)) } else { c };
            let (found, expected) = (fused(a, b, c), a.mul_add(b, c));
            prop_assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{a:e} * {b:e} + {c:e}");
        }
    }
}

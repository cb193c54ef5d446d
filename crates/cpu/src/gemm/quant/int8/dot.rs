//! Dot products of four codes with four 8-bit activations in each lane, with the instructions of each level.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::super::vector::Codes;
use crate::gemm::tile::vector::Portable;
#[cfg(target_arch = "x86_64")]
use crate::gemm::tile::vector::{Avx2, Avx512};

/// How a level multiplies codes with activations.
pub(super) trait Dot<V: Codes> {
    /// Codes of 8 bits are taken as numbers around 0 (`code - 128`), so that sums begin at 0 and not at the correction.
    const SIGNED_BYTES: bool;

    /// To each lane of `sums` the four products of the lane's codes, which have `BITS` bits, with the signed bytes of `x`,
    /// which are from -127 to 127.
    ///
    /// # Safety
    /// The host has the vector's instructions and those of this way.
    unsafe fn dot<const BITS: u32>(sums: V::Words, codes: V::Words, x: V::Words) -> V::Words;
}

/// Plain integers.
pub(super) struct Plain;

impl Dot<Portable> for Plain {
    const SIGNED_BYTES: bool = false;

    #[inline(always)]
    unsafe fn dot<const BITS: u32>(mut sums: [u32; 4], codes: [u32; 4], x: [u32; 4]) -> [u32; 4] {
        for ((sum, codes), x) in sums.iter_mut().zip(codes).zip(x) {
            for byte in 0..4 {
                let product = (codes >> (8 * byte) & 255) as i32 * i32::from((x >> (8 * byte)) as i8);
                *sum = sum.wrapping_add(product as u32);
            }
        }
        sums
    }
}

/// AVX512-VNNI.
#[cfg(target_arch = "x86_64")]
pub(super) struct Vnni;

#[cfg(target_arch = "x86_64")]
impl Dot<Avx512> for Vnni {
    const SIGNED_BYTES: bool = false;

    #[inline(always)]
    unsafe fn dot<const BITS: u32>(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_dpbusd_epi32(sums, codes, x) }
    }
}

/// Products of unsigned with signed bytes, added in pairs to 16 bits, and these in pairs to 32. The sum of a pair must fit:
/// `2 * 63 * 127` and `2 * 128 * 127` do, but `2 * 255 * 127` does not. So codes of 8 bits are multiplied as their distance
/// from 128, with the sign moved to the activation.
#[cfg(target_arch = "x86_64")]
pub(super) struct Pairs;

#[cfg(target_arch = "x86_64")]
impl Dot<Avx2> for Pairs {
    const SIGNED_BYTES: bool = true;

    #[inline(always)]
    unsafe fn dot<const BITS: u32>(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let (codes, x) = if BITS == 8 {
                let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN));
                (_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed))
            } else {
                (codes, x)
            };
            let pairs = _mm256_maddubs_epi16(codes, x);
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Dot<Avx512> for Pairs {
    const SIGNED_BYTES: bool = true;

    #[inline(always)]
    unsafe fn dot<const BITS: u32>(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let (codes, x) = if BITS == 8 {
                let signed = _mm512_xor_si512(codes, _mm512_set1_epi8(i8::MIN));
                let negative = _mm512_movepi8_mask(signed);
                (_mm512_abs_epi8(signed), _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x))
            } else {
                (codes, x)
            };
            let pairs = _mm512_maddubs_epi16(codes, x);
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
}

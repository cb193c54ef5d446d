//! Vectors of `f32` at every SIMD level, so that a kernel is written once.
//!
//! A kernel is a [`Kernel`]: a function generic over a [`Simd`] token. [`Isa::dispatch`] instantiates it for the level at
//! hand, inside a function that has the level's instructions enabled. Everything that is called with a token must be
//! `#[inline(always)]`: code left in a function of its own would be compiled without those instructions (still correct,
//! but slow), and closures count as functions of their own.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod ceilings;
pub mod math;
mod portable;
pub mod product;
pub mod rows;
#[cfg(test)]
mod tests;

use half::{bf16, f16};

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::SimdLevel;

pub use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub use {avx2::Avx2, avx512::Avx512};

/// A set of vector instructions. A value of the type is proof that this host has them.
///
/// Loads and stores take slices: they touch the first [`Simd::LANES`] elements, or all if there are fewer; lanes without
/// an element load as 0. A row of any length is thus a loop in steps of `LANES` over `&row[i..]`, with the same
/// arithmetic for the tail as for the rest.
pub trait Simd: Copy + Send + Sync + 'static {
    /// `f32` lanes of a vector.
    const LANES: usize;
    /// Rows of the register tile of small products.
    const TILE_ROWS: usize;
    /// Vectors in a row of the register tile of small products.
    const TILE_VECS: usize;
    /// A vector of [`Simd::LANES`] `f32`.
    type F: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Loads up to `LANES` elements.
    fn load(self, src: &[f32]) -> Self::F;
    /// Stores up to `LANES` elements.
    fn store(self, v: Self::F, dst: &mut [f32]);
    /// Loads up to `LANES` elements and widens them.
    fn load_bf16(self, src: &[bf16]) -> Self::F;
    /// Rounds (to nearest, ties to even; NaN stays NaN) and stores up to `LANES` elements.
    fn store_bf16(self, v: Self::F, dst: &mut [bf16]);

    /// Loads `LANES` elements.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_ptr(self, src: *const f32) -> Self::F;
    /// Stores `LANES` elements.
    ///
    /// # Safety
    /// They must be writable and not borrowed.
    unsafe fn store_ptr(self, v: Self::F, dst: *mut f32);
    /// Loads and widens `LANES` elements.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_bf16_ptr(self, src: *const bf16) -> Self::F;
    /// Loads and widens `LANES` elements.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_f16_ptr(self, src: *const f16) -> Self::F;
    /// Loads `LANES` integers as `f32`.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_i8_ptr(self, src: *const i8) -> Self::F;
    /// `dst[j * dst_stride + i] = src[i * src_stride + j]` for `i, j < 8`, whatever the bits mean. `src` need not be
    /// aligned.
    ///
    /// # Safety
    /// The eight rows of eight must be readable and writable, and must not overlap.
    unsafe fn transpose8(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize);

    /// Runs a kernel in a function of its own, with the instructions of this level: for pieces that are called from
    /// several places and are large.
    fn call<K: Kernel>(self, kernel: K) -> K::Out;

    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the level has FMA.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once where the level has FMA.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`: where either is NaN, `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: where either is NaN, `b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Square root.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// Absolute value.
    fn abs(self, a: Self::F) -> Self::F;
    /// Nearest integer, ties to even, for `|a| < 2^22`.
    fn round(self, a: Self::F) -> Self::F;
    /// `a * 2^n` for an integral `n` in `-250..=250`; results below the normal range may be rounded or flushed.
    fn scale_pow2(self, a: Self::F, n: Self::F) -> Self::F;
    /// `a < b ? x : y`, lane by lane; false for NaN.
    fn select_lt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Sum of the lanes, in a fixed order.
    fn sum(self, a: Self::F) -> f32;
    /// Largest lane; unspecified if there is a NaN.
    fn max_lane(self, a: Self::F) -> f32;
}

/// A kernel written for any SIMD level.
pub trait Kernel {
    /// What it returns.
    type Out;

    /// The kernel. Must be `#[inline(always)]`, as everything it calls with the token.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

impl Isa {
    /// Runs a kernel with the instructions of this level.
    #[inline]
    pub fn dispatch<K: Kernel>(self, kernel: K) -> K::Out {
        match self.level() {
            // SAFETY: an `Isa` of this level exists only if the host has its instructions.
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => unsafe { avx512::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => unsafe { avx2::run(kernel) },
            _ => portable::run(kernel),
        }
    }
}

/// Bytes of a cache line.
pub const LINE_BYTES: usize = 64;

/// Asks for the cache line of an address, which may be any. Has no effect but on time.
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of the base instruction set; invalid addresses are ignored.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Types of stored numbers, calculated with in `f32`.
pub trait Stored: verve_ops::Element {
    /// Loads up to `LANES` elements as `f32`.
    fn load<S: Simd>(s: S, src: &[Self]) -> S::F;
    /// Loads `LANES` elements as `f32`.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_ptr<S: Simd>(s: S, src: *const Self) -> S::F;
}

/// Types of weights and activations that the CPU computes with: stored as themselves, calculated in `f32`.
pub trait CpuElem: Stored + verve_ops::Real {
    /// Rounds and stores up to `LANES` elements.
    fn store<S: Simd>(s: S, v: S::F, dst: &mut [Self]);
}

impl Stored for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, src: &[f32]) -> S::F {
        s.load(src)
    }
    #[inline(always)]
    unsafe fn load_ptr<S: Simd>(s: S, src: *const f32) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load_ptr(src) }
    }
}

impl CpuElem for f32 {
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::F, dst: &mut [f32]) {
        s.store(v, dst);
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, src: &[bf16]) -> S::F {
        s.load_bf16(src)
    }
    #[inline(always)]
    unsafe fn load_ptr<S: Simd>(s: S, src: *const bf16) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load_bf16_ptr(src) }
    }
}

impl CpuElem for bf16 {
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::F, dst: &mut [bf16]) {
        s.store_bf16(v, dst);
    }
}

/// Most lanes of a vector at any level.
const MOST_LANES: usize = 16;

/// Loads what is left at the end of a slice through memory of its own.
macro_rules! stored {
    ($type:ty, $load_ptr:ident) => {
        impl Stored for $type {
            #[inline(always)]
            fn load<S: Simd>(s: S, src: &[$type]) -> S::F {
                const { assert!(S::LANES <= MOST_LANES) };
                let mut part = [<$type>::default(); MOST_LANES];
                let from = if src.len() >= S::LANES {
                    src.as_ptr()
                } else {
                    part[..src.len()].copy_from_slice(src);
                    part.as_ptr()
                };
                // SAFETY: `LANES` elements are in the slice, or in the array.
                unsafe { s.$load_ptr(from) }
            }
            #[inline(always)]
            unsafe fn load_ptr<S: Simd>(s: S, src: *const $type) -> S::F {
                // SAFETY: the caller's promise.
                unsafe { s.$load_ptr(src) }
            }
        }
    };
}
stored!(f16, load_f16_ptr);
stored!(i8, load_i8_ptr);

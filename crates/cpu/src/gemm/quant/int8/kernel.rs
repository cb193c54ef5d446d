//! The innermost loops: some rows of 8-bit activations times a panel.
//!
//! Sums over a group are integers; at its end each is multiplied with the scales of the weight and of the activations and
//! added to a chain in `f32`, as [`verve_ops::quant::int8`] defines it. Codes are read out of a panel as it is, or, where
//! several tiles of rows need them, from a copy with a byte for each code.

// Rows and vectors index several things at once; plain indices say it best.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use verve_ops::quant::QuantKind;

use super::super::kernel::{NV, quad};
use super::super::panels::STEP;
use super::super::vector::Codes;
use super::dot::{self, Dot};
use super::rows::{BLOCK_WORDS, CORRECTION_AT, SCALE_AT};
use crate::gemm::tile::vector;
use crate::isa::{Isa, SimdLevel};
use crate::simd::{LINE_BYTES, prefetch};

/// Bytes of codes that are asked for ahead of what is read.
const AHEAD: usize = 48 * LINE_BYTES;
/// Rows of a tile, at most, at any level.
pub(super) const MOST_ROWS: usize = 6;
/// Quads of codes in a step.
const QUADS: usize = STEP / 4;

/// A panel with a byte for each code and its scales in `f32`.
#[derive(Clone, Copy)]
pub(super) struct Wide {
    /// Word `(quad, o)` at `quad * nr + o`.
    pub(super) codes: *mut u32,
    /// Of group `g` and output `o` at `g * nr + o`.
    pub(super) scales: *mut f32,
    pub(super) offsets: *mut f32,
}

/// Words of a [`Wide`] panel.
pub(super) fn wide_words(nr: usize, d_in: usize) -> usize {
    // Scales and offsets of groups of 16, the smallest.
    nr * (d_in / 4 + 2 * (d_in / 16))
}

/// Operands of a kernel.
#[derive(Clone, Copy)]
pub(super) struct Args {
    pub(super) panel: *const u8,
    /// The same panel, for the kernels that read or write it.
    pub(super) wide: Wide,
    /// Memory that is asked for while a wide panel is read, and bytes of it for each step: the next panel as it is. May be
    /// any address.
    pub(super) ahead: *const u8,
    pub(super) ahead_bytes: usize,
    /// Steps along `k`.
    pub(super) steps: usize,
    /// Rows of blocks of activations, and words to the next row.
    pub(super) rows: *const u32,
    pub(super) row_words: usize,
    /// Sums, `out_row` between rows.
    pub(super) out: *mut f32,
    pub(super) out_row: usize,
}

pub(super) type KernelFn = unsafe fn(&Args);

/// The kernels of one instruction set for one format.
#[derive(Clone, Copy)]
pub(super) struct KernelSet {
    /// `[rows - 1]`: products with a panel as it is.
    pub(super) packed: &'static [KernelFn],
    /// `[rows - 1]`: products with a wide panel.
    pub(super) wide: &'static [KernelFn],
    /// Makes a panel wide. None where its codes are bytes already, so that nothing is gained.
    pub(super) widen: Option<KernelFn>,
}

impl KernelSet {
    /// The kernels for a format. Calling them is sound because an [`Isa`] exists only on a host that has its instructions.
    pub(super) fn of(isa: Isa, kind: QuantKind) -> &'static KernelSet {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 if isa.features().vnni => avx512_vnni::set(kind),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => avx512::set(kind),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => avx2::set(kind),
            _ => portable::set(kind),
        }
    }
}

/// A format, as far as kernels are made for it; what [`Form`](super::super::panels::Form) says with constants.
trait Format {
    const LOW: u32;
    const HIGH: u32;
    const OFFSETS: bool;
    const MULTIPLIERS: bool;

    const BITS: u32 = Self::LOW + Self::HIGH;
    const GROUP: usize = if Self::BITS == 4 || Self::BITS == 5 || Self::BITS == 8 { 32 } else { 16 };
    const BLOCK: usize = if Self::MULTIPLIERS { 256 } else { 32 };
}

macro_rules! formats {
    ($($name:ident: $low:literal + $high:literal, $offsets:literal, $multipliers:literal;)*) => {
        $(
            struct $name;
            impl Format for $name {
                const LOW: u32 = $low;
                const HIGH: u32 = $high;
                const OFFSETS: bool = $offsets;
                const MULTIPLIERS: bool = $multipliers;
            }
        )*
    };
}

formats! {
    Q8_0: 8 + 0, false, false;
    Q4_0: 4 + 0, false, false;
    Q4_1: 4 + 0, true, false;
    Q5_0: 4 + 1, false, false;
    Q5_1: 4 + 1, true, false;
    Q2K: 2 + 0, true, true;
    Q3K: 2 + 1, false, true;
    Q4K: 4 + 0, true, true;
    Q5K: 4 + 1, true, true;
    Q6K: 4 + 2, false, true;
}

/// Where the parts of a block are in a panel `nr` wide, as [`Form`](super::super::panels::Form) has it.
struct Places {
    offsets: usize,
    multipliers: usize,
    offset_multipliers: usize,
    codes: usize,
    step_bytes: usize,
    block_bytes: usize,
}

impl Places {
    const fn of<F: Format>(nr: usize) -> Places {
        let groups = if F::MULTIPLIERS { F::BLOCK / F::GROUP } else { 0 };
        let multipliers = if F::OFFSETS { 4 * nr } else { 2 * nr };
        let offset_multipliers = multipliers + groups * nr;
        let codes = offset_multipliers + if F::OFFSETS { groups * nr } else { 0 };
        let step_bytes = F::BITS as usize * nr * size_of::<u32>();
        let block_bytes = codes + F::BLOCK / STEP * step_bytes;
        Places { offsets: 2 * nr, multipliers, offset_multipliers, codes, step_bytes, block_bytes }
    }
}

/// Where codes and scales come from.
///
/// All methods: the host has `V`'s instructions, and the panel has the step.
trait Source<V: Codes> {
    /// Values of a group.
    const GROUP: usize;
    /// Bits of a code.
    const BITS: u32;
    /// Whether groups have offsets.
    const OFFSETS: bool;

    /// Goes to a step; they come in order, from 0.
    unsafe fn go_to(&mut self, step: usize);
    /// Scales of a group of the step.
    unsafe fn scales(&self, group: usize) -> [V; NV];
    /// Offsets of a group of the step.
    unsafe fn offsets(&self, group: usize) -> [V; NV];
    /// The codes of a quad of the step, in the bytes of words.
    unsafe fn codes(&self, quad: usize) -> [V::Words; NV];
}

/// A panel as it is.
struct Packed<V, F> {
    panel: *const u8,
    /// The current block, the step in it, and its codes.
    block: *const u8,
    step: usize,
    codes: *const u8,
    scale: [V; NV],
    offset: [V; NV],
    format: PhantomData<F>,
}

impl<V: Codes, F: Format> Packed<V, F> {
    const PLACES: Places = Places::of::<F>(NV * V::LANES);

    #[inline(always)]
    unsafe fn new(args: &Args) -> Self {
        // SAFETY: the caller's promise.
        let zero = unsafe { [V::zero(); NV] };
        let panel = args.panel;
        Packed { panel, block: panel, step: 0, codes: panel, scale: zero, offset: zero, format: PhantomData }
    }

    /// Numbers of two bytes of the block.
    #[inline(always)]
    unsafe fn halves(&self, at: usize) -> [V; NV] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut numbers = [V::zero(); NV];
            for v in 0..NV {
                numbers[v] = V::halves(self.block.add(at + 2 * v * V::LANES));
            }
            numbers
        }
    }

    /// `numbers` times the multipliers of a group.
    #[inline(always)]
    unsafe fn multiplied(&self, mut numbers: [V; NV], at: usize, group: usize) -> [V; NV] {
        if F::MULTIPLIERS {
            let group = (self.step * (STEP / F::GROUP) + group) * NV * V::LANES;
            for v in 0..NV {
                // SAFETY: the caller's promise.
                unsafe { numbers[v] = numbers[v].times(V::bytes(self.block.add(at + group + v * V::LANES))) };
            }
        }
        numbers
    }
}

impl<V: Codes, F: Format> Source<V> for Packed<V, F> {
    const GROUP: usize = F::GROUP;
    const BITS: u32 = F::BITS;
    const OFFSETS: bool = F::OFFSETS;

    #[inline(always)]
    unsafe fn go_to(&mut self, step: usize) {
        let steps = F::BLOCK / STEP;
        self.step = step % steps;
        // SAFETY: the caller's promise; places are inside the block.
        unsafe {
            if self.step == 0 {
                self.block = self.panel.add(step / steps * Self::PLACES.block_bytes);
                self.scale = self.halves(0);
                if F::OFFSETS {
                    self.offset = self.halves(Self::PLACES.offsets);
                }
            }
            self.codes = self.block.add(Self::PLACES.codes + self.step * Self::PLACES.step_bytes);
        }
        for line in 0..Self::PLACES.step_bytes.div_ceil(LINE_BYTES) {
            prefetch(self.codes.wrapping_add(AHEAD + line * LINE_BYTES));
        }
    }

    #[inline(always)]
    unsafe fn scales(&self, group: usize) -> [V; NV] {
        // SAFETY: as above.
        unsafe { self.multiplied(self.scale, Self::PLACES.multipliers, group) }
    }

    #[inline(always)]
    unsafe fn offsets(&self, group: usize) -> [V; NV] {
        // SAFETY: as above.
        unsafe { self.multiplied(self.offset, Self::PLACES.offset_multipliers, group) }
    }

    #[inline(always)]
    unsafe fn codes(&self, index: usize) -> [V::Words; NV] {
        let plane = NV * V::LANES * size_of::<u32>();
        let index = index as u32;
        let low_at = (index * F::LOW / 8) as usize * plane;
        let high_at = (F::LOW + index * F::HIGH / 8) as usize * plane;
        // SAFETY: as above.
        unsafe {
            let mut codes = [V::same_words(0); NV];
            for v in 0..NV {
                let at = self.codes.add(v * V::LANES * size_of::<u32>());
                let low = V::words(at.add(low_at));
                let high = if F::HIGH > 0 { V::words(at.add(high_at)) } else { low };
                codes[v] = match (F::LOW, F::HIGH) {
                    (2, 0) => quad::<V, 2, 0>(low, high, index),
                    (2, _) => quad::<V, 2, 1>(low, high, index),
                    (4, 0) => quad::<V, 4, 0>(low, high, index),
                    (4, 1) => quad::<V, 4, 1>(low, high, index),
                    (4, _) => quad::<V, 4, 2>(low, high, index),
                    _ => low,
                };
            }
            codes
        }
    }
}

/// A wide panel.
struct Widened<F> {
    wide: Wide,
    ahead: *const u8,
    ahead_bytes: usize,
    step: usize,
    format: PhantomData<F>,
}

impl<F: Format> Widened<F> {
    #[inline(always)]
    unsafe fn numbers<V: Codes>(&self, from: *const f32, group: usize) -> [V; NV] {
        let at = (self.step * (STEP / F::GROUP) + group) * NV * V::LANES;
        // SAFETY: the caller's promise.
        unsafe {
            let mut numbers = [V::zero(); NV];
            for v in 0..NV {
                numbers[v] = V::load(from.add(at + v * V::LANES));
            }
            numbers
        }
    }
}

impl<V: Codes, F: Format> Source<V> for Widened<F> {
    const GROUP: usize = F::GROUP;
    const BITS: u32 = F::BITS;
    const OFFSETS: bool = F::OFFSETS;

    #[inline(always)]
    unsafe fn go_to(&mut self, step: usize) {
        self.step = step;
        for at in (0..self.ahead_bytes).step_by(LINE_BYTES) {
            prefetch(self.ahead.wrapping_add(step * self.ahead_bytes + at));
        }
    }

    #[inline(always)]
    unsafe fn scales(&self, group: usize) -> [V; NV] {
        // SAFETY: the caller's promise.
        unsafe { self.numbers(self.wide.scales, group) }
    }

    #[inline(always)]
    unsafe fn offsets(&self, group: usize) -> [V; NV] {
        // SAFETY: the caller's promise.
        unsafe { self.numbers(self.wide.offsets, group) }
    }

    #[inline(always)]
    unsafe fn codes(&self, index: usize) -> [V::Words; NV] {
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.wide.codes.add((self.step * QUADS + index) * NV * V::LANES);
            let mut codes = [V::same_words(0); NV];
            for v in 0..NV {
                codes[v] = V::words(at.add(v * V::LANES).cast());
            }
            codes
        }
    }
}

/// `R` rows times a panel.
///
/// # Safety
/// The host has `V`'s and `D`'s instructions; all pointers of `args` that the source and the loops use are valid for what its
/// documentation says; the source is of the panel's format, and its panels have `NV` vectors of outputs.
#[inline(always)]
unsafe fn tile<V: Codes, D: Dot<V>, S: Source<V>, const R: usize>(args: &Args, mut source: S) {
    let &Args { rows, row_words, steps, out, out_row, .. } = args;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::zero(); NV]; R];
        for step in 0..steps {
            source.go_to(step);
            let block = rows.add(step * BLOCK_WORDS);
            for group in 0..STEP / S::GROUP {
                let mut counts = [[V::same_words(0); NV]; R];
                if !(S::OFFSETS || S::BITS == 8 && D::SIGNED_BYTES) {
                    for r in 0..R {
                        counts[r] = [V::same_words(*block.add(r * row_words + CORRECTION_AT + group)); NV];
                    }
                }
                for quad in group * (S::GROUP / 4)..(group + 1) * (S::GROUP / 4) {
                    let codes = source.codes(quad);
                    for r in 0..R {
                        let x = V::same_words(*block.add(r * row_words + quad));
                        for v in 0..NV {
                            counts[r][v] = match S::BITS {
                                8 => D::dot::<8>(counts[r][v], codes[v], x),
                                _ => D::dot::<6>(counts[r][v], codes[v], x),
                            };
                        }
                    }
                }
                let scale = source.scales(group);
                for r in 0..R {
                    let row_scale = V::splat(*block.add(r * row_words + SCALE_AT));
                    for v in 0..NV {
                        let factor = scale[v].times(row_scale);
                        sums[r][v] = sums[r][v].fused(factor, V::numbers(counts[r][v]));
                    }
                }
                if S::OFFSETS {
                    let offset = source.offsets(group);
                    for r in 0..R {
                        let row_sum = V::splat(*block.add(r * row_words + CORRECTION_AT + group));
                        for v in 0..NV {
                            sums[r][v] = sums[r][v].fused(offset[v], row_sum);
                        }
                    }
                }
            }
        }
        for r in 0..R {
            for v in 0..NV {
                sums[r][v].store(out.add(r * out_row + v * V::LANES));
            }
        }
    }
}

/// Makes a panel wide.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn widen<V: Codes, F: Format>(args: &Args) {
    // SAFETY: the caller's promise.
    unsafe {
        let nr = NV * V::LANES;
        let mut source = Packed::<V, F>::new(args);
        let groups = STEP / F::GROUP;
        for step in 0..args.steps {
            source.go_to(step);
            for quad in 0..QUADS {
                let codes = source.codes(quad);
                for v in 0..NV {
                    V::store_words(codes[v], args.wide.codes.add((step * QUADS + quad) * nr + v * V::LANES).cast());
                }
            }
            for group in 0..groups {
                let at = (step * groups + group) * nr;
                let scale = source.scales(group);
                for v in 0..NV {
                    scale[v].store(args.wide.scales.add(at + v * V::LANES));
                }
                if F::OFFSETS {
                    let offset = source.offsets(group);
                    for v in 0..NV {
                        offset[v].store(args.wide.offsets.add(at + v * V::LANES));
                    }
                }
            }
        }
    }
}

/// Instantiates the kernels for one vector type.
macro_rules! kernels {
    ($module:ident, $vector:ty, $dot:ty, [$($rows:literal)*], $($features:literal)?) => {
        mod $module {
            #![allow(clippy::wildcard_imports)]
            use super::*;

            /// # Safety
            /// As [`tile`].
            $(#[target_feature(enable = $features)])?
            unsafe fn packed<F: Format, const R: usize>(args: &Args) {
                // SAFETY: the caller's promise.
                unsafe { tile::<$vector, $dot, _, R>(args, Packed::<$vector, F>::new(args)) }
            }

            /// # Safety
            /// As [`tile`].
            $(#[target_feature(enable = $features)])?
            unsafe fn wide<F: Format, const R: usize>(args: &Args) {
                let &Args { wide, ahead, ahead_bytes, .. } = args;
                let source = Widened::<F> { wide, ahead, ahead_bytes, step: 0, format: PhantomData };
                // SAFETY: the caller's promise.
                unsafe { tile::<$vector, $dot, _, R>(args, source) }
            }

            /// # Safety
            /// As [`tile`].
            $(#[target_feature(enable = $features)])?
            unsafe fn make_wide<F: Format>(args: &Args) {
                // SAFETY: the caller's promise.
                unsafe { widen::<$vector, F>(args) }
            }

            /// Those of `P` for panels as they are, of `W` for wide ones.
            const fn kernels<P: Format, W: Format>() -> KernelSet {
                KernelSet {
                    packed: &[$(packed::<P, $rows>),*],
                    wide: &[$(wide::<W, $rows>),*],
                    widen: if P::BITS == 8 { None } else { Some(make_wide::<P>) },
                }
            }

            pub(super) fn set(kind: QuantKind) -> &'static KernelSet {
                // Wide panels differ only in their groups, offsets and in whether codes have less than 8 bits.
                match kind {
                    QuantKind::Q8_0 => const { &kernels::<Q8_0, Q8_0>() },
                    QuantKind::Q4_0 => const { &kernels::<Q4_0, Q4_0>() },
                    QuantKind::Q4_1 => const { &kernels::<Q4_1, Q4_1>() },
                    QuantKind::Q5_0 => const { &kernels::<Q5_0, Q4_0>() },
                    QuantKind::Q5_1 => const { &kernels::<Q5_1, Q4_1>() },
                    QuantKind::Q2K => const { &kernels::<Q2K, Q2K>() },
                    QuantKind::Q3K => const { &kernels::<Q3K, Q6K>() },
                    QuantKind::Q4K => const { &kernels::<Q4K, Q4_1>() },
                    QuantKind::Q5K => const { &kernels::<Q5K, Q4_1>() },
                    QuantKind::Q6K => const { &kernels::<Q6K, Q6K>() },
                }
            }
        }
    };
}

// 6 x 2 sums and as many counts, of 32 registers.
#[cfg(target_arch = "x86_64")]
kernels!(avx512_vnni, vector::Avx512, dot::Vnni, [1 2 3 4 5 6],
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
kernels!(avx512, vector::Avx512, dot::Pairs, [1 2 3 4 5 6], "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
kernels!(avx2, vector::Avx2, dot::Pairs, [1 2 3 4], "avx2,fma,f16c");
kernels!(portable, vector::Portable, dot::Plain, [1 2],);

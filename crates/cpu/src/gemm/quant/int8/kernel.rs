//! The innermost loops: some rows of 8-bit activations times a panel.
//!
//! Sums over a group are integers; at its end each is multiplied with the scales of the weight and of the activations and
//! added to a chain in `f32`, as [`verve_ops::quant::int8`] defines it. Codes are read out of a panel as it is, or, where
//! several tiles of rows need them, from a copy with a byte for each code.

// Rows and vectors index several things at once; plain indices say it best.
#![allow(clippy::needless_range_loop)]

use super::super::kernel::{NV, quad};
use super::super::panels::{Form, STEP};
use super::super::vector::Codes;
use super::dot::{self, Dot};
use super::rows::{BLOCK_WORDS, CORRECTION_AT, SCALE_AT};
use crate::gemm::tile::vector;
use crate::isa::{Isa, SimdLevel};
use crate::simd::{LINE_BYTES, prefetch};

/// Bytes of codes that are asked for ahead of what is read.
const AHEAD: usize = 48 * LINE_BYTES;
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
pub(super) struct Args<'a> {
    pub(super) form: &'a Form,
    pub(super) panel: *const u8,
    /// The same panel, for the kernels that read or write it.
    pub(super) wide: Wide,
    /// Steps along `k`.
    pub(super) steps: usize,
    /// Rows of blocks of activations, and words to the next row.
    pub(super) rows: *const u32,
    pub(super) row_words: usize,
    /// Sums, `out_row` between rows.
    pub(super) out: *mut f32,
    pub(super) out_row: usize,
}

pub(super) type KernelFn = unsafe fn(&Args<'_>);

/// The kernels of one instruction set for one form.
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
    /// The kernels for a form. Calling them is sound because an [`Isa`] exists only on a host that has its instructions.
    pub(super) fn of(isa: Isa, form: &Form) -> &'static KernelSet {
        let sets = match isa.level() {
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 if isa.features().vnni => &avx512_vnni::SETS,
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => &avx512::SETS,
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => &avx2::SETS,
            _ => &portable::SETS,
        };
        match (form.low_bits, form.high_bits) {
            (2, 0) => &sets[0],
            (2, 1) => &sets[1],
            (4, 0) => &sets[2],
            (4, 1) => &sets[3],
            (4, 2) => &sets[4],
            _ => &sets[5],
        }
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

    /// Goes to a step; they come in order, from 0.
    unsafe fn go_to(&mut self, step: usize);
    /// Scales and offsets of a group of the step.
    unsafe fn scales(&self, group: usize) -> ([V; NV], [V; NV]);
    /// The codes of a quad of the step, in the bytes of words.
    unsafe fn codes(&self, quad: usize) -> [V::Words; NV];
}

/// A panel as it is.
struct Packed<'a, V, const LOW: u32, const HIGH: u32> {
    form: &'a Form,
    /// Block and step in it.
    block: *const u8,
    step: usize,
    codes: *const u8,
    scale: [V; NV],
    offset: [V; NV],
}

impl<'a, V: Codes, const LOW: u32, const HIGH: u32> Packed<'a, V, LOW, HIGH> {
    #[inline(always)]
    unsafe fn new(args: &Args<'a>) -> Self {
        // SAFETY: the caller's promise.
        let zero = unsafe { [V::zero(); NV] };
        Packed { form: args.form, block: args.panel, step: 0, codes: args.panel, scale: zero, offset: zero }
    }
}

impl<V: Codes, const LOW: u32, const HIGH: u32> Source<V> for Packed<'_, V, LOW, HIGH> {
    const GROUP: usize = if LOW == 2 || HIGH == 2 { 16 } else { 32 };
    const BITS: u32 = LOW + HIGH;

    #[inline(always)]
    unsafe fn go_to(&mut self, step: usize) {
        // SAFETY: the caller's promise; offsets stay inside the block by the layout that `Form` describes.
        unsafe {
            let form = self.form;
            self.step += 1;
            if self.step * STEP >= form.block_len || step == 0 {
                if step > 0 {
                    self.block = self.block.add(form.block_bytes());
                }
                self.step = 0;
                for v in 0..NV {
                    let lane = v * V::LANES;
                    // Numbers of two bytes.
                    self.scale[v] = V::halves(self.block.add(2 * lane));
                    if form.offsets {
                        self.offset[v] = V::halves(self.block.add(form.offsets_at() + 2 * lane));
                    }
                }
            }
            self.codes = self.block.add(form.codes_at() + self.step * form.step_bytes());
            let mut line = 0;
            while line < form.step_bytes() {
                prefetch(self.codes.wrapping_add(AHEAD + line));
                line += LINE_BYTES;
            }
        }
    }

    #[inline(always)]
    unsafe fn scales(&self, group: usize) -> ([V; NV], [V; NV]) {
        let (mut scale, mut offset) = (self.scale, self.offset);
        let form = self.form;
        if form.multipliers {
            let group = (self.step * (STEP / Self::GROUP) + group) * form.nr;
            for v in 0..NV {
                // SAFETY: as above.
                unsafe {
                    let at = self.block.add(group + v * V::LANES);
                    scale[v] = scale[v].times(V::bytes(at.add(form.multipliers_at())));
                    if form.offsets {
                        offset[v] = offset[v].times(V::bytes(at.add(form.offset_multipliers_at())));
                    }
                }
            }
        }
        (scale, offset)
    }

    #[inline(always)]
    unsafe fn codes(&self, index: usize) -> [V::Words; NV] {
        let plane = NV * V::LANES * size_of::<u32>();
        let index = index as u32;
        let low_at = (index * LOW / 8) as usize * plane;
        let high_at = (LOW + index * HIGH / 8) as usize * plane;
        // SAFETY: as above.
        unsafe {
            let mut codes = [V::words(self.codes); NV];
            for v in 0..NV {
                let at = self.codes.add(v * V::LANES * size_of::<u32>());
                let low = V::words(at.add(low_at));
                let high = if HIGH > 0 { V::words(at.add(high_at)) } else { low };
                codes[v] = quad::<V, LOW, HIGH>(low, high, index);
            }
            codes
        }
    }
}

/// A wide panel.
struct Widened<const GROUP: usize> {
    wide: Wide,
    nr: usize,
    offsets: bool,
    step: usize,
}

impl<V: Codes, const GROUP: usize> Source<V> for Widened<GROUP> {
    const GROUP: usize = GROUP;
    // Any number below 8.
    const BITS: u32 = 6;

    #[inline(always)]
    unsafe fn go_to(&mut self, step: usize) {
        self.step = step;
    }

    #[inline(always)]
    unsafe fn scales(&self, group: usize) -> ([V; NV], [V; NV]) {
        // SAFETY: the caller's promise.
        unsafe {
            let at = (self.step * (STEP / GROUP) + group) * self.nr;
            let mut scale = [V::zero(); NV];
            let mut offset = scale;
            for v in 0..NV {
                scale[v] = V::load(self.wide.scales.add(at + v * V::LANES));
                if self.offsets {
                    offset[v] = V::load(self.wide.offsets.add(at + v * V::LANES));
                }
            }
            (scale, offset)
        }
    }

    #[inline(always)]
    unsafe fn codes(&self, index: usize) -> [V::Words; NV] {
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.wide.codes.add((self.step * QUADS + index) * self.nr);
            let mut codes = [V::words(at.cast()); NV];
            for v in 1..NV {
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
/// documentation says; `args.form` is the panel's own, and the source is made for it.
#[inline(always)]
unsafe fn tile<V: Codes, D: Dot<V>, S: Source<V>, const R: usize>(args: &Args<'_>, mut source: S) {
    let &Args { rows, row_words, steps, out, out_row, .. } = args;
    let offsets = args.form.offsets;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::zero(); NV]; R];
        for step in 0..steps {
            source.go_to(step);
            let block = rows.add(step * BLOCK_WORDS);
            for group in 0..STEP / S::GROUP {
                let (scale, offset) = source.scales(group);
                let mut counts = [[V::same_words(0); NV]; R];
                if !(offsets || S::BITS == 8 && D::SIGNED_BYTES) {
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
                for r in 0..R {
                    let row_scale = V::splat(*block.add(r * row_words + SCALE_AT));
                    for v in 0..NV {
                        let factor = scale[v].times(row_scale);
                        sums[r][v] = sums[r][v].fused(factor, V::numbers(counts[r][v]));
                    }
                    if offsets {
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
unsafe fn widen<V: Codes, const LOW: u32, const HIGH: u32>(args: &Args<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        let nr = args.form.nr;
        let mut source = Packed::<V, LOW, HIGH>::new(args);
        let groups = STEP / <Packed<'_, V, LOW, HIGH> as Source<V>>::GROUP;
        for step in 0..args.steps {
            source.go_to(step);
            for quad in 0..QUADS {
                let codes = source.codes(quad);
                for v in 0..NV {
                    V::store_words(codes[v], args.wide.codes.add((step * QUADS + quad) * nr + v * V::LANES).cast());
                }
            }
            for group in 0..groups {
                let (scale, offset) = source.scales(group);
                let at = (step * groups + group) * nr;
                for v in 0..NV {
                    scale[v].store(args.wide.scales.add(at + v * V::LANES));
                    offset[v].store(args.wide.offsets.add(at + v * V::LANES));
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
            unsafe fn packed<const LOW: u32, const HIGH: u32, const R: usize>(args: &Args<'_>) {
                // SAFETY: the caller's promise.
                unsafe { tile::<$vector, $dot, _, R>(args, Packed::<$vector, LOW, HIGH>::new(args)) }
            }

            /// # Safety
            /// As [`tile`].
            $(#[target_feature(enable = $features)])?
            unsafe fn wide<const GROUP: usize, const R: usize>(args: &Args<'_>) {
                let (form, wide) = (args.form, args.wide);
                let source = Widened::<GROUP> { wide, nr: form.nr, offsets: form.offsets, step: 0 };
                // SAFETY: the caller's promise.
                unsafe { tile::<$vector, $dot, _, R>(args, source) }
            }

            /// # Safety
            /// As [`tile`].
            $(#[target_feature(enable = $features)])?
            unsafe fn make_wide<const LOW: u32, const HIGH: u32>(args: &Args<'_>) {
                // SAFETY: the caller's promise.
                unsafe { widen::<$vector, LOW, HIGH>(args) }
            }

            const fn set<const LOW: u32, const HIGH: u32, const GROUP: usize>() -> KernelSet {
                KernelSet {
                    packed: &[$(packed::<LOW, HIGH, $rows>),*],
                    wide: &[$(wide::<GROUP, $rows>),*],
                    widen: if LOW == 8 { None } else { Some(make_wide::<LOW, HIGH>) },
                }
            }

            pub(super) static SETS: [KernelSet; 6] = [
                set::<2, 0, 16>(),
                set::<2, 1, 16>(),
                set::<4, 0, 32>(),
                set::<4, 1, 32>(),
                set::<4, 2, 16>(),
                set::<8, 0, 32>(),
            ];
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

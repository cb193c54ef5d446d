//! The innermost loops: panels of codes become weights in registers, and these are multiplied with some rows or stored.
//!
//! One generic body serves all formats and levels. A weight is `scale * code + offset` (`offset = -zero * scale` in formats
//! without offsets), which is exact before the addition, see [`verve_ops::quant`]; so fused or not, the bits are those of
//! the dequantised weight, but for the sign of zeros, which no sum that begins at 0 can show. Each sum is one chain of
//! multiply-adds in increasing `k`, as everywhere in [`gemm`](crate::gemm).

// Rows, panels and vectors index several things at once; plain indices say it best.
#![allow(clippy::needless_range_loop)]

use super::panels::{Form, STEP};
use super::vector::Codes;
use crate::gemm::tile::vector;
use crate::isa::{Isa, SimdLevel};
use crate::simd::{LINE_BYTES, prefetch};

/// Vectors in a panel.
pub(super) const NV: usize = 2;
/// Bytes of codes that are asked for ahead of what is read.
const AHEAD: usize = 48 * LINE_BYTES;

/// Operands of a kernel.
#[derive(Clone, Copy)]
pub(super) struct Args<'a> {
    pub(super) form: &'a Form,
    /// First panel, and bytes to the next.
    pub(super) panel: *const u8,
    pub(super) panel_bytes: usize,
    /// Values along `k`: multiples of [`STEP`]. Sums run over all of a panel, from 0.
    pub(super) first: usize,
    pub(super) last: usize,
    /// `f32` rows, for sums: element `(r, k)` at `r * a_row + k`.
    pub(super) a: *const f32,
    pub(super) a_row: usize,
    /// Sums of the panels side by side, `out_row` between rows. Or weights: `(k - first) * nr + o`.
    pub(super) out: *mut f32,
    pub(super) out_row: usize,
}

pub(super) type KernelFn = unsafe fn(&Args<'_>);

/// Kernels of one row count: over as many panels at once as keep the processor busy, and over one.
#[derive(Clone, Copy)]
pub(super) struct RowKernels {
    pub(super) panels: usize,
    pub(super) several: KernelFn,
    pub(super) one: KernelFn,
}

/// The kernels of one instruction set for one number of bits.
pub(super) struct KernelSet {
    /// `[rows - 1]`.
    pub(super) rows: &'static [RowKernels],
    /// Stores the weights of a panel.
    pub(super) widen: KernelFn,
}

impl KernelSet {
    /// The kernels for a form. Calling them is sound because an [`Isa`] exists only on a host that has its instructions.
    pub(super) fn of(isa: Isa, form: &Form) -> &'static KernelSet {
        let sets = match isa.level() {
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

/// The four codes of a quad, in the bytes of words. `low` and `high` are the words that hold it.
///
/// # Safety
/// The host has `V`'s instructions.
#[inline(always)]
pub(super) unsafe fn quad<V: Codes, const LOW: u32, const HIGH: u32>(
    low: V::Words,
    high: V::Words,
    quad: u32,
) -> V::Words {
    let mask = |bits: u32| 0x0101_0101 * ((1 << bits) - 1);
    // SAFETY: the caller's promise.
    unsafe {
        if LOW == 8 {
            return low;
        }
        let codes = V::masked(V::lowered(low, LOW * quad % 8), mask(LOW));
        if HIGH == 0 {
            return codes;
        }
        V::joined(codes, V::raised(V::lowered(high, HIGH * quad % 8), LOW), mask(HIGH) << LOW)
    }
}

/// Scales and offsets of a group, for each vector of each panel.
type Scales<V, const NP: usize> = [[V; NV]; NP];

/// What weights are used for.
struct Use<'p, V, const R: usize, const NP: usize> {
    sums: &'p mut [[[V; NV]; NP]; R],
    scale: &'p Scales<V, NP>,
    offset: &'p Scales<V, NP>,
    /// First row at the quad's first `k`, or null.
    a: *const f32,
    a_row: usize,
    /// Where weights are stored.
    out: *mut f32,
    nr: usize,
}

impl<V: Codes, const R: usize, const NP: usize> Use<'_, V, R, NP> {
    /// Uses code `BYTE` of a quad: the bytes of words with several codes, or their nibbles.
    ///
    /// # Safety
    /// As [`body`].
    #[inline(always)]
    unsafe fn code<const BYTE: usize, const NIBBLE: bool>(&mut self, words: &[[V::Words; NV]; NP]) {
        // SAFETY: the caller's promise.
        unsafe {
            for p in 0..NP {
                for v in 0..NV {
                    let code =
                        if NIBBLE { V::nibble(words[p][v], 8 * BYTE as u32) } else { V::byte::<BYTE>(words[p][v]) };
                    let weight = self.offset[p][v].fma(self.scale[p][v], code);
                    if R == 0 {
                        weight.store(self.out.add(BYTE * self.nr + v * V::LANES));
                    }
                    for r in 0..R {
                        let row = V::splat(self.a.add(r * self.a_row + BYTE).read_unaligned().to_bits());
                        self.sums[r][p][v] = self.sums[r][p][v].fma(row, weight);
                    }
                }
            }
        }
    }
}

/// The body of all kernels: `R` rows times `NP` panels, or for `R = 0` the weights of one panel.
///
/// # Safety
/// The host has `V`'s instructions; all pointers of `args` are valid for what its documentation says is read and written;
/// `args.form` is the panels' own, with planes of `LOW` and `HIGH` bits and `NV` vectors of outputs.
#[inline(always)]
unsafe fn body<V: Codes, const LOW: u32, const HIGH: u32, const R: usize, const NP: usize>(args: &Args<'_>) {
    let &Args { form, panel, panel_bytes, first, last, a, a_row, out, out_row } = args;
    let nr = NV * V::LANES;
    let (block_len, block_bytes) = (form.block_len, form.block_bytes());
    // Groups have 16 or 32 values.
    let (group_mask, group_shift) = (form.group_len - 1, form.group_len.trailing_zeros());
    let (codes_at, step_bytes) = (form.codes_at(), form.step_bytes());
    let (offsets_at, multipliers_at) = (form.offsets_at(), form.multipliers_at());
    let offset_multipliers_at = form.offset_multipliers_at();
    let plane = nr * size_of::<u32>();
    // SAFETY: the caller's promise; offsets stay inside the blocks by the layout that `Form` describes.
    unsafe {
        let mut sums = [[[V::zero(); NV]; NP]; R];
        let mut scale = [[V::zero(); NV]; NP];
        let mut offset = [[V::zero(); NV]; NP];
        let mut block = panel.add(first / block_len * block_bytes);
        let mut value = first % block_len;
        let mut k = first;
        while k < last {
            if value & group_mask == 0 {
                let group = (value >> group_shift) * nr;
                for p in 0..NP {
                    for v in 0..NV {
                        let lane = v * V::LANES;
                        let block = block.add(p * panel_bytes + lane);
                        // Numbers of two bytes.
                        let mut s = V::halves(block.add(lane));
                        if form.multipliers {
                            s = V::zero().fma(s, V::bytes(block.add(multipliers_at + group)));
                        }
                        scale[p][v] = s;
                        offset[p][v] = if form.offsets {
                            let o = V::halves(block.add(offsets_at + lane));
                            if form.multipliers {
                                V::zero().fma(o, V::bytes(block.add(offset_multipliers_at + group)))
                            } else {
                                o
                            }
                        } else {
                            V::zero().fma(s, V::splat((-form.zero).to_bits()))
                        };
                    }
                }
            }
            let step = block.add(codes_at + value / STEP * step_bytes);
            // A word has as many quads as a byte has codes.
            let in_step = (value % STEP / 4) as u32;
            let low_at = (in_step * LOW / 8) as usize * plane;
            let high_at = (LOW + in_step * HIGH / 8) as usize * plane;
            let mut words = [[V::words(step); NV]; NP];
            for p in 0..NP {
                for v in 0..NV {
                    let step = step.add(p * panel_bytes + v * V::LANES * size_of::<u32>());
                    let low = step.add(low_at);
                    prefetch(low.wrapping_add(AHEAD));
                    let low = V::words(low);
                    words[p][v] = if LOW == 4 && HIGH == 0 {
                        V::lowered(low, 4 * in_step % 8)
                    } else {
                        let high = if HIGH > 0 { V::words(step.add(high_at)) } else { low };
                        quad::<V, LOW, HIGH>(low, high, in_step)
                    };
                }
            }
            let mut to = Use {
                sums: &mut sums,
                scale: &scale,
                offset: &offset,
                a: a.wrapping_add(k),
                a_row,
                out: out.wrapping_add(if R == 0 { (k - first) * nr } else { 0 }),
                nr,
            };
            if LOW == 4 && HIGH == 0 {
                to.code::<0, true>(&words);
                to.code::<1, true>(&words);
                to.code::<2, true>(&words);
                to.code::<3, true>(&words);
            } else {
                to.code::<0, false>(&words);
                to.code::<1, false>(&words);
                to.code::<2, false>(&words);
                to.code::<3, false>(&words);
            }
            k += 4;
            value += 4;
            if value == block_len {
                (value, block) = (0, block.add(block_bytes));
            }
        }
        for r in 0..R {
            for p in 0..NP {
                for v in 0..NV {
                    sums[r][p][v].store(out.add(r * out_row + p * nr + v * V::LANES));
                }
            }
        }
    }
}

/// Instantiates the body for one vector type.
macro_rules! kernels {
    ($module:ident, $vector:ty, [$($rows:literal x $panels:literal)*], $($features:literal)?) => {
        mod $module {
            #![allow(clippy::wildcard_imports)]
            use super::*;

            /// # Safety
            /// As [`body`].
            $(#[target_feature(enable = $features)])?
            unsafe fn kernel<const LOW: u32, const HIGH: u32, const R: usize, const NP: usize>(args: &Args<'_>) {
                // SAFETY: the caller's promise.
                unsafe { body::<$vector, LOW, HIGH, R, NP>(args) }
            }

            const fn set<const LOW: u32, const HIGH: u32>() -> KernelSet {
                KernelSet {
                    rows: &[$(RowKernels {
                        panels: $panels,
                        several: kernel::<LOW, HIGH, $rows, $panels>,
                        one: kernel::<LOW, HIGH, $rows, 1>,
                    }),*],
                    widen: kernel::<LOW, HIGH, 0, 1>,
                }
            }

            pub(super) static SETS: [KernelSet; 6] =
                [set::<2, 0>(), set::<2, 1>(), set::<4, 0>(), set::<4, 1>(), set::<4, 2>(), set::<8, 0>()];
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(avx512, vector::Avx512, [1 x 2 2 x 2 3 x 1 4 x 1 5 x 1 6 x 1 7 x 1 8 x 1],
    "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
kernels!(avx2, vector::Avx2, [1 x 2 2 x 1 3 x 1 4 x 1], "avx2,fma,f16c");
kernels!(portable, vector::Portable, [1 x 1 2 x 1 3 x 1 4 x 1],);

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
const NV: usize = 2;
/// Values of an unrolled piece.
const HALF: usize = STEP / 2;
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

/// The four codes `4 QUAD..` of a half, in the bytes of words: `low` begins at the half, `high` holds all of a step (one bit)
/// or of the half (two bits).
///
/// # Safety
/// As [`body`].
#[inline(always)]
unsafe fn quad<V: Codes, const LOW: i32, const HIGH: i32, const QUAD: i32>(
    low: *const u8,
    pitch: usize,
    high: V::Words,
) -> V::Words {
    let mask = |bits: i32| 0x0101_0101 * ((1 << bits) - 1);
    let per_word = 8 / LOW;
    // SAFETY: the caller's promise.
    unsafe {
        let words = V::words(low.add((QUAD / per_word) as usize * pitch));
        if LOW == 8 {
            return words;
        }
        let codes = V::masked(V::shifted(words, LOW * (QUAD % per_word)), mask(LOW));
        if HIGH == 0 {
            return codes;
        }
        V::joined(codes, V::shifted(high, HIGH * QUAD - LOW), mask(HIGH) << LOW)
    }
}

/// Scales and offsets of a group, for each vector of each panel.
type Scales<V, const NP: usize> = [[V; NV]; NP];

/// What the pieces of [`body`] share.
struct Piece<'p, V, const R: usize, const NP: usize> {
    sums: &'p mut [[[V; NV]; NP]; R],
    scale: &'p Scales<V, NP>,
    offset: &'p Scales<V, NP>,
    /// First row at the piece's first `k`, or null.
    a: *const f32,
    a_row: usize,
    /// Where weights are stored.
    out: *mut f32,
    nr: usize,
}

impl<V: Codes, const R: usize, const NP: usize> Piece<'_, V, R, NP> {
    /// Uses the codes at `k`.
    ///
    /// # Safety
    /// As [`body`].
    #[inline(always)]
    unsafe fn put(&mut self, k: usize, codes: [[V; NV]; NP]) {
        // SAFETY: the caller's promise.
        unsafe {
            for p in 0..NP {
                for v in 0..NV {
                    let weight = self.offset[p][v].fma(self.scale[p][v], codes[p][v]);
                    if R == 0 {
                        weight.store(self.out.add(k * self.nr + v * V::LANES));
                    }
                    for r in 0..R {
                        let row = V::splat(self.a.add(r * self.a_row + k).read_unaligned().to_bits());
                        self.sums[r][p][v] = self.sums[r][p][v].fma(row, weight);
                    }
                }
            }
        }
    }

    /// Uses byte `BYTE` of words as the codes at `k`.
    ///
    /// # Safety
    /// As [`body`].
    #[inline(always)]
    unsafe fn byte<const BYTE: i32>(&mut self, k: usize, words: &[[V::Words; NV]; NP]) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut codes = [[V::zero(); NV]; NP];
            for p in 0..NP {
                for v in 0..NV {
                    codes[p][v] = V::byte::<BYTE>(words[p][v]);
                }
            }
            self.put(k, codes);
        }
    }

    /// Uses the nibbles of words from bit `BIT` on as the codes at `k`.
    ///
    /// # Safety
    /// As [`body`].
    #[inline(always)]
    unsafe fn nibble<const BIT: i32>(&mut self, k: usize, words: &[[V::Words; NV]; NP]) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut codes = [[V::zero(); NV]; NP];
            for p in 0..NP {
                for v in 0..NV {
                    codes[p][v] = V::nibble(words[p][v], BIT);
                }
            }
            self.put(k, codes);
        }
    }
}

/// The body of all kernels: `R` rows times `NP` panels, or for `R = 0` the weights of one panel.
///
/// # Safety
/// The host has `V`'s instructions; all pointers of `args` are valid for what its documentation says is read and written;
/// `args.form` is the panels' own, with planes of `LOW` and `HIGH` bits and `NV` vectors of outputs.
#[inline(always)]
unsafe fn body<V: Codes, const LOW: i32, const HIGH: i32, const R: usize, const NP: usize>(args: &Args<'_>) {
    let &Args { form, panel, panel_bytes, first, last, a, a_row, out, out_row } = args;
    let nr = NV * V::LANES;
    let (block_len, group_len, block_bytes) = (form.block_len, form.group_len, form.block_bytes());
    let (codes_at, step_bytes) = (form.codes_at(), form.step_bytes());
    let plane = nr * size_of::<u32>();
    // SAFETY: the caller's promise; offsets stay inside the blocks by the layout that `Form` describes.
    unsafe {
        let mut sums = [[[V::zero(); NV]; NP]; R];
        let mut scale = [[V::zero(); NV]; NP];
        let mut offset = [[V::zero(); NV]; NP];
        let mut k = first;
        while k < last {
            let block = panel.add(k / block_len * block_bytes);
            let in_block = k % block_len;
            let at = |p: usize, at: usize| block.add(p * panel_bytes + at);
            // Two halves of a step.
            for half in 0..2 {
                let value = in_block + half * HALF;
                if value.is_multiple_of(group_len) {
                    for p in 0..NP {
                        for v in 0..NV {
                            let lane = v * V::LANES;
                            let mut s = V::halves(at(p, 2 * lane));
                            let group = value / group_len * nr + lane;
                            if form.multipliers {
                                s = V::zero().fma(s, V::bytes(at(p, form.multipliers_at() + group)));
                            }
                            scale[p][v] = s;
                            offset[p][v] = if form.offsets {
                                let o = V::halves(at(p, form.offsets_at() + 2 * lane));
                                if form.multipliers {
                                    V::zero().fma(o, V::bytes(at(p, form.offset_multipliers_at() + group)))
                                } else {
                                    o
                                }
                            } else {
                                V::zero().fma(s, V::splat((-form.zero).to_bits()))
                            };
                        }
                    }
                }
                let step = codes_at + in_block / STEP * step_bytes;
                let low_bytes = LOW as usize / 2 * plane;
                let low_at = step + half * low_bytes;
                let high_at = step + LOW as usize * plane + if HIGH == 2 { half * plane } else { 0 };
                let words = |p: usize, v: usize, from: usize| at(p, from + v * V::LANES * size_of::<u32>());
                let mut low = [[panel; NV]; NP];
                let mut high = [[V::words(panel); NV]; NP];
                for p in 0..NP {
                    for v in 0..NV {
                        low[p][v] = words(p, v, low_at);
                        if HIGH > 0 {
                            high[p][v] = V::words(words(p, v, high_at));
                            if HIGH == 1 && half == 1 {
                                high[p][v] = V::shifted(high[p][v], 4);
                            }
                        }
                    }
                    for line in (0..low_bytes).step_by(LINE_BYTES) {
                        prefetch(low[p][0].wrapping_add(line + AHEAD));
                    }
                }
                let mut piece = Piece {
                    sums: &mut sums,
                    scale: &scale,
                    offset: &offset,
                    a: a.wrapping_add(k + half * HALF),
                    a_row,
                    out: out.wrapping_add(if R == 0 { (k - first + half * HALF) * nr } else { 0 }),
                    nr,
                };
                let mut words = high;
                if LOW == 4 && HIGH == 0 {
                    for word in 0..2 {
                        for p in 0..NP {
                            for v in 0..NV {
                                words[p][v] = V::words(low[p][v].add(word * plane));
                            }
                        }
                        piece.nibble::<0>(8 * word, &words);
                        piece.nibble::<8>(8 * word + 1, &words);
                        piece.nibble::<16>(8 * word + 2, &words);
                        piece.nibble::<24>(8 * word + 3, &words);
                        piece.nibble::<4>(8 * word + 4, &words);
                        piece.nibble::<12>(8 * word + 5, &words);
                        piece.nibble::<20>(8 * word + 6, &words);
                        piece.nibble::<28>(8 * word + 7, &words);
                    }
                } else {
                    macro_rules! quads {
                        ($($quad:literal)*) => {
                            $(
                                for p in 0..NP {
                                    for v in 0..NV {
                                        words[p][v] = quad::<V, LOW, HIGH, $quad>(low[p][v], plane, high[p][v]);
                                    }
                                }
                                piece.byte::<0>(4 * $quad, &words);
                                piece.byte::<1>(4 * $quad + 1, &words);
                                piece.byte::<2>(4 * $quad + 2, &words);
                                piece.byte::<3>(4 * $quad + 3, &words);
                            )*
                        };
                    }
                    quads!(0 1 2 3);
                }
            }
            k += STEP;
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
            unsafe fn kernel<const LOW: i32, const HIGH: i32, const R: usize, const NP: usize>(args: &Args<'_>) {
                // SAFETY: the caller's promise.
                unsafe { body::<$vector, LOW, HIGH, R, NP>(args) }
            }

            const fn set<const LOW: i32, const HIGH: i32>() -> KernelSet {
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

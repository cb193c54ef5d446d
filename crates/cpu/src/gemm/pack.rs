//! Copies blocks of operands into the layouts that the register tiles read: panels and rows of units.

use std::ops::Range;

use half::bf16;

use super::view::{Data, Order, Unit, View};
use crate::CpuElem;
use crate::isa::Isa;
use crate::simd::{Kernel, LINE_BYTES, Simd, prefetch};

/// Words of `k` that are transposed for all items of a panel before the next: what is written stays in the L1 cache.
const SQUARE_WORDS: usize = 64;

/// Rows along the items that are asked for ahead of the one that is packed.
const ROWS_AHEAD: usize = 8;

/// Elements that can become units.
trait Source: CpuElem {
    /// The bits of the exact `f32`.
    fn wide_bits(self) -> u32;
    /// The bits of the nearest `bf16`, ties to even.
    fn half_bits(self) -> u32;
}

impl Source for f32 {
    #[inline(always)]
    fn wide_bits(self) -> u32 {
        self.to_bits()
    }
    #[inline(always)]
    fn half_bits(self) -> u32 {
        let bits = self.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // A NaN stays one and becomes quiet; rounding its bits could make an infinity of it.
        if bits & 0x7fff_ffff > 0x7f80_0000 { bits >> 16 | 0x40 } else { rounded }
    }
}

impl Source for bf16 {
    #[inline(always)]
    fn wide_bits(self) -> u32 {
        u32::from(self.to_bits()) << 16
    }
    #[inline(always)]
    fn half_bits(self) -> u32 {
        u32::from(self.to_bits())
    }
}

/// The unit of one or two elements that follow each other in `k`.
#[inline(always)]
fn unit_of<T: Source>(unit: Unit, first: T, second: T) -> u32 {
    match unit {
        Unit::F32 => first.wide_bits(),
        Unit::Pair => first.half_bits() | second.half_bits() << 16,
    }
}

/// A block of an operand: indices `items` by elements `k`.
#[derive(Clone)]
pub(super) struct Block<'a> {
    pub(super) view: View<'a>,
    pub(super) unit: Unit,
    pub(super) items: Range<usize>,
    pub(super) k: Range<usize>,
}

/// Packs a block in panels of `width` items: unit `(i, k)` goes to `panel * width * units + k * width + i % width`. Items
/// beyond the block and the second half of an odd last pair are zero.
pub(super) fn panels(isa: Isa, block: &Block<'_>, width: usize, dst: &mut [u32]) {
    let units = block.unit.count(block.k.len());
    let len = block.items.len().div_ceil(width) * width * units;
    assert!(dst.len() >= len, "panels: {} units for {len}", dst.len());
    if len == 0 {
        return;
    }
    let dst = &mut dst[..len];
    match block.view.data {
        Data::F32(data) => isa.dispatch(Panels { data, block, width, dst }),
        Data::Bf16(data) => isa.dispatch(Panels { data, block, width, dst }),
    }
}

struct Panels<'a, T> {
    data: &'a [T],
    block: &'a Block<'a>,
    width: usize,
    dst: &'a mut [u32],
}

impl<T: Source> Kernel for Panels<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match (self.block.view.order, self.block.unit) {
            (Order::KInner, Unit::F32) => self.transposed(s, Unit::F32),
            (Order::KInner, Unit::Pair) => self.transposed(s, Unit::Pair),
            (Order::KOuter, Unit::F32) => self.widened(s),
            (Order::KOuter, Unit::Pair) => self.paired(),
        }
    }
}

impl<T: Source> Panels<'_, T> {
    /// From rows along `k`: squares of eight items by eight words of four bytes in registers, the rest one by one.
    #[inline(always)]
    fn transposed<S: Simd>(self, s: S, unit: Unit) {
        let Panels { data, block, width, dst } = self;
        let (k, stride) = (block.k.clone(), block.view.stride);
        let per_word = size_of::<u32>() / size_of::<T>();
        // Words are units, or pairs that become two units; with other types or an odd stride there are no such words.
        let has_words = stride.is_multiple_of(per_word) && (unit == Unit::F32 || per_word == 2);
        let words = if has_words { k.len() / per_word / 8 * 8 } else { 0 };
        for (panel, dst) in dst.chunks_exact_mut(width * unit.count(k.len())).enumerate() {
            let first = block.items.start + panel * width;
            let n = (block.items.end - first).min(width);
            if n < width {
                dst.fill(0);
            }
            let in_squares = if words == 0 { 0 } else { n / 8 * 8 };
            for from in (0..words).step_by(SQUARE_WORDS) {
                for i in (0..in_squares).step_by(8) {
                    for word in (from..words.min(from + SQUARE_WORDS)).step_by(8) {
                        let at = (first + i) * stride + k.start + word * per_word;
                        let src = &data[at..at + 7 * stride + 8 * per_word];
                        if per_word == 2 && unit == Unit::F32 {
                            widened_square(s, src, stride, &mut dst[2 * word * width + i..], width);
                        } else {
                            let dst = &mut dst[word * width + i..][..7 * width + 8];
                            // SAFETY: eight rows of eight words, `stride` elements apart, are in `src`, and eight of
                            // eight, `width` apart, in `dst`. Any bits are valid in both.
                            unsafe {
                                let src = src.as_ptr().cast::<f32>();
                                s.transpose8(src, stride / per_word, dst.as_mut_ptr().cast(), width);
                            }
                        }
                    }
                }
            }
            for i in 0..n {
                let done = if i < in_squares { words * per_word } else { 0 };
                let row = &data[(first + i) * stride..][k.clone()][done..];
                let dst = &mut dst[done / unit.elements() * width..];
                match unit {
                    Unit::F32 => {
                        for (x, dst) in row.iter().zip(dst.chunks_exact_mut(width)) {
                            dst[i] = x.wide_bits();
                        }
                    }
                    Unit::Pair => {
                        for (pair, dst) in row.chunks(2).zip(dst.chunks_exact_mut(width)) {
                            dst[i] = unit_of(unit, pair[0], pair.get(1).copied().unwrap_or_default());
                        }
                    }
                }
            }
        }
    }

    /// From rows along the items, to `f32`.
    #[inline(always)]
    fn widened<S: Simd>(self, s: S) {
        let Panels { data, block, width, dst } = self;
        let units = block.k.len();
        for (u, k) in block.k.clone().enumerate() {
            // To the end of the data: what a vector loads beyond the items is not stored.
            let row = &data[k * block.view.stride + block.items.start..];
            if k + ROWS_AHEAD < block.k.end {
                prefetch_row(&data[(k + ROWS_AHEAD) * block.view.stride..][block.items.clone()]);
            }
            for (panel, dst) in dst.chunks_exact_mut(width * units).enumerate() {
                let at = panel * width;
                let n = (block.items.len() - at).min(width);
                let (src, dst) = (&row[at..], &mut dst[u * width..][..width]);
                let (dst, padding) = dst.split_at_mut(n);
                let dst: &mut [f32] = bytemuck::cast_slice_mut(dst);
                let mut i = 0;
                while i < n {
                    s.store(T::load(s, &src[i..]), &mut dst[i..]);
                    i += S::LANES;
                }
                if n < width {
                    padding.fill(0);
                }
            }
        }
    }

    /// From rows along the items, to pairs. The second half of a last odd pair is zero.
    #[inline(always)]
    fn paired(self) {
        let Panels { data, block, width, dst } = self;
        let units = Unit::Pair.count(block.k.len());
        let row = |k: usize| &data[k * block.view.stride + block.items.start..];
        for u in 0..units {
            let k = block.k.start + 2 * u;
            if k + ROWS_AHEAD + 1 < block.k.end {
                prefetch_row(&row(k + ROWS_AHEAD)[..block.items.len()]);
                prefetch_row(&row(k + ROWS_AHEAD + 1)[..block.items.len()]);
            }
            let first = row(k);
            let second = (k + 1 < block.k.end).then(|| row(k + 1));
            for (panel, dst) in dst.chunks_exact_mut(width * units).enumerate() {
                let dst = &mut dst[u * width..][..width];
                let at = panel * width;
                let n = (block.items.len() - at).min(width);
                let mut i = 0;
                while i < n {
                    // Sixteen at once where they are there: a loop of known length becomes vector instructions.
                    let from = at + i;
                    let all: [u32; 16] = match (first[from..].first_chunk::<16>(), second.map(|row| &row[from..])) {
                        (Some(x), Some(y)) if let Some(y) = y.first_chunk::<16>() => {
                            std::array::from_fn(|i| x[i].half_bits() | y[i].half_bits() << 16)
                        }
                        (_, y) => std::array::from_fn(|i| {
                            let x = first.get(from + i).copied().unwrap_or_default();
                            unit_of(Unit::Pair, x, y.and_then(|y| y.get(i)).copied().unwrap_or_default())
                        }),
                    };
                    let len = (n - i).min(16);
                    dst[i..i + len].copy_from_slice(&all[..len]);
                    i += 16;
                }
                if n < width {
                    dst[n..].fill(0);
                }
            }
        }
    }
}

/// Asks for a row that will be packed soon: the pieces of rows are too short for the processor to see it coming.
#[inline(always)]
fn prefetch_row<T>(row: &[T]) {
    for line in row.chunks(LINE_BYTES / size_of::<T>()) {
        prefetch(line.as_ptr());
    }
}

/// Transposes eight rows of eight pairs and makes two `f32` units of each pair.
#[inline(always)]
fn widened_square<S: Simd, T>(s: S, src: &[T], stride: usize, dst: &mut [u32], width: usize) {
    assert!(size_of::<T>() == 2 && stride.is_multiple_of(2) && src.len() >= 7 * stride + 16, "square of pairs");
    let mut pairs = [[0u32; 8]; 8];
    // SAFETY: eight rows of eight words, `stride` elements apart, are in `src`, and `pairs` has room for all.
    unsafe { s.transpose8(src.as_ptr().cast(), stride / 2, pairs.as_mut_ptr().cast(), 8) };
    for (pairs, dst) in pairs.iter().zip(dst.chunks_mut(2 * width)) {
        let (even, odd) = dst.split_at_mut(width);
        for i in 0..8 {
            even[i] = pairs[i] << 16;
        }
        for i in 0..8 {
            odd[i] = pairs[i] & 0xffff_0000;
        }
    }
}

/// Packs a block whose rows run along `k` as rows of units, `pitch` apart: a conversion without a transposition.
pub(super) fn rows(isa: Isa, block: &Block<'_>, pitch: usize, dst: &mut [u32]) {
    match block.view.data {
        Data::F32(data) => isa.dispatch(RowUnits { data, block, pitch, dst }),
        Data::Bf16(data) => isa.dispatch(RowUnits { data, block, pitch, dst }),
    }
}

struct RowUnits<'a, T> {
    data: &'a [T],
    block: &'a Block<'a>,
    pitch: usize,
    dst: &'a mut [u32],
}

impl<T: Source> Kernel for RowUnits<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let RowUnits { data, block, pitch, dst } = self;
        assert_eq!(block.view.order, Order::KInner, "rows of units run along k");
        let units = block.unit.count(block.k.len());
        for (i, dst) in block.items.clone().zip(dst.chunks_mut(pitch)) {
            let row = &data[i * block.view.stride..][block.k.clone()];
            let dst = &mut dst[..units];
            match block.unit {
                Unit::F32 => {
                    for (dst, x) in dst.iter_mut().zip(row) {
                        *dst = x.wide_bits();
                    }
                }
                Unit::Pair => {
                    let (pairs, odd) = row.as_chunks::<2>();
                    for (dst, &[x, y]) in dst.iter_mut().zip(pairs) {
                        *dst = unit_of(Unit::Pair, x, y);
                    }
                    if let [x] = odd {
                        dst[units - 1] = unit_of(Unit::Pair, *x, T::default());
                    }
                }
            }
        }
    }
}

/// Widens panels of pairs: pair `(k, i)` becomes `f32` units `(2k, i)` and `(2k + 1, i)`. `src` holds whole units of `k`
/// of one panel; an odd last element of `k` has no second unit if `dst` has no room for it.
pub(super) fn widen_pairs(isa: Isa, src: &[u32], width: usize, dst: &mut [u32]) {
    isa.dispatch(WidenPairs { src, width, dst });
}

struct WidenPairs<'a> {
    src: &'a [u32],
    width: usize,
    dst: &'a mut [u32],
}

impl Kernel for WidenPairs<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let WidenPairs { src, width, dst } = self;
        for (src, dst) in src.chunks_exact(width).zip(dst.chunks_mut(2 * width)) {
            let (even, odd) = dst.split_at_mut(width);
            for (dst, pair) in even.iter_mut().zip(src) {
                *dst = pair << 16;
            }
            for (dst, pair) in odd.iter_mut().zip(src) {
                *dst = pair & 0xffff_0000;
            }
        }
    }
}

/// Adds the columns of a packed panel to `sums`: `sums[i] += element (i, k)` for increasing `k`.
pub(super) fn add_panel_sums(isa: Isa, unit: Unit, panel: &[u32], width: usize, sums: &mut [f32]) {
    isa.dispatch(PanelSums { unit, panel, width, sums });
}

struct PanelSums<'a> {
    unit: Unit,
    panel: &'a [u32],
    width: usize,
    sums: &'a mut [f32],
}

impl Kernel for PanelSums<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PanelSums { unit, panel, width, sums } = self;
        let low = |pair: u32| f32::from_bits(pair << 16);
        let high = |pair: u32| f32::from_bits(pair & 0xffff_0000);
        match unit {
            Unit::F32 => {
                let panel: &[f32] = bytemuck::cast_slice(panel);
                for (i, sums) in sums.chunks_mut(S::LANES).enumerate() {
                    let mut sum = s.load(sums);
                    for row in panel.chunks_exact(width) {
                        sum = s.add(sum, s.load(&row[i * S::LANES..]));
                    }
                    s.store(sum, sums);
                }
            }
            Unit::Pair => {
                for row in panel.chunks_exact(width) {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum = *sum + low(*x) + high(*x));
                }
            }
        }
    }
}

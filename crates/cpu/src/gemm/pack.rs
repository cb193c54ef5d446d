//! Copies blocks of operands into the layouts that the register tiles read: panels and rows of units.

use std::ops::Range;

use half::bf16;

use super::view::{Data, Order, Unit, View};
use crate::CpuElem;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

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
    fn run<S: Simd>(self, _: S) {
        match (self.block.view.order, self.block.unit) {
            (Order::KInner, Unit::F32) => self.transposed(Unit::F32),
            (Order::KInner, Unit::Pair) => self.transposed(Unit::Pair),
            (Order::KOuter, Unit::F32) => self.copied(Unit::F32),
            (Order::KOuter, Unit::Pair) => self.copied(Unit::Pair),
        }
    }
}

impl<T: Source> Panels<'_, T> {
    /// From rows along `k`.
    #[inline(always)]
    fn transposed(self, unit: Unit) {
        let Panels { data, block, width, dst } = self;
        let (k, stride) = (block.k.clone(), block.view.stride);
        let panel_len = width * unit.count(k.len());
        for (panel, dst) in dst.chunks_exact_mut(panel_len).enumerate() {
            let first = block.items.start + panel * width;
            let n = (block.items.end - first).min(width);
            if n < width {
                dst.fill(0);
            }
            for i in 0..n {
                let row = &data[(first + i) * stride..][k.clone()];
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

    /// From rows along the items.
    #[inline(always)]
    fn copied(self, unit: Unit) {
        let Panels { data, block, width, dst } = self;
        let units = unit.count(block.k.len());
        let (items, stride) = (block.items.clone(), block.view.stride);
        let row = |k: usize| &data[k * stride..][items.clone()];
        for u in 0..units {
            let k = block.k.start + u * unit.elements();
            let first = row(k);
            // The second half of a last odd pair is zero.
            let second = if unit == Unit::Pair && k + 1 < block.k.end { Some(row(k + 1)) } else { None };
            for (panel, dst) in dst.chunks_exact_mut(width * units).enumerate() {
                let dst = &mut dst[u * width..][..width];
                let at = panel * width;
                let n = (first.len() - at).min(width);
                match (unit, second) {
                    (Unit::F32, _) => {
                        for (dst, x) in dst.iter_mut().zip(&first[at..][..n]) {
                            *dst = x.wide_bits();
                        }
                    }
                    (Unit::Pair, Some(second)) => {
                        for ((dst, x), y) in dst.iter_mut().zip(&first[at..][..n]).zip(&second[at..][..n]) {
                            *dst = x.half_bits() | y.half_bits() << 16;
                        }
                    }
                    (Unit::Pair, None) => {
                        for (dst, x) in dst.iter_mut().zip(&first[at..][..n]) {
                            *dst = x.half_bits();
                        }
                    }
                }
                dst[n..].fill(0);
            }
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
pub(super) fn add_panel_sums(unit: Unit, panel: &[u32], width: usize, sums: &mut [f32]) {
    let low = |pair: u32| f32::from_bits(pair << 16);
    let high = |pair: u32| f32::from_bits(pair & 0xffff_0000);
    for row in panel.chunks_exact(width) {
        match unit {
            Unit::F32 => sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f32::from_bits(*x)),
            Unit::Pair => sums.iter_mut().zip(row).for_each(|(sum, x)| *sum = *sum + low(*x) + high(*x)),
        }
    }
}

//! Register tiles: the innermost loops of all products.
//!
//! A tile is `rows x (vectors * lanes)` sums held in registers while `k` runs: for each `k`, some vectors of the column
//! operand are loaded and multiplied by one broadcast element of each row. Every sum is therefore one chain of
//! multiply-adds in increasing `k`, whatever the tile's size: this is what makes all products independent of blocking,
//! thread count and number of rows. One generic body serves all levels.

// Rows, panels and vectors index several things at once; plain indices say it best.
#![allow(clippy::needless_range_loop)]

pub(super) mod vector;

use vector::Vector;

use super::view::Unit;
use crate::isa::{Isa, SimdLevel};
use crate::simd::prefetch;

/// Units in a cache line.
pub(super) const LINE: usize = 16;

/// Units that a stream tile asks for ahead of what it reads: enough to cover the latency of main memory.
const STREAM_AHEAD: usize = 48 * LINE;

/// Operands of one register tile. The tile reads `k` units of each of its rows and columns.
#[derive(Clone, Copy)]
pub(super) struct TileArgs {
    /// Units along `k`.
    pub(super) k: usize,
    /// Row operand: unit `(r, k)` at `r * a_row + k` ([`Rows::Strided`]) or `k * mr + r` ([`Rows::Panel`]). Need not be
    /// aligned.
    pub(super) a: *const u32,
    pub(super) a_row: usize,
    /// Column operand: unit `(k, c)` at `k * nr + c`.
    pub(super) b: *const u32,
    /// Sums so far, `c_in_row` between rows; null for zero.
    pub(super) c_in: *const f32,
    pub(super) c_in_row: usize,
    /// Where the sums go. May be the same memory as `c_in`.
    pub(super) c_out: *mut f32,
    pub(super) c_out_row: usize,
    /// From here on one cache line for each unit of `k` is asked for: operands of a later tile. May be any address.
    pub(super) ahead: *const u32,
}

/// Operands of a few-row product that reads prepared panels once, from far memory.
#[derive(Clone, Copy)]
pub(super) struct StreamArgs {
    /// Units along `k` of the panels.
    pub(super) k: usize,
    /// Where pairs are widened: whether the last one has only its first half.
    pub(super) odd: bool,
    /// Row operand, unit `(r, k)` at `r * a_row + k`. Where pairs are widened: two `f32` for each unit of the panels.
    pub(super) a: *const u32,
    pub(super) a_row: usize,
    /// First panel: unit `(k, c)` at `k * nr + c`. The next panels follow at once.
    pub(super) b: *const u32,
    /// Sums of the panels side by side.
    pub(super) c_out: *mut f32,
    pub(super) c_out_row: usize,
}

/// How a tile finds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    Strided,
    Panel,
}

pub(super) type TileFn = unsafe fn(&TileArgs);
pub(super) type StreamFn = unsafe fn(&StreamArgs);

/// Stream tiles of one row count: over as many panels at once as fill the registers, and over one panel.
#[derive(Clone, Copy)]
pub(super) struct StreamTile {
    /// Panels of `several`.
    pub(super) panels: usize,
    pub(super) several: StreamFn,
    pub(super) one: StreamFn,
}

/// The tiles of one instruction set and unit.
pub(super) struct TileSet {
    /// Most rows of a tile.
    pub(super) mr: usize,
    /// Columns of a panel.
    pub(super) nr: usize,
    /// Columns of a vector; tiles come in multiples.
    lanes: usize,
    /// `[rows - 1][vectors - 1]`.
    strided: &'static [&'static [TileFn]],
    panel: &'static [&'static [TileFn]],
    /// `[rows - 1]`: panels of the kernel's own unit.
    pub(super) stream: &'static [StreamTile],
    /// `[rows - 1]`: panels of pairs that are widened to `f32` in registers.
    pub(super) widen: &'static [StreamTile],
}

impl TileSet {
    /// The tiles for `unit`. Calling them is sound because an [`Isa`] exists only on a host that has its instructions.
    pub(super) fn of(isa: Isa, unit: Unit) -> &'static TileSet {
        match (isa.level(), unit) {
            #[cfg(target_arch = "x86_64")]
            (SimdLevel::Avx512, Unit::F32) => &avx512::TILES,
            #[cfg(target_arch = "x86_64")]
            (SimdLevel::Avx512, Unit::Pair) if isa.features().bf16_dot => &avx512_dot::TILES,
            #[cfg(all(test, target_arch = "x86_64"))]
            (SimdLevel::Avx512, Unit::Pair) => &avx512_emulated::TILES,
            #[cfg(target_arch = "x86_64")]
            (SimdLevel::Avx2, Unit::F32) => &avx2::TILES,
            #[cfg(test)]
            (_, Unit::Pair) => &portable_emulated::TILES,
            #[cfg(not(test))]
            (_, Unit::Pair) => panic!("products of pairs need AVX512-BF16, this is {isa}"),
            (_, Unit::F32) => &portable::TILES,
        }
    }

    /// The tile for `rows <= mr` and `cols <= nr`, and the columns that it computes (the padding included).
    pub(super) fn tile(&self, layout: Rows, rows: usize, cols: usize) -> (TileFn, usize) {
        let vectors = cols.div_ceil(self.lanes);
        let table = match layout {
            Rows::Strided => self.strided,
            Rows::Panel => self.panel,
        };
        (table[rows - 1][vectors - 1], vectors * self.lanes)
    }
}

/// The one body of all tiles. `mr` and `nr` are constants where this is inlined.
///
/// # Safety
/// The host has `V`'s instructions; all pointers of `args` are valid for what its documentation says is read and written.
#[inline(always)]
unsafe fn tile_body<V: Vector, const MR: usize, const NV: usize, const STRIDED: bool>(
    args: &TileArgs,
    mr: usize,
    nr: usize,
) {
    let &TileArgs { k, mut a, a_row, mut b, c_in, c_in_row, c_out, c_out_row, mut ahead } = args;
    // SAFETY: the caller's promise; offsets stay inside the operands as documented.
    unsafe {
        let mut sums = [[V::zero(); NV]; MR];
        if !c_in.is_null() {
            for r in 0..MR {
                for v in 0..NV {
                    sums[r][v] = V::load(c_in.add(r * c_in_row + v * V::LANES));
                }
            }
        }
        for _ in 0..k {
            let mut columns = [V::zero(); NV];
            for v in 0..NV {
                columns[v] = V::load(b.cast::<f32>().add(v * V::LANES));
            }
            for r in 0..MR {
                let row = V::splat(a.add(if STRIDED { r * a_row } else { r }).read_unaligned());
                for v in 0..NV {
                    sums[r][v] = sums[r][v].accumulate(row, columns[v]);
                }
            }
            a = a.add(if STRIDED { 1 } else { mr });
            b = b.add(nr);
            prefetch(ahead);
            ahead = ahead.wrapping_add(LINE);
        }
        for r in 0..MR {
            for v in 0..NV {
                sums[r][v].store(c_out.add(r * c_out_row + v * V::LANES));
            }
        }
    }
}

/// The body of the few-row tiles: `NP` panels of `NV` vectors at once, so that enough chains are in flight.
///
/// # Safety
/// As [`tile_body`].
#[inline(always)]
unsafe fn stream_body<V: Vector, const MR: usize, const NP: usize, const NV: usize, const WIDEN: bool>(
    args: &StreamArgs,
) {
    let &StreamArgs { k, odd, mut a, a_row, mut b, c_out, c_out_row } = args;
    let nr = NV * V::LANES;
    let odd = WIDEN && odd && k > 0;
    // SAFETY: the caller's promise; offsets stay inside the operands as documented.
    unsafe {
        let mut sums = [[[V::zero(); NV]; NP]; MR];
        for _ in 0..k - usize::from(odd) {
            for p in 0..NP {
                for v in 0..NV {
                    let units = b.add(p * k * nr + v * V::LANES);
                    prefetch(units.wrapping_add(STREAM_AHEAD));
                    let column = V::load(units.cast());
                    for r in 0..MR {
                        let row = a.add(r * a_row);
                        let sum = sums[r][p][v];
                        sums[r][p][v] = if WIDEN {
                            sum.fma(V::splat(row.read_unaligned()), column.low())
                                .fma(V::splat(row.add(1).read_unaligned()), column.high())
                        } else {
                            sum.accumulate(V::splat(row.read_unaligned()), column)
                        };
                    }
                }
            }
            a = a.add(if WIDEN { 2 } else { 1 });
            b = b.add(nr);
        }
        if odd {
            for p in 0..NP {
                for v in 0..NV {
                    let column = V::load(b.add(p * k * nr + v * V::LANES).cast()).low();
                    for r in 0..MR {
                        sums[r][p][v] = sums[r][p][v].fma(V::splat(a.add(r * a_row).read_unaligned()), column);
                    }
                }
            }
        }
        for r in 0..MR {
            for p in 0..NP {
                for v in 0..NV {
                    sums[r][p][v].store(c_out.add(r * c_out_row + p * nr + v * V::LANES));
                }
            }
        }
    }
}

/// Instantiates the bodies for one vector type and tile size.
macro_rules! tiles {
    ($module:ident, $vector:ty, [$($rows:literal)*], [$($vectors:literal)*], [$($few:literal x $panels:literal)*],
        $($features:literal)?) => {
        mod $module {
            #![allow(clippy::wildcard_imports)]
            use super::*;

            const MR: usize = [$($rows),*].len();
            const NV: usize = [$($vectors),*].len();
            const NR: usize = NV * <$vector as Vector>::LANES;

            /// # Safety
            /// As [`tile_body`].
            $(#[target_feature(enable = $features)])?
            unsafe fn tile<const R: usize, const V: usize, const STRIDED: bool>(args: &TileArgs) {
                // SAFETY: the caller's promise.
                unsafe { tile_body::<$vector, R, V, STRIDED>(args, MR, NR) }
            }

            /// # Safety
            /// As [`stream_body`].
            $(#[target_feature(enable = $features)])?
            unsafe fn stream<const R: usize, const P: usize, const WIDEN: bool>(args: &StreamArgs) {
                // SAFETY: the caller's promise.
                unsafe { stream_body::<$vector, R, P, NV, WIDEN>(args) }
            }

            const fn vectors<const R: usize, const STRIDED: bool>() -> &'static [TileFn] {
                &[$(tile::<R, $vectors, STRIDED>),*]
            }

            pub(super) static TILES: TileSet = TileSet {
                mr: MR,
                nr: NR,
                lanes: <$vector as Vector>::LANES,
                strided: &[$(vectors::<$rows, true>()),*],
                panel: &[$(vectors::<$rows, false>()),*],
                stream: &[$(StreamTile {
                    panels: $panels,
                    several: stream::<$few, $panels, false>,
                    one: stream::<$few, 1, false>,
                }),*],
                widen: &[$(StreamTile {
                    panels: $panels,
                    several: stream::<$few, $panels, true>,
                    one: stream::<$few, 1, true>,
                }),*],
            };
        }
    };
}

// 14 x 2 sums leave two registers for the columns and one or two for the broadcast row, of 32.
#[cfg(target_arch = "x86_64")]
tiles!(avx512, vector::Avx512, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], [1 2],
    [1 x 4 2 x 4 3 x 2 4 x 2 5 x 2 6 x 1 7 x 1 8 x 1], "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma");
#[cfg(target_arch = "x86_64")]
tiles!(avx512_dot, vector::Avx512Dot, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], [1 2],
    [1 x 4 2 x 4 3 x 2 4 x 2 5 x 2 6 x 1 7 x 1 8 x 1], "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma");
#[cfg(all(test, target_arch = "x86_64"))]
tiles!(avx512_emulated, vector::Emulated<vector::Avx512>, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], [1 2],
    [1 x 4 2 x 4 3 x 2 4 x 2 5 x 2 6 x 1 7 x 1 8 x 1], "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma");
// 6 x 2 of 16 registers.
#[cfg(target_arch = "x86_64")]
tiles!(avx2, vector::Avx2, [1 2 3 4 5 6], [1 2], [1 x 4 2 x 2 3 x 1 4 x 1], "avx2,fma");
// 4 x 2 of the 16 registers of SSE2, which also needs one for the product.
tiles!(portable, vector::Portable, [1 2 3 4], [1 2], [1 x 4 2 x 2 3 x 1 4 x 1],);
#[cfg(test)]
tiles!(portable_emulated, vector::Emulated<vector::Portable>, [1 2 3 4], [1 2], [1 x 4 2 x 2 3 x 1 4 x 1],);

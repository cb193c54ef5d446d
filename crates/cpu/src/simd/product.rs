//! Small matrix products on `f32` scratch, the inner loops of attention.
//!
//! Every element of the result is one chain of multiply-adds in increasing depth, whatever the tile it falls in: the bits
//! do not depend on how rows are grouped.

use super::{Kernel, Simd, Stored};

/// What the chain of a result element begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Zero: `c = a b`.
    Zero,
    /// The element itself: `c = c + a b`.
    Add,
}

/// Which part of a product is wanted, for operands with a triangle of zeros. Register tiles cover several rows, so that
/// some elements beyond the wanted part are computed too.
#[derive(Clone, Copy, Debug)]
pub enum Span<'a> {
    /// All of it.
    All,
    /// Of row `i` only the columns below `ends[i]`; `ends` does not decrease. Others are left as they are or computed.
    Columns(&'a [u32]),
    /// For row `i` only depths below `ends[i]`; `ends` does not decrease. `a` is 0 (and `b` finite) beyond.
    DepthBelow(&'a [u32]),
    /// For row `i` only depths from `i` on. `a` is 0 (and `b` finite) before.
    DepthFromRow,
}

/// `c[rows, cols] (+)= a[rows, depth] b[depth, cols]`.
pub struct Product<'a, B> {
    /// `a[i, k]` is at `i * a_strides.0 + k * a_strides.1`.
    pub a: &'a [f32],
    /// Steps of a row and of a depth in `a`.
    pub a_strides: (usize, usize),
    /// `b[k, j]` is at `k * b_stride + j`.
    pub b: &'a [B],
    /// Step of a row in `b`.
    pub b_stride: usize,
    /// `c[i, j]` is at `i * c_stride + j`.
    pub c: &'a mut [f32],
    /// Step of a row in `c`.
    pub c_stride: usize,
    /// Rows of `a` and `c`.
    pub rows: usize,
    /// Columns of `b` and `c`, a multiple of the vector width.
    pub cols: usize,
    /// Columns of `a`, rows of `b`.
    pub depth: usize,
    /// What is added to.
    pub start: Start,
    /// What is wanted.
    pub span: Span<'a>,
}

impl<B: Stored> Kernel for Product<'_, B> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (rows, cols, depth) = (self.rows, self.cols, self.depth);
        if rows == 0 || cols == 0 {
            return;
        }
        assert!(cols.is_multiple_of(S::LANES), "{cols} columns in vectors of {}", S::LANES);
        let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
        if depth > 0 {
            assert!(last(rows, self.a_strides.0) + last(depth, self.a_strides.1) < self.a.len(), "a is too short");
            assert!(last(depth, self.b_stride) + cols <= self.b.len(), "b is too short");
        }
        assert!(last(rows, self.c_stride) + cols <= self.c.len(), "c is too short");
        if let Span::Columns(ends) | Span::DepthBelow(ends) = self.span {
            assert!(ends.len() >= rows, "{} ends for {rows} rows", ends.len());
        }
        let mut row = 0;
        while row < rows {
            let tile_rows = S::TILE_ROWS.min(rows - row);
            let (mut from, mut to, mut tile_cols) = (0, depth, cols);
            match self.span {
                Span::All => {}
                Span::Columns(ends) => tile_cols = cols.min(ends[row + tile_rows - 1] as usize),
                Span::DepthBelow(ends) => to = depth.min(ends[row + tile_rows - 1] as usize),
                Span::DepthFromRow => from = row.min(depth),
            }
            // SAFETY: the ranges of rows, columns and depths are inside the product, whose last elements were checked
            // above.
            unsafe {
                let tile = Tile {
                    a: self.a.as_ptr().add(if to > from {
                        row * self.a_strides.0 + from * self.a_strides.1
                    } else {
                        0
                    }),
                    a_strides: self.a_strides,
                    b: self.b.as_ptr().add(if to > from { from * self.b_stride } else { 0 }),
                    b_stride: self.b_stride,
                    c: self.c.as_mut_ptr().add(row * self.c_stride),
                    c_stride: self.c_stride,
                    depth: to - from,
                    start: self.start,
                };
                let vectors = tile_cols.div_ceil(S::LANES);
                match tile_rows {
                    1 => tile.across::<S, 1>(s, vectors),
                    2 => tile.across::<S, 2>(s, vectors),
                    3 => tile.across::<S, 3>(s, vectors),
                    4 => tile.across::<S, 4>(s, vectors),
                    5 if S::TILE_ROWS >= 5 => tile.across::<S, 5>(s, vectors),
                    _ if S::TILE_ROWS >= 6 => tile.across::<S, 6>(s, vectors),
                    _ => unreachable!("a tile of {tile_rows} rows"),
                }
            }
            row += tile_rows;
        }
    }
}

#[derive(Clone, Copy)]
struct Tile<B> {
    a: *const f32,
    a_strides: (usize, usize),
    b: *const B,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    depth: usize,
    start: Start,
}

impl<B: Stored> Tile<B> {
    /// `R` rows and all columns.
    ///
    /// # Safety
    /// `R` rows, `vectors` vectors of columns and `depth` depths must be inside the operands.
    #[inline(always)]
    unsafe fn across<S: Simd, const R: usize>(self, s: S, vectors: usize) {
        let mut done = 0;
        while done < vectors {
            let take = S::TILE_VECS.min(vectors - done);
            // SAFETY: `done + take <= vectors`, so the columns are inside.
            unsafe {
                let tile = Tile { b: self.b.add(done * S::LANES), c: self.c.add(done * S::LANES), ..self };
                match take {
                    1 => tile.multiply::<S, R, 1>(s),
                    2 if S::TILE_VECS >= 2 => tile.multiply::<S, R, 2>(s),
                    3 if S::TILE_VECS >= 3 => tile.multiply::<S, R, 3>(s),
                    _ if S::TILE_VECS >= 4 => tile.multiply::<S, R, 4>(s),
                    _ => unreachable!("a tile of {take} vectors"),
                }
            }
            done += take;
        }
    }

    /// `R` rows and `V` vectors, in registers.
    ///
    /// # Safety
    /// `R` rows, `V` vectors of columns and `depth` depths must be inside the operands.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const R: usize, const V: usize>(self, s: S) {
        let mut sums = [[s.splat(0.0); V]; R];
        // SAFETY: the caller's promise.
        unsafe {
            if self.start == Start::Add {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = s.load_ptr(self.c.add(r * self.c_stride + v * S::LANES));
                    }
                }
            }
            let (mut a, mut b) = (self.a, self.b);
            for _ in 0..self.depth {
                let mut row = [s.splat(0.0); V];
                for (v, row) in row.iter_mut().enumerate() {
                    *row = B::load_ptr(s, b.add(v * S::LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = s.splat(*a.add(r * self.a_strides.0));
                    for (sum, row) in sums.iter_mut().zip(&row) {
                        *sum = s.fma(x, *row, *sum);
                    }
                }
                a = a.wrapping_add(self.a_strides.1);
                b = b.wrapping_add(self.b_stride);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    s.store_ptr(*sum, self.c.add(r * self.c_stride + v * S::LANES));
                }
            }
        }
    }
}

/// `dst[j, i] = src[i, j]` for `i < rows`, `j < cols`, both multiples of 8.
pub struct Transpose<'a> {
    /// `[rows, cols]`.
    pub src: &'a [f32],
    /// `[cols, rows]`.
    pub dst: &'a mut [f32],
    /// Rows of `src`.
    pub rows: usize,
    /// Columns of `src`.
    pub cols: usize,
}

impl Kernel for Transpose<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { src, dst, rows, cols } = self;
        assert!(rows.is_multiple_of(8) && cols.is_multiple_of(8), "transpose of {rows} x {cols}");
        assert!(src.len() >= rows * cols && dst.len() >= rows * cols, "transpose of {rows} x {cols}");
        for i in (0..rows).step_by(8) {
            for j in (0..cols).step_by(8) {
                // SAFETY: blocks of 8 x 8 at multiples of 8 are inside, by the sizes checked above.
                unsafe {
                    s.transpose8(src.as_ptr().add(i * cols + j), cols, dst.as_mut_ptr().add(j * rows + i), rows);
                }
            }
        }
    }
}

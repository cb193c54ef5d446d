//! Disjoint pieces of output slices for the tasks of a run.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that several tasks write at once, each its own ranges.
pub struct SharedMut<'a, T> {
    ptr: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a `SharedMut` is an exclusive borrow of a slice; handing out its elements to another thread is sending them.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: shared access gives out nothing but `&mut` of ranges that callers of the unsafe methods keep disjoint.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Borrows a slice.
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut { ptr: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first element, for kernels that address tiles themselves.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.ptr
    }

    /// A range of the slice. Panics if it is out of bounds.
    ///
    /// # Safety
    /// No two live ranges may overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn range_mut(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range {range:?} of {} elements", self.len);
        // SAFETY: in bounds by the check above; not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }
}

/// Something that comes apart into `count` pieces which may be written at the same time.
pub trait Parts: Sync {
    /// One piece.
    type Part;

    /// Number of pieces.
    fn count(&self) -> usize;

    /// Piece `index`.
    ///
    /// # Safety
    /// Each index may be asked for once only.
    unsafe fn part(&self, index: usize) -> Self::Part;
}

/// A slice in chunks of one length, the last one maybe shorter.
pub struct ChunksMut<'a, T> {
    slice: SharedMut<'a, T>,
    chunk: usize,
}

impl<'a, T> ChunksMut<'a, T> {
    /// Chunks of `chunk` elements. Panics if that is 0.
    pub fn new(slice: &'a mut [T], chunk: usize) -> Self {
        assert!(chunk > 0, "chunks of no elements");
        ChunksMut { slice: SharedMut::new(slice), chunk }
    }
}

impl<'a, T: Send> Parts for ChunksMut<'a, T> {
    type Part = &'a mut [T];

    fn count(&self) -> usize {
        self.slice.len().div_ceil(self.chunk)
    }

    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        let start = index * self.chunk;
        let end = (start + self.chunk).min(self.slice.len());
        // SAFETY: chunks of different indices are disjoint; the caller asks for each once.
        unsafe { self.slice.range_mut(start..end) }
    }
}

/// A matrix `[rows, width]`, or some of its columns, in tiles: `tile_rows` rows (fewer at the end of each group of
/// `group_rows` rows) by `tile_cols` columns. Tiles are numbered row block by row block, columns inside.
pub struct GridMut<'a, T> {
    slice: SharedMut<'a, T>,
    width: usize,
    rows: usize,
    columns: Range<usize>,
    group_rows: usize,
    tile_rows: usize,
    tile_cols: usize,
}

impl<'a, T> GridMut<'a, T> {
    /// One tile of all rows and columns of a matrix, to be split further. Panics unless the slice is whole rows.
    pub fn new(slice: &'a mut [T], width: usize) -> Self {
        assert!(width > 0 && slice.len().is_multiple_of(width), "{} elements in rows of {width}", slice.len());
        let rows = slice.len() / width;
        let all = rows.max(1);
        GridMut {
            slice: SharedMut::new(slice),
            width,
            rows,
            columns: 0..width,
            group_rows: all,
            tile_rows: all,
            tile_cols: width,
        }
    }

    /// Splits the columns in two matrices. Panics if `at` is beyond the width.
    pub fn split_columns(self, at: usize) -> (GridMut<'a, T>, GridMut<'a, T>) {
        let mid = self.columns.start + at;
        assert!(mid <= self.columns.end, "split at {at} of columns {:?}", self.columns);
        let half = |columns: Range<usize>| GridMut {
            slice: SharedMut { ptr: self.slice.ptr, len: self.slice.len, borrow: PhantomData },
            tile_cols: columns.len().max(1),
            columns,
            ..self
        };
        (half(self.columns.start..mid), half(mid..self.columns.end))
    }

    /// Sets the tile size. Row tiles do not cross multiples of `group_rows`, which must divide the number of rows;
    /// `tile_cols` must divide the columns.
    pub fn tiles(self, group_rows: usize, tile_rows: usize, tile_cols: usize) -> Self {
        assert!(group_rows > 0 && self.rows.is_multiple_of(group_rows), "{} rows in groups of {group_rows}", self.rows);
        assert!(
            tile_rows > 0 && tile_cols > 0 && self.columns.len().is_multiple_of(tile_cols),
            "columns {:?} in tiles of {tile_rows} x {tile_cols}",
            self.columns
        );
        GridMut { group_rows, tile_rows, tile_cols, ..self }
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn tiles_per_group(&self) -> usize {
        self.group_rows.div_ceil(self.tile_rows)
    }

    fn tiles_per_row(&self) -> usize {
        self.columns.len() / self.tile_cols
    }
}

impl<'a, T: Send> Parts for GridMut<'a, T> {
    type Part = Tile<'a, T>;

    fn count(&self) -> usize {
        self.rows / self.group_rows * self.tiles_per_group() * self.tiles_per_row()
    }

    unsafe fn part(&self, index: usize) -> Tile<'a, T> {
        assert!(index < self.count(), "tile {index} of {}", self.count());
        let (row_block, column_block) = (index / self.tiles_per_row(), index % self.tiles_per_row());
        let (group, block) = (row_block / self.tiles_per_group(), row_block % self.tiles_per_group());
        let first = block * self.tile_rows;
        Tile {
            // SAFETY: the first element of the tile is inside the slice: row and column are checked against the matrix
            // by the asserts of the constructors and the one above.
            ptr: unsafe {
                let row = group * self.group_rows + first;
                self.slice.ptr.add(row * self.width + self.columns.start + column_block * self.tile_cols)
            },
            first_row: group * self.group_rows + first,
            rows: self.tile_rows.min(self.group_rows - first),
            cols: self.tile_cols,
            stride: self.width,
            borrow: PhantomData,
        }
    }
}

/// One tile of a [`GridMut`].
pub struct Tile<'a, T> {
    ptr: *mut T,
    first_row: usize,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T> Tile<'_, T> {
    /// Row of the matrix at which the tile begins.
    pub fn first_row(&self) -> usize {
        self.first_row
    }

    /// Rows of the tile.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the tile.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// One row of the tile.
    #[inline]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of a tile of {}", self.rows);
        // SAFETY: inside the tile, which belongs to this value alone; `self` is borrowed as long as the row.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(row * self.stride), self.cols) }
    }
}

impl<'a, T: Send> Parts for Option<ChunksMut<'a, T>> {
    type Part = Option<&'a mut [T]>;

    fn count(&self) -> usize {
        self.as_ref().map_or(usize::MAX, Parts::count)
    }

    unsafe fn part(&self, index: usize) -> Option<&'a mut [T]> {
        // SAFETY: the caller's promise.
        self.as_ref().map(|parts| unsafe { parts.part(index) })
    }
}

impl<'a, T: Send> Parts for Option<GridMut<'a, T>> {
    type Part = Option<Tile<'a, T>>;

    fn count(&self) -> usize {
        self.as_ref().map_or(usize::MAX, Parts::count)
    }

    unsafe fn part(&self, index: usize) -> Option<Tile<'a, T>> {
        // SAFETY: the caller's promise.
        self.as_ref().map(|parts| unsafe { parts.part(index) })
    }
}

/// Several outputs that come apart into equally many pieces; an absent one goes along with any number.
macro_rules! tuple_parts {
    ($($name:ident $field:tt),+) => {
        impl<$($name: Parts),+> Parts for ($($name,)+) {
            type Part = ($($name::Part,)+);

            fn count(&self) -> usize {
                let count = self.0.count();
                $(assert!([count, usize::MAX].contains(&self.$field.count()), "outputs with different numbers of parts");)+
                count
            }

            unsafe fn part(&self, index: usize) -> Self::Part {
                // SAFETY: the caller's promise holds for each.
                unsafe { ($(self.$field.part(index),)+) }
            }
        }
    };
}

tuple_parts!(A 0, B 1);
tuple_parts!(A 0, B 1, C 2);
tuple_parts!(A 0, B 1, C 2, D 3);

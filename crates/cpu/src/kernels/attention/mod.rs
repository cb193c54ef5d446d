//! Causal attention without a stored T x T matrix (Dao 2023, "FlashAttention-2"): blocks of [`KEYS`] keys, counted from
//! key 0, against tiles of queries.
//!
//! Everything is calculated in `f32`. Every sum is taken in one order that depends on the query and the keys it sees, not
//! on how queries are grouped into tiles and tasks: results are the same for any number of threads and any batch.

mod backward;
mod forward;
mod load;
mod tile;

use verve_ops::KV_BLOCK;

use crate::simd::{LINE_BYTES, prefetch};

pub(crate) use backward::backward;
pub(crate) use forward::forward;
pub(super) use load::widen_rows;
pub(super) use tile::{Block, QueryTile, Scales};

/// Keys of one block: as many as in a block of the cache.
pub(super) const KEYS: usize = KV_BLOCK;

/// Columns of working memory for vectors of `d_head` elements: whole vectors at every level.
#[inline(always)]
pub(super) fn padded(d_head: usize) -> usize {
    d_head.next_multiple_of(16)
}

/// First position that the query at `position` sees.
#[inline(always)]
pub(super) fn first_visible(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// The numbers of the places in a block, to compare with.
static PLACES: [f32; KEYS] = {
    let mut places = [0.0; KEYS];
    let mut i = 0;
    while i < KEYS {
        places[i] = i as f32;
        i += 1;
    }
    places
};

/// Splits `len` elements off the front of a piece of working memory.
#[inline(always)]
fn take<'a>(memory: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (front, rest) = std::mem::take(memory).split_at_mut(len);
    *memory = rest;
    front
}

/// Asks for all cache lines of a slice.
#[inline(always)]
pub(super) fn fetch<T>(slice: &[T]) {
    for line in slice.chunks(LINE_BYTES / size_of::<T>()) {
        prefetch(line.as_ptr());
    }
}

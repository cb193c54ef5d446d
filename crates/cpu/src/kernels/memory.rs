//! Copying, clearing, rounding, gathering rows.

use verve_ops::Element;
use verve_ops::args::GatherRows;

use super::check_ids;
use crate::pool::ChunksMut;
use crate::simd::{Kernel, Simd, rows};
use crate::{CpuBackend, CpuElem};

/// Bytes that one task moves: enough to be worth handing out, small enough to balance.
const TASK_BYTES: usize = 256 * 1024;

fn task_len<T>() -> usize {
    TASK_BYTES / size_of::<T>()
}

pub(crate) fn copy<E: CpuElem, T: Element>(backend: &CpuBackend<E>, src: &[T], dst: &mut [T]) {
    assert_eq!(src.len(), dst.len(), "copy: lengths of source and destination");
    let len = task_len::<T>();
    backend.pool().for_each(ChunksMut::new(dst, len), |task, _, dst| {
        dst.copy_from_slice(&src[task * len..][..dst.len()]);
    });
}

pub(crate) fn fill_zero<E: CpuElem, T: Element>(backend: &CpuBackend<E>, dst: &mut [T]) {
    backend.pool().for_each(ChunksMut::new(dst, task_len::<T>()), |_, _, dst| dst.fill(T::default()));
}

struct Round<'a, E> {
    src: &'a [f32],
    dst: &'a mut [E],
}

impl<E: CpuElem> Kernel for Round<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        rows::convert(s, self.src, self.dst);
    }
}

pub(crate) fn round<E: CpuElem>(backend: &CpuBackend<E>, src: &[f32], dst: &mut [E]) {
    assert_eq!(src.len(), dst.len(), "round: lengths of source and destination");
    let len = task_len::<f32>();
    backend.pool().for_each(ChunksMut::new(dst, len), |task, _, dst| {
        backend.isa().dispatch(Round { src: &src[task * len..][..dst.len()], dst });
    });
}

pub(crate) fn gather_rows<E: CpuElem>(backend: &CpuBackend<E>, args: GatherRows<'_, CpuBackend<E>>) {
    let GatherRows { inp, rows, n_rows, out, cols } = args;
    if cols == 0 {
        return;
    }
    check_ids("gather_rows", "rows", &rows[..n_rows], inp.len() / cols);
    let task_rows = (task_len::<E>() / cols).max(1);
    let out = &mut out[..n_rows * cols];
    backend.pool().for_each(ChunksMut::new(out, task_rows * cols), |task, _, out| {
        for (row, out) in rows[task * task_rows..].iter().zip(out.chunks_exact_mut(cols)) {
            out.copy_from_slice(&inp[*row as usize * cols..][..cols]);
        }
    });
}

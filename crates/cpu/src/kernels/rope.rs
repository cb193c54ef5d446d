//! Rotary position embedding.

use verve_ops::RopeShape;
use verve_ops::args::Rope;

use super::check_ids;
use crate::pool::ChunksMut;
use crate::simd::{Kernel, Simd};
use crate::{CpuBackend, CpuElem};

/// Elements of the rows of one task, about.
const TASK: usize = 16 * 1024;

/// Which way to turn.
#[derive(Clone, Copy, PartialEq)]
enum Turn {
    Forward,
    Back,
}

struct RotateRows<'a, E> {
    x: &'a mut [E],
    table: &'a [f32],
    positions: &'a [u32],
    shape: RopeShape,
    turn: Turn,
}

impl<E: CpuElem> Kernel for RotateRows<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, table, positions, shape, turn } = self;
        let half = shape.d_rot / 2;
        for (row, position) in x.chunks_exact_mut(shape.row_width).zip(positions) {
            let (cos, sin) = table[*position as usize * shape.d_rot..][..shape.d_rot].split_at(half);
            for head in row.chunks_exact_mut(shape.d_head).take(shape.n_heads) {
                let (first, second) = head[..shape.d_rot].split_at_mut(half);
                let mut i = 0;
                while i < half {
                    let (a, b) = (E::load(s, &first[i..]), E::load(s, &second[i..]));
                    let (c, w) = (s.load(&cos[i..]), s.load(&sin[i..]));
                    let (ac, bc) = (s.mul(a, c), s.mul(b, c));
                    let (left, right) = match turn {
                        Turn::Forward => (s.fnma(b, w, ac), s.fma(a, w, bc)),
                        Turn::Back => (s.fma(b, w, ac), s.fnma(a, w, bc)),
                    };
                    E::store(s, left, &mut first[i..]);
                    E::store(s, right, &mut second[i..]);
                    i += S::LANES;
                }
            }
        }
    }
}

fn rotate<E: CpuElem>(backend: &CpuBackend<E>, args: Rope<'_, CpuBackend<E>>, turn: Turn) {
    let Rope { x, table, positions, shape } = args;
    let positions = &positions[..shape.rows];
    check_ids("rope", "positions", positions, shape.n_positions);
    if shape.rows == 0 || shape.d_rot == 0 {
        return;
    }
    let task_rows = (TASK / shape.row_width).max(1);
    let x = &mut x[..shape.rows * shape.row_width];
    backend.pool().for_each(ChunksMut::new(x, task_rows * shape.row_width), |task, _, x| {
        let positions = &positions[task * task_rows..];
        backend.isa().dispatch(RotateRows { x, table, positions, shape, turn });
    });
}

pub(crate) fn forward<E: CpuElem>(backend: &CpuBackend<E>, args: Rope<'_, CpuBackend<E>>) {
    rotate(backend, args, Turn::Forward);
}

pub(crate) fn backward<E: CpuElem>(backend: &CpuBackend<E>, args: Rope<'_, CpuBackend<E>>) {
    rotate(backend, args, Turn::Back);
}

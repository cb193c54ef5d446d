//! Rotary position embedding.

use super::{Reference, Scalar, check_index};
use crate::args::Rope;

/// Rotates each pair by the angle of its position.
pub(super) fn rope<R: Scalar>(args: Rope<'_, Reference<R>>) {
    rotate("rope", args, R::ONE);
}

/// Rotates each pair back: the transpose of a rotation is its inverse.
pub(super) fn rope_backward<R: Scalar>(args: Rope<'_, Reference<R>>) {
    rotate("rope_backward", args, -R::ONE);
}

/// `(a, b) -> (a cos - b sin, b cos + a sin)`, with the sine times `sign`.
fn rotate<R: Scalar>(op: &str, args: Rope<'_, Reference<R>>, sign: R) {
    args.check();
    let Rope { x, table, positions, shape } = args;
    let (x, table, positions) = (x.as_mut_slice(), table.as_slice(), positions.as_slice());
    let half = shape.d_rot / 2;
    for n in 0..shape.rows {
        let position = check_index(op, "positions", n, positions[n], shape.n_positions);
        let (cos, sin) = table[position * shape.d_rot..][..shape.d_rot].split_at(half);
        for h in 0..shape.n_heads {
            let head = &mut x[n * shape.row_width + h * shape.d_head..][..shape.d_head];
            for i in 0..half {
                let (a, b) = (head[i], head[i + half]);
                let sin = sign * sin[i];
                head[i] = a * cos[i] - b * sin;
                head[i + half] = b * cos[i] + a * sin;
            }
        }
    }
}

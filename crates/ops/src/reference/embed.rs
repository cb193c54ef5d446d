//! Token and position embedding.

use super::scalar::add_scaled;
use super::{Reference, Scalar, check_index};
use crate::EmbedShape;
use crate::args::{Embed, EmbedBackward};

/// `out[n] = table[tokens[n]] + pos_table[positions[n]]`.
pub(super) fn embed<R: Scalar>(args: Embed<'_, Reference<R>>) {
    args.check();
    let Embed { tokens, positions, table, pos_table, out, shape } = args;
    let pos_table = pos_table.map(|pos| pos.as_slice());
    embed_rows(tokens.as_slice(), positions.as_slice(), table.as_slice(), pos_table, out.as_mut_slice(), shape);
}

/// [`embed`] on slices, shared with the prepared table.
pub(super) fn embed_rows<R: Scalar>(
    tokens: &[u32],
    positions: &[u32],
    table: &[R],
    pos_table: Option<&[R]>,
    out: &mut [R],
    shape: EmbedShape,
) {
    let c = shape.d_model;
    for n in 0..shape.rows {
        let token = check_index("embed", "tokens", n, tokens[n], shape.n_vocab);
        let out = &mut out[n * c..][..c];
        out.copy_from_slice(&table[token * c..][..c]);
        if let Some(pos_table) = pos_table {
            let position = check_index("embed", "positions", n, positions[n], shape.n_positions);
            add_scaled(out, R::ONE, &pos_table[position * c..][..c]);
        }
    }
}

/// `d_table[tokens[n]] += d_out[n]`, `d_pos_table[positions[n]] += d_out[n]`.
pub(super) fn embed_backward<R: Scalar>(args: EmbedBackward<'_, Reference<R>>) {
    args.check();
    let EmbedBackward { tokens, positions, d_out, d_table, d_pos_table, shape } = args;
    let (tokens, positions, d_out) = (tokens.as_slice(), positions.as_slice(), d_out.as_slice());
    let (d_table, mut d_pos_table) = (d_table.as_mut_slice(), d_pos_table.map(|pos| pos.as_mut_slice()));
    let c = shape.d_model;
    for n in 0..shape.rows {
        let token = check_index("embed_backward", "tokens", n, tokens[n], shape.n_vocab);
        let d_out = &d_out[n * c..][..c];
        add_scaled(&mut d_table[token * c..][..c], R::ONE, d_out);
        if let Some(d_pos_table) = &mut d_pos_table {
            let position = check_index("embed_backward", "positions", n, positions[n], shape.n_positions);
            add_scaled(&mut d_pos_table[position * c..][..c], R::ONE, d_out);
        }
    }
}

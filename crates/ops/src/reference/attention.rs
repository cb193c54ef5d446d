//! Causal attention, dense or locally banded, with grouped key/value heads.

use super::scalar::{add_scaled, dot};
use super::{Reference, Scalar};
use crate::AttnShape;
use crate::args::{Attention, AttentionBackward};

/// First position that the query at `position` sees.
pub(super) fn first_visible(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Softmax-weighted sum of the values: `out = sum_j e^(s_j - m) v_j / sum_j e^(s_j - m)` with `m = max_j s_j`, for the
/// scores `s_j = scale q . k_j` of the visible positions `j`. Returns `m + ln sum_j e^(s_j - m)`.
///
/// `key` and `value` give the vectors of position `first + j`; `scores` is as long as there are positions.
pub(super) fn attend<'k, R: Scalar>(
    query: &[R],
    scale: R,
    scores: &mut [R],
    key: impl Fn(usize) -> &'k [R],
    value: impl Fn(usize) -> &'k [R],
    out: &mut [R],
) -> R {
    let mut max = R::from_f64(f64::NEG_INFINITY);
    for (j, score) in scores.iter_mut().enumerate() {
        *score = scale * dot(query, key(j));
        max = max.max(*score);
    }
    let mut sum = R::ZERO;
    for score in &mut *scores {
        *score = (*score - max).exp();
        sum += *score;
    }
    out.fill(R::ZERO);
    for (j, &score) in scores.iter().enumerate() {
        add_scaled(out, score / sum, value(j));
    }
    max + sum.ln()
}

/// Where things are in a row of `qkv`.
struct Columns {
    query: usize,
    key: usize,
    value: usize,
}

fn columns(shape: &AttnShape, head: usize) -> Columns {
    let kv_head = head / (shape.n_heads / shape.n_kv_heads);
    Columns {
        query: head * shape.d_head,
        key: (shape.n_heads + kv_head) * shape.d_head,
        value: (shape.n_heads + shape.n_kv_heads + kv_head) * shape.d_head,
    }
}

/// For each sequence, head and query: [`attend`] to the visible positions.
pub(super) fn attention<R: Scalar>(args: Attention<'_, Reference<R>>) {
    args.check();
    let Attention { qkv, out, lse, shape } = args;
    let (qkv, out, lse) = (qkv.as_slice(), out.as_mut_slice(), lse.as_mut_slice());
    let (width, d) = (shape.qkv_width(), shape.d_head);
    let scale = R::from_f32(shape.scale);
    let mut scores = vec![R::ZERO; shape.seq_len];
    for b in 0..shape.batch {
        let sequence = &qkv[b * shape.seq_len * width..][..shape.seq_len * width];
        let head_of = |position: usize, column: usize| &sequence[position * width + column..][..d];
        for head in 0..shape.n_heads {
            let at = columns(&shape, head);
            for i in 0..shape.seq_len {
                let first = first_visible(i, shape.window);
                let row = b * shape.seq_len + i;
                lse[row * shape.n_heads + head] = attend(
                    head_of(i, at.query),
                    scale,
                    &mut scores[..i + 1 - first],
                    |j| head_of(first + j, at.key),
                    |j| head_of(first + j, at.value),
                    &mut out[row * shape.out_width() + head * d..][..d],
                );
            }
        }
    }
}

/// With `p_ij = e^(s_ij - lse_i)` and `delta_i = d_out_i . out_i`:
///
/// ```text
/// d_s_ij = p_ij (d_out_i . v_j - delta_i)
/// d_q_i = scale sum_j d_s_ij k_j      d_k_j = scale sum_i d_s_ij q_i      d_v_j = sum_i p_ij d_out_i
/// ```
///
/// Heads that share a key/value head add to the same `d_k` and `d_v`.
pub(super) fn attention_backward<R: Scalar>(args: AttentionBackward<'_, Reference<R>>) {
    args.check();
    let AttentionBackward { qkv, out, lse, d_out, d_qkv, shape } = args;
    let (qkv, out, lse) = (qkv.as_slice(), out.as_slice(), lse.as_slice());
    let (d_out, d_qkv) = (d_out.as_slice(), d_qkv.as_mut_slice());
    let (width, d) = (shape.qkv_width(), shape.d_head);
    let scale = R::from_f32(shape.scale);
    d_qkv.fill(R::ZERO);
    for b in 0..shape.batch {
        for head in 0..shape.n_heads {
            let at = columns(&shape, head);
            for i in 0..shape.seq_len {
                let row_i = b * shape.seq_len + i;
                let query_at = row_i * width + at.query;
                let query = &qkv[query_at..][..d];
                let out = &out[row_i * shape.out_width() + head * d..][..d];
                let d_out = &d_out[row_i * shape.out_width() + head * d..][..d];
                let delta = dot(d_out, out);
                for j in first_visible(i, shape.window)..=i {
                    let row_j = b * shape.seq_len + j;
                    let (key_at, value_at) = (row_j * width + at.key, row_j * width + at.value);
                    let (key, value) = (&qkv[key_at..][..d], &qkv[value_at..][..d]);
                    let p = (scale * dot(query, key) - lse[row_i * shape.n_heads + head]).exp();
                    let d_score = p * (dot(d_out, value) - delta);
                    add_scaled(&mut d_qkv[query_at..][..d], scale * d_score, key);
                    add_scaled(&mut d_qkv[key_at..][..d], scale * d_score, query);
                    add_scaled(&mut d_qkv[value_at..][..d], p, d_out);
                }
            }
        }
    }
}

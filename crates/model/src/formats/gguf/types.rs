//! In which type each tensor of a file is written.

use verve_gguf::TensorType;
use verve_ops::quant::QuantKind;

use super::names::{HEAD, POSITIONS, TOKENS};

/// The type of the tensor `name` of `shape` in a file of `weights`, with the type that was wanted where its rows do not
/// allow it.
///
/// As llama.cpp has it: vectors and position tables stay `f32` (the latter not among `bf16`); the head (or the token table that is the head) is `q6_k`
/// where the rest is narrower than `q8_0`; among `q4_k`, the values and `ffn_down` of the first and the last eighth of the
/// layers and of every third between are `q6_k`. Rows that are no whole number of blocks of 256 are written in blocks of 32:
/// `q4_0` for `q4_k`, `q8_0` for `q6_k`; rows that are not even that, as `bf16`.
pub(super) fn choose(
    weights: TensorType,
    name: &str,
    shape: &[usize],
    n_layers: usize,
    tied_head: bool,
) -> (TensorType, Option<QuantKind>) {
    // Among `bf16`, a position table of `f32` would have the whole model computed in `f32`.
    if shape.len() == 1 || (name == POSITIONS && weights != TensorType::Bf16) {
        return (TensorType::F32, None);
    }
    let TensorType::Quant(kind) = weights else { return (weights, None) };
    let is_head = name == HEAD || (tied_head && name == TOKENS);
    let wanted = match kind {
        QuantKind::Q8_0 => kind,
        _ if is_head => QuantKind::Q6K,
        QuantKind::Q4K if stays_higher(name, n_layers) => QuantKind::Q6K,
        kind => kind,
    };
    let row = shape[shape.len() - 1];
    let in_rows = |kind: QuantKind| row.is_multiple_of(kind.block_len());
    if in_rows(wanted) {
        return (TensorType::Quant(wanted), None);
    }
    let instead = if wanted == QuantKind::Q4K { QuantKind::Q4_0 } else { QuantKind::Q8_0 };
    let found = if in_rows(instead) { TensorType::Quant(instead) } else { TensorType::Bf16 };
    (found, Some(wanted))
}

/// True for the tensors that llama.cpp's "medium" mix gives more bits.
fn stays_higher(name: &str, n_layers: usize) -> bool {
    let Some((layer, field)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else { return false };
    let Ok(layer) = layer.parse::<usize>() else { return false };
    let eighth = n_layers / 8;
    let more = layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
    more && matches!(field, "attn_v.weight" | "ffn_down.weight")
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q4_K: TensorType = TensorType::Quant(QuantKind::Q4K);
    const Q6_K: TensorType = TensorType::Quant(QuantKind::Q6K);
    const Q4_0: TensorType = TensorType::Quant(QuantKind::Q4_0);
    const Q8_0: TensorType = TensorType::Quant(QuantKind::Q8_0);

    #[test]
    fn types_are_those_of_llama_cpp() {
        let of = |weights, name: &str, shape: &[usize]| choose(weights, name, shape, 16, true).0;
        assert_eq!(of(Q4_K, "blk.3.attn_q.weight", &[512, 512]), Q4_K);
        assert_eq!(of(Q4_K, TOKENS, &[100, 512]), Q6_K);
        assert_eq!(choose(Q4_K, TOKENS, &[100, 512], 16, false).0, Q4_K);
        assert_eq!(choose(Q4_0, HEAD, &[100, 512], 16, false).0, Q6_K);
        assert_eq!(of(Q8_0, TOKENS, &[100, 512]), Q8_0);
        for name in ["blk.3.attn_q.bias", "output_norm.weight"] {
            assert_eq!(of(Q4_K, name, &[512]), TensorType::F32);
        }
        assert_eq!(of(TensorType::F16, POSITIONS, &[128, 512]), TensorType::F32);
        assert_eq!(of(TensorType::Bf16, POSITIONS, &[128, 512]), TensorType::Bf16);
        // 16 layers: 0 and 1, 4, 7, 10, 13, and 14 and 15.
        let higher: Vec<usize> =
            (0..16).filter(|layer| of(Q4_K, &format!("blk.{layer}.ffn_down.weight"), &[512, 512]) == Q6_K).collect();
        assert_eq!(higher, [0, 1, 4, 7, 10, 13, 14, 15]);
    }

    #[test]
    fn rows_that_do_not_fit_get_another_type_and_it_is_said() {
        let of = |weights, name: &str, row| choose(weights, name, &[8, row], 16, true);
        assert_eq!(of(Q4_K, "blk.3.attn_q.weight", 576), (Q4_0, Some(QuantKind::Q4K)));
        assert_eq!(of(Q4_K, TOKENS, 576), (Q8_0, Some(QuantKind::Q6K)));
        assert_eq!(of(Q4_0, "blk.3.attn_q.weight", 20), (TensorType::Bf16, Some(QuantKind::Q4_0)));
        assert_eq!(of(Q8_0, TOKENS, 20), (TensorType::Bf16, Some(QuantKind::Q8_0)));
        assert_eq!(of(TensorType::F16, TOKENS, 20), (TensorType::F16, None));
    }
}

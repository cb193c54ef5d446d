//! How GGUF files name and lay out the tensors of the one parameter table.

use std::ops::Range;

use super::Architecture;
use crate::config::ModelConfig;
use crate::params::ParamSpec;

/// The token table.
pub(super) const TOKENS: &str = "token_embd.weight";
/// The position table.
pub(super) const POSITIONS: &str = "position_embd.weight";
/// The head, where it is not the token table.
pub(super) const HEAD: &str = "output.weight";

/// A tensor in a file that holds a parameter tensor, or some rows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Name in the file.
    pub name: String,
    /// Rows (first extent) of the parameter tensor that it holds.
    pub rows: Range<usize>,
    /// In which order the file has them.
    pub order: RowOrder,
}

/// Order of rows in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As in the parameter table.
    Same,
    /// For rotation of neighbours: the rows of the first and of the second half of each head take turns.
    Interleaved {
        /// Rows of a head.
        d_head: usize,
    },
}

impl RowOrder {
    /// Where the file has the row that is `index` in the table.
    pub fn row_in_file(self, index: usize) -> usize {
        match self {
            Self::Same => index,
            Self::Interleaved { d_head } => {
                let (head, row) = (index / d_head, index % d_head);
                let half = d_head / 2;
                head * d_head + 2 * (row % half) + row / half
            }
        }
    }
}

/// The tensors of a file that hold a tensor of the parameter table.
///
/// # Panics
/// For a tensor that no table has.
pub(super) fn sources(architecture: Architecture, config: &ModelConfig, spec: &ParamSpec) -> Vec<Source> {
    let all = |name: String| vec![Source { name, rows: 0..spec.shape[0], order: RowOrder::Same }];
    let Some((layer, field)) = spec.name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) else {
        return all(match spec.name.as_str() {
            "tok_embed" => TOKENS.to_owned(),
            "pos_embed" => POSITIONS.to_owned(),
            "lm_head" => HEAD.to_owned(),
            name => match name.strip_prefix("final_norm.") {
                Some(part) => format!("output_norm.{part}"),
                None => panic!("{name} is in no parameter table"),
            },
        });
    };
    let Some((field, part)) = field.rsplit_once('.') else { panic!("{} is in no parameter table", spec.name) };
    let at = |name: &str| format!("blk.{layer}.{name}.{part}");
    if field != "attn_qkv" || architecture.has_fused_qkv() {
        return all(at(match field {
            "attn_out" => "attn_output",
            "q_norm" => "attn_q_norm",
            "k_norm" => "attn_k_norm",
            "attn_post_norm" => "post_attention_norm",
            "ffn_post_norm" => "post_ffw_norm",
            same => same,
        }));
    }
    let (queries, keys) = (config.heads_width(), config.n_kv_heads * config.d_head);
    let rotated = match architecture.interleaves_rotated_rows() {
        true => RowOrder::Interleaved { d_head: config.d_head },
        false => RowOrder::Same,
    };
    vec![
        Source { name: at("attn_q"), rows: 0..queries, order: rotated },
        Source { name: at("attn_k"), rows: queries..queries + keys, order: rotated },
        Source { name: at("attn_v"), rows: queries + keys..queries + 2 * keys, order: RowOrder::Same },
    ]
}

#[cfg(test)]
mod tests {
    use super::RowOrder;

    #[test]
    fn halves_take_turns() {
        let order = RowOrder::Interleaved { d_head: 4 };
        // The file has rows 0 2 1 3 of each head.
        let found: Vec<usize> = (0..8).map(|index| order.row_in_file(index)).collect();
        assert_eq!(found, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}

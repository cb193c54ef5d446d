//! How each family of checkpoints names and lays out the tensors of the one parameter table.

use std::ops::Range;

use crate::config::{ModelConfig, Residual};
use crate::params::ParamSpec;

/// A convention of names and layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// GPT-2: matrices stored `[in, out]`.
    Gpt2,
    /// GPT-Neo: queries, keys and values apart, scores not scaled.
    GptNeo,
    /// GPT-NeoX and Pythia: queries, keys and values of a head lie together.
    GptNeoX,
    /// OPT: queries, keys and values apart, two rows of the position table that no position reads.
    Opt,
    /// Llama: queries, keys and values apart.
    Llama,
    /// Mistral: Llama's names, a sliding window.
    Mistral,
    /// Qwen2: Llama's names, biases on queries, keys and values.
    Qwen2,
    /// Qwen3: Llama's names, norms of query and key heads.
    Qwen3,
    /// The text models of Gemma 3: four norms in a block.
    Gemma3,
    /// Our own: the field paths of [`crate::Params`].
    Verve,
}

/// A tensor in a file that holds a parameter tensor, or some rows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name in the file.
    pub name: String,
    /// Rows (first extent) of the parameter tensor that it holds.
    pub rows: Range<usize>,
    /// How the file lays them out.
    pub layout: Layout,
    /// What the rows are.
    pub role: Role,
}

/// Order of a matrix's elements in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As in the parameter table.
    Same,
    /// `[d_in, d_out]` for `[d_out, d_in]`.
    Transposed,
    /// `[H, 3, D, d_in]` for `[3, H, D, d_in]`: each head's rows of queries, keys and values together.
    HeadsTogether {
        /// `H`.
        n_heads: usize,
    },
    /// Below this many rows that the parameter tensor lacks, because nothing reads them.
    Below {
        /// How many.
        rows: usize,
    },
}

/// Rows of OPT's position table that no position reads: position `p` has row `p + 2`.
const OPT_UNREAD_POSITIONS: usize = 2;

/// Whether a factor on the scores may be folded into rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Projections to queries: scores are proportional to them.
    Queries,
    /// Anything else.
    Other,
}

impl Source {
    /// Shape of the tensor in the file, for a parameter tensor of `spec`.
    pub fn shape(&self, spec: &ParamSpec) -> Vec<usize> {
        let mut shape = spec.shape.clone();
        shape[0] = self.rows.len();
        match self.layout {
            Layout::Same | Layout::HeadsTogether { .. } => {}
            Layout::Transposed => shape.reverse(),
            Layout::Below { rows } => shape[0] += rows,
        }
        shape
    }
}

impl Family {
    /// Value of `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::GptNeo => "gpt_neo",
            Self::GptNeoX => "gpt_neox",
            Self::Opt => "opt",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3_text",
            Self::Verve => "verve",
        }
    }

    /// What stands before most names in files that hold a model with its head.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Gpt2 | Self::GptNeo => "transformer.",
            Self::GptNeoX => "gpt_neox.",
            Self::Opt => "model.decoder.",
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3 | Self::Gemma3 => "model.",
            Self::Verve => "",
        }
    }

    /// What stands there in files that hold the bare model.
    pub(super) fn bare_prefix(self) -> &'static str {
        if self == Self::Opt { "decoder." } else { "" }
    }

    /// Name of the head.
    pub(super) fn head(self) -> &'static str {
        match self {
            Self::GptNeoX => "embed_out.weight",
            Self::Verve => "lm_head",
            _ => "lm_head.weight",
        }
    }

    /// Where the tensor `spec` of a model of shape `config` is in a file whose names begin with `prefix`.
    ///
    /// # Panics
    /// When the family has no place for the tensor: its configuration should not have been accepted.
    pub fn sources(self, prefix: &str, config: &ModelConfig, spec: &ParamSpec) -> Vec<Source> {
        let whole = |name: String, layout| vec![Source { name, rows: 0..spec.shape[0], layout, role: Role::Other }];
        if self == Self::Verve {
            return whole(spec.name.clone(), Layout::Same);
        }
        let (path, kind) = match spec.name.rsplit_once('.') {
            Some((path, kind)) => (path, kind),
            None => (spec.name.as_str(), "weight"),
        };
        let (layer, field) = match path.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, field)) => (Some(layer), field),
            None => (None, path),
        };
        let after;
        let (layer, field) = match (self, config.residual) {
            (Self::Opt, Residual::PostNorm) => {
                after = opt_post_norm(config, layer, field);
                (after.0.as_deref(), after.1)
            }
            _ => (layer, field),
        };
        if field == "lm_head" {
            return whole(self.head().to_owned(), Layout::Same);
        }
        let blocks = if matches!(self, Self::Gpt2 | Self::GptNeo) { "h" } else { "layers" };
        let place = match layer {
            Some(layer) => format!("{prefix}{blocks}.{layer}."),
            None => prefix.to_owned(),
        };
        let full = |name: &str| format!("{place}{name}.{kind}");
        if field == "attn_qkv" && !matches!(self, Self::Gpt2 | Self::GptNeoX) {
            let attention = if self == Self::GptNeo { "attn.attention" } else { "self_attn" };
            let (queries, keys) = (config.heads_width(), config.n_kv_heads * config.d_head);
            return [
                ("q_proj", 0..queries, Role::Queries),
                ("k_proj", queries..queries + keys, Role::Other),
                ("v_proj", queries + keys..queries + 2 * keys, Role::Other),
            ]
            .map(|(name, rows, role)| Source {
                name: full(&format!("{attention}.{name}")),
                rows,
                layout: Layout::Same,
                role,
            })
            .to_vec();
        }
        let name = match self {
            Self::Gpt2 => gpt2(field),
            Self::GptNeo => gpt_neo(field),
            Self::GptNeoX => gpt_neox(field),
            Self::Opt => opt(field),
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3 => llama(field),
            Self::Gemma3 => gemma3(field),
            Self::Verve => None,
        };
        let Some(name) = name else { panic!("{self:?} has no place for {}", spec.name) };
        let layout = match (self, field) {
            (Self::Gpt2, _) if layer.is_some() && spec.shape.len() == 2 => Layout::Transposed,
            (Self::GptNeoX, "attn_qkv") => Layout::HeadsTogether { n_heads: config.n_heads },
            (Self::Opt, "pos_embed") => Layout::Below { rows: OPT_UNREAD_POSITIONS },
            _ => Layout::Same,
        };
        whole(full(name), layout)
    }

    /// True for tensors that old files hold and that are not parameters: mask and frequency buffers.
    pub fn is_buffer(self, name: &str) -> bool {
        let endings: &[&str] = match self {
            Self::Gpt2 => &[".attn.bias", ".attn.masked_bias"],
            Self::GptNeo => &[".attn.attention.bias", ".attn.attention.masked_bias"],
            Self::GptNeoX => &[".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"],
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3 | Self::Gemma3 => &[".rotary_emb.inv_freq"],
            Self::Opt | Self::Verve => &[],
        };
        endings.iter().any(|ending| name.ends_with(ending))
    }
}

fn gpt2(field: &str) -> Option<&'static str> {
    Some(match field {
        "attn_qkv" => "attn.c_attn",
        "attn_out" => "attn.c_proj",
        _ => return gpt_common(field),
    })
}

fn gpt_neo(field: &str) -> Option<&'static str> {
    Some(match field {
        "attn_out" => "attn.attention.out_proj",
        _ => return gpt_common(field),
    })
}

fn gpt_common(field: &str) -> Option<&'static str> {
    Some(match field {
        "tok_embed" => "wte",
        "pos_embed" => "wpe",
        "attn_norm" => "ln_1",
        "ffn_norm" => "ln_2",
        "ffn_up" => "mlp.c_fc",
        "ffn_down" => "mlp.c_proj",
        "final_norm" => "ln_f",
        _ => return None,
    })
}

fn gpt_neox(field: &str) -> Option<&'static str> {
    Some(match field {
        "tok_embed" => "embed_in",
        "attn_norm" => "input_layernorm",
        "attn_qkv" => "attention.query_key_value",
        "attn_out" => "attention.dense",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_up" => "mlp.dense_h_to_4h",
        "ffn_down" => "mlp.dense_4h_to_h",
        "final_norm" => "final_layer_norm",
        _ => return None,
    })
}

fn opt(field: &str) -> Option<&'static str> {
    Some(match field {
        "tok_embed" => "embed_tokens",
        "pos_embed" => "embed_positions",
        "attn_norm" => "self_attn_layer_norm",
        "attn_out" => "self_attn.out_proj",
        "ffn_up" => "fc1",
        "ffn_down" => "fc2",
        // The same name in a block and after all of them.
        "ffn_norm" | "final_norm" => "final_layer_norm",
        _ => return None,
    })
}

/// OPT names a norm for what it comes after, where this crate names it for what reads it: the place in a model with norms
/// before that has the same name.
fn opt_post_norm<'a>(config: &ModelConfig, layer: Option<&str>, field: &'a str) -> (Option<String>, &'a str) {
    let number = layer.and_then(|layer| layer.parse::<usize>().ok()).unwrap_or(config.n_layers);
    match field {
        "attn_norm" | "final_norm" => (number.checked_sub(1).map(|before| before.to_string()), "ffn_norm"),
        "ffn_norm" => (layer.map(str::to_owned), "attn_norm"),
        _ => (layer.map(str::to_owned), field),
    }
}

fn llama(field: &str) -> Option<&'static str> {
    Some(match field {
        "tok_embed" => "embed_tokens",
        "attn_norm" => "input_layernorm",
        "q_norm" => "self_attn.q_norm",
        "k_norm" => "self_attn.k_norm",
        "attn_out" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_up" => "mlp.up_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_down" => "mlp.down_proj",
        "final_norm" => "norm",
        _ => return None,
    })
}

fn gemma3(field: &str) -> Option<&'static str> {
    Some(match field {
        "attn_post_norm" => "post_attention_layernorm",
        "ffn_norm" => "pre_feedforward_layernorm",
        "ffn_post_norm" => "post_feedforward_layernorm",
        _ => return llama(field),
    })
}

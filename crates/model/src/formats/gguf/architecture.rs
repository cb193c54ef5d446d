//! What a file's metadata say about the model.

use verve_gguf::GgufFile;

use crate::config::{
    AttentionPattern, AttnScale, Biases, EmbedScale, FfnActivation, ModelConfig, Norm, Positions, Residual,
    RotaryScaling,
};
use crate::error::ModelError;
use crate::formats::GenerationIds;

/// A value of `general.architecture` that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// GPT-2.
    Gpt2,
    /// Llama, and what is computed like it: Mistral without a window, SmolLM2, TinyLlama.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
    /// The text models of Gemma 3. Files have `1 + w` for the norm weights `w` of the original.
    Gemma3,
}

const ALL: [(&str, Architecture); 5] = [
    ("gpt2", Architecture::Gpt2),
    ("llama", Architecture::Llama),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("gemma3", Architecture::Gemma3),
];

/// Gemma 3's pattern, which files do not say: every sixth layer sees everything; the others have a rotary base of their own.
const GEMMA_GLOBAL_EVERY: usize = 6;
const GEMMA_LOCAL_THETA: f64 = 10_000.0;
/// Layers of the one size, 27B, whose scores are scaled by the width of a head as if heads shared the model's width.
const GEMMA_27B_LAYERS: usize = 62;

impl Architecture {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// Whether queries, keys and values are one tensor.
    pub(super) fn has_fused_qkv(self) -> bool {
        self == Self::Gpt2
    }

    /// Whether rows of queries and keys are in the order for rotating neighbours.
    pub(super) fn interleaves_rotated_rows(self) -> bool {
        self == Self::Llama
    }
}

/// Metadata below the architecture's name.
struct Keys<'a> {
    file: &'a GgufFile,
    name: &'static str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        Ok(self.file.count(&self.key(key))?)
    }

    fn required(&self, key: &str) -> Result<usize, ModelError> {
        Ok(self.file.required(&self.key(key), self.count(key)?)?)
    }

    fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        Ok(self.file.float(&self.key(key))?)
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.tensor(tensor).is_some()
    }

    fn refuse(&self, key: &str, found: impl ToString, supported: &'static str) -> ModelError {
        ModelError::UnsupportedKey {
            path: self.file.path().to_owned(),
            key: self.key(key),
            found: found.to_string(),
            supported: supported.to_owned(),
        }
    }
}

/// The configuration of a file.
pub(super) fn parse(file: &GgufFile) -> Result<(Architecture, ModelConfig), ModelError> {
    let found = file.required("general.architecture", file.text("general.architecture")?)?;
    let Some((name, architecture)) = ALL.into_iter().find(|(name, _)| *name == found) else {
        return Err(ModelError::Malformed {
            path: file.path().to_owned(),
            problem: format!(
                "its architecture is {found:?}, which is not supported; there are: {}",
                ALL.map(|(name, _)| name).join(", ")
            ),
        });
    };
    let keys = Keys { file, name };
    let (d_model, n_heads) = (keys.required("embedding_length")?, keys.required("attention.head_count")?);
    let n_kv_heads = keys.count("attention.head_count_kv")?.unwrap_or(n_heads);
    let d_head = match keys.count("attention.key_length")? {
        Some(d_head) => d_head,
        None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
        None => {
            return Err(keys.refuse(
                "attention.head_count",
                n_heads,
                "a number of heads that divides embedding_length",
            ));
        }
    };
    if keys.count("attention.value_length")?.is_some_and(|d| d != d_head) {
        let found = keys.count("attention.value_length")?.unwrap_or(0);
        return Err(keys.refuse("attention.value_length", found, "the same as key_length"));
    }
    refuse_variants(&keys, d_head)?;
    let rms = |keys: &Keys<'_>| keys.float("attention.layer_norm_rms_epsilon");
    let (norm, eps) = match architecture {
        Architecture::Gpt2 => (Norm::LayerNorm, keys.float("attention.layer_norm_epsilon")?),
        _ => (Norm::RmsNorm, rms(&keys)?),
    };
    let biases = match architecture {
        Architecture::Gpt2 => Biases::ALL,
        _ => Biases {
            qkv: keys.has("blk.0.attn_q.bias"),
            attn_out: keys.has("blk.0.attn_output.bias"),
            ffn: keys.has("blk.0.ffn_up.bias"),
        },
    };
    let n_layers = keys.required("block_count")?;
    let gemma = architecture == Architecture::Gemma3;
    let n_vocab = file.tensor("token_embd.weight").map(|tensor| tensor.shape[0]);
    let Some(n_vocab) = n_vocab else {
        let (path, name) = (file.path().to_owned(), "token_embd.weight".to_owned());
        return Err(ModelError::MissingTensor { path, name });
    };
    let config = ModelConfig {
        n_layers,
        d_model,
        d_ff: keys.required("feed_forward_length")?,
        n_heads,
        n_kv_heads,
        d_head,
        n_ctx: keys.required("context_length")?,
        n_vocab,
        norm,
        norm_eps: as_written(eps.unwrap_or(1e-5)),
        positions: match architecture {
            Architecture::Gpt2 => Positions::Learned,
            _ => Positions::Rotary { theta: as_written(keys.float("rope.freq_base")?.unwrap_or(10_000.0)) },
        },
        activation: match architecture {
            Architecture::Gpt2 => FfnActivation::GeluTanh,
            Architecture::Gemma3 => FfnActivation::GeGlu,
            Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 => FfnActivation::SwiGlu,
        },
        attention: match (architecture, keys.count("attention.sliding_window")?) {
            (Architecture::Gemma3, Some(band)) => AttentionPattern::Periodic { band, global_every: GEMMA_GLOBAL_EVERY },
            _ => AttentionPattern::Dense,
        },
        attn_scale: match (architecture, n_layers) {
            (Architecture::Gemma3, GEMMA_27B_LAYERS) => AttnScale::InvSqrtOf { width: d_model / n_heads.max(1) },
            _ => AttnScale::InvSqrtHead,
        },
        biases,
        tied_head: !keys.has("output.weight"),
        init_std: 0.02,
        rotary_pct: 1.0,
        rotary_scaling: scaling(&keys)?,
        rotary_local_theta: gemma.then_some(GEMMA_LOCAL_THETA),
        residual: Residual::Sequential,
        qk_norm: gemma || architecture == Architecture::Qwen3,
        post_norms: gemma,
        embed_scale: if gemma { EmbedScale::SqrtWidth } else { EmbedScale::One },
    };
    Ok((architecture, config))
}

/// A number that was rounded to `f32` when the file was written, as its author wrote it: `1e-5`, not `9.99999974e-6`.
fn as_written(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

/// How rotary frequencies are scaled.
fn scaling(keys: &Keys<'_>) -> Result<RotaryScaling, ModelError> {
    match keys.file.text(&keys.key("rope.scaling.type"))? {
        None | Some("none") => Ok(RotaryScaling::None),
        Some("linear") => {
            let factor = keys.file.required(&keys.key("rope.scaling.factor"), keys.float("rope.scaling.factor")?)?;
            Ok(RotaryScaling::Linear { factor: as_written(factor) })
        }
        Some(other) => Err(keys.refuse("rope.scaling.type", format!("{other:?}"), "\"none\" or \"linear\"")),
    }
}

/// Refuses what this program does not compute.
fn refuse_variants(keys: &Keys<'_>, d_head: usize) -> Result<(), ModelError> {
    if let Some(found) = keys.count("rope.dimension_count")?.filter(|&d| d != d_head) {
        return Err(keys.refuse("rope.dimension_count", found, "all of a head's dimensions"));
    }
    if keys.has("rope_freqs.weight") {
        return Err(ModelError::Malformed {
            path: keys.file.path().to_owned(),
            problem:
                "scales its rotary frequencies (rope_freqs.weight), which is not supported in GGUF files yet; the same \
                      model as a Hugging Face folder names the scaling"
                    .to_owned(),
        });
    }
    let window = keys.count("attention.sliding_window")?.filter(|&window| window > 0);
    if let Some(found) = window.filter(|_| keys.name != Architecture::Gemma3.name()) {
        return Err(keys.refuse("attention.sliding_window", found, "no window"));
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(found) = keys.float(key)?.filter(|&cap| cap != 0.0) {
            return Err(keys.refuse(key, found, "no cap"));
        }
    }
    if let Some(found) = keys.count("expert_count")?.filter(|&experts| experts > 0) {
        return Err(keys.refuse("expert_count", found, "no experts"));
    }
    Ok(())
}

/// The ids of special tokens.
pub(super) fn ids(file: &GgufFile, n_vocab: usize) -> Result<GenerationIds, ModelError> {
    let id = |name: &str| -> Result<Option<u32>, ModelError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match file.count(&key)? {
            // Converters write -1 as 2^32 - 1 for "none".
            None | Some(0xffff_ffff) => Ok(None),
            Some(id) if id < n_vocab => Ok(Some(id as u32)),
            Some(id) => Err(ModelError::Malformed {
                path: file.path().to_owned(),
                problem: format!("`{key}` is {id}, and the vocabulary has {n_vocab} tokens"),
            }),
        }
    };
    let mut eos: Vec<u32> = [id("eos")?, id("eot")?, id("eom")?].into_iter().flatten().collect();
    eos.sort_unstable();
    eos.dedup();
    Ok(GenerationIds { bos: id("bos")?, eos, pad: id("padding")? })
}

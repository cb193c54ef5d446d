//! What a file's metadata say about the model.

use verve_gguf::{GgufFile, TensorType};

use super::{describe, rope_factors};
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
    /// GPT-NeoX and Pythia. Files do not name the activation; it is Pythia's, GELU with the error function.
    GptNeoX,
    /// Llama, and what is computed like it: Mistral without a window, SmolLM2, TinyLlama.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
    /// The text models of Gemma 3. Files have `1 + w` for the norm weights `w` of the original.
    Gemma3,
    /// Our own: the whole configuration as JSON, for models that no other architecture says.
    Verve,
}

const ALL: [(&str, Architecture); 7] = [
    ("gpt2", Architecture::Gpt2),
    ("gptneox", Architecture::GptNeoX),
    ("llama", Architecture::Llama),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("gemma3", Architecture::Gemma3),
    ("verve", Architecture::Verve),
];

/// Key of the whole configuration as JSON, beside the architecture's own keys: what those do not say survives a round trip.
pub(super) const OWN_CONFIG: &str = "verve.config";
/// Longest such text that is read.
const MAX_OWN_CONFIG: usize = 1 << 16;
/// Tensor of frequency factors.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Gemma 3's pattern, which files do not say: every sixth layer sees everything; the others have a rotary base of their own.
pub(super) const GEMMA_GLOBAL_EVERY: usize = 6;
pub(super) const GEMMA_LOCAL_THETA: f64 = 10_000.0;
/// Layers of the one size, 27B, whose scores are scaled by the width of a head as if heads shared the model's width.
pub(super) const GEMMA_27B_LAYERS: usize = 62;

/// The factor on a Gemma's scores.
pub(super) fn gemma_scale(n_layers: usize, d_model: usize, n_heads: usize) -> AttnScale {
    match n_layers {
        GEMMA_27B_LAYERS => AttnScale::InvSqrtOf { width: d_model / n_heads.max(1) },
        _ => AttnScale::InvSqrtHead,
    }
}

impl Architecture {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// Whether queries, keys and values are one tensor.
    pub(super) fn has_fused_qkv(self) -> bool {
        matches!(self, Self::Gpt2 | Self::GptNeoX | Self::Verve)
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
    if architecture == Architecture::Verve {
        let text = file.required(OWN_CONFIG, file.text(OWN_CONFIG)?)?;
        let config = parse_own(text).map_err(|problem| ModelError::Malformed {
            path: file.path().to_owned(),
            problem: format!("`{OWN_CONFIG}`: {problem}"),
        })?;
        return Ok((architecture, config));
    }
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
    refuse_variants(&keys, architecture, d_head)?;
    let neox = architecture == Architecture::GptNeoX;
    let d_rot = keys.count("rope.dimension_count")?.unwrap_or(d_head);
    let rms = |keys: &Keys<'_>| keys.float("attention.layer_norm_rms_epsilon");
    let (norm, eps) = match architecture {
        Architecture::Gpt2 | Architecture::GptNeoX => (Norm::LayerNorm, keys.float("attention.layer_norm_epsilon")?),
        _ => (Norm::RmsNorm, rms(&keys)?),
    };
    let biases = match architecture {
        Architecture::Gpt2 => Biases::ALL,
        Architecture::GptNeoX => {
            let attention = keys.has("blk.0.attn_qkv.bias");
            Biases { qkv: attention, attn_out: attention, ffn: true }
        }
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
            Architecture::GptNeoX => FfnActivation::GeluErf,
            Architecture::Gemma3 => FfnActivation::GeGlu,
            _ => FfnActivation::SwiGlu,
        },
        attention: match (architecture, keys.count("attention.sliding_window")?) {
            (Architecture::Gemma3, Some(band)) => AttentionPattern::Periodic { band, global_every: GEMMA_GLOBAL_EVERY },
            _ => AttentionPattern::Dense,
        },
        attn_scale: if gemma { gemma_scale(n_layers, d_model, n_heads) } else { AttnScale::InvSqrtHead },
        biases,
        tied_head: !keys.has("output.weight"),
        init_std: 0.02,
        rotary_pct: if neox { rotary_share(d_rot, d_head) } else { 1.0 },
        rotary_scaling: RotaryScaling::None,
        rotary_local_theta: gemma.then_some(GEMMA_LOCAL_THETA),
        residual: match keys.file.bool(&keys.key("use_parallel_residual"))? {
            Some(false) => Residual::Sequential,
            _ if neox => Residual::Parallel,
            _ => Residual::Sequential,
        },
        qk_norm: gemma || architecture == Architecture::Qwen3,
        post_norms: gemma,
        embed_scale: if gemma { EmbedScale::SqrtWidth } else { EmbedScale::One },
    };
    let own = file.text(OWN_CONFIG)?.and_then(|text| parse_own(text).ok());
    let config = ModelConfig { rotary_scaling: scaling(&keys, &config, own.as_ref())?, ..config };
    // Our own text says more, if the other keys still say the same.
    let own = own.filter(|own| describe::as_read(own) == config);
    Ok((architecture, own.unwrap_or(config)))
}

fn parse_own(text: &str) -> Result<ModelConfig, String> {
    if text.len() > MAX_OWN_CONFIG {
        return Err(format!("is longer than {MAX_OWN_CONFIG} bytes"));
    }
    let config: ModelConfig = serde_json::from_str(text).map_err(|e| e.to_string())?;
    config.validate().map_err(|e| e.to_string())?;
    Ok(config)
}

/// A number that was rounded to `f32` when the file was written, as its author wrote it: `1e-5`, not `9.99999974e-6`.
pub(super) fn as_written(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

/// The share of a head of which just `d_rot` dimensions rotate.
pub(super) fn rotary_share(d_rot: usize, d_head: usize) -> f64 {
    let share = d_rot as f64 / d_head as f64;
    // Rounded down, the product of the two may miss the number by one.
    if ((share * d_head as f64) as usize) < d_rot { share.next_up() } else { share }
}

/// How rotary frequencies are scaled. `own`, if there is one, goes before another scaling of the same factors.
fn scaling(keys: &Keys<'_>, config: &ModelConfig, own: Option<&ModelConfig>) -> Result<RotaryScaling, ModelError> {
    let named = match keys.file.text(&keys.key("rope.scaling.type"))? {
        None | Some("none") => RotaryScaling::None,
        Some("linear") => {
            let factor = keys.file.required(&keys.key("rope.scaling.factor"), keys.float("rope.scaling.factor")?)?;
            RotaryScaling::Linear { factor: as_written(factor) }
        }
        Some(other) => return Err(keys.refuse("rope.scaling.type", format!("{other:?}"), "\"none\" or \"linear\"")),
    };
    let Some(tensor) = keys.file.tensor(ROPE_FREQS) else { return Ok(named) };
    let malformed = |problem: &str| ModelError::Malformed {
        path: keys.file.path().to_owned(),
        problem: format!("{ROPE_FREQS}, the factors of its rotary frequencies, {problem}"),
    };
    let Positions::Rotary { theta } = config.positions else {
        return Err(malformed("belongs to rotary positions, which the model does not have"));
    };
    if named != RotaryScaling::None || config.rotary_local_theta.is_some() {
        return Err(malformed("comes with another scaling or base of the frequencies"));
    }
    let d_rot = config.d_rot();
    if tensor.kind != TensorType::F32 || tensor.shape != [d_rot / 2] {
        return Err(malformed(&format!(
            "should be {} values of type f32 and is {:?} of {}",
            d_rot / 2,
            tensor.shape,
            tensor.kind
        )));
    }
    let bytes = keys.file.bytes(ROPE_FREQS)?;
    let found: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if let Some(own) = own
        && rope_factors::factors(own.rotary_scaling, theta, d_rot).as_ref() == Some(&found)
    {
        return Ok(own.rotary_scaling);
    }
    rope_factors::scaling_of(&found, theta, d_rot)
        .ok_or_else(|| malformed("are not those of Llama 3's scaling, and no other is supported"))
}

/// Refuses what this program does not compute.
fn refuse_variants(keys: &Keys<'_>, architecture: Architecture, d_head: usize) -> Result<(), ModelError> {
    let partial = architecture == Architecture::GptNeoX;
    if let Some(found) = keys.count("rope.dimension_count")?.filter(|&d| d > d_head || d < d_head && !partial) {
        return Err(keys.refuse("rope.dimension_count", found, "all of a head's dimensions"));
    }
    let window = keys.count("attention.sliding_window")?.filter(|&window| window > 0);
    if let Some(found) = window.filter(|_| architecture != Architecture::Gemma3) {
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

//! Gemma's files keep the weights of norms less one in the Hugging Face layout, and whole in GGUF.

use super::Family;
use super::hf_config::family_for;
use crate::config::{ModelConfig, Norm};
use crate::params::ParamSpec;

/// True for the weight of a norm.
pub(super) fn is_norm_weight(spec: &ParamSpec) -> bool {
    spec.name.ends_with("norm.weight")
}

/// The configuration in the terms of the Hugging Face families, and what is added to the weights of norms for it.
pub(super) fn for_folder(config: &ModelConfig) -> (ModelConfig, f32) {
    let less_one = ModelConfig { norm: Norm::RmsNormPlusOne, ..config.clone() };
    match config.norm == Norm::RmsNorm && family_for(&less_one).0 == Family::Gemma3 {
        true => (less_one, -1.0),
        false => (config.clone(), 0.0),
    }
}

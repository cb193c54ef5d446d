//! One configurable decoder: configuration, parameter table, initialisation, forward, backward, inference, file formats.
#![deny(unsafe_code)]

pub mod config;
mod error;
pub mod init;
pub mod params;
pub mod presets;
pub mod rng;

pub use config::{AttentionPattern, AttnScale, Biases, FfnActivation, ModelConfig, Norm, Positions};
pub use error::ModelError;
pub use init::init;
pub use params::{Decay, Grads, Init, Moments, ParamSpec, Params, Weights, layout};

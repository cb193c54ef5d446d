//! One configurable decoder: configuration, parameter table, initialisation, forward, backward, inference, file formats.
#![forbid(unsafe_code)]

mod activations;
mod backward;
pub mod config;
mod error;
pub mod formats;
mod forward;
mod infer;
mod infer_weights;
pub mod init;
mod network;
pub mod params;
pub mod plan;
pub mod presets;
pub mod rng;
mod rope;

pub use activations::{Activations, ElementSizes, Recompute, activation_bytes};
pub use backward::forward_backward;
pub use config::{
    AttentionPattern, AttnScale, Biases, EmbedScale, FfnActivation, ModelConfig, Norm, Positions, Residual,
    RotaryScaling,
};
pub use error::ModelError;
pub use forward::{LossSum, Network, TrainBatch, forward_loss};
pub use infer::{
    InferStep, KvCache, StepBatch, StepLimits, hidden_states, infer_memory_plan, infer_step, kv_bytes_per_token,
};
pub use infer_weights::{InferWeights, QuantRows, WeightFormats};
pub use init::init;
pub use params::{Decay, Grads, Init, Moments, ParamSpec, Params, Weights, layout};
pub use plan::{MasterWeights, MemoryOptions, MemoryPlan, PlanItem, memory_plan};

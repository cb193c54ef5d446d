//! The CPU backend: kernels at every SIMD level, matrix products, thread pool.
//!
//! [`CpuBackend`] implements [`verve_ops::Backend`] and [`verve_ops::InferBackend`] for weights and activations in `f32`
//! or `bf16`, with statistics, gradients of weights and moments in `f32`.
//!
//! At one instruction set ([`Isa`]) results are bit-equal for any number of threads and, for inference, any batch.
#![deny(unsafe_code)]

mod backend;
mod buffer;
mod error;
#[allow(unsafe_code)]
mod gemm;
mod isa;
mod kernels;
#[allow(unsafe_code)]
pub mod pool;
#[allow(unsafe_code)]
pub mod simd;

pub use backend::CpuBackend;
pub use buffer::{ALIGN, CpuBuf};
pub use error::CpuError;
pub use gemm::PackedWeight;
pub use isa::{Features, Isa, SIMD_VARIABLE, SimdLevel};
pub use simd::CpuElem;

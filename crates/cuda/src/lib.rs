//! The CUDA backend: the operations of the contract on an NVIDIA GPU.
//!
//! Nothing of CUDA is needed to build this crate. The driver, NVRTC and cuBLASLt are looked for when a program asks for the
//! device ([`libraries`]); what is missing is an error value that says what would fix it. The kernels are CUDA C++ sources
//! in this crate ([`kernels`]), compiled by NVRTC for the card at hand and kept on disk ([`compile`]).
//!
//! [`CudaBackend`] speaks to a [`Device`], the seam at which the tests put an emulator of the instruction set.
#![deny(unsafe_code)]

mod args;
mod backend;
mod buffer;
mod ceilings;
pub mod compile;
mod device;
#[allow(unsafe_code)]
mod driver;
mod error;
pub mod kernels;
mod launch;
pub mod libraries;
mod weight;

pub use args::Args;
pub use backend::{CudaBackend, CudaElem, Products};
pub use buffer::CudaBuf;
pub use device::{
    Device, DeviceInfo, DevicePtr, ElemKind, Grid, KernelHandle, Launch, MatrixProduct, Op, ProductEpilogue,
};
pub use driver::{DriverDevice, card_count, card_names};
pub use error::DeviceError;
pub use weight::CudaWeight;

//! The boundary between models and machines: backend traits, shapes, element types and the plain reference
//! implementation.
//!
//! A model is written once as calls on a [`Backend`] and runs on whatever implements it. The list of operations is
//! closed and coarse; see [`backend`] for the contracts and [`args`] for each operation's arguments.
#![forbid(unsafe_code)]

pub mod args;
pub mod backend;
mod element;
mod error;
mod kv;
pub mod quant;
pub mod reference;
mod shape;

pub use backend::{Backend, Buffer, InferBackend};
pub use element::{Element, Real};
pub use error::BackendError;
pub use kv::{KvFormat, KvLayer, quantize_head, to_f16};
pub use shape::*;

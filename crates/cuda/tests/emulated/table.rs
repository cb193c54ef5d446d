//! The table of operations on the emulated card.

use std::sync::Arc;

use verve_cuda::{CudaBackend, CudaElem, Products};
use verve_testkit::ops_suite;

use crate::device::EmulatedDevice;
use crate::nvrtc;

/// A backend of its own for each test, or `None` where there is no compiler.
pub fn backend<E: CudaElem>() -> Option<CudaBackend<E>> {
    let device: Arc<EmulatedDevice> = EmulatedDevice::new(nvrtc::compiler()?);
    Some(CudaBackend::new(device, Products::Own))
}

macro_rules! families {
    ($($family:ident)*) => {
        mod f32 {
            use super::*;
            $(#[test] fn $family() { if let Some(backend) = backend::<f32>() { ops_suite::$family(&backend) } })*
        }
        mod bf16 {
            use super::*;
            $(#[test] fn $family() { if let Some(backend) = backend::<half::bf16>() { ops_suite::$family(&backend) } })*
        }
    };
}

families!(
    moves round sum_squares embed norm head_norm scaled_sum linear linear_backward activation rope attention
    attention_backward_rounded head_loss adamw embed_prepared linear_prepared logits gather_rows attention_cached
    rows_are_independent quantized_products quantized_rows_are_independent quantized_embed quantized_damaged int8_products
    int8_hostile wrong_sizes
);

//! The table of operations on a real card; skipped, and said so, where there is none.

use std::sync::Arc;

use verve_cuda::compile::Cache;
use verve_cuda::libraries::Search;
use verve_cuda::{CudaBackend, CudaElem, DriverDevice, Products};
use verve_testkit::ops_suite;

/// The first card, or `None` after a line that says why not.
fn backend<E: CudaElem>(products: Products) -> Option<CudaBackend<E>> {
    let search = Search::from_env();
    match DriverDevice::open(0, &search, Cache::from_env()) {
        Ok(device) => Some(CudaBackend::new(Arc::new(device), products)),
        Err(error) => {
            assert!(std::env::var_os("VERVE_REQUIRE_GPU").is_none(), "VERVE_REQUIRE_GPU is set: {error}");
            println!("skipped: no GPU ({error})");
            None
        }
    }
}

macro_rules! families {
    ($products:expr; $($family:ident)*) => {
        mod f32 {
            use super::*;
            $(#[test] fn $family() { if let Some(backend) = backend::<f32>($products) { ops_suite::$family(&backend) } })*
        }
        mod bf16 {
            use super::*;
            $(#[test] fn $family() { if let Some(backend) = backend::<half::bf16>($products) { ops_suite::$family(&backend) } })*
        }
    };
}

/// With the kernels of this crate alone.
mod own {
    use super::*;
    families!(Products::Own;
        moves round sum_squares embed norm head_norm scaled_sum linear linear_backward activation rope attention
        attention_backward_rounded head_loss adamw embed_prepared linear_prepared logits gather_rows attention_cached
        rows_are_independent quantized_products quantized_rows_are_independent quantized_embed quantized_damaged int8_products
        int8_hostile wrong_sizes
    );
}

/// What cuBLASLt computes.
mod library {
    use super::*;
    families!(Products::Library; linear linear_backward head_loss);
}

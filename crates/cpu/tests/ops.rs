//! The op test table on the CPU backend, at every instruction set of this host and in both element types.

use half::bf16;
use verve_cpu::{CpuBackend, CpuElem, Isa};
use verve_testkit::ops_suite;

fn backend<E: CpuElem>(n_threads: usize, isa: Isa) -> CpuBackend<E> {
    CpuBackend::new(n_threads, isa).unwrap_or_else(|error| panic!("{error}"))
}

/// Each family of operations as a test, with two threads.
macro_rules! families {
    ($($family:ident)*) => {
        $(
            #[test]
            fn $family() {
                for isa in Isa::available() {
                    ops_suite::$family(&backend::<f32>(2, isa));
                    ops_suite::$family(&backend::<bf16>(2, isa));
                }
            }
        )*
    };
}

families!(
    moves round sum_squares embed norm head_norm scaled_sum linear linear_backward activation rope attention
    attention_backward head_loss adamw embed_prepared linear_prepared logits gather_rows attention_cached attention_cached_f16
    attention_cached_int8 rows_are_independent
    quantized_products quantized_rows_are_independent quantized_embed quantized_damaged int8_products int8_hostile wrong_sizes
    ids_out_of_range
);

/// Integer products are exact with and without the instruction for them.
#[test]
fn int8_without_vnni() {
    let isa = Isa::detect().without_vnni();
    ops_suite::int8_products(&backend::<f32>(1, isa));
    ops_suite::int8_hostile(&backend::<bf16>(2, isa));
}

#[test]
fn threads_f32() {
    for isa in Isa::available() {
        ops_suite::threads(|n_threads| backend::<f32>(n_threads, isa));
    }
}

#[test]
fn threads_bf16() {
    for isa in Isa::available() {
        ops_suite::threads(|n_threads| backend::<bf16>(n_threads, isa));
    }
}

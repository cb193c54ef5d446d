//! The table of tests that every backend must pass, one function for each family of operations.
//!
//! Each function runs every operation of its family over awkward shapes, with random inputs that the backend's element
//! type can hold, and compares with the reference in `f64` on the same inputs, within [`crate::tolerance`]. Outputs hold
//! NaN before, so that a missing overwrite is seen; what is added to holds random numbers; where buffers may be longer
//! than needed they are, with NaN behind inputs and marks behind outputs. All functions panic on the first failure, with the
//! operation, its shape and the worst number.
//!
//! A backend's tests call each function from a test of its own, for every instruction set and element type:
//!
//! ```
//! use verve_ops::reference::Reference;
//! use verve_testkit::ops_suite;
//!
//! // #[test] fn norm() {
//! ops_suite::norm(&Reference::<f32>::new());
//! // }
//! ```
//!
//! Or all at once, as tests of a module named after the backend: see [`crate::backend_tests`].

mod activation;
mod attention;
mod cached;
mod case;
mod embed;
mod head_norm;
mod linear;
mod loss;
mod misuse;
mod norm;
mod optimizer;
mod prepared;
mod quantized;
mod rope;
mod transfers;

use verve_ops::{Backend, InferBackend, KvFormat};

use crate::tolerance::Class;

/// `alloc`, `upload`, `download`, `copy`, `fill_zero`.
pub fn moves<B: Backend>(backend: &B) {
    transfers::moves(backend);
}

/// `round`.
pub fn round<B: Backend>(backend: &B) {
    transfers::round(backend);
}

/// `sum_squares`.
pub fn sum_squares<B: Backend>(backend: &B) {
    transfers::sum_squares(backend);
}

/// `embed` and `embed_backward`.
pub fn embed<B: Backend>(backend: &B) {
    case::check(backend, &embed::cases::<B>());
}

/// `norm` and `norm_backward`.
pub fn norm<B: Backend>(backend: &B) {
    case::check(backend, &norm::cases::<B>());
}

/// `head_norm` and `head_norm_backward`.
pub fn head_norm<B: Backend>(backend: &B) {
    case::check(backend, &head_norm::cases::<B>());
}

/// `scaled_sum`.
pub fn scaled_sum<B: Backend>(backend: &B) {
    case::check(backend, &head_norm::sum_cases::<B>());
}

/// `linear`, with every epilogue.
pub fn linear<B: Backend>(backend: &B) {
    case::check(backend, &linear::cases::<B>());
}

/// `linear_backward_input`, in every way of writing, and `linear_backward_weight`.
pub fn linear_backward<B: Backend>(backend: &B) {
    case::check(backend, &linear_backward_cases::<B>());
}

/// `activate`, `gate` and their backwards, for every activation.
pub fn activation<B: Backend>(backend: &B) {
    case::check(backend, &activation::cases::<B>());
}

/// `rope` and `rope_backward`.
pub fn rope<B: Backend>(backend: &B) {
    case::check(backend, &rope::cases::<B>());
}

/// `attention`: dense and banded, grouped heads.
pub fn attention<B: Backend>(backend: &B) {
    case::check(backend, &attention::cases::<B>());
}

/// `attention_backward`.
pub fn attention_backward<B: Backend>(backend: &B) {
    case::check(backend, &attention::backward_cases::<B>(Class::SoftmaxBackward));
}

/// [`attention_backward`] for a machine whose products take operands of `Elem`.
pub fn attention_backward_rounded<B: Backend>(backend: &B) {
    case::check(backend, &attention::backward_cases::<B>(Class::RoundedSoftmaxBackward));
}

/// `head_loss` and `head_loss_backward`.
pub fn head_loss<B: Backend>(backend: &B) {
    case::check(backend, &loss::cases::<B>());
}

/// `adamw`.
pub fn adamw<B: Backend>(backend: &B) {
    case::check(backend, &optimizer::cases::<B>());
}

/// `embed_prepared`: the bits of `embed`.
pub fn embed_prepared<B: InferBackend>(backend: &B) {
    prepared::embed(backend);
}

/// `linear_prepared`: the bits of `linear`, with every epilogue.
pub fn linear_prepared<B: InferBackend>(backend: &B) {
    prepared::linear(backend);
}

/// `logits`.
pub fn logits<B: InferBackend>(backend: &B) {
    prepared::logits(backend);
}

/// `gather_rows`.
pub fn gather_rows<B: InferBackend>(backend: &B) {
    prepared::gather_rows(backend);
}

/// `kv_write` and `attention_cached`: within tolerance of `attention`; the same bits for a prompt at once, token by token
/// and in chunks, alone and in a batch, wherever its blocks lie.
pub fn attention_cached<B: InferBackend>(backend: &B) {
    cached::attention_cached(backend, KvFormat::Elem);
}

/// [`attention_cached`] over keys and values in half precision.
pub fn attention_cached_f16<B: InferBackend>(backend: &B) {
    cached::attention_cached(backend, KvFormat::F16);
}

/// [`attention_cached`] over keys and values of 8 bits.
pub fn attention_cached_int8<B: InferBackend>(backend: &B) {
    cached::attention_cached(backend, KvFormat::Int8);
}

/// One row alone and the same row among others give the same bits, for every operation of a generation step.
pub fn rows_are_independent<B: InferBackend>(backend: &B) {
    prepared::rows_are_independent(backend);
}

/// `linear_prepared` and `logits` with quantised weights of every format, and of several in one weight.
pub fn quantized_products<B: InferBackend>(backend: &B) {
    quantized::products(backend);
}

/// [`rows_are_independent`] for quantised weights.
pub fn quantized_rows_are_independent<B: InferBackend>(backend: &B) {
    quantized::rows_are_independent(backend);
}

/// `embed_prepared` from a quantised table: the dequantised values.
pub fn quantized_embed<B: InferBackend>(backend: &B) {
    quantized::embed(backend);
}

/// Blocks whose scales are no numbers harm only their own outputs.
pub fn quantized_damaged<B: InferBackend>(backend: &B) {
    quantized::damaged(backend);
}

/// Products of quantised weights with 8-bit activations: the bits of their definition.
pub fn int8_products<B: InferBackend>(backend: &B) {
    quantized::int8_products(backend);
}

/// The same for activations that are hard to round.
pub fn int8_hostile<B: InferBackend>(backend: &B) {
    quantized::int8_hostile(backend);
}

/// Wrong sizes panic before anything is read or written.
pub fn wrong_sizes<B: InferBackend>(backend: &B) {
    misuse::sizes(backend);
}

/// Ids, positions, targets, slots and blocks out of range panic. Only for backends whose memory the host can read.
pub fn ids_out_of_range<B: InferBackend>(backend: &B) {
    misuse::ids_out_of_range(backend);
}

fn linear_backward_cases<B: Backend>() -> Vec<linear::LinearBackwardCase> {
    linear::cases::<B>().into_iter().map(linear::LinearBackwardCase).collect()
}

/// Results of every operation, for comparison of bits.
fn all_outputs<B: InferBackend>(backend: &B) -> Vec<(String, case::Outputs)> {
    let mut outputs = case::run_all(backend, &embed::cases::<B>());
    outputs.extend(case::run_all(backend, &norm::cases::<B>()));
    outputs.extend(case::run_all(backend, &head_norm::cases::<B>()));
    outputs.extend(case::run_all(backend, &head_norm::sum_cases::<B>()));
    outputs.extend(case::run_all(backend, &linear::cases::<B>()));
    outputs.extend(case::run_all(backend, &linear_backward_cases::<B>()));
    outputs.extend(case::run_all(backend, &activation::cases::<B>()));
    outputs.extend(case::run_all(backend, &rope::cases::<B>()));
    outputs.extend(case::run_all(backend, &attention::cases::<B>()));
    outputs.extend(case::run_all(backend, &attention::backward_cases::<B>(Class::SoftmaxBackward)));
    outputs.extend(case::run_all(backend, &loss::cases::<B>()));
    outputs.extend(case::run_all(backend, &optimizer::cases::<B>()));
    outputs.extend(cached::outputs(backend));
    outputs.extend(quantized::outputs(backend));
    outputs.extend(transfers::outputs(backend));
    outputs
}

/// Every operation gives the same bits on 1, 2, 3 and 8 threads, and again on 8. `make` gives a backend with that many
/// threads.
pub fn threads<B: InferBackend>(make: impl Fn(usize) -> B) {
    let expected = all_outputs(&make(1));
    for n_threads in [2, 3, 8, 8] {
        for ((label, found), (_, expected)) in all_outputs(&make(n_threads)).iter().zip(&expected) {
            found.assert_same_bits(&format!("{label} on {n_threads} threads and on 1"), expected);
        }
    }
}

/// All of [`ops_suite`](crate::ops_suite) but [`threads`] as tests, for the backend that an expression makes. To be put into
/// a module of its own.
///
/// ```
/// mod reference_f32 {
///     verve_testkit::backend_tests!(verve_ops::reference::Reference::<f32>::new());
/// }
/// ```
#[macro_export]
macro_rules! backend_tests {
    ($make:expr) => {
        $crate::backend_tests!(
            $make;
            moves round sum_squares embed norm head_norm scaled_sum linear linear_backward activation rope attention attention_backward
            head_loss adamw embed_prepared linear_prepared logits gather_rows attention_cached attention_cached_f16
            attention_cached_int8 rows_are_independent
            quantized_products quantized_rows_are_independent quantized_embed quantized_damaged int8_products int8_hostile
            wrong_sizes ids_out_of_range
        );
    };
    ($make:expr; $($family:ident)*) => {
        $(
            #[test]
            fn $family() {
                $crate::ops_suite::$family(&$make);
            }
        )*
    };
}

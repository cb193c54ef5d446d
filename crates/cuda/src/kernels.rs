//! The kernels' sources: one program for NVRTC per `.cu` file, with headers of our own and none of CUDA's.

/// A source file that is compiled as one program.
#[derive(Debug)]
pub struct Program {
    /// Name of the file, without its ending.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
}

/// The headers that any source may include: name and text.
pub const HEADERS: &[(&str, &str)] = &[
    ("common.cuh", include_str!("kernels/common.cuh")),
    ("activation.cuh", include_str!("kernels/activation.cuh")),
    ("finish.cuh", include_str!("kernels/finish.cuh")),
    ("mma.cuh", include_str!("kernels/mma.cuh")),
    ("attention.cuh", include_str!("kernels/attention.cuh")),
    ("quantized.cuh", include_str!("kernels/quantized.cuh")),
];

macro_rules! programs {
    ($($constant:ident $name:literal $what:literal;)*) => {
        $(
            #[doc = $what]
            pub static $constant: Program = Program {
                name: $name,
                source: include_str!(concat!("kernels/", $name, ".cu")),
            };
        )*

        /// All programs.
        pub static PROGRAMS: &[&Program] = &[$(&$constant),*];
    };
}

programs! {
    MEMORY "memory" "Rounding, gathering rows, sums of squares, sums of columns.";
    EMBED "embed" "Embedding and its gradient.";
    NORM "norm" "LayerNorm and RMSNorm and their gradients.";
    HEAD_NORM "head_norm" "RMSNorm of heads and its gradient, scaled sum.";
    POINTWISE "pointwise" "Activations, gates, rotary positions, AdamW.";
    LOSS "loss" "Cross-entropy of rows of logits and its gradient.";
    MATMUL "matmul" "Products with dense weights and their gradients.";
    ATTENTION "attention" "Causal attention.";
    ATTENTION_BACKWARD "attention_backward" "Gradient of causal attention.";
    PAGED_ATTENTION "paged_attention" "The KV cache and attention over it.";
    ACTIVATIONS "activations" "Activations of products with quantised weights.";
    Q8_0 "quantized_q8_0" "Products with and look-ups in weights of the format `q8_0`.";
    Q4_0 "quantized_q4_0" "Products with and look-ups in weights of the format `q4_0`.";
    Q4_1 "quantized_q4_1" "Products with and look-ups in weights of the format `q4_1`.";
    Q5_0 "quantized_q5_0" "Products with and look-ups in weights of the format `q5_0`.";
    Q5_1 "quantized_q5_1" "Products with and look-ups in weights of the format `q5_1`.";
    Q2_K "quantized_q2_k" "Products with and look-ups in weights of the format `q2_k`.";
    Q3_K "quantized_q3_k" "Products with and look-ups in weights of the format `q3_k`.";
    Q4_K "quantized_q4_k" "Products with and look-ups in weights of the format `q4_k`.";
    Q5_K "quantized_q5_k" "Products with and look-ups in weights of the format `q5_k`.";
    Q6_K "quantized_q6_k" "Products with and look-ups in weights of the format `q6_k`.";
}

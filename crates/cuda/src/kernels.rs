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
    ("mma.cuh", include_str!("kernels/mma.cuh")),
    ("attention.cuh", include_str!("kernels/attention.cuh")),
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
}

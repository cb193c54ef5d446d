//! One file for each family of operations: it computes the grid and launches. Sizes have been checked before.

pub mod attention;
pub mod cached;
pub mod embed;
pub mod head_norm;
pub mod library;
pub mod loss;
pub mod matmul;
pub mod memory;
pub mod norm;
pub mod optimizer;
pub mod pointwise;
pub mod quantized;
pub mod rope;

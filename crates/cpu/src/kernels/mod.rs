//! All kernels but the matrix products. Sizes have been checked by the arguments' `check()`.

pub(crate) mod attention;
pub(crate) mod embed;
pub(crate) mod kv_cache;
pub(crate) mod memory;
pub(crate) mod norm;
pub(crate) mod optimizer;
pub(crate) mod pointwise;
pub(crate) mod rope;

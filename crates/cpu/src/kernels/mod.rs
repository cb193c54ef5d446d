//! All kernels but the matrix products. Sizes have been checked by the arguments' `check()`.

pub(crate) mod attention;
pub(crate) mod embed;
pub(crate) mod head_norm;
pub(crate) mod kv_cache;
pub(crate) mod memory;
pub(crate) mod norm;
pub(crate) mod optimizer;
pub(crate) mod pointwise;
pub(crate) mod rope;

/// Panics unless every id is below `limit`: what the arguments' `check()` cannot see without reading memory.
#[track_caller]
pub(crate) fn check_ids(op: &str, field: &str, ids: &[u32], limit: usize) {
    if let Some(at) = ids.iter().position(|id| *id as usize >= limit) {
        panic!("{op}: {field}[{at}] is {}, but must be below {limit}", ids[at]);
    }
}

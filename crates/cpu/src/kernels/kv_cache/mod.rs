//! The paged KV cache. A block holds, for each key/value head, the keys as `[D, KV_BLOCK]` and the values as
//! `[KV_BLOCK, D]`: both products of attention then read whole vectors in the order in which they lie. Scales, where there are
//! any, lie as `[block][head][KV_BLOCK]`.

mod attention;
mod write;

pub(crate) use attention::attention;
pub(crate) use write::write;

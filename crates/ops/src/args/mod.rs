//! Arguments of the operations, one struct each, with the check that makes the kernels' assumptions true.

use crate::Backend;

mod infer;
mod train;

pub use infer::*;
pub use train::*;

type Elems<B> = <B as Backend>::Buf<<B as Backend>::Elem>;
type Accs<B> = <B as Backend>::Buf<<B as Backend>::Acc>;
type Ids<B> = <B as Backend>::Buf<u32>;

/// Panics unless a buffer has exactly the length its shape implies.
#[track_caller]
pub(crate) fn same(op: &str, field: &str, found: usize, expected: usize, shape: &dyn std::fmt::Debug) {
    assert!(found == expected, "{op}: {field} has {found} elements, {shape:?} implies {expected}");
}

/// Panics unless a buffer is at least as long as its shape implies.
#[track_caller]
fn at_least(op: &str, field: &str, found: usize, expected: usize, shape: &dyn std::fmt::Debug) {
    assert!(found >= expected, "{op}: {field} has {found} elements, {shape:?} needs at least {expected}");
}

#[track_caller]
fn check_heads(op: &str, n_heads: usize, n_kv_heads: usize) {
    assert!(
        n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads),
        "{op}: {n_heads} query heads cannot share {n_kv_heads} key/value heads"
    );
}

//! Development only: seeded data, tolerances, comparisons, gradient check, golden files, and the table of tests that every
//! backend must pass ([`ops_suite`]).
//!
//! Everything here panics with a message for the reader of a test's output; nothing here runs in a product.
#![forbid(unsafe_code)]

mod canary;
mod compare;
mod data;
mod golden;
mod gradient;
mod host;
pub mod ops_suite;
pub mod quant;
pub mod shapes;
pub mod tolerance;

pub use canary::Guarded;
pub use compare::{Bound, Mismatch, assert_bits, assert_close, compare};
pub use data::{Data, rounded};
pub use golden::{Golden, golden_dir};
pub use gradient::{assert_gradient, numeric_gradient};
pub use host::Host;

//! What making a CPU backend can fail with.

use crate::isa::{Isa, SimdLevel};

/// Errors of this crate. Wrong shapes are not here: they are bugs and panic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// A SIMD level by a name that does not exist.
    #[error("unknown SIMD level {found:?}: use one of portable, avx2, avx512, avx512-nobf16")]
    UnknownLevel {
        /// The name given.
        found: String,
    },
    /// A SIMD level that this machine does not have.
    #[error("SIMD level {wanted} was asked for, but this machine has {found}: use {found_level} or lower", found_level = found.level())]
    LevelMissing {
        /// The level asked for.
        wanted: SimdLevel,
        /// The best this machine has.
        found: Isa,
    },
    /// A thread count of zero or beyond the pool's limit.
    #[error("{found} threads: use 1 to {max}")]
    ThreadCount {
        /// The number given.
        found: usize,
        /// The most a pool takes.
        max: usize,
    },
    /// The operating system would not start a thread.
    #[error("could not start thread {index} of {n_threads}: {source}; use fewer threads")]
    Spawn {
        /// Which thread.
        index: usize,
        /// How many were asked for.
        n_threads: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

//! The CPU backend: kernels at every SIMD level, matrix products, thread pool.

//! Generation: KV cache, sampler, stop strings and text streams, batched decoding.

// Activations of products with quantised weights, in the layouts that those kernels read: rounded to integers of 8 bits (the
// definition is that of verve_ops::quant::int8), or widened.
#include "common.cuh"

// A block of 32 activations of one row or part of a row, 48 bytes: the codes, what they are multiples of, the sums of the
// first and the second sixteen, nothing. The blocks of all rows for the same 32 values lie side by side.
struct ActivationBlock {
    signed char codes[32];
    float scale;
    short sums[2];
    unsigned unused[2];
};

__device__ __forceinline__ void store_block(ActivationBlock* to, float code, float scale, unsigned lane) {
    const int q = static_cast<int>(code);
    int sum = q;
    for (int offset = 8; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    to->codes[lane] = static_cast<signed char>(q);
    if (lane % 16 == 0) to->sums[lane / 16] = static_cast<short>(sum);
    if (lane == 0) to->scale = scale;
}

// A warp for each block of a row. `padded` rows (twice as many in two parts) are written; those behind the last are zeros.
// In two parts, row n becomes rows 2 n (high) and 2 n + 1 (low).
extern "C" __global__ void __launch_bounds__(256) round_activations(
    const Elem* from, ActivationBlock* to, unsigned rows, unsigned n_blocks, unsigned padded, unsigned parts) {
    const unsigned lane = threadIdx.x % 32, warp = blockIdx.x * 8 + threadIdx.x / 32;
    const unsigned row = warp / n_blocks, block = warp % n_blocks;
    if (row >= padded / parts) return;
    const float x = row < rows ? to_float(from[(static_cast<size_t>(row) * n_blocks + block) * 32 + lane]) : 0.0f;
    to += static_cast<size_t>(block) * padded + row * parts;
    const bool finite = __all_sync(0xffffffffu, fabsf(x) < INFINITY_F);
    const float largest = warp_max(fabsf(x));
    const float inverse = __fdiv_rn(parts == 2 ? 32258.0f : 127.0f, largest);
    // A block of zeros, or of values too small, has an infinite inverse.
    const bool counts = finite && inverse < INFINITY_F;
    const float scale = __fdiv_rn(largest, 127.0f), otherwise = finite ? 0.0f : NAN_F;
    const float multiple = counts ? __fmul_rn(x, inverse) : 0.0f;
    if (parts == 1) {
        store_block(to, rintf(multiple), counts ? scale : otherwise, lane);
        return;
    }
    const float high = rintf(__fmul_rn(multiple, 1.0f / 254.0f));
    const float low = rintf(__fsub_rn(multiple, __fmul_rn(254.0f, high)));
    store_block(to, high, counts ? scale : otherwise, lane);
    store_block(to + 1, low, counts ? __fdiv_rn(largest, 32258.0f) : otherwise, lane);
}

// Widens to f32, eight rows side by side: to[row / 8][k][row % 8]; rows behind the last are zeros.
extern "C" __global__ void __launch_bounds__(256)
    widen_activations(const Elem* from, float* to, unsigned rows, unsigned d_in, unsigned padded) {
    const size_t i = static_cast<size_t>(blockIdx.x) * 256 + threadIdx.x;
    if (i >= static_cast<size_t>(padded) * d_in) return;
    const size_t row = i / (8 * static_cast<size_t>(d_in)) * 8 + i % 8, k = i / 8 % d_in;
    to[i] = row < rows ? to_float(from[row * d_in + k]) : 0.0f;
}

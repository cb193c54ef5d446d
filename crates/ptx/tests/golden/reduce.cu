// Sum and largest value of each row: one block a row.
__device__ float warp_sum(float v) {
    for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}
extern "C" __global__ void row_sum(float* sums, int* largest, const float* x, const int* y, int columns) {
    __shared__ float parts[32];
    __shared__ int parts_max[32];
    float s = 0.0f; int m = -2147483647 - 1;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        s += x[(size_t)blockIdx.x * columns + c];
        m = max(m, y[(size_t)blockIdx.x * columns + c]);
    }
    s = warp_sum(s);
    m = __reduce_max_sync(0xffffffffu, m);
    if (threadIdx.x % 32 == 0) { parts[threadIdx.x / 32] = s; parts_max[threadIdx.x / 32] = m; }
    __syncthreads();
    if (threadIdx.x < 32) {
        int warps = blockDim.x / 32;
        s = warp_sum(threadIdx.x < warps ? parts[threadIdx.x] : 0.0f);
        m = __reduce_max_sync(0xffffffffu, threadIdx.x < warps ? parts_max[threadIdx.x] : -2147483647 - 1);
        if (threadIdx.x == 0) { sums[blockIdx.x] = s; largest[blockIdx.x] = m; }
    }
}

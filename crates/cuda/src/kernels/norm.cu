// LayerNorm and RMSNorm and their gradients. The number of threads of a row depends on its width alone.
#include "common.cuh"

#define LAYER 0
#define RMS 1
#define RMS_PLUS_ONE 2

__device__ __forceinline__ float factor(u32 kind, float weight) { return kind == RMS_PLUS_ONE ? 1.0f + weight : weight; }

// One block for each row.
extern "C" __global__ void norm_forward(const Elem *inp, const Elem *weight, const Elem *bias, Elem *out, float *stats, u32 cols,
                                u32 kind, float eps) {
    __shared__ float shared[32];
    const Elem *x = inp + (u64)blockIdx.x * cols;
    Elem *to = out + (u64)blockIdx.x * cols;
    float mean = 0.0f;
    if (kind == LAYER) {
        float sum = 0.0f;
        for (u32 i = threadIdx.x; i < cols; i += blockDim.x) sum += to_float(x[i]);
        mean = block_sum(sum, shared) / (float)cols;
    }
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) {
        float d = to_float(x[i]) - mean;
        squares += d * d;
    }
    float rstd = 1.0f / sqrtf(block_sum(squares, shared) / (float)cols + eps);
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) {
        float y = (to_float(x[i]) - mean) * rstd * factor(kind, to_float(weight[i]));
        to[i] = to_elem(bias ? y + to_float(bias[i]) : y);
    }
    if (threadIdx.x == 0) {
        stats[2 * (u64)blockIdx.x] = mean;
        stats[2 * (u64)blockIdx.x + 1] = rstd;
    }
}

// Adds the gradient of the input; one block for each row.
extern "C" __global__ void norm_backward(const Elem *d_out, const Elem *inp, const Elem *weight, const float *stats, Elem *d_inp,
                                         u32 cols, u32 kind) {
    __shared__ float shared[32];
    u64 at = (u64)blockIdx.x * cols;
    const Elem *x = inp + at, *dy = d_out + at;
    Elem *dx = d_inp + at;
    float mean = stats[2 * (u64)blockIdx.x], rstd = stats[2 * (u64)blockIdx.x + 1];
    float sum_g = 0.0f, sum_gx = 0.0f;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) {
        float g = to_float(dy[i]) * factor(kind, to_float(weight[i]));
        sum_g += g;
        sum_gx += g * ((to_float(x[i]) - mean) * rstd);
    }
    float mean_g = block_sum(sum_g, shared) / (float)cols;
    float mean_gx = block_sum(sum_gx, shared) / (float)cols;
    if (kind != LAYER) mean_g = 0.0f;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) {
        float x_hat = (to_float(x[i]) - mean) * rstd;
        float g = to_float(dy[i]) * factor(kind, to_float(weight[i]));
        dx[i] = to_elem(to_float(dx[i]) + rstd * (g - mean_g - x_hat * mean_gx));
    }
}

// Sums over chunks of CHUNK_ROWS rows of the gradients of weight and bias. Blocks of 32 columns and 8 rows.
#define CHUNK_ROWS 128
extern "C" __global__ void norm_backward_weight(const Elem *d_out, const Elem *inp, const float *stats, float *weight_parts,
                                                float *bias_parts, u32 rows, u32 cols) {
    __shared__ float weight_sums[8][32], bias_sums[8][32];
    u32 c = blockIdx.x * 32 + threadIdx.x;
    u32 end = min(rows, (blockIdx.y + 1) * CHUNK_ROWS);
    float d_weight = 0.0f, d_bias = 0.0f;
    if (c < cols) {
        for (u32 row = blockIdx.y * CHUNK_ROWS + threadIdx.y; row < end; row += 8) {
            float dy = to_float(d_out[(u64)row * cols + c]);
            float x_hat = (to_float(inp[(u64)row * cols + c]) - stats[2 * (u64)row]) * stats[2 * (u64)row + 1];
            d_weight += dy * x_hat;
            d_bias += dy;
        }
    }
    weight_sums[threadIdx.y][threadIdx.x] = d_weight;
    bias_sums[threadIdx.y][threadIdx.x] = d_bias;
    __syncthreads();
    if (threadIdx.y == 0 && c < cols) {
        for (u32 y = 1; y < 8; y++) {
            d_weight += weight_sums[y][threadIdx.x];
            d_bias += bias_sums[y][threadIdx.x];
        }
        weight_parts[(u64)blockIdx.y * cols + c] = d_weight;
        bias_parts[(u64)blockIdx.y * cols + c] = d_bias;
    }
}

// RMSNorm of query and key heads and its gradient; the scaled sum. One warp for each head.
#include "common.cuh"

#define RMS_PLUS_ONE 2

__device__ __forceinline__ float factor(u32 kind, float weight) { return kind == RMS_PLUS_ONE ? 1.0f + weight : weight; }

__device__ __forceinline__ float inverse_root(const Elem *x, u32 d_head, float eps) {
    float squares = 0.0f;
    for (u32 i = threadIdx.x & 31; i < d_head; i += 32) squares += to_float(x[i]) * to_float(x[i]);
    return 1.0f / sqrtf(warp_sum(squares) / (float)d_head + eps);
}

// Heads of all rows, value heads too, which are copied.
extern "C" __global__ void head_norm(const Elem *inp, const Elem *q_weight, const Elem *k_weight, Elem *out, u64 n_heads_all,
                                     u32 n_heads, u32 n_kv_heads, u32 d_head, u32 kind, float eps) {
    u64 item = (u64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (item >= n_heads_all) return;
    u32 head = (u32)(item % (n_heads + 2 * n_kv_heads));
    const Elem *x = inp + item * d_head;
    Elem *to = out + item * d_head;
    if (head >= n_heads + n_kv_heads) {
        for (u32 i = threadIdx.x & 31; i < d_head; i += 32) to[i] = x[i];
        return;
    }
    const Elem *weight = head < n_heads ? q_weight : k_weight;
    float rstd = inverse_root(x, d_head, eps);
    for (u32 i = threadIdx.x & 31; i < d_head; i += 32) to[i] = to_elem(to_float(x[i]) * rstd * factor(kind, to_float(weight[i])));
}

// rstd[row][head] of query and key heads.
extern "C" __global__ void head_norm_roots(const Elem *inp, float *rstd, u64 n_heads_all, u32 n_normed, u32 n_all, u32 d_head,
                                           float eps) {
    u64 item = (u64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (item >= n_heads_all) return;
    u64 row = item / n_normed, head = item % n_normed;
    float root = inverse_root(inp + (row * n_all + head) * d_head, d_head, eps);
    if ((threadIdx.x & 31) == 0) rstd[item] = root;
}

// Sums of the weights' gradients over chunks of CHUNK_ROWS rows, for the heads `first_head..first_head + heads`. A thread for
// each element of the head.
#define CHUNK_ROWS 32
extern "C" __global__ void head_norm_backward_weight(const Elem *inp, const Elem *d_rows, const float *rstd, float *parts, u32 rows,
                                                     u32 first_head, u32 heads, u32 n_normed, u32 n_all, u32 d_head) {
    u32 end = min(rows, (blockIdx.x + 1) * CHUNK_ROWS);
    for (u32 i = threadIdx.x; i < d_head; i += blockDim.x) {
        float sum = 0.0f;
        for (u32 row = blockIdx.x * CHUNK_ROWS; row < end; row++) {
            for (u32 head = first_head; head < first_head + heads; head++) {
                u64 at = ((u64)row * n_all + head) * d_head + i;
                sum += to_float(d_rows[at]) * (to_float(inp[at]) * rstd[(u64)row * n_normed + head]);
            }
        }
        parts[(u64)blockIdx.x * d_head + i] = sum;
    }
}

// The gradient of the input, in place.
extern "C" __global__ void head_norm_backward(const Elem *inp, const Elem *q_weight, const Elem *k_weight, const float *rstd,
                                              Elem *d_rows, u64 n_heads_all, u32 n_heads, u32 n_normed, u32 n_all, u32 d_head,
                                              u32 kind) {
    u64 item = (u64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (item >= n_heads_all) return;
    u64 row = item / n_normed, head = item % n_normed;
    u64 at = (row * n_all + head) * d_head;
    const Elem *weight = head < n_heads ? q_weight : k_weight;
    float root = rstd[item], sum = 0.0f;
    for (u32 i = threadIdx.x & 31; i < d_head; i += 32) {
        sum += to_float(d_rows[at + i]) * factor(kind, to_float(weight[i])) * (to_float(inp[at + i]) * root);
    }
    float mean = warp_sum(sum) / (float)d_head;
    for (u32 i = threadIdx.x & 31; i < d_head; i += 32) {
        float g = to_float(d_rows[at + i]) * factor(kind, to_float(weight[i]));
        d_rows[at + i] = to_elem(root * (g - to_float(inp[at + i]) * root * mean));
    }
}

// x = factor x + y; without y, x = factor x.
extern "C" __global__ void scaled_sum(Elem *x, const Elem *y, float scale, u64 n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float scaled = scale * to_float(x[i]);
    x[i] = to_elem(y ? scaled + to_float(y[i]) : scaled);
}

// Cross-entropy of rows of logits, and its gradient in the place of the logits. One block for each row.
#include "common.cuh"

#define IGNORE_TARGET 0xffffffffu

// Log-sum-exp of a row, the same bits in every thread. One pass: each thread keeps its largest number and the sum of the
// exponentials relative to it.
__device__ float log_sum_exp(const float *logits, u32 n_vocab, float *shared) {
    float largest = -INFINITY_F, sum = 0.0f;
    for (u32 v = threadIdx.x; v < n_vocab; v += blockDim.x) {
        float x = logits[v];
        if (x > largest) {
            sum = sum * expf(largest - x) + 1.0f;
            largest = x;
        } else {
            // Also where x is no number, which the sum must not lose.
            sum += expf(x - largest);
        }
    }
    float of_all = block_max(largest, shared);
    // Threads without any logit have a sum of 0.
    sum = sum == 0.0f ? 0.0f : sum * expf(largest - of_all);
    return of_all + logf(block_sum(sum, shared));
}

extern "C" __global__ void loss(const float *logits, const u32 *targets, float *losses, u32 n_vocab) {
    __shared__ float shared[32];
    u32 target = targets[blockIdx.x];
    const float *row = logits + (u64)blockIdx.x * n_vocab;
    if (target == IGNORE_TARGET) {
        if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
        return;
    }
    float lse = log_sum_exp(row, n_vocab, shared);
    if (threadIdx.x == 0) losses[blockIdx.x] = target < n_vocab ? lse - row[target] : NAN_F;
}

// The same, and grad_scale (e^(logit - lse) - [v = target]) as elements over the logits: row n begins where its logits began.
extern "C" __global__ void loss_backward(float *logits, const u32 *targets, float *losses, u32 n_vocab, float grad_scale) {
    __shared__ float shared[32];
    u32 target = targets[blockIdx.x];
    float *row = logits + (u64)blockIdx.x * n_vocab;
    Elem *d_row = (Elem *)row;
    float lse = 0.0f;
    if (target != IGNORE_TARGET) {
        lse = log_sum_exp(row, n_vocab, shared);
        if (threadIdx.x == 0) losses[blockIdx.x] = target < n_vocab ? lse - row[target] : NAN_F;
    } else if (threadIdx.x == 0) {
        losses[blockIdx.x] = 0.0f;
    }
    // An element is at most as long as a logit: what a step of all threads writes lies before what any later step reads.
    for (u32 start = 0; start < n_vocab; start += blockDim.x) {
        u32 v = start + threadIdx.x;
        __syncthreads();
        float x = v < n_vocab ? row[v] : 0.0f;
        __syncthreads();
        float d = target == IGNORE_TARGET ? 0.0f : grad_scale * (expf(x - lse) - (v == target ? 1.0f : 0.0f));
        if (v < n_vocab) d_row[v] = to_elem(d);
    }
}

// Causal attention, forward (Dao 2023, FlashAttention-2): a block of queries goes over the keys that it sees in increasing
// order, with the largest score and the sum of the exponentials so far; no matrix of all scores exists.
//
// A row's own order of sums: tiles of keys at multiples of their width; a tile that a query does not see leaves its numbers
// as they are.
#include "attention.cuh"

struct Attention {
    const Elem* qkv;
    Elem* out;
    float* lse;
    unsigned seq_len, n_heads, n_kv_heads, d;
    unsigned window;  // 0: none
    float scale;
    unsigned aligned;
    unsigned unused;
};

// First position that a query at `position` sees.
__device__ __forceinline__ unsigned first_visible(unsigned position, unsigned window) {
    return window != 0 && position + 1 > window ? position + 1 - window : 0;
}

#if defined(ELEM_BF16)

// 128 queries in four warps, so that what is read of a key serves 32 queries of a warp: with 16, reading shared memory would
// take longer than multiplying (half as many of the widest heads, whose sums fill the registers). 64 or 32 keys at a time, of
// which the next are on their way: as many as fit the 99 KiB of the smallest cards.
template <unsigned D>
__device__ __forceinline__ void attention(const Attention& a) {
    constexpr unsigned M = D <= 128 ? 2 : 1, QUERIES = M * 64, KEYS = D <= 96 ? 64 : 32, THREADS = 128, TILES = KEYS / 8;
    constexpr unsigned Q_BYTES = QUERIES * LINE<D>, K_BYTES = KEYS * LINE<D>;
    extern __shared__ __align__(128) unsigned char shared[];
    const unsigned q_tile = shared_address(shared), k_tiles = q_tile + Q_BYTES;
    const unsigned thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const unsigned head = blockIdx.y, kv_head = head / (a.n_heads / a.n_kv_heads);
    // The blocks with most keys begin first.
    const unsigned first_q = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    const size_t width = static_cast<size_t>(a.n_heads + 2 * a.n_kv_heads) * a.d;
    const Elem* sequence = a.qkv + static_cast<size_t>(blockIdx.z) * a.seq_len * width;
    const Elem* queries = sequence + first_q * width + head * a.d;
    const Elem* keys = sequence + (a.n_heads + kv_head) * a.d;
    const Elem* values = sequence + (a.n_heads + a.n_kv_heads + kv_head) * a.d;
    const unsigned end_k = min(a.seq_len, first_q + QUERIES);
    const unsigned first_tile = first_visible(first_q, a.window) / KEYS, tiles = (end_k + KEYS - 1) / KEYS;

    auto bring = [&](unsigned tile) {
        if (tile < tiles) {
            const unsigned k = tile * KEYS, to = k_tiles + tile % 2 * (2 * K_BYTES);
            fetch_rows<D, KEYS, THREADS>(to, keys + k * width, width, end_k - k, a.d, a.aligned, thread);
            fetch_rows<D, KEYS, THREADS>(to + K_BYTES, values + k * width, width, end_k - k, a.d, a.aligned, thread);
        }
        commit_copies();
    };
    fetch_rows<D, QUERIES, THREADS>(q_tile, queries, width, a.seq_len - first_q, a.d, a.aligned, thread);
    bring(first_tile);

    float out[M][D / 8][4], most[M][2], sum[M][2];
#pragma unroll
    for (unsigned m = 0; m < M; ++m) {
        most[m][0] = most[m][1] = -INFINITY_F;
        sum[m][0] = sum[m][1] = 0;
#pragma unroll
        for (unsigned j = 0; j < D / 8; ++j)
#pragma unroll
            for (unsigned c = 0; c < 4; ++c) out[m][j][c] = 0;
    }
    const float factor = a.scale * LOG2_E;
    // The queries of this warp. Of each sixteen a thread has the rows lane / 4 and lane / 4 + 8.
    const unsigned warp_q = first_q + warp * (M * 16);

    for (unsigned tile = first_tile; tile < tiles; ++tile) {
        wait_copies<0>();
        __syncthreads();
        bring(tile + 1);
        const unsigned k_tile = k_tiles + tile % 2 * (2 * K_BYTES), v_tile = k_tile + K_BYTES;
        const unsigned first_k = tile * KEYS;
        // Tiles that none of the warp's queries sees leave its sums as they are.
        if (first_k >= warp_q + M * 16 || (a.window && first_k + KEYS + a.window <= warp_q + 1)) continue;
        float score[M][TILES][4];
        dots<D, M, TILES>(score, q_tile, warp * (M * 16), k_tile);
        // Only tiles on the diagonal and at the window's edge have scores that do not count.
        const bool cut = first_k + KEYS > warp_q + 1 || (a.window && first_k + a.window < warp_q + M * 16);
#pragma unroll
        for (unsigned m = 0; m < M; ++m)
#pragma unroll
            for (unsigned r = 0; r < 2; ++r) {
                const unsigned i = warp_q + m * 16 + lane / 4 + r * 8, first = first_visible(i, a.window);
                float high = most[m][r];
#pragma unroll
                for (unsigned j = 0; j < TILES; ++j)
#pragma unroll
                    for (unsigned c = 0; c < 2; ++c) {
                        float& s = score[m][j][r * 2 + c];
                        const unsigned k = first_k + j * 8 + lane % 4 * 2 + c;
                        s *= factor;
                        if (cut && (k > i || k < first)) s = -INFINITY_F;
                        high = fmaxf(high, s);
                    }
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
                // As long as a row has seen nothing there is no largest score to take off.
                const float base = high == -INFINITY_F ? 0.0f : high;
                const float shrink = exp2_fast(most[m][r] - base);
                most[m][r] = high;
                sum[m][r] *= shrink;
#pragma unroll
                for (unsigned j = 0; j < TILES; ++j)
#pragma unroll
                    for (unsigned c = 0; c < 2; ++c) {
                        float& s = score[m][j][r * 2 + c];
                        s = exp2_fast(s - base);
                        sum[m][r] += s;
                    }
#pragma unroll
                for (unsigned j = 0; j < D / 8; ++j) {
                    out[m][j][r * 2] *= shrink;
                    out[m][j][r * 2 + 1] *= shrink;
                }
            }
        weighted_rows<D, M, TILES, D>(out, score, v_tile, 0);
    }

#pragma unroll
    for (unsigned m = 0; m < M; ++m)
#pragma unroll
        for (unsigned r = 0; r < 2; ++r) {
            const unsigned i = warp_q + m * 16 + lane / 4 + r * 8;
            float total = sum[m][r];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            if (i >= a.seq_len) continue;
            const size_t row = static_cast<size_t>(blockIdx.z) * a.seq_len + i;
            if (lane % 4 == 0) a.lse[row * a.n_heads + head] = most[m][r] * LN_2 + logf(total);
            Elem* to = a.out + (row * a.n_heads + head) * a.d;
            const float inverse = 1.0f / total;
#pragma unroll
            for (unsigned j = 0; j < D / 8; ++j) {
                const float low = out[m][j][r * 2] * inverse, high = out[m][j][r * 2 + 1] * inverse;
                store_pair(to, j * 8 + lane % 4 * 2, a.d, low, high, a.aligned);
            }
        }
}

#else

// Sixteen queries in four warps, 32 keys at a time: a lane has one key's scores, then some of the head's elements.
template <unsigned D>
__device__ __forceinline__ void attention(const Attention& a) {
    constexpr unsigned QUERIES = 16, KEYS = 32, THREADS = 128, MINE = 4, LINE = D + 1;
    extern __shared__ __align__(16) float tiles_memory[];
    float *q_tile = tiles_memory, *k_tile = q_tile + QUERIES * LINE, *v_tile = k_tile + KEYS * LINE;
    const unsigned thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const unsigned head = blockIdx.y, kv_head = head / (a.n_heads / a.n_kv_heads);
    const unsigned first_q = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    const size_t width = static_cast<size_t>(a.n_heads + 2 * a.n_kv_heads) * a.d;
    const Elem* sequence = a.qkv + static_cast<size_t>(blockIdx.z) * a.seq_len * width;
    const unsigned end_k = min(a.seq_len, first_q + QUERIES);
    fetch_rows<D, QUERIES, THREADS>(
        q_tile, sequence + first_q * width + head * a.d, width, a.seq_len - first_q, a.d, thread);
    float out[MINE][D / 32] = {}, most[MINE], sum[MINE];
#pragma unroll
    for (unsigned r = 0; r < MINE; ++r) most[r] = -INFINITY_F, sum[r] = 0;
    for (unsigned k0 = first_visible(first_q, a.window) / KEYS * KEYS; k0 < end_k; k0 += KEYS) {
        const Elem* keys = sequence + k0 * width + (a.n_heads + kv_head) * a.d;
        __syncthreads();
        fetch_rows<D, KEYS, THREADS>(k_tile, keys, width, end_k - k0, a.d, thread);
        fetch_rows<D, KEYS, THREADS>(v_tile, keys + a.n_kv_heads * a.d, width, end_k - k0, a.d, thread);
        __syncthreads();
        float score[MINE] = {};
#pragma unroll 4
        for (unsigned e = 0; e < D; ++e) {
            const float key = k_tile[lane * LINE + e];
#pragma unroll
            for (unsigned r = 0; r < MINE; ++r) score[r] = fmaf(q_tile[(warp * MINE + r) * LINE + e], key, score[r]);
        }
#pragma unroll
        for (unsigned r = 0; r < MINE; ++r) {
            const unsigned i = first_q + warp * MINE + r, k = k0 + lane;
            const float s = k <= i && k >= first_visible(i, a.window) ? score[r] * (a.scale * LOG2_E) : -INFINITY_F;
            const float high = fmaxf(most[r], warp_max(s)), base = high == -INFINITY_F ? 0.0f : high;
            const float shrink = exp2f(most[r] - base);
            most[r] = high;
            score[r] = exp2f(s - base);
            sum[r] = sum[r] * shrink + warp_sum(score[r]);
#pragma unroll
            for (unsigned e = 0; e < D / 32; ++e) out[r][e] *= shrink;
        }
        for (unsigned k = 0; k < KEYS; ++k) {
#pragma unroll
            for (unsigned r = 0; r < MINE; ++r) {
                const float weight = __shfl_sync(0xffffffffu, score[r], k);
#pragma unroll
                for (unsigned e = 0; e < D / 32; ++e)
                    out[r][e] = fmaf(weight, v_tile[k * LINE + e * 32 + lane], out[r][e]);
            }
        }
    }
#pragma unroll
    for (unsigned r = 0; r < MINE; ++r) {
        const unsigned i = first_q + warp * MINE + r;
        if (i >= a.seq_len) continue;
        const size_t row = static_cast<size_t>(blockIdx.z) * a.seq_len + i;
        if (lane == 0) a.lse[row * a.n_heads + head] = most[r] * LN_2 + logf(sum[r]);
#pragma unroll
        for (unsigned e = 0; e < D / 32; ++e)
            if (e * 32 + lane < a.d) a.out[(row * a.n_heads + head) * a.d + e * 32 + lane] = out[r][e] / sum[r];
    }
}
#endif

#define ATTENTION(D) \
    extern "C" __global__ void __launch_bounds__(128) attention_##D(Attention a) { attention<D>(a); }
FOR_EACH_WIDTH(ATTENTION)

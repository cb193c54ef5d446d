// Gradient of causal attention, from the saved log-sum-exp (Dao 2023, FlashAttention-2). With p_ij = e^(s_ij - lse_i) and
// delta_i = d_out_i . out_i:
//
//   d_s_ij = p_ij (d_out_i . v_j - delta_i)
//   d_q_i = scale sum_j d_s_ij k_j      d_k_j = scale sum_i d_s_ij q_i      d_v_j = sum_i p_ij d_out_i
//
// Two kernels compute the scores again, so that each gradient has one owner and nothing is added by several blocks: one owns
// queries and goes over keys, the other owns keys and goes over the queries of all heads that share them. Both are the same
// code: "own" rows stay in shared memory, "other" rows pass by, always in increasing order.
#include "attention.cuh"

struct AttentionBackward {
    const Elem* qkv;
    const Elem* d_out;
    const float* lse;
    const float* delta;
    Elem* d_qkv;
    unsigned seq_len, n_heads, n_kv_heads, d;
    unsigned window;  // 0: none
    float scale;
    unsigned aligned;
    unsigned unused;
};

// delta: a warp for each row and head.
extern "C" __global__ void __launch_bounds__(256)
    attention_delta(const Elem* out, const Elem* d_out, float* delta, unsigned rows, unsigned d) {
    const unsigned row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const size_t at = static_cast<size_t>(row) * d;
    float sum = 0;
    for (unsigned e = lane; e < d; e += 32) sum = fmaf(to_float(out[at + e]), to_float(d_out[at + e]), sum);
    sum = warp_sum(sum);
    if (lane == 0) delta[row] = sum;
}

// Rows [0, seq_len) of the queries and their output gradient, or of the keys and values.
__device__ __forceinline__ const Elem* queries(const AttentionBackward& a, unsigned head) {
    const size_t width = static_cast<size_t>(a.n_heads + 2 * a.n_kv_heads) * a.d;
    return a.qkv + static_cast<size_t>(blockIdx.z) * a.seq_len * width + head * a.d;
}

__device__ __forceinline__ const Elem* output_gradient(const AttentionBackward& a, unsigned head) {
    return a.d_out + (static_cast<size_t>(blockIdx.z) * a.seq_len * a.n_heads + head) * a.d;
}

// The other rows that any of OWN own rows from `first` on has to do with.
template <bool KEYS, unsigned OWN>
__device__ __forceinline__ void others(const AttentionBackward& a, unsigned first, unsigned& begin, unsigned& end) {
    const unsigned last = min(first + OWN, a.seq_len) - 1;
    if (KEYS) {
        begin = first;
        end = a.window && last + a.window < a.seq_len ? last + a.window : a.seq_len;
    } else {
        begin = a.window && first + 1 > a.window ? first + 1 - a.window : 0;
        end = last + 1;
    }
}

// Whether the query at i sees the key at j.
__device__ __forceinline__ bool sees(const AttentionBackward& a, unsigned i, unsigned j) {
    return j <= i && (a.window == 0 || i - j < a.window) && i < a.seq_len;
}

#if defined(ELEM_BF16)

// 64 own rows in four warps. 32 others at a time, or 64 of narrow heads; the next are on their way, but for the widest heads,
// where two would not fit the shared memory of every card. The gradients of keys and values of the widest heads are computed
// half a head at a time: those of a whole one have no room in a thread's registers.
template <unsigned D, bool KEYS>
__device__ __forceinline__ void gradient(const AttentionBackward& a) {
    constexpr unsigned OWN = 64, OTHER = D <= 64 ? 64 : 32, THREADS = 128, STAGES = D <= 128 ? 2 : 1;
    constexpr unsigned COLUMNS = KEYS && D > 128 ? D / 2 : D, PARTS = D / COLUMNS, TILES = OTHER / 8;
    constexpr unsigned OWN_BYTES = OWN * LINE<D>, OTHER_BYTES = OTHER * LINE<D>;
    extern __shared__ __align__(128) unsigned char shared[];
    const unsigned own_tile = shared_address(shared), other_tiles = own_tile + 2 * OWN_BYTES;
    const unsigned thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const unsigned group = a.n_heads / a.n_kv_heads;
    const unsigned first_column = blockIdx.y % PARTS * COLUMNS;
    const unsigned owner = blockIdx.y / PARTS;  // key/value head or query head
    const unsigned kv_head = KEYS ? owner : owner / group;
    // The blocks with most other rows begin first: early keys, late queries.
    const unsigned first_own = (KEYS ? blockIdx.x : gridDim.x - 1 - blockIdx.x) * OWN;
    const size_t width = static_cast<size_t>(a.n_heads + 2 * a.n_kv_heads) * a.d;
    const size_t out_width = static_cast<size_t>(a.n_heads) * a.d;
    const Elem* keys = queries(a, a.n_heads + kv_head);
    const Elem* values = keys + static_cast<size_t>(a.n_kv_heads) * a.d;

    unsigned begin, end;
    others<KEYS, OWN>(a, first_own, begin, end);
    const unsigned first_tile = begin / OTHER, tiles = (end + OTHER - 1) / OTHER - first_tile;
    const unsigned steps = KEYS ? tiles * group : tiles;

    auto bring = [&](unsigned step) {
        if (step < steps) {
            const unsigned row = (first_tile + step % tiles) * OTHER, to = other_tiles + step % STAGES * (2 * OTHER_BYTES);
            const unsigned head = KEYS ? kv_head * group + step / tiles : owner;
            const Elem* first = (KEYS ? queries(a, head) : keys) + row * width;
            const Elem* second = KEYS ? output_gradient(a, head) + row * out_width : values + row * width;
            fetch_rows<D, OTHER, THREADS>(to, first, width, a.seq_len - row, a.d, a.aligned, thread);
            fetch_rows<D, OTHER, THREADS>(
                to + OTHER_BYTES, second, KEYS ? out_width : width, a.seq_len - row, a.d, a.aligned, thread);
        }
        commit_copies();
    };
    {
        const Elem* first = (KEYS ? keys : queries(a, owner)) + first_own * width;
        const Elem* second = KEYS ? values + first_own * width : output_gradient(a, owner) + first_own * out_width;
        fetch_rows<D, OWN, THREADS>(own_tile, first, width, a.seq_len - first_own, a.d, a.aligned, thread);
        fetch_rows<D, OWN, THREADS>(
            own_tile + OWN_BYTES, second, KEYS ? width : out_width, a.seq_len - first_own, a.d, a.aligned, thread);
    }
    if (STAGES == 2) bring(0);

    // Of queries or keys, and of values.
    float d_first[1][COLUMNS / 8][4], d_second[1][COLUMNS / 8][4];
#pragma unroll
    for (unsigned j = 0; j < COLUMNS / 8; ++j)
#pragma unroll
        for (unsigned c = 0; c < 4; ++c) {
            d_first[0][j][c] = 0;
            d_second[0][j][c] = 0;
        }
    const float factor = a.scale * LOG2_E;
    const size_t statistics = static_cast<size_t>(blockIdx.z) * a.seq_len * a.n_heads;
    // This thread's own rows are this one and the eighth after it.
    const unsigned own = first_own + warp * 16 + lane / 4;
    float own_lse[2], own_delta[2];
#pragma unroll
    for (unsigned r = 0; r < 2; ++r) {
        const unsigned i = min(own + r * 8, a.seq_len - 1);
        own_lse[r] = KEYS ? 0 : a.lse[statistics + static_cast<size_t>(i) * a.n_heads + owner] * LOG2_E;
        own_delta[r] = KEYS ? 0 : a.delta[statistics + static_cast<size_t>(i) * a.n_heads + owner];
    }

    for (unsigned step = 0; step < steps; ++step) {
        if (STAGES == 1) {
            __syncthreads();
            bring(step);
        }
        wait_copies<0>();
        __syncthreads();
        if (STAGES == 2) bring(step + 1);
        const unsigned first_tile_at = other_tiles + step % STAGES * (2 * OTHER_BYTES);
        const unsigned second_tile_at = first_tile_at + OTHER_BYTES;
        const unsigned other = (first_tile + step % tiles) * OTHER + lane % 4 * 2;
        const unsigned head = KEYS ? kv_head * group + step / tiles : owner;
        float p[1][TILES][4], d_p[1][TILES][4];
        dots<D, 1, TILES>(p, own_tile, warp * 16, first_tile_at);
        dots<D, 1, TILES>(d_p, own_tile + OWN_BYTES, warp * 16, second_tile_at);
#pragma unroll
        for (unsigned j = 0; j < TILES; ++j)
#pragma unroll
            for (unsigned c = 0; c < 2; ++c) {
                const unsigned at = other + j * 8 + c;
                float lse = 0, delta = 0;
                if (KEYS) {
                    const size_t i = min(at, a.seq_len - 1);
                    lse = a.lse[statistics + i * a.n_heads + head] * LOG2_E;
                    delta = a.delta[statistics + i * a.n_heads + head];
                }
#pragma unroll
                for (unsigned r = 0; r < 2; ++r) {
                    const unsigned mine = own + r * 8;
                    float& weight = p[0][j][r * 2 + c];
                    float& d_score = d_p[0][j][r * 2 + c];
                    const bool counts = KEYS ? sees(a, at, mine) : sees(a, mine, at);
                    weight = counts ? exp2_fast(weight * factor - (KEYS ? lse : own_lse[r])) : 0.0f;
                    d_score = weight * (d_score - (KEYS ? delta : own_delta[r]));
                }
            }
        weighted_rows<D, 1, TILES, COLUMNS>(d_first, d_p, first_tile_at, first_column);
        if (KEYS) weighted_rows<D, 1, TILES, COLUMNS>(d_second, p, second_tile_at, first_column);
    }

    Elem* to = a.d_qkv + static_cast<size_t>(blockIdx.z) * a.seq_len * width;
#pragma unroll
    for (unsigned r = 0; r < 2; ++r) {
        const unsigned mine = own + r * 8;
        if (mine >= a.seq_len) continue;
        Elem* first = to + mine * width + static_cast<size_t>(KEYS ? a.n_heads + kv_head : owner) * a.d;
        Elem* second = first + static_cast<size_t>(a.n_kv_heads) * a.d;
#pragma unroll
        for (unsigned j = 0; j < COLUMNS / 8; ++j) {
            const unsigned column = first_column + j * 8 + lane % 4 * 2;
            store_pair(first, column, a.d, d_first[0][j][r * 2] * a.scale, d_first[0][j][r * 2 + 1] * a.scale, a.aligned);
            if (KEYS) store_pair(second, column, a.d, d_second[0][j][r * 2], d_second[0][j][r * 2 + 1], a.aligned);
        }
    }
}

#else

// Sixteen own rows in four warps, 32 others at a time: a lane has the scores of one, then some of the head's elements.
template <unsigned D, bool KEYS>
__device__ __forceinline__ void gradient(const AttentionBackward& a) {
    constexpr unsigned OWN = 16, OTHER = 32, THREADS = 128, MINE = 4, LINE = D + 1, E = D / 32;
    extern __shared__ __align__(16) float tiles_memory[];
    float *own1 = tiles_memory, *own2 = own1 + OWN * LINE, *other1 = own2 + OWN * LINE, *other2 = other1 + OTHER * LINE;
    const unsigned thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const unsigned group = a.n_heads / a.n_kv_heads, owner = blockIdx.y, kv_head = KEYS ? owner : owner / group;
    const unsigned first_own = (KEYS ? blockIdx.x : gridDim.x - 1 - blockIdx.x) * OWN;
    const size_t width = static_cast<size_t>(a.n_heads + 2 * a.n_kv_heads) * a.d;
    const size_t out_width = static_cast<size_t>(a.n_heads) * a.d;
    const Elem* keys = queries(a, a.n_heads + kv_head);
    const Elem* values = keys + static_cast<size_t>(a.n_kv_heads) * a.d;
    const size_t statistics = static_cast<size_t>(blockIdx.z) * a.seq_len * a.n_heads;
    const unsigned left = a.seq_len - first_own;
    if (KEYS) {
        fetch_rows<D, OWN, THREADS>(own1, keys + first_own * width, width, left, a.d, thread);
        fetch_rows<D, OWN, THREADS>(own2, values + first_own * width, width, left, a.d, thread);
    } else {
        fetch_rows<D, OWN, THREADS>(own1, queries(a, owner) + first_own * width, width, left, a.d, thread);
        fetch_rows<D, OWN, THREADS>(own2, output_gradient(a, owner) + first_own * out_width, out_width, left, a.d, thread);
    }
    unsigned begin, end;
    others<KEYS, OWN>(a, first_own, begin, end);
    float d_first[MINE][E] = {}, d_second[MINE][E] = {};
    const unsigned own = first_own + warp * MINE;
    for (unsigned member = 0; member < (KEYS ? group : 1); ++member) {
        const unsigned head = KEYS ? kv_head * group + member : owner;
        for (unsigned row = begin / OTHER * OTHER; row < end; row += OTHER) {
            __syncthreads();
            if (KEYS) {
                fetch_rows<D, OTHER, THREADS>(other1, queries(a, head) + row * width, width, a.seq_len - row, a.d, thread);
                fetch_rows<D, OTHER, THREADS>(
                    other2, output_gradient(a, head) + row * out_width, out_width, a.seq_len - row, a.d, thread);
            } else {
                fetch_rows<D, OTHER, THREADS>(other1, keys + row * width, width, a.seq_len - row, a.d, thread);
                fetch_rows<D, OTHER, THREADS>(other2, values + row * width, width, a.seq_len - row, a.d, thread);
            }
            __syncthreads();
            float p[MINE] = {}, d_p[MINE] = {};
#pragma unroll 4
            for (unsigned e = 0; e < D; ++e) {
                const float first = other1[lane * LINE + e], second = other2[lane * LINE + e];
#pragma unroll
                for (unsigned r = 0; r < MINE; ++r) {
                    p[r] = fmaf(own1[(warp * MINE + r) * LINE + e], first, p[r]);
                    d_p[r] = fmaf(own2[(warp * MINE + r) * LINE + e], second, d_p[r]);
                }
            }
#pragma unroll
            for (unsigned r = 0; r < MINE; ++r) {
                const unsigned i = KEYS ? row + lane : own + r, j = KEYS ? own + r : row + lane;
                if (sees(a, i, j)) {
                    const size_t at = statistics + static_cast<size_t>(i) * a.n_heads + head;
                    p[r] = expf(p[r] * a.scale - a.lse[at]);
                    d_p[r] = p[r] * (d_p[r] - a.delta[at]);
                } else {
                    p[r] = d_p[r] = 0;
                }
            }
            for (unsigned k = 0; k < OTHER; ++k) {
#pragma unroll
                for (unsigned r = 0; r < MINE; ++r) {
                    const float d_score = __shfl_sync(0xffffffffu, d_p[r], k);
                    const float weight = __shfl_sync(0xffffffffu, p[r], k);
#pragma unroll
                    for (unsigned e = 0; e < E; ++e) {
                        d_first[r][e] = fmaf(d_score, other1[k * LINE + e * 32 + lane], d_first[r][e]);
                        if (KEYS) d_second[r][e] = fmaf(weight, other2[k * LINE + e * 32 + lane], d_second[r][e]);
                    }
                }
            }
        }
    }
    Elem* to = a.d_qkv + static_cast<size_t>(blockIdx.z) * a.seq_len * width;
#pragma unroll
    for (unsigned r = 0; r < MINE; ++r) {
        if (own + r >= a.seq_len) continue;
        Elem* first = to + (own + r) * width + static_cast<size_t>(KEYS ? a.n_heads + kv_head : owner) * a.d;
#pragma unroll
        for (unsigned e = 0; e < E; ++e) {
            const unsigned column = e * 32 + lane;
            if (column >= a.d) continue;
            first[column] = d_first[r][e] * a.scale;
            if (KEYS) first[static_cast<size_t>(a.n_kv_heads) * a.d + column] = d_second[r][e];
        }
    }
}
#endif

#define GRADIENTS(D)                                                                            \
    extern "C" __global__ void __launch_bounds__(128) attention_queries_##D(AttentionBackward a) { gradient<D, false>(a); } \
    extern "C" __global__ void __launch_bounds__(128) attention_keys_##D(AttentionBackward a) { gradient<D, true>(a); }
FOR_EACH_WIDTH(GRADIENTS)

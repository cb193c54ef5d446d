// The KV cache and attention over it. A block of the cache holds, for each key/value head, the vectors of KV_BLOCK tokens one
// after the other: [block][key/value head][token][d].
//
// Order of sums, the same for every row wherever and with whatever others it is computed: the positions that a row sees are
// cut in chunks of 256 at multiples of 256; in a chunk, tiles of keys are taken in order from an empty sum; the chunks' sums
// are put together in order. Tiles that a row does not see leave its numbers as they are, so rows of one tile of a product do
// not know of each other.
#include "attention.cuh"

constexpr unsigned KV_BLOCK = 64;

extern "C" __global__ void __launch_bounds__(256) kv_write(
    const Elem* qkv, const unsigned* slots, Elem* keys, Elem* values, unsigned rows, unsigned n_heads, unsigned n_kv_heads,
    unsigned d, unsigned n_slots) {
    const size_t i = static_cast<size_t>(blockIdx.x) * 256 + threadIdx.x;
    const unsigned width = n_kv_heads * d, row = i / width, column = i % width;
    if (row >= rows) return;
    const unsigned slot = slots[row];
    if (slot >= n_slots) return;
    const Elem* from = qkv + static_cast<size_t>(row) * (n_heads * d + 2 * width) + n_heads * d + column;
    const size_t to = ((static_cast<size_t>(slot / KV_BLOCK) * n_kv_heads + column / d) * KV_BLOCK + slot % KV_BLOCK) * d
        + column % d;
    keys[to] = from[0];
    values[to] = from[width];
}

struct PagedAttention {
    const Elem *qkv, *keys, *values;
    Elem* out;
    const unsigned *sequences, *positions, *block_table;
    float* partial;  // sums of chunks, or null: every block goes over all chunks of its rows
    unsigned rows, n_heads, n_kv_heads, d;
    unsigned n_sequences, max_blocks, n_blocks, n_chunks;
    unsigned window;  // 0: none
    float scale;
    unsigned aligned;
    unsigned unused;
};

// Positions [begin, end) that a row sees: none if its ids are out of range, which makes its output NaN.
__device__ __forceinline__ void visible(const PagedAttention& a, unsigned row, unsigned& begin, unsigned& end) {
    const unsigned position = a.positions[row];
    begin = end = 0;
    if (position >= a.max_blocks * KV_BLOCK || a.sequences[row] >= a.n_sequences) return;
    end = position + 1;
    begin = a.window && end > a.window ? end - a.window : 0;
}

#if defined(ELEM_BF16)

constexpr unsigned CHUNK = 256;

// A sequence with up to this many rows in a call is computed row by row, each row's chunks by blocks of their own.
constexpr unsigned SHORT_RUN = 4;

__device__ __forceinline__ bool short_run(const PagedAttention& a, unsigned row) {
    const unsigned sequence = a.sequences[row];
    unsigned count = 1;
    for (unsigned i = row; i > 0 && count <= SHORT_RUN && a.sequences[i - 1] == sequence; --i) ++count;
    for (unsigned i = row + 1; i < a.rows && count <= SHORT_RUN && a.sequences[i] == sequence; ++i) ++count;
    return count <= SHORT_RUN;
}

// One more sum of exponentials and weighted values joins what there is. Written out, so that every kernel rounds the same.
struct Join {
    float old_factor, new_factor;
};

__device__ __forceinline__ Join join(float& most, float& sum, float new_most, float new_sum) {
    const float high = fmaxf(most, new_most);
    const Join j = {exp2_fast(most - high), exp2_fast(new_most - high)};
    most = high;
    sum = __fadd_rn(__fmul_rn(sum, j.old_factor), __fmul_rn(new_sum, j.new_factor));
    return j;
}

__device__ __forceinline__ float joined(Join j, float old_value, float new_value) {
    return __fadd_rn(__fmul_rn(old_value, j.old_factor), __fmul_rn(new_value, j.new_factor));
}

// What a thread knows of two rows of a tile.
template <unsigned COLUMNS>
struct Sums {
    float most[2], sum[2], out[1][COLUMNS / 8][4];

    __device__ __forceinline__ void clear() {
        most[0] = most[1] = -INFINITY_F;
        sum[0] = sum[1] = 0;
#pragma unroll
        for (unsigned j = 0; j < COLUMNS / 8; ++j)
#pragma unroll
            for (unsigned c = 0; c < 4; ++c) out[0][j][c] = 0;
    }

    // The four threads of a row have a quarter of its exponentials each.
    __device__ __forceinline__ void complete() {
#pragma unroll
        for (unsigned r = 0; r < 2; ++r) {
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        }
    }

    __device__ __forceinline__ void add(const Sums& other) {
#pragma unroll
        for (unsigned r = 0; r < 2; ++r) {
            if (other.most[r] == -INFINITY_F) continue;
            const Join factors = join(most[r], sum[r], other.most[r], other.sum[r]);
#pragma unroll
            for (unsigned j = 0; j < COLUMNS / 8; ++j)
#pragma unroll
                for (unsigned c = 0; c < 2; ++c) {
                    float& mine = out[0][j][r * 2 + c];
                    mine = joined(factors, mine, other.out[0][j][r * 2 + c]);
                }
        }
    }
};

// Queries in shared memory and the tiles of keys and values of one sequence that pass by. Half a head's output at a time for
// the widest heads: a thread's registers hold the sums of a chunk and of all chunks before.
template <unsigned D, unsigned THREADS>
struct Walk {
    static constexpr unsigned QUERIES = THREADS / 2, KEYS = D <= 128 ? 64 : 32, COLUMNS = D <= 128 ? D : D / 2;
    static constexpr unsigned PARTS = D / COLUMNS, K_BYTES = KEYS * LINE<D>;

    const PagedAttention& a;
    unsigned q_tile, k_tiles, kv_head, first_column;
    // Of this thread's two rows.
    unsigned begin[2], end[2];
    const unsigned* blocks;
    unsigned end_k;

    __device__ __forceinline__ bool sound(unsigned tile) const { return blocks[tile * KEYS / KV_BLOCK] < a.n_blocks; }

    // Begins to bring a tile of keys and values, and ends a group of copies in any case.
    __device__ __forceinline__ void bring(unsigned tile, unsigned tiles) const {
        if (tile < tiles) {
            const unsigned k = tile * KEYS, to = k_tiles + tile % 2 * (2 * K_BYTES);
            const unsigned block = sound(tile) ? blocks[k / KV_BLOCK] : 0;
            const size_t at = ((static_cast<size_t>(block) * a.n_kv_heads + kv_head) * KV_BLOCK + k % KV_BLOCK) * a.d;
            // Behind the last position that is seen there may be anything.
            const unsigned rows = sound(tile) ? end_k - k : 0;
            fetch_rows<D, KEYS, THREADS>(to, a.keys + at, a.d, rows, a.d, a.aligned, threadIdx.x);
            fetch_rows<D, KEYS, THREADS>(to + K_BYTES, a.values + at, a.d, rows, a.d, a.aligned, threadIdx.x);
        }
        commit_copies();
    }

    // Adds the tiles [first, last) of one chunk; the first is on its way, and tiles up to `tiles` may be brought ahead.
    __device__ __forceinline__ void chunk(Sums<COLUMNS>& sums, unsigned first, unsigned last, unsigned tiles) const {
        const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        for (unsigned tile = first; tile < last; ++tile) {
            wait_copies<0>();
            __syncthreads();
            bring(tile + 1, tiles);
            const unsigned k_tile = k_tiles + tile % 2 * (2 * K_BYTES);
            float score[1][KEYS / 8][4];
            dots<D, 1, KEYS / 8>(score, q_tile, warp * 16, k_tile);
            const float factor = sound(tile) ? a.scale * LOG2_E : NAN_F;
#pragma unroll
            for (unsigned r = 0; r < 2; ++r) {
                float high = sums.most[r];
#pragma unroll
                for (unsigned j = 0; j < KEYS / 8; ++j)
#pragma unroll
                    for (unsigned c = 0; c < 2; ++c) {
                        float& s = score[0][j][r * 2 + c];
                        const unsigned k = tile * KEYS + j * 8 + lane % 4 * 2 + c;
                        s = k >= begin[r] && k < end[r] ? s * factor : -INFINITY_F;
                        high = fmaxf(high, s);
                    }
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
                const float base = high == -INFINITY_F ? 0.0f : high;
                const float shrink = exp2_fast(sums.most[r] - base);
                sums.most[r] = high;
                sums.sum[r] = __fmul_rn(sums.sum[r], shrink);
#pragma unroll
                for (unsigned j = 0; j < KEYS / 8; ++j)
#pragma unroll
                    for (unsigned c = 0; c < 2; ++c) {
                        float& s = score[0][j][r * 2 + c];
                        s = exp2_fast(__fsub_rn(s, base));
                        sums.sum[r] = __fadd_rn(sums.sum[r], s);
                    }
#pragma unroll
                for (unsigned j = 0; j < COLUMNS / 8; ++j) {
                    sums.out[0][j][r * 2] = __fmul_rn(sums.out[0][j][r * 2], shrink);
                    sums.out[0][j][r * 2 + 1] = __fmul_rn(sums.out[0][j][r * 2 + 1], shrink);
                }
            }
            weighted_rows<D, 1, KEYS / 8, COLUMNS>(sums.out, score, k_tile + K_BYTES, first_column);
        }
    }

    // Puts the tiles [first, tiles) together, chunk by chunk.
    __device__ __forceinline__ void all_chunks(Sums<COLUMNS>& total, unsigned first, unsigned tiles) const {
        constexpr unsigned CHUNK_TILES = CHUNK / KEYS;
        bring(first, tiles);
        while (first < tiles) {
            const unsigned last = min(tiles, (first / CHUNK_TILES + 1) * CHUNK_TILES);
            Sums<COLUMNS> sums;
            sums.clear();
            chunk(sums, first, last, tiles);
            sums.complete();
            total.add(sums);
            first = last;
        }
    }

    // Stores row r of this thread's two.
    __device__ __forceinline__ void store(const Sums<COLUMNS>& total, unsigned r, unsigned row, unsigned head) const {
        Elem* to = a.out + (static_cast<size_t>(row) * a.n_heads + head) * a.d;
        const float inverse = 1.0f / total.sum[r];
#pragma unroll
        for (unsigned j = 0; j < COLUMNS / 8; ++j)
            store_pair(
                to, first_column + j * 8 + threadIdx.x % 4 * 2, a.d, __fmul_rn(total.out[0][j][r * 2], inverse),
                __fmul_rn(total.out[0][j][r * 2 + 1], inverse), a.aligned);
    }
};

// Many rows of a sequence: 64 pairs of a row and a query head of one key/value head, in four warps.
template <unsigned D>
__device__ __forceinline__ void paged_many(const PagedAttention& a) {
    using W = Walk<D, 128>;
    extern __shared__ __align__(128) unsigned char shared[];
    const unsigned group = a.n_heads / a.n_kv_heads, pairs = a.rows * group;
    const unsigned thread = threadIdx.x, lane = thread % 32;
    const unsigned first_pair = blockIdx.x * W::QUERIES;
    W walk = {a, shared_address(shared), shared_address(shared) + W::QUERIES * LINE<D>, blockIdx.y / W::PARTS,
              blockIdx.y % W::PARTS * W::COLUMNS};
    const size_t width = static_cast<size_t>(a.n_heads + 2 * a.n_kv_heads) * a.d;

    const unsigned end_row = (min(pairs, first_pair + W::QUERIES) - 1) / group + 1;
    unsigned row = first_pair / group;
    while (row < end_row) {
        const unsigned sequence = a.sequences[row];
        unsigned run_end = row + 1;
        while (run_end < end_row && a.sequences[run_end] == sequence) ++run_end;
        if (!short_run(a, row)) {
            // All threads are done with what is in shared memory.
            __syncthreads();
#pragma unroll 1
            for (unsigned i = thread; i < W::QUERIES; i += 128) {
                // A row of shared memory by a thread: rows of different heads do not lie at one distance.
                const unsigned pair = first_pair + i, n = pair / group;
                const bool mine = pair < pairs && n >= row && n < run_end;
                const Elem* from = a.qkv + (mine ? n * width + (walk.kv_head * group + pair % group) * a.d : 0);
                fetch_rows<D, 1, 1>(walk.q_tile + i * LINE<D>, from, 0, mine ? 1 : 0, a.d, a.aligned, 0);
            }
            unsigned first_k = 0xffffffffu, end_k = 0;
            for (unsigned n = row; n < run_end; ++n) {
                unsigned begin, end;
                visible(a, n, begin, end);
                if (begin < end) first_k = min(first_k, begin), end_k = max(end_k, end);
            }
            unsigned my_row[2], my_head[2];
            bool mine[2];
#pragma unroll
            for (unsigned r = 0; r < 2; ++r) {
                const unsigned pair = first_pair + thread / 32 * 16 + lane / 4 + r * 8;
                my_row[r] = pair / group;
                my_head[r] = walk.kv_head * group + pair % group;
                mine[r] = pair < pairs && my_row[r] >= row && my_row[r] < run_end;
                walk.begin[r] = walk.end[r] = 0;
                if (mine[r]) visible(a, my_row[r], walk.begin[r], walk.end[r]);
            }
            walk.blocks = a.block_table + static_cast<size_t>(sequence) * a.max_blocks;
            walk.end_k = end_k;
            Sums<W::COLUMNS> total;
            total.clear();
            if (first_k < end_k) walk.all_chunks(total, first_k / W::KEYS, (end_k + W::KEYS - 1) / W::KEYS);
#pragma unroll
            for (unsigned r = 0; r < 2; ++r)
                if (mine[r]) walk.store(total, r, my_row[r], my_head[r]);
        }
        row = run_end;
    }
}

// Few rows of a sequence: a warp for each row and sixteen query heads of one key/value head; and for each chunk, if their
// sums have a place.
template <unsigned D>
__device__ __forceinline__ void paged_few(const PagedAttention& a) {
    using W = Walk<D, 32>;
    constexpr unsigned CHUNK_TILES = CHUNK / W::KEYS;
    const unsigned row = blockIdx.z, lane = threadIdx.x;
    if (!short_run(a, row)) return;
    extern __shared__ __align__(128) unsigned char shared[];
    const unsigned group = a.n_heads / a.n_kv_heads, member_tiles = (group + 15) / 16;
    const unsigned member = blockIdx.y / W::PARTS % member_tiles * 16;
    W walk = {a, shared_address(shared), shared_address(shared) + W::QUERIES * LINE<D>,
              blockIdx.y / W::PARTS / member_tiles, blockIdx.y % W::PARTS * W::COLUMNS};
    const unsigned head = walk.kv_head * group + member;
    const size_t width = static_cast<size_t>(a.n_heads + 2 * a.n_kv_heads) * a.d;

    unsigned begin, end;
    visible(a, row, begin, end);
    const unsigned first = begin / W::KEYS, tiles = (end + W::KEYS - 1) / W::KEYS;
    const unsigned first_chunk = first / CHUNK_TILES, chunks = (tiles + CHUNK_TILES - 1) / CHUNK_TILES;
    if (a.partial && first_chunk + blockIdx.x >= chunks) return;

    fetch_rows<D, 16, 32>(walk.q_tile, a.qkv + row * width + head * a.d, a.d, group - member, a.d, a.aligned, lane);
#pragma unroll
    for (unsigned r = 0; r < 2; ++r) {
        const bool mine = member + lane / 4 + r * 8 < group;
        walk.begin[r] = mine ? begin : 0;
        walk.end[r] = mine ? end : 0;
    }
    walk.blocks = a.block_table + static_cast<size_t>(end ? a.sequences[row] : 0) * a.max_blocks;
    walk.end_k = end;
    Sums<W::COLUMNS> sums;
    if (!a.partial) {
        sums.clear();
        if (first < tiles) walk.all_chunks(sums, first, tiles);
#pragma unroll
        for (unsigned r = 0; r < 2; ++r)
            if (member + lane / 4 + r * 8 < group) walk.store(sums, r, row, head + lane / 4 + r * 8);
        return;
    }
    for (unsigned c = first_chunk + blockIdx.x; c < chunks; c += gridDim.x) {
        const unsigned from = max(first, c * CHUNK_TILES), to = min(tiles, (c + 1) * CHUNK_TILES);
        sums.clear();
        __syncwarp();
        walk.bring(from, to);
        walk.chunk(sums, from, to, to);
        sums.complete();
#pragma unroll
        for (unsigned r = 0; r < 2; ++r) {
            if (member + lane / 4 + r * 8 >= group) continue;
            const size_t place = (static_cast<size_t>(row) * a.n_heads + head + lane / 4 + r * 8) * a.n_chunks + c;
            float* partial = a.partial + place * (a.d + 2);
            if (lane % 4 == 0 && walk.first_column == 0) partial[0] = sums.most[r], partial[1] = sums.sum[r];
#pragma unroll
            for (unsigned j = 0; j < W::COLUMNS / 8; ++j)
#pragma unroll
                for (unsigned e = 0; e < 2; ++e) {
                    const unsigned column = walk.first_column + j * 8 + lane % 4 * 2 + e;
                    if (column < a.d) partial[2 + column] = sums.out[0][j][r * 2 + e];
                }
        }
    }
}

// Puts the chunks of a row and head together, in order.
extern "C" __global__ void __launch_bounds__(64) paged_join(PagedAttention a) {
    const unsigned row = blockIdx.x, head = blockIdx.y;
    if (!short_run(a, row)) return;
    unsigned begin, end;
    visible(a, row, begin, end);
    const unsigned first_chunk = begin / CHUNK, chunks = (end + CHUNK - 1) / CHUNK;
    const float* partial = a.partial + (static_cast<size_t>(row) * a.n_heads + head) * a.n_chunks * (a.d + 2);
    for (unsigned column = threadIdx.x; column < a.d; column += 64) {
        float most = -INFINITY_F, sum = 0, out = 0;
        for (unsigned c = first_chunk; c < chunks; ++c) {
            const float* chunk = partial + static_cast<size_t>(c) * (a.d + 2);
            const Join factors = join(most, sum, chunk[0], chunk[1]);
            out = joined(factors, out, chunk[2 + column]);
        }
        const float inverse = 1.0f / sum;
        a.out[(static_cast<size_t>(row) * a.n_heads + head) * a.d + column] = to_elem(__fmul_rn(out, inverse));
    }
}

#define PAGED(D)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128) paged_many_##D(PagedAttention a) { paged_many<D>(a); } \
    extern "C" __global__ void __launch_bounds__(32) paged_few_##D(PagedAttention a) { paged_few<D>(a); }
FOR_EACH_WIDTH(PAGED)

#else

// f32: a warp for each row and query head; 32 keys at a time, a lane for each key's score and for some of the head's elements.
extern "C" __global__ void __launch_bounds__(32) paged_row(PagedAttention a) {
    __shared__ float query[256];
    const unsigned row = blockIdx.x, head = blockIdx.y, lane = threadIdx.x;
    const unsigned kv_head = head / (a.n_heads / a.n_kv_heads);
    const size_t width = static_cast<size_t>(a.n_heads + 2 * a.n_kv_heads) * a.d;
    for (unsigned e = lane; e < a.d; e += 32) query[e] = a.qkv[row * width + head * a.d + e];
    __syncwarp();
    unsigned begin, end;
    visible(a, row, begin, end);
    const unsigned* blocks = a.block_table + static_cast<size_t>(end ? a.sequences[row] : 0) * a.max_blocks;
    float most = -INFINITY_F, sum = 0, out[8] = {};
    for (unsigned k0 = begin / 32 * 32; k0 < end; k0 += 32) {
        const unsigned block = blocks[k0 / KV_BLOCK], k = k0 + lane;
        const bool sound = block < a.n_blocks;
        const size_t at =
            ((static_cast<size_t>(sound ? block : 0) * a.n_kv_heads + kv_head) * KV_BLOCK + k0 % KV_BLOCK) * a.d;
        float score = -INFINITY_F;
        if (k >= begin && k < end) {
            score = 0;
            for (unsigned e = 0; e < a.d; ++e) score = fmaf(query[e], a.keys[at + lane * a.d + e], score);
            score *= sound ? a.scale * LOG2_E : NAN_F;
        }
        const float high = fmaxf(most, warp_max(score)), base = high == -INFINITY_F ? 0.0f : high;
        const float shrink = exp2f(most - base), weight = exp2f(score - base);
        most = high;
        sum = sum * shrink + warp_sum(weight);
#pragma unroll
        for (unsigned j = 0; j < 8; ++j) out[j] *= shrink;
        const unsigned last = min(32u, end - k0);
        for (unsigned i = begin > k0 ? begin - k0 : 0; i < last; ++i) {
            const float w = __shfl_sync(0xffffffffu, weight, i);
#pragma unroll
            for (unsigned j = 0; j < 8; ++j)
                if (j * 32 + lane < a.d) out[j] = fmaf(w, a.values[at + i * a.d + j * 32 + lane], out[j]);
        }
    }
#pragma unroll
    for (unsigned j = 0; j < 8; ++j)
        if (j * 32 + lane < a.d) a.out[(static_cast<size_t>(row) * a.n_heads + head) * a.d + j * 32 + lane] = out[j] / sum;
}
#endif

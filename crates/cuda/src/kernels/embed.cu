// Embedding and its gradient.
#include "common.cuh"

// One block for each row. Ids out of range give NaN.
extern "C" __global__ void embed(const u32 *tokens, const u32 *positions, const Elem *table, const Elem *pos_table, Elem *out,
                                 u32 d_model, u32 n_vocab, u32 n_positions) {
    u32 n = blockIdx.x;
    u32 token = tokens[n];
    u32 position = pos_table ? positions[n] : 0;
    bool valid = token < n_vocab && (!pos_table || position < n_positions);
    const Elem *from = table + (u64)token * d_model;
    const Elem *pos = pos_table + (u64)position * d_model;
    Elem *to = out + (u64)n * d_model;
    for (u32 i = threadIdx.x; i < d_model; i += blockDim.x) {
        if (!valid) {
            to[i] = to_elem(NAN_F);
        } else if (pos_table) {
            to[i] = to_elem(to_float(from[i]) + to_float(pos[i]));
        } else {
            to[i] = from[i];
        }
    }
}

// Rows of the table that a block owns, and how many rows of the batch it collects before it adds them.
#define OWNED 32
#define COLLECTED 1024

// d_table[ids[n]] += d_out[n], in increasing n for each row of the table, without atomics: a block owns OWNED rows of the
// table and 256 columns, walks through all ids and collects those of its rows in order.
extern "C" __global__ void embed_backward(const u32 *ids, const Elem *d_out, float *d_table, u32 rows, u32 d_model, u32 n_table) {
    __shared__ u32 found_row[COLLECTED];
    __shared__ u8 found_id[COLLECTED];
    __shared__ u32 warp_counts[8];
    u32 first = blockIdx.x * OWNED;
    u32 column = blockIdx.y * 256 + threadIdx.x;
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u32 count = 0; // the same in all threads
    for (u32 start = 0; start < rows; start += 256) {
        u32 n = start + threadIdx.x;
        u32 owned = n < rows ? ids[n] - first : OWNED;
        bool hit = owned < OWNED && first + owned < n_table;
        u32 hits = __ballot_sync(0xffffffffu, hit);
        if (lane == 0) warp_counts[warp] = __popc(hits);
        __syncthreads();
        u32 at = count + __popc(hits & ((1u << lane) - 1u));
        for (u32 w = 0; w < 8; w++) {
            if (w < warp) at += warp_counts[w];
            count += warp_counts[w];
        }
        if (hit) {
            found_row[at] = n;
            found_id[at] = (u8)owned;
        }
        __syncthreads();
        if (count + 256 > COLLECTED || start + 256 >= rows) {
            u32 present = 0;
            for (u32 i = 0; i < count; i++) present |= 1u << found_id[i];
            for (u32 owner = 0; owner < OWNED; owner++) {
                if (!(present >> owner & 1u) || column >= d_model) continue;
                float *to = d_table + (u64)(first + owner) * d_model + column;
                float sum = *to;
                for (u32 i = 0; i < count; i++) {
                    if (found_id[i] == owner) sum += to_float(d_out[(u64)found_row[i] * d_model + column]);
                }
                *to = sum;
            }
            count = 0;
            __syncthreads();
        }
    }
}

// What the attention kernels share: rows of heads in shared memory, and the exponential.
#pragma once
#include "common.cuh"

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// 2^x, 0 for minus infinity. Scores are multiplied with log2(e) once, together with their scale.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// A head of `d` elements is computed as D of them, zeros behind: D is the next of the widths that kernels are made for.
#define FOR_EACH_WIDTH(make) make(32) make(64) make(96) make(128) make(256)

#if defined(ELEM_BF16)
#include "mma.cuh"

// Rows in shared memory are 16 bytes longer than their elements: so eight rows of one chunk lie in different banks, for
// every width (a swizzle would need rows of 128 bytes).
template <unsigned D>
constexpr unsigned LINE = D * 2 + 16;

// Brings ROWS rows of one head to shared memory; those from `rows` on, and elements from `d` on, become zeros.
template <unsigned D, unsigned ROWS, unsigned THREADS>
__device__ __forceinline__ void fetch_rows(
    unsigned to, const Elem* from, size_t stride, unsigned rows, unsigned d, bool aligned, unsigned thread) {
    constexpr unsigned CHUNKS = D / 8;
    if (aligned) {
#pragma unroll 4
        for (unsigned i = thread; i < ROWS * CHUNKS; i += THREADS) {
            const unsigned row = i / CHUNKS, column = i % CHUNKS * 8;
            const bool inside = row < rows && column < d;
            copy16_async(to + row * LINE<D> + column * 2, inside ? from + row * stride + column : from, inside);
        }
        return;
    }
#pragma unroll 1
    for (unsigned i = thread; i < ROWS * CHUNKS; i += THREADS) {
        const unsigned row = i / CHUNKS, column = i % CHUNKS * 8;
        const Elem* at = from + row * stride + column;
        store_chunk(to + row * LINE<D> + column * 2, [&](unsigned e) { return row < rows && column + e < d ? at[e] : 0; });
    }
}

// Fragments as in mma.cuh, of tiles with rows of LINE bytes; `column` counts elements.
template <unsigned D>
__device__ __forceinline__ void row_fragment_a(unsigned (&r)[4], unsigned tile, unsigned row, unsigned column) {
    const unsigned lane = threadIdx.x & 31;
    load_matrices(r, tile + (row + (lane & 15)) * LINE<D> + (column + (lane >> 4) * 8) * 2);
}

template <unsigned D>
__device__ __forceinline__ void row_fragment_b(unsigned (&r)[4], unsigned tile, unsigned row, unsigned column) {
    const unsigned lane = threadIdx.x & 31;
    load_matrices(
        r, tile + (row + (lane & 7) + (lane >> 4) * 8) * LINE<D> + (column + (lane >> 3 & 1) * 8) * 2);
}

// k is the tile's row.
template <unsigned D>
__device__ __forceinline__ void row_fragment_b_transposed(unsigned (&r)[4], unsigned tile, unsigned k, unsigned column) {
    const unsigned lane = threadIdx.x & 31;
    load_matrices_transposed(r, tile + (k + (lane & 15)) * LINE<D> + (column + (lane >> 4) * 8) * 2);
}

// Two numbers as bf16, the first in the low half.
__device__ __forceinline__ unsigned pack(float low, float high) {
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// The sums of two neighbouring tiles of 8 columns as the 16-side operand of the next product: sixteen k, rounded.
__device__ __forceinline__ void as_operand(unsigned (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack(left[0], left[1]);
    a[1] = pack(left[2], left[3]);
    a[2] = pack(right[0], right[1]);
    a[3] = pack(right[2], right[3]);
}

// sums[row, column] = rows of `a` (M x 16 from `a_row`) . rows of `b` (TILES x 8 from 0), over the D elements of a head. What
// is read of `b` serves all M tiles of rows.
template <unsigned D, unsigned M, unsigned TILES>
__device__ __forceinline__ void dots(float (&sums)[M][TILES][4], unsigned a_tile, unsigned a_row, unsigned b_tile) {
#pragma unroll
    for (unsigned m = 0; m < M; ++m)
#pragma unroll
        for (unsigned j = 0; j < TILES; ++j)
#pragma unroll
            for (unsigned c = 0; c < 4; ++c) sums[m][j][c] = 0;
#pragma unroll
    for (unsigned k = 0; k < D; k += 16) {
        unsigned fa[M][4];
#pragma unroll
        for (unsigned m = 0; m < M; ++m) row_fragment_a<D>(fa[m], a_tile, a_row + m * 16, k);
#pragma unroll
        for (unsigned j = 0; j < TILES; j += 2) {
            unsigned fb[4];
            row_fragment_b<D>(fb, b_tile, j * 8, k);
#pragma unroll
            for (unsigned m = 0; m < M; ++m) {
                multiply_add(sums[m][j], fa[m], fb[0], fb[1]);
                multiply_add(sums[m][j + 1], fa[m], fb[2], fb[3]);
            }
        }
    }
}

// sums[row, column] += weights[row, k] . rows of `b`, for COLUMNS columns from `first` and TILES x 8 k.
template <unsigned D, unsigned M, unsigned TILES, unsigned COLUMNS>
__device__ __forceinline__ void weighted_rows(
    float (&sums)[M][COLUMNS / 8][4], const float (&weights)[M][TILES][4], unsigned b_tile, unsigned first) {
#pragma unroll
    for (unsigned k = 0; k < TILES; k += 2) {
        unsigned fa[M][4];
#pragma unroll
        for (unsigned m = 0; m < M; ++m) as_operand(fa[m], weights[m][k], weights[m][k + 1]);
#pragma unroll
        for (unsigned j = 0; j < COLUMNS / 8; j += 2) {
            unsigned fb[4];
            row_fragment_b_transposed<D>(fb, b_tile, k * 8, first + j * 8);
#pragma unroll
            for (unsigned m = 0; m < M; ++m) {
                multiply_add(sums[m][j], fa[m], fb[0], fb[1]);
                multiply_add(sums[m][j + 1], fa[m], fb[2], fb[3]);
            }
        }
    }
}

// Stores two neighbouring elements of a row of `d`.
__device__ __forceinline__ void store_pair(Elem* row, unsigned column, unsigned d, float low, float high, bool aligned) {
    if (aligned) {
        if (column < d) *reinterpret_cast<unsigned*>(row + column) = pack(low, high);
    } else {
        if (column < d) row[column] = to_elem(low);
        if (column + 1 < d) row[column + 1] = to_elem(high);
    }
}
#else

// f32: a tile of rows of D + 1 floats, so that 32 rows of one column lie in different banks.
template <unsigned D, unsigned ROWS, unsigned THREADS>
__device__ __forceinline__ void fetch_rows(
    float* to, const Elem* from, size_t stride, unsigned rows, unsigned d, unsigned thread) {
    // The last float of a row too: the compiler may read it along with its neighbours.
    for (unsigned i = thread; i < ROWS * (D + 1); i += THREADS) {
        const unsigned row = i / (D + 1), column = i % (D + 1);
        to[i] = row < rows && column < d ? from[row * stride + column] : 0.0f;
    }
}
#endif

// Rounding, gathering rows, sums of squares, sums of columns.
#include "common.cuh"

extern "C" __global__ void round_elems(const float *src, Elem *dst, u64 n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dst[i] = to_elem(src[i]);
}

// One block for each row.
extern "C" __global__ void gather_rows(const Elem *inp, const u32 *rows, Elem *out, u32 cols, u32 available) {
    u32 row = rows[blockIdx.x];
    Elem *to = out + (u64)blockIdx.x * cols;
    const Elem *from = inp + (u64)row * cols;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) to[i] = row < available ? from[i] : to_elem(NAN_F);
}

// Sum over a block of 256 threads in a fixed tree; the result is in thread 0.
__device__ double block_sum_f64(double x) {
    __shared__ double parts[256];
    parts[threadIdx.x] = x;
    __syncthreads();
    for (u32 half = 128; half > 0; half >>= 1) {
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
        __syncthreads();
    }
    return parts[0];
}

// Each block of 256 threads adds SQUARES elements, whatever the number of blocks.
#define SQUARES 8192
extern "C" __global__ void sum_squares_parts(const float *src, double *parts, u64 n) {
    u64 first = (u64)blockIdx.x * SQUARES;
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < SQUARES; i += 256) {
        if (first + i < n) {
            double x = (double)src[first + i];
            sum += x * x;
        }
    }
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// One block adds the parts.
extern "C" __global__ void sum_parts(const double *parts, double *out, u32 n) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < n; i += 256) sum += parts[i];
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) *out = sum;
}

// out[c] += sum over rows of parts[row][c], in the order of the rows.
extern "C" __global__ void add_columns(const float *parts, float *out, u32 rows, u32 cols) {
    u32 c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    float sum = 0.0f;
    for (u32 row = 0; row < rows; row++) sum += parts[(u64)row * cols + c];
    out[c] += sum;
}

// parts[chunk][c] = sum over the chunk's rows of src[row][c], for chunks of COLUMN_ROWS rows. Blocks of 32 columns and 8 rows.
#define COLUMN_ROWS 128
extern "C" __global__ void column_sums(const Elem *src, float *parts, u32 rows, u32 cols) {
    __shared__ float sums[8][32];
    u32 c = blockIdx.x * 32 + threadIdx.x;
    u32 end = min(rows, (blockIdx.y + 1) * COLUMN_ROWS);
    float sum = 0.0f;
    if (c < cols) {
        for (u32 row = blockIdx.y * COLUMN_ROWS + threadIdx.y; row < end; row += 8) sum += to_float(src[(u64)row * cols + c]);
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < cols) {
        for (u32 y = 1; y < 8; y++) sum += sums[y][threadIdx.x];
        parts[(u64)blockIdx.y * cols + c] = sum;
    }
}

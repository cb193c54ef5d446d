// Tensor-core and asynchronous-copy instructions, and the swizzle of shared memory that they need.
#pragma once

// A tile in shared memory has rows of 16-byte chunks. Chunk c of row r lies at place c ^ (r & 7): the eight rows that one
// matrix of ldmatrix reads then lie in different banks, and so do the chunks that a warp writes.
__device__ __forceinline__ unsigned swizzled(unsigned row, unsigned chunk, unsigned row_bytes) {
    return row * row_bytes + ((chunk ^ (row & 7)) << 4);
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes to shared memory, or writes zeros there when `valid` is false (nothing is read then).
__device__ __forceinline__ void copy16_async(unsigned to, const void* from, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
}

// Writes eight elements to shared memory, each as `element` gives it: where rows are not whole chunks.
template <typename F>
__device__ __forceinline__ void store_chunk(unsigned to, F element) {
    unsigned words[4];
#pragma unroll
    for (unsigned w = 0; w < 4; ++w) words[w] = element(2 * w) | static_cast<unsigned>(element(2 * w + 1)) << 16;
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
}

__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most PENDING of the latest groups of copies are under way.
template <int PENDING>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void load_matrices(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Fragment of 16 rows and 16 columns for the 16-side of a product, from a tile whose rows are the rows.
__device__ __forceinline__ void load_a(unsigned (&r)[4], unsigned tile, unsigned row, unsigned chunk, unsigned row_bytes) {
    const unsigned lane = threadIdx.x & 31;
    load_matrices(r, tile + swizzled(row + (lane & 15), chunk + (lane >> 4), row_bytes));
}

// The same from a tile whose rows are the columns (k): `chunk` counts eights of rows of the fragment.
__device__ __forceinline__ void load_a_transposed(
    unsigned (&r)[4], unsigned tile, unsigned k, unsigned chunk, unsigned row_bytes) {
    const unsigned lane = threadIdx.x & 31;
    load_matrices_transposed(
        r, tile + swizzled(k + (lane & 7) + ((lane >> 4) << 3), chunk + ((lane >> 3) & 1), row_bytes));
}

// Two fragments of 8 columns and 16 k for the 8-side of a product, from a tile whose rows are the columns.
__device__ __forceinline__ void load_b(unsigned (&r)[4], unsigned tile, unsigned row, unsigned chunk, unsigned row_bytes) {
    const unsigned lane = threadIdx.x & 31;
    load_matrices(
        r, tile + swizzled(row + (lane & 7) + ((lane >> 4) << 3), chunk + ((lane >> 3) & 1), row_bytes));
}

// The same from a tile whose rows are k: `chunk` counts eights of columns.
__device__ __forceinline__ void load_b_transposed(
    unsigned (&r)[4], unsigned tile, unsigned k, unsigned chunk, unsigned row_bytes) {
    const unsigned lane = threadIdx.x & 31;
    load_matrices_transposed(r, tile + swizzled(k + (lane & 15), chunk + (lane >> 4), row_bytes));
}

// d += a b for 16 rows, 8 columns and 16 k in bf16. Thread `lane` has rows lane / 4 and lane / 4 + 8 and columns
// 2 (lane % 4) and the one after: d[0], d[1] of the first row, d[2], d[3] of the second.
__device__ __forceinline__ void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

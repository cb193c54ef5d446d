// What all kernels share: the element type, its rounding, and sums whose order depends on nothing but their length.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define INFINITY_F __int_as_float(0x7f800000)
#define NAN_F __int_as_float(0x7fffffff)

// 16-bit brain floats as their bits: no header of CUDA is needed.
__device__ __forceinline__ float bf16_to_float(u16 x) { return __uint_as_float((u32)x << 16); }

// To nearest, ties to even; a number that is none stays one.
__device__ __forceinline__ u16 float_to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#if defined(ELEM_BF16)
typedef u16 Elem;
__device__ __forceinline__ float to_float(Elem x) { return bf16_to_float(x); }
__device__ __forceinline__ Elem to_elem(float x) { return float_to_bf16(x); }
#else
typedef float Elem;
__device__ __forceinline__ float to_float(Elem x) { return x; }
__device__ __forceinline__ Elem to_elem(float x) { return x; }
#endif

// Sum over the 32 lanes of a warp, the same bits in every lane. All lanes must take part.
__device__ __forceinline__ float warp_sum(float x) {
    for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int offset = 16; offset > 0; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

// Sum over a block of up to 1024 threads, a multiple of 32; the same bits in every thread. `shared` has 32 places. All
// threads must take part.
__device__ __forceinline__ float block_sum(float x, float *shared) {
    x = warp_sum(x);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
    __syncthreads();
    float y = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x & 31] : 0.0f;
    return warp_sum(y);
}

__device__ __forceinline__ float block_max(float x, float *shared) {
    x = warp_max(x);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
    __syncthreads();
    float y = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x & 31] : -INFINITY_F;
    return warp_max(y);
}

// Products with a quantised weight, and look-ups. The including source names the format:
//
//   LOW      bits of a code in the first plane: 2, 4 or 8 (signed then)
//   HIGH     bits of a code above these, in the second plane: 0, 1 or 2
//   GROUPS   groups of 32 consecutive values: 1 or 2
//   OFFSETS  1 if groups have offsets
//   SUPER    1 if eight times 32 values share the 16-bit scales and groups have small integer multipliers
//   ZERO     the code of the value 0
//
// Layout, prepared by launch/quantized.rs. Outputs are taken 32 at a time, a lane for each (a panel); the values of a row 32
// at a time (a slab). Every plane is [panel][slab][lane], or with the words of a lane apart where they are more than 16 bytes,
// so that a warp always reads consecutive memory:
//
//   codes  LOW words of 32 / LOW codes; the bits of codes 4 j to 4 j + 3 are at the same place of the four bytes of a word
//   highs  HIGH words in the same way
//   factors (SUPER)  bytes: multipliers of the groups, then multipliers of the offsets
//   halves  [panel][block][lane]: scale and, with offsets, offset, as 16-bit floats
#pragma once
#include "finish.cuh"

constexpr unsigned FACTOR_BYTES = GROUPS * (1 + OFFSETS), GROUP_QUADS = 8 / GROUPS;

struct Quantized {
    const unsigned* codes;
    const unsigned* highs;
    const unsigned char* factors;
    const u16* halves;
    const void* activations;  // as activations.cu makes them
    void* out;
    const Elem* bias;
    const Elem* aux;
    Elem* aux_out;
    unsigned rows, outputs, slabs;
    unsigned padded;  // rows of the activations; in two parts twice as many
    unsigned parts;
    unsigned ldo, end, function;
};

__device__ __forceinline__ float half_to_float(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// What a lane needs of 32 values of its output.
struct Slab {
    unsigned codes[LOW], highs[HIGH + 1];
    float scale[GROUPS], offset[GROUPS];

    __device__ __forceinline__ void load(const Quantized& a, unsigned panel, unsigned slab, unsigned lane) {
        const size_t at = static_cast<size_t>(panel) * a.slabs + slab;
#if LOW == 2
        const uint2 two = reinterpret_cast<const uint2*>(a.codes)[at * 32 + lane];
        codes[0] = two.x, codes[1] = two.y;
#else
#pragma unroll
        for (unsigned i = 0; i < LOW / 4; ++i) {
            const uint4 four = reinterpret_cast<const uint4*>(a.codes)[(at * (LOW / 4) + i) * 32 + lane];
            codes[i * 4] = four.x, codes[i * 4 + 1] = four.y, codes[i * 4 + 2] = four.z, codes[i * 4 + 3] = four.w;
        }
#endif
#if HIGH == 1
        highs[0] = a.highs[at * 32 + lane];
#elif HIGH == 2
        const uint2 two_highs = reinterpret_cast<const uint2*>(a.highs)[at * 32 + lane];
        highs[0] = two_highs.x, highs[1] = two_highs.y;
#endif
        const size_t block = SUPER ? static_cast<size_t>(panel) * (a.slabs / 8) + slab / 8 : at;
        const u16* halves = a.halves + (block * 32 + lane) * (1 + OFFSETS);
        const float whole_scale = half_to_float(halves[0]);
        const float whole_offset = OFFSETS ? half_to_float(halves[OFFSETS]) : 0.0f;
#if SUPER
        const unsigned char* factors = a.factors + (at * 32 + lane) * FACTOR_BYTES;
#if GROUPS * (1 + OFFSETS) == 4
        const unsigned bytes = *reinterpret_cast<const unsigned*>(factors);
#else
        const unsigned bytes = *reinterpret_cast<const u16*>(factors);
#endif
#pragma unroll
        for (unsigned g = 0; g < GROUPS; ++g) {
            // Multipliers of scales may be negative; those of offsets are below 64.
            scale[g] = __fmul_rn(whole_scale, static_cast<float>(static_cast<signed char>(bytes >> 8 * g)));
            offset[g] = OFFSETS
                ? __fmul_rn(whole_offset, -static_cast<float>(bytes >> 8 * (GROUPS + g) & 255))
                : 0.0f;
        }
#else
        // One group a block, whose offset is added.
        scale[0] = whole_scale;
        offset[0] = whole_offset;
#endif
    }

    // Codes 4 j to 4 j + 3 as bytes.
    __device__ __forceinline__ unsigned quad(unsigned j) const {
#if LOW == 8
        return codes[j];
#else
        constexpr unsigned PER_WORD = 8 / LOW, MASK = LOW == 4 ? 0x0f0f0f0fu : 0x03030303u;
        unsigned q = codes[j / PER_WORD] >> LOW * (j % PER_WORD) & MASK;
#if HIGH == 1
        q |= (highs[0] >> j & 0x01010101u) << LOW;
#elif HIGH == 2
        q |= (highs[j / 4] >> 2 * (j % 4) & 0x03030303u) << LOW;
#endif
        return q;
#endif
    }

    // Value i of the 32: no product is ever rounded.
    __device__ __forceinline__ float value(unsigned i) const {
        const unsigned byte = quad(i / 4) >> 8 * (i % 4) & 255;
        const int code = LOW == 8 ? static_cast<signed char>(byte) : static_cast<int>(byte);
        const float product = __fmul_rn(scale[i / (4 * GROUP_QUADS)], static_cast<float>(code - ZERO));
        return OFFSETS ? __fadd_rn(product, offset[i / (4 * GROUP_QUADS)]) : product;
    }
};

// A block of activations in registers: the same for all lanes.
struct Block {
    unsigned codes[8];
    float scale;
    int sums[2];

    __device__ __forceinline__ void load(const void* activations, size_t block) {
        const uint4* from = static_cast<const uint4*>(activations) + block * 3;
        const uint4 low = from[0], high = from[1];
        const uint2 rest = *reinterpret_cast<const uint2*>(from + 2);
        codes[0] = low.x, codes[1] = low.y, codes[2] = low.z, codes[3] = low.w;
        codes[4] = high.x, codes[5] = high.y, codes[6] = high.z, codes[7] = high.w;
        scale = __uint_as_float(rest.x);
        sums[0] = static_cast<short>(rest.y);
        sums[1] = static_cast<int>(rest.y) >> 16;
    }

    __device__ __forceinline__ int sum(unsigned group) const { return GROUPS == 2 ? sums[group] : sums[0] + sums[1]; }
};

// The two links of the chain of one group: out = fma(factor, sum, out), then out = fma(offset, offset_sum, out).
struct Links {
    float factor, sum, offset_sum;

    __device__ __forceinline__ Links(const Slab& slab, const Block& block, unsigned group) {
        int dot = 0;
#pragma unroll
        for (unsigned j = 0; j < GROUP_QUADS; ++j)
            dot = __dp4a(
                static_cast<int>(slab.quad(group * GROUP_QUADS + j)), static_cast<int>(block.codes[group * GROUP_QUADS + j]),
                dot);
        // Integers: exact, and small enough for a float.
        sum = static_cast<float>(dot - ZERO * block.sum(group));
        factor = __fmul_rn(slab.scale[group], block.scale);
        offset_sum = OFFSETS ? __fmul_rn(block.scale, static_cast<float>(block.sum(group))) : 0.0f;
    }

    __device__ __forceinline__ float add(float out, float offset) const {
        out = __fmaf_rn(factor, sum, out);
        return OFFSETS ? __fmaf_rn(offset, offset_sum, out) : out;
    }
};

// Many rows: a warp has 32 outputs and eight rows, whose chains stay in registers.
extern "C" __global__ void __launch_bounds__(128) rounded_many(Quantized a) {
    const unsigned lane = threadIdx.x % 32, panel = blockIdx.x * 4 + threadIdx.x / 32, first = blockIdx.y * 8;
    if (panel * 32 >= a.outputs) return;
    float out[8] = {};
    for (unsigned s = 0; s < a.slabs; ++s) {
        Slab slab;
        slab.load(a, panel, s, lane);
#pragma unroll
        for (unsigned v = 0; v < 8; ++v) {
            Block block;
            block.load(a.activations, static_cast<size_t>(s) * a.padded + first + v);
#pragma unroll
            for (unsigned g = 0; g < GROUPS; ++g) out[v] = Links(slab, block, g).add(out[v], slab.offset[g]);
        }
    }
    const unsigned p = panel * 32 + lane;
    if (p >= a.outputs) return;
    if (a.parts == 1) {
#pragma unroll
        for (unsigned v = 0; v < 8; ++v)
            if (first + v < a.rows) finish(a, first + v, p, out[v]);
    } else {
#pragma unroll
        for (unsigned v = 0; v < 8; v += 2)
            if ((first + v) / 2 < a.rows) finish(a, (first + v) / 2, p, __fadd_rn(out[v], out[v + 1]));
    }
}

// Few rows: the chain allows no splitting, but what its links are made of does. Eight warps have the same 32 outputs and
// compute the links of every eighth slab; then a warp for each row follows the chain through shared memory.
template <unsigned ROWS>
__device__ __forceinline__ void rounded_few(const Quantized& a) {
    constexpr unsigned EACH = 8 / ROWS, PHASE = 8 * EACH, LINKS = 1 + OFFSETS;
    extern __shared__ __align__(16) float2 links[];  // [PHASE][GROUPS][ROWS][LINKS][32]
    __shared__ float low_parts[ROWS][32];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, panel = blockIdx.x;
    float out = 0;
    for (unsigned first = 0; first < a.slabs; first += PHASE) {
        __syncthreads();
#pragma unroll
        for (unsigned i = 0; i < EACH; ++i) {
            const unsigned place = i * 8 + warp, s = first + place;
            if (s >= a.slabs) break;
            Slab slab;
            slab.load(a, panel, s, lane);
#pragma unroll
            for (unsigned v = 0; v < ROWS; ++v) {
                Block block;
                block.load(a.activations, static_cast<size_t>(s) * a.padded + v);
#pragma unroll
                for (unsigned g = 0; g < GROUPS; ++g) {
                    const Links link(slab, block, g);
                    float2* to = links + ((place * GROUPS + g) * ROWS + v) * LINKS * 32 + lane;
                    to[0] = make_float2(link.factor, link.sum);
                    if (OFFSETS) to[(LINKS - 1) * 32] = make_float2(slab.offset[g], link.offset_sum);
                }
            }
        }
        __syncthreads();
        if (warp < ROWS) {
            const unsigned n = min(PHASE, a.slabs - first) * GROUPS;
#pragma unroll 8
            for (unsigned i = 0; i < n; ++i) {
                const float2* from = links + (i * ROWS + warp) * LINKS * 32 + lane;
                out = __fmaf_rn(from[0].x, from[0].y, out);
                if (OFFSETS) out = __fmaf_rn(from[(LINKS - 1) * 32].x, from[(LINKS - 1) * 32].y, out);
            }
        }
    }
    const unsigned p = panel * 32 + lane;
    if (a.parts == 2) {
        if (warp < ROWS && warp % 2 == 1) low_parts[warp][lane] = out;
        __syncthreads();
        if (warp < ROWS && warp % 2 == 0 && warp / 2 < a.rows && p < a.outputs)
            finish(a, warp / 2, p, __fadd_rn(out, low_parts[warp + 1][lane]));
    } else if (warp < ROWS && warp < a.rows && p < a.outputs) {
        finish(a, warp, p, out);
    }
}

extern "C" __global__ void __launch_bounds__(256) rounded_few_2(Quantized a) { rounded_few<2>(a); }
extern "C" __global__ void __launch_bounds__(256) rounded_few_8(Quantized a) { rounded_few<8>(a); }

// Activations as they are: eight rows, 32 outputs and one of eight parts of the values a warp; the parts are added in order.
extern "C" __global__ void __launch_bounds__(256) exact_product(Quantized a) {
    __shared__ float parts[8][8][32];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, panel = blockIdx.x, tile = blockIdx.y;
    const unsigned each = (a.slabs + 7) / 8, end = min(a.slabs, (warp + 1) * each);
    const float4* x = static_cast<const float4*>(a.activations) + static_cast<size_t>(tile) * a.slabs * 64;
    float sum[8] = {};
    for (unsigned s = warp * each; s < end; ++s) {
        Slab slab;
        slab.load(a, panel, s, lane);
#pragma unroll
        for (unsigned i = 0; i < 32; ++i) {
            const float4 low = x[s * 64 + i * 2], high = x[s * 64 + i * 2 + 1];
            const float rows[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
            const float value = slab.value(i);
#pragma unroll
            for (unsigned r = 0; r < 8; ++r) sum[r] = __fmaf_rn(value, rows[r], sum[r]);
        }
    }
#pragma unroll
    for (unsigned r = 0; r < 8; ++r) parts[warp][r][lane] = sum[r];
    __syncthreads();
    const unsigned q = tile * 8 + warp, p = panel * 32 + lane;
    float total = 0;
#pragma unroll
    for (unsigned w = 0; w < 8; ++w) total = __fadd_rn(total, parts[w][warp][lane]);
    if (q < a.rows && p < a.outputs) finish(a, q, p, total);
}

// out[n] = row tokens[n] of the weight + row positions[n] of the other table, for the tokens [first, first + outputs) whose
// rows are in this part. Of ids out of range become rows that are no numbers.
extern "C" __global__ void __launch_bounds__(256) look_up(
    Quantized a, const unsigned* tokens, const unsigned* positions, const Elem* pos_table, unsigned first, unsigned n_vocab,
    unsigned n_positions) {
    const unsigned n = blockIdx.x, token = tokens[n], row = token - first, d = a.slabs * 32;
    Elem* out = static_cast<Elem*>(a.out) + static_cast<size_t>(n) * d;
    const unsigned position = pos_table ? positions[n] : 0;
    if (token >= n_vocab || (pos_table && position >= n_positions)) {
        for (unsigned e = threadIdx.x; e < d; e += 256) out[e] = to_elem(NAN_F);
        return;
    }
    if (token < first || row >= a.outputs) return;
    for (unsigned e = threadIdx.x; e < d; e += 256) {
        Slab slab;
        slab.load(a, row / 32, e / 32, row % 32);
        // One shift for every place in the slab: a run-time index would put the words into local memory.
        float value = 0;
#pragma unroll
        for (unsigned i = 0; i < 32; ++i)
            if (e % 32 == i) value = slab.value(i);
        if (pos_table) value = __fadd_rn(value, to_float(pos_table[static_cast<size_t>(position) * d + e]));
        out[e] = to_elem(value);
    }
}

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

// Scale and offset of each group of 32 values of an output, as they lie in memory until they are used: so that nothing waits for
// them before.
struct Scales {
    unsigned halves, factors;

    __device__ __forceinline__ void load(const Quantized& a, unsigned panel, unsigned slab, unsigned lane) {
        const size_t at = static_cast<size_t>(panel) * a.slabs + slab;
        const size_t block = SUPER ? static_cast<size_t>(panel) * (a.slabs / 8) + slab / 8 : at;
#if OFFSETS
        halves = reinterpret_cast<const unsigned*>(a.halves)[block * 32 + lane];
#else
        halves = a.halves[block * 32 + lane];
#endif
#if !SUPER
        factors = 0;
#elif GROUPS * (1 + OFFSETS) == 4
        factors = reinterpret_cast<const unsigned*>(a.factors)[at * 32 + lane];
#else
        factors = reinterpret_cast<const u16*>(a.factors)[at * 32 + lane];
#endif
    }

    // No product is ever rounded: a scale has 11 bits, a multiplier 8.
    __device__ __forceinline__ float scale(unsigned group) const {
        const float whole = half_to_float(static_cast<u16>(halves));
        // Multipliers of scales may be negative; those of offsets are below 64.
        return SUPER ? __fmul_rn(whole, static_cast<float>(static_cast<signed char>(factors >> 8 * group))) : whole;
    }

    // What is added: one group a block has its offset as it is.
    __device__ __forceinline__ float offset(unsigned group) const {
        if (!OFFSETS) return 0.0f;
        const float whole = half_to_float(static_cast<u16>(halves >> 16));
        return SUPER ? __fmul_rn(whole, -static_cast<float>(factors >> 8 * (GROUPS + group) & 255)) : whole;
    }
};

// What a lane needs of 32 values of its output.
struct Slab {
    unsigned codes[LOW], highs[HIGH + 1];
    Scales scales;

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
        scales.load(a, panel, slab, lane);
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
        const float product = __fmul_rn(scales.scale(i / (4 * GROUP_QUADS)), static_cast<float>(code - ZERO));
        return OFFSETS ? __fadd_rn(product, scales.offset(i / (4 * GROUP_QUADS))) : product;
    }
};

// What a block of activations is multiples of, and the sums of its codes.
struct Summary {
    float scale;
    int sums[2];

    // From the 32nd byte of the block.
    __device__ __forceinline__ void load(const void* from) {
        const uint2 bits = *static_cast<const uint2*>(from);
        scale = __uint_as_float(bits.x);
        sums[0] = static_cast<short>(bits.y);
        sums[1] = static_cast<int>(bits.y) >> 16;
    }

    __device__ __forceinline__ int sum(unsigned group) const { return GROUPS == 2 ? sums[group] : sums[0] + sums[1]; }

    __device__ __forceinline__ float offset_sum(unsigned group) const {
        return OFFSETS ? __fmul_rn(scale, static_cast<float>(sum(group))) : 0.0f;
    }
};

// A block of activations in registers: the same for all lanes.
struct Block {
    unsigned codes[8];
    Summary summary;

    __device__ __forceinline__ void load(const void* activations, size_t block) {
        const uint4* from = static_cast<const uint4*>(activations) + block * 3;
        const uint4 low = from[0], high = from[1];
        codes[0] = low.x, codes[1] = low.y, codes[2] = low.z, codes[3] = low.w;
        codes[4] = high.x, codes[5] = high.y, codes[6] = high.z, codes[7] = high.w;
        summary.load(from + 2);
    }
};

// Two links of the chain, those of one group.
__device__ __forceinline__ float chain(float out, float factor, float sum, float offset, float offset_sum) {
    out = __fmaf_rn(factor, sum, out);
    return OFFSETS ? __fmaf_rn(offset, offset_sum, out) : out;
}

// The sum over a group of (code - ZERO) times activation. Integers: exact, and small enough for a float.
__device__ __forceinline__ float group_sum(const Slab& slab, const Block& block, unsigned group) {
    int dot = 0;
#pragma unroll
    for (unsigned j = group * GROUP_QUADS; j < (group + 1) * GROUP_QUADS; ++j)
        dot = __dp4a(static_cast<int>(slab.quad(j)), static_cast<int>(block.codes[j]), dot);
    return static_cast<float>(dot - ZERO * block.summary.sum(group));
}

// Many rows: a warp has a panel of outputs and 32 rows, whose chains stay in registers. Sums over a group are products of
// matrices of integers: outputs on the 16-side of the instruction, rows on the 8-side, so that each thread has the chains of
// 4 outputs and 8 rows.
__device__ __forceinline__ void multiply_integers(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Codes 4 j to 4 j + 3 of one output as signed bytes, less ZERO.
__device__ __forceinline__ unsigned signed_quad(const Quantized& a, size_t at, unsigned output, unsigned j) {
    constexpr unsigned PER_WORD = 8 / LOW, MASK = LOW == 8 ? ~0u : LOW == 4 ? 0x0f0f0f0fu : 0x03030303u;
    const unsigned word = j / PER_WORD;
    const size_t place = LOW == 2 ? (at * 32 + output) * 2 + word : ((at * (LOW / 4) + word / 4) * 32 + output) * 4 + word % 4;
    unsigned q = a.codes[place] >> LOW * (j % PER_WORD) & MASK;
#if HIGH == 1
    q |= (a.highs[at * 32 + output] >> j & 0x01010101u) << LOW;
#elif HIGH == 2
    q |= (a.highs[(at * 32 + output) * 2 + j / 4] >> 2 * (j % 4) & 0x03030303u) << LOW;
#endif
    // With the highest bit set nothing is borrowed from the next byte.
    return ZERO ? ((q | 0x80808080u) - ZERO * 0x01010101u) ^ 0x80808080u : q;
}

extern "C" __global__ void __launch_bounds__(128) rounded_many(Quantized a) {
    constexpr unsigned ROWS = 32, TILES = ROWS / 8;
    __shared__ float finished[4][ROWS][33];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, panel = blockIdx.x * 4 + warp;
    const unsigned first = blockIdx.y * ROWS, group_row = lane / 4, quarter = lane % 4;
    if (panel * 32 >= a.outputs) return;
    const char* activations = static_cast<const char*>(a.activations);
    float out[2][TILES][4] = {};
    for (unsigned s = 0; s < a.slabs; ++s) {
        const size_t at = static_cast<size_t>(panel) * a.slabs + s;
        unsigned codes[2][4];
        Scales scales[2][2];
#pragma unroll
        for (unsigned m = 0; m < 2; ++m)
#pragma unroll
            for (unsigned r = 0; r < 2; ++r) {
                const unsigned output = m * 16 + r * 8 + group_row;
                codes[m][r] = signed_quad(a, at, output, quarter);
                codes[m][r + 2] = signed_quad(a, at, output, quarter + 4);
                scales[m][r].load(a, panel, s, output);
            }
#pragma unroll
        for (unsigned n = 0; n < TILES; ++n) {
            const char* rows = activations + (static_cast<size_t>(s) * a.padded + first + n * 8) * 48;
            const unsigned b0 = *reinterpret_cast<const unsigned*>(rows + group_row * 48 + quarter * 4);
            const unsigned b1 = *reinterpret_cast<const unsigned*>(rows + group_row * 48 + quarter * 4 + 16);
            Summary row[2];
            row[0].load(rows + quarter * 96 + 32);
            row[1].load(rows + quarter * 96 + 80);
#pragma unroll
            for (unsigned m = 0; m < 2; ++m)
#pragma unroll
                for (unsigned g = 0; g < GROUPS; ++g) {
                    int dots[4] = {};
                    if (GROUPS == 1) {
                        multiply_integers(dots, codes[m], b0, b1);
                    } else {
                        // A group is half of the instruction's terms: the other half is zeros.
                        const unsigned half[4] = {codes[m][g * 2], codes[m][g * 2 + 1], 0, 0};
                        multiply_integers(dots, half, g == 0 ? b0 : b1, 0);
                    }
#pragma unroll
                    for (unsigned c = 0; c < 4; ++c) {
                        const Scales& output = scales[m][c / 2];
                        out[m][n][c] = chain(
                            out[m][n][c], __fmul_rn(output.scale(g), row[c % 2].scale), static_cast<float>(dots[c]),
                            output.offset(g), row[c % 2].offset_sum(g));
                    }
                }
        }
    }

    // Through shared memory, so that the outputs of a row are written side by side.
#pragma unroll
    for (unsigned m = 0; m < 2; ++m)
#pragma unroll
        for (unsigned n = 0; n < TILES; ++n)
#pragma unroll
            for (unsigned c = 0; c < 4; ++c)
                finished[warp][n * 8 + quarter * 2 + c % 2][m * 16 + c / 2 * 8 + group_row] = out[m][n][c];
    __syncwarp();
    const unsigned p = panel * 32 + lane;
    if (p >= a.outputs) return;
    for (unsigned v = 0; v < ROWS; v += a.parts) {
        const unsigned q = (first + v) / a.parts;
        if (q >= a.rows) break;
        const float product = finished[warp][v][lane];
        finish(a, q, p, a.parts == 2 ? __fadd_rn(product, finished[warp][v + 1][lane]) : product);
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
    Slab slabs[EACH];
    auto load = [&](unsigned first) {
#pragma unroll
        for (unsigned i = 0; i < EACH; ++i)
            if (first + i * 8 + warp < a.slabs) slabs[i].load(a, panel, first + i * 8 + warp, lane);
    };
    load(0);
    for (unsigned first = 0; first < a.slabs; first += PHASE) {
        __syncthreads();
#pragma unroll
        for (unsigned i = 0; i < EACH; ++i) {
            const unsigned place = i * 8 + warp, s = first + place;
            if (s >= a.slabs) continue;
#pragma unroll
            for (unsigned v = 0; v < ROWS; ++v) {
                Block block;
                block.load(a.activations, static_cast<size_t>(s) * a.padded + v);
#pragma unroll
                for (unsigned g = 0; g < GROUPS; ++g) {
                    float2* to = links + ((place * GROUPS + g) * ROWS + v) * LINKS * 32 + lane;
                    to[0] = make_float2(
                        __fmul_rn(slabs[i].scales.scale(g), block.summary.scale), group_sum(slabs[i], block, g));
                    if (OFFSETS)
                        to[(LINKS - 1) * 32] = make_float2(slabs[i].scales.offset(g), block.summary.offset_sum(g));
                }
            }
        }
        // The next slabs are on their way while the chain is followed.
        load(first + PHASE);
        __syncthreads();
        if (warp < ROWS) {
            const unsigned n = min(PHASE, a.slabs - first) * GROUPS;
#pragma unroll 8
            for (unsigned i = 0; i < n; ++i) {
                const float2* from = links + (i * ROWS + warp) * LINKS * 32 + lane;
                const float2 link = from[0], offset = from[(LINKS - 1) * 32];
                out = chain(out, link.x, link.y, offset.x, offset.y);
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

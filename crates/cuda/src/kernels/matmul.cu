// Matrix products of dense weights.
//
// One kernel serves all of them: out[q, p] = end(sum over k of P[p, k] Q[q, k]), the columns p side by side in memory. Each
// operand lies either with k side by side or with its own index side by side:
//
//   forward          p = output,  q = row,     k = input      P = weight (k inside)    Q = inp (k inside)
//   input gradient   p = input,   q = row,     k = output     P = weight (p inside)    Q = d_out (k inside)
//   weight gradient  p = input,   q = output,  k = row        P = inp (p inside)       Q = d_out (q inside)
//
// Order of sums. k is cut in parts of `part` terms (a multiple of 64; for the gradients all of k is one part). In a part the
// terms are added sixteen at a time in increasing order, from 0; the parts' sums are added in order. The kernels for few rows
// give each part to a warp of its own, those for many rows take the parts one after the other: the same instruction on the
// same sixteen terms, so the same bits.
//
// The operand P is always the 16-side of the instruction, whatever the kernel: then no row's bits depend on how many others
// there are.
#include "finish.cuh"

struct Matmul {
    const Elem* p;
    const Elem* q;
    void* out;
    const Elem* bias;
    const Elem* aux;
    Elem* aux_out;
    unsigned np, nq, nk;
    unsigned ldp, ldq, ldo;
    unsigned part;
    unsigned end;
    unsigned function;
    unsigned aligned;  // 1: P, 2: Q can be read 16 bytes at a time; 4: four outputs side by side can be finished at once
};

#if defined(ELEM_BF16)
#include "mma.cuh"

// k of a step: a row of 128 bytes, which eight rows of swizzled chunks spread over all banks.
constexpr unsigned STEP = 64;

// Brings rows [first, first + ROWS) and k [k0, k0 + STEP) of an operand to shared memory: as ROWS rows of STEP, or where the
// operand's own index is inside (ACROSS) as STEP rows of ROWS. What is outside the operand becomes zero.
template <unsigned ROWS, bool ACROSS, unsigned THREADS>
__device__ __forceinline__ void fetch(
    unsigned to, const Elem* from, unsigned ld, unsigned n, unsigned nk, unsigned first, unsigned k0, bool aligned,
    unsigned thread) {
    constexpr unsigned LINES = ACROSS ? STEP : ROWS, WIDTH = ACROSS ? ROWS : STEP, CHUNKS = WIDTH / 8;
    const unsigned line0 = ACROSS ? k0 : first, column0 = ACROSS ? first : k0;
    const unsigned lines = ACROSS ? nk : n, columns = ACROSS ? n : nk;
    if (aligned) {
#pragma unroll
        for (unsigned i = thread; i < LINES * CHUNKS; i += THREADS) {
            const unsigned line = i / CHUNKS, chunk = i % CHUNKS, row = line0 + line, column = column0 + chunk * 8;
            // Rows are whole chunks, so a chunk is inside or outside as a whole.
            const bool inside = row < lines && column < columns;
            const Elem* at = inside ? from + static_cast<size_t>(row) * ld + column : from;
            copy16_async(to + swizzled(line, chunk, WIDTH * 2), at, inside);
        }
        return;
    }
#pragma unroll 1
    for (unsigned i = thread; i < LINES * CHUNKS; i += THREADS) {
        const unsigned line = i / CHUNKS, chunk = i % CHUNKS, row = line0 + line, column = column0 + chunk * 8;
        const Elem* at = from + static_cast<size_t>(row) * ld + column;
        store_chunk(to + swizzled(line, chunk, WIDTH * 2), [&](unsigned e) {
            return row < lines && column + e < columns ? at[e] : 0;
        });
    }
}

// A block of BP x BQ outputs, each warp WP x WQ of them. STAGES steps of k are on their way or in use.
template <unsigned BP, unsigned BQ, unsigned WP, unsigned WQ, unsigned STAGES, bool P_ACROSS, bool Q_ACROSS>
__device__ __forceinline__ void matmul_tile(const Matmul& a) {
    constexpr unsigned WARPS_P = BP / WP, WARPS = WARPS_P * (BQ / WQ), THREADS = WARPS * 32;
    constexpr unsigned TP = WP / 16, TQ = WQ / 8, STAGE = (BP + BQ) * STEP * 2, P_BYTES = BP * STEP * 2;
    extern __shared__ __align__(128) unsigned char shared[];
    const unsigned base = shared_address(shared);
    const unsigned thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const unsigned warp_p = warp % WARPS_P * WP, warp_q = warp / WARPS_P * WQ;
    // Neighbouring blocks share Q and differ in P: with all of a small Q in the level-2 cache, P is read once.
    const unsigned first_p = blockIdx.x * BP, first_q = blockIdx.y * BQ;
    const unsigned steps = (a.nk + STEP - 1) / STEP, part_steps = a.part / STEP;

    auto bring = [&](unsigned step) {
        if (step < steps) {
            const unsigned to = base + step % STAGES * STAGE;
            fetch<BP, P_ACROSS, THREADS>(to, a.p, a.ldp, a.np, a.nk, first_p, step * STEP, a.aligned & 1, thread);
            fetch<BQ, Q_ACROSS, THREADS>(
                to + P_BYTES, a.q, a.ldq, a.nq, a.nk, first_q, step * STEP, a.aligned & 2, thread);
        }
        // Also an empty group: the wait below counts groups.
        commit_copies();
    };

    float part[TP][TQ][4], total[TP][TQ][4];
#pragma unroll
    for (unsigned i = 0; i < TP; ++i)
#pragma unroll
        for (unsigned j = 0; j < TQ; ++j)
#pragma unroll
            for (unsigned c = 0; c < 4; ++c) part[i][j][c] = total[i][j][c] = 0;

#pragma unroll
    for (unsigned s = 0; s < STAGES - 1; ++s) bring(s);
    unsigned left_in_part = part_steps;
    for (unsigned step = 0; step < steps; ++step) {
        wait_copies<STAGES - 2>();
        // What this step needs is there for all warps, and none still reads the stage that is filled next.
        __syncthreads();
        bring(step + STAGES - 1);
        const unsigned p_tile = base + step % STAGES * STAGE, q_tile = p_tile + P_BYTES;
#pragma unroll
        for (unsigned k = 0; k < STEP; k += 16) {
            unsigned fa[TP][4], fb[TQ / 2][4];
#pragma unroll
            for (unsigned i = 0; i < TP; ++i) {
                if (P_ACROSS) load_a_transposed(fa[i], p_tile, k, (warp_p + i * 16) / 8, BP * 2);
                else load_a(fa[i], p_tile, warp_p + i * 16, k / 8, STEP * 2);
            }
#pragma unroll
            for (unsigned j = 0; j < TQ / 2; ++j) {
                if (Q_ACROSS) load_b_transposed(fb[j], q_tile, k, (warp_q + j * 16) / 8, BQ * 2);
                else load_b(fb[j], q_tile, warp_q + j * 16, k / 8, STEP * 2);
            }
#pragma unroll
            for (unsigned i = 0; i < TP; ++i)
#pragma unroll
                for (unsigned j = 0; j < TQ; ++j)
                    multiply_add(part[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
        }
        if (--left_in_part == 0 || step + 1 == steps) {
            left_in_part = part_steps;
#pragma unroll
            for (unsigned i = 0; i < TP; ++i)
#pragma unroll
                for (unsigned j = 0; j < TQ; ++j)
#pragma unroll
                    for (unsigned c = 0; c < 4; ++c) {
                        total[i][j][c] = __fadd_rn(total[i][j][c], part[i][j][c]);
                        part[i][j][c] = 0;
                    }
        }
    }

    // Through shared memory, so that the columns of a row are written side by side. Four more floats a row keep the eight
    // rows and four columns that a warp writes at once in different banks.
    constexpr unsigned LINE = BP + 4;
    float* tile = reinterpret_cast<float*>(shared);
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < TP; ++i)
#pragma unroll
        for (unsigned j = 0; j < TQ; ++j)
#pragma unroll
            for (unsigned c = 0; c < 4; ++c) {
                const unsigned p = warp_p + i * 16 + lane / 4 + c / 2 * 8, q = warp_q + j * 8 + lane % 4 * 2 + c % 2;
                tile[q * LINE + p] = total[i][j][c];
            }
    __syncthreads();
#pragma unroll 1
    for (unsigned i = thread * 4; i < BP * BQ; i += THREADS * 4) {
        const unsigned q = first_q + i / BP, p = first_p + i % BP;
        if (q >= a.nq || p >= a.np) continue;
        const float* sums = tile + i / BP * LINE + i % BP;
        if (a.aligned & 4) {
            finish_four(a, q, p, *reinterpret_cast<const float4*>(sums));
        } else {
#pragma unroll 1
            for (unsigned j = 0; j < 4 && p + j < a.np; ++j) finish(a, q, p + j, sums[j]);
        }
    }
}

// 128 x 128: 96 KiB of three stages (sm_89 has 99), 64 outputs a thread and as many sums of finished parts.
// 64 x 64: for products too small to give every multiprocessor one of the large tiles.
#define TILES(name, p_across, q_across)                                                        \
    extern "C" __global__ void __launch_bounds__(256, 1) matmul_##name##_128(Matmul a) {       \
        matmul_tile<128, 128, 64, 32, 3, p_across, q_across>(a);                               \
    }                                                                                          \
    extern "C" __global__ void __launch_bounds__(128) matmul_##name##_64(Matmul a) {           \
        matmul_tile<64, 64, 32, 32, 3, p_across, q_across>(a);                                 \
    }
TILES(forward, false, false)
TILES(input, true, false)
TILES(weight, true, true)

// Few rows: what takes time is to read the weight once. A block has sixteen outputs and all rows; each of its warps reads one
// part of k, through a ring of stages of its own in shared memory, without waiting for the others.
template <unsigned TQ, unsigned STAGES>
__device__ __forceinline__ void matmul_few(const Matmul& a) {
    constexpr unsigned BQ = TQ * 8, STAGE = (16 + BQ) * STEP * 2;
    extern __shared__ __align__(128) unsigned char shared[];
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const unsigned base = shared_address(shared) + warp * STAGES * STAGE;
    const unsigned first_p = blockIdx.x * 16;
    const unsigned first_k = warp * a.part, end_k = min(a.nk, first_k + a.part);
    const unsigned steps = (end_k - first_k + STEP - 1) / STEP;

    auto bring = [&](unsigned step) {
        if (step < steps) {
            const unsigned to = base + step % STAGES * STAGE, k = first_k + step * STEP;
            fetch<16, false, 32>(to, a.p, a.ldp, a.np, a.nk, first_p, k, a.aligned & 1, lane);
            fetch<BQ, false, 32>(to + 16 * STEP * 2, a.q, a.ldq, a.nq, a.nk, 0, k, a.aligned & 2, lane);
        }
        commit_copies();
    };

    float sum[TQ][4];
#pragma unroll
    for (unsigned j = 0; j < TQ; ++j)
#pragma unroll
        for (unsigned c = 0; c < 4; ++c) sum[j][c] = 0;
#pragma unroll
    for (unsigned s = 0; s < STAGES - 1; ++s) bring(s);
    for (unsigned step = 0; step < steps; ++step) {
        wait_copies<STAGES - 2>();
        __syncwarp();
        bring(step + STAGES - 1);
        const unsigned p_tile = base + step % STAGES * STAGE, q_tile = p_tile + 16 * STEP * 2;
#pragma unroll
        for (unsigned k = 0; k < STEP; k += 16) {
            unsigned fa[4], fb[4];
            load_a(fa, p_tile, 0, k / 8, STEP * 2);
            if (TQ == 1) {
                // Of two fragments the second would lie behind the tile: read the first twice.
                load_matrices(fb, q_tile + swizzled(lane & 7, k / 8 + ((lane >> 3) & 1), STEP * 2));
                multiply_add(sum[0], fa, fb[0], fb[1]);
            } else {
#pragma unroll
                for (unsigned j = 0; j < TQ; j += 2) {
                    load_b(fb, q_tile, j * 8, k / 8, STEP * 2);
                    multiply_add(sum[j], fa, fb[0], fb[1]);
                    multiply_add(sum[j + 1], fa, fb[2], fb[3]);
                }
            }
        }
    }

    float* parts = reinterpret_cast<float*>(shared);
    __syncthreads();
#pragma unroll
    for (unsigned j = 0; j < TQ; ++j)
#pragma unroll
        for (unsigned c = 0; c < 4; ++c)
            parts[(warp * BQ + j * 8 + lane % 4 * 2 + c % 2) * 17 + lane / 4 + c / 2 * 8] = sum[j][c];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < BQ * 16; i += blockDim.x) {
        const unsigned q = i / 16, p = first_p + i % 16;
        float total = 0;
        for (unsigned w = 0; w < warps; ++w) total = __fadd_rn(total, parts[(w * BQ + q) * 17 + i % 16]);
        if (q < a.nq && p < a.np) finish(a, q, p, total);
    }
}

// 12 KiB a warp, so that eight of them fit any card.
extern "C" __global__ void __launch_bounds__(256) matmul_few_8(Matmul a) { matmul_few<1, 4>(a); }
extern "C" __global__ void __launch_bounds__(256) matmul_few_16(Matmul a) { matmul_few<2, 3>(a); }
extern "C" __global__ void __launch_bounds__(256) matmul_few_32(Matmul a) { matmul_few<4, 2>(a); }

#else

// f32: 64 x 64 outputs a block, 4 x 4 a thread, sixteen k at a time. One chain of fused additions for each output.
template <bool P_ACROSS, bool Q_ACROSS>
__device__ __forceinline__ void matmul_tile(const Matmul& a) {
    constexpr unsigned B = 64, STEP = 16;
    __shared__ __align__(16) float p_tile[STEP][B + 4];
    __shared__ __align__(16) float q_tile[STEP][B + 4];
    const unsigned thread = threadIdx.x, first_p = blockIdx.x * B, first_q = blockIdx.y * B;
    const unsigned my_p = thread % 16 * 4, my_q = thread / 16 * 4;
    float sum[4][4] = {};
    for (unsigned k0 = 0; k0 < a.nk; k0 += STEP) {
        __syncthreads();
#pragma unroll
        for (unsigned i = thread; i < B * STEP; i += 256) {
            // Neighbouring threads read neighbouring numbers.
            const unsigned pk = P_ACROSS ? i / B : i % STEP, pi = P_ACROSS ? i % B : i / STEP;
            const unsigned qk = Q_ACROSS ? i / B : i % STEP, qi = Q_ACROSS ? i % B : i / STEP;
            const size_t p = first_p + pi, q = first_q + qi, kp = k0 + pk, kq = k0 + qk;
            p_tile[pk][pi] = p < a.np && kp < a.nk ? a.p[P_ACROSS ? kp * a.ldp + p : p * a.ldp + kp] : 0.0f;
            q_tile[qk][qi] = q < a.nq && kq < a.nk ? a.q[Q_ACROSS ? kq * a.ldq + q : q * a.ldq + kq] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (unsigned k = 0; k < STEP; ++k) {
            const float4 p = *reinterpret_cast<const float4*>(&p_tile[k][my_p]);
            const float4 q = *reinterpret_cast<const float4*>(&q_tile[k][my_q]);
            const float ps[4] = {p.x, p.y, p.z, p.w}, qs[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
            for (unsigned i = 0; i < 4; ++i)
#pragma unroll
                for (unsigned j = 0; j < 4; ++j) sum[i][j] = __fmaf_rn(qs[i], ps[j], sum[i][j]);
        }
    }
#pragma unroll
    for (unsigned i = 0; i < 4; ++i)
#pragma unroll
        for (unsigned j = 0; j < 4; ++j) {
            const unsigned q = first_q + my_q + i, p = first_p + my_p + j;
            if (q < a.nq && p < a.np) finish(a, q, p, sum[i][j]);
        }
}

extern "C" __global__ void __launch_bounds__(256) matmul_forward_64(Matmul a) { matmul_tile<false, false>(a); }
extern "C" __global__ void __launch_bounds__(256) matmul_input_64(Matmul a) { matmul_tile<true, false>(a); }
extern "C" __global__ void __launch_bounds__(256) matmul_weight_64(Matmul a) { matmul_tile<true, true>(a); }
#endif

// to[c] += sum over the rows of from[row, c]: the gradient of a bias. A warp reads 32 columns side by side; sixteen warps take
// every sixteenth row, and their sums are added in order.
extern "C" __global__ void __launch_bounds__(512) column_sums(const Elem* from, float* to, unsigned rows, unsigned columns) {
    __shared__ float sums[16][33];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    float sum = 0;
    if (column < columns)
        for (unsigned row = warp; row < rows; row += 16) sum += to_float(from[static_cast<size_t>(row) * columns + column]);
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < columns) {
        float total = 0;
#pragma unroll
        for (unsigned w = 0; w < 16; ++w) total += sums[w][lane];
        to[column] += total;
    }
}

typedef unsigned short bf16;
typedef unsigned int u32;
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void copy16(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}
__device__ __forceinline__ void load4(u32* r, u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
__device__ __forceinline__ void load2t(u32* r, u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address));
}
__device__ __forceinline__ void mma(float* c, const u32* a, const u32* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c[m,n] = a[m,k] b[k,n]; tiles of 64 x 64 x 32, 128 threads, two stages; m, n multiples of 64, k of 32.
extern "C" __global__ void __launch_bounds__(128) matmul(float* c, const bf16* a, const bf16* b, int m, int n, int k) {
    extern __shared__ __align__(16) unsigned char memory[];
    bf16 (*as)[64][40] = (bf16(*)[64][40])memory;
    bf16 (*bs)[32][72] = (bf16(*)[32][72])(memory + 2 * 64 * 40 * 2);
    int t = threadIdx.x, lane = t % 32, warp = t / 32;
    int row0 = blockIdx.y * 64, col0 = blockIdx.x * 64;
    float acc[8][4];
    for (int i = 0; i < 8; ++i) for (int j = 0; j < 4; ++j) acc[i][j] = 0.0f;
    auto stage = [&](int s, int k0) {
#pragma unroll 1
        for (int i = t; i < 256; i += 128) {
            copy16(shared_address(&as[s][i / 4][i % 4 * 8]), a + (size_t)(row0 + i / 4) * k + k0 + i % 4 * 8);
            copy16(shared_address(&bs[s][i / 8][i % 8 * 8]), b + (size_t)(k0 + i / 8) * n + col0 + i % 8 * 8);
        }
        asm volatile("cp.async.commit_group;");
    };
    stage(0, 0);
#pragma unroll 1
    for (int k0 = 0, s = 0; k0 < k; k0 += 32, s ^= 1) {
        if (k0 + 32 < k) { stage(s ^ 1, k0 + 32); asm volatile("cp.async.wait_group 1;"); }
        else asm volatile("cp.async.wait_group 0;");
        __syncthreads();
#pragma unroll 1
        for (int kk = 0; kk < 32; kk += 16) {
            u32 af[4];
            load4(af, shared_address(&as[s][warp * 16 + lane % 16][kk + lane / 16 * 8]));
            for (int j = 0; j < 8; ++j) {
                u32 bf[2];
                load2t(bf, shared_address(&bs[s][kk + lane % 16][j * 8]));
                mma(acc[j], af, bf);
            }
        }
        __syncthreads();
    }
    for (int j = 0; j < 8; ++j) {
        int row = row0 + warp * 16 + lane / 4, col = col0 + j * 8 + lane % 4 * 2;
        c[(size_t)row * n + col] = acc[j][0]; c[(size_t)row * n + col + 1] = acc[j][1];
        c[(size_t)(row + 8) * n + col] = acc[j][2]; c[(size_t)(row + 8) * n + col + 1] = acc[j][3];
    }
}

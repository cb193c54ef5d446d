// An array in local memory, constants, an atomic counter.
__constant__ int weights[8] = {3, -1, 4, 1, -5, 9, 2, -6};
__device__ unsigned counter = 0;
extern "C" __global__ void local_array(int* out, const unsigned char* picks, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int table[16];
    for (int k = 0; k < 16; ++k) table[k] = k * k - i;
    for (int k = 0; k < 8; ++k) table[(picks[i * 8 + k] * 7) & 15] += weights[picks[i * 8 + k] & 7];
    int sum = 0;
    for (int k = 0; k < 8; ++k) sum = sum * 31 + table[picks[i * 8 + k] & 15];
    out[i] = sum;
    atomicAdd(&counter, 1u);
}

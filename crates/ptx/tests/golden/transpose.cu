// Out of place, through a tile in shared memory with a column of padding.
extern "C" __global__ void transpose(float* out, const float* inp, int rows, int columns) {
    __shared__ float tile[32][33];
    int c = blockIdx.x * 32 + threadIdx.x;
    for (int i = threadIdx.y; i < 32; i += blockDim.y) {
        int r = blockIdx.y * 32 + i;
        if (r < rows && c < columns) tile[i][threadIdx.x] = inp[(size_t)r * columns + c];
    }
    __syncthreads();
    int r = blockIdx.y * 32 + threadIdx.x;
    for (int i = threadIdx.y; i < 32; i += blockDim.y) {
        int cc = blockIdx.x * 32 + i;
        if (r < rows && cc < columns) out[(size_t)cc * rows + r] = tile[threadIdx.x][i];
    }
}

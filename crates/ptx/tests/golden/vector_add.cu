// Sums, and a grid-stride loop over vectors of four.
extern "C" __global__ void vector_add(float* out, const float* a, const float* b, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}
extern "C" __global__ void saxpy4(float4* out, const float4* __restrict__ x, float a, long long n, unsigned char flag) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
        float4 v = x[i], o = out[i];
        o.x = fmaf(a, v.x, o.x); o.y = a * v.y + o.y; o.z += flag ? v.z : a; o.w = v.w / o.w;
        out[i] = o;
    }
}

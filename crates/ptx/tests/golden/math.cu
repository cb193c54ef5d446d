// Functions of the CUDA library in f32, and f64 arithmetic.
extern "C" __global__ void math(float* out, const float* inp, double* outd, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = inp[i];
    float* o = out + i * 16;
    o[0] = expf(x); o[1] = logf(fabsf(x) + 1e-3f); o[2] = sqrtf(fabsf(x)); o[3] = rsqrtf(fabsf(x) + 1.0f);
    o[4] = tanhf(x); o[5] = 1.0f / (1.0f + __expf(-x)); o[6] = x / (x * x + 1.0f); o[7] = floorf(x) + ceilf(x * 3.0f);
    o[8] = rintf(x * 5.0f); o[9] = (float)(int)(x * 100.0f); o[10] = fminf(fmaxf(x, -1.0f), 1.0f); o[11] = exp2f(x);
    o[12] = sinf(x); o[13] = cosf(x); o[14] = powf(fabsf(x), 0.37f); o[15] = erff(x);
    double d = x;
    outd[i] = d * d + sqrt(d * d + 1.0) / 3.0;
}

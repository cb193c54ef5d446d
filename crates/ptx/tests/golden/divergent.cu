// Loops of different lengths in each lane, early returns, a call that is not inlined.
__device__ __noinline__ unsigned collatz(unsigned n, unsigned limit) {
    unsigned steps = 0;
    while (n != 1) {
        if (steps >= limit) return 0xffffffffu;
        n = n % 2 ? 3 * n + 1 : n / 2;
        ++steps;
    }
    return steps;
}
extern "C" __global__ void divergent(unsigned* out, const unsigned* inp, int n, unsigned limit) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned v = inp[i];
    if (v == 0) { out[i] = 7; return; }
    unsigned total = 0;
    for (unsigned k = 0; k < v % 5; ++k) {
        if (k == 3) continue;
        unsigned c = collatz(v + k, limit);
        if (c == 0xffffffffu) break;
        total += c;
    }
    switch (v % 7) {
        case 0: total ^= 0x55; break;
        case 1: total *= 3; break;
        case 2: total += v / 11; break;
        case 3: total = __popc(total) + __clz(v); break;
        case 4: total = __brev(total); break;
        case 5: total -= __ffs(v); break;
        default: total = (total << 3) | (v >> 29);
    }
    out[i] = total;
}

// What is fused behind a product: the same for dense and quantised weights.
#pragma once
#include "activation.cuh"

// What happens to a sum. As the numbers of `End` in launch/matmul.rs.
enum End {
    END_STORE = 0,     // out = sum + bias
    END_RESIDUAL = 1,  // out = aux + (sum + bias)
    END_ACTIVATE = 2,  // aux_out = sum + bias, rounded (if there is an aux_out); out = activation(that)
    END_ADD = 3,       // out += sum
    END_THROUGH = 4,   // out = sum * activation'(aux)
    END_ACC = 5,       // out = sum, in f32
    END_ADD_ACC = 6,   // out += sum, in f32
};

// `a` are the kernel's arguments: out, ldo, bias, aux, aux_out, end, function.
template <typename Arguments>
__device__ __forceinline__ void finish(const Arguments& a, unsigned q, unsigned p, float sum) {
    const size_t at = static_cast<size_t>(q) * a.ldo + p;
    if (a.end == END_ACC) {
        static_cast<float*>(a.out)[at] = sum;
        return;
    }
    if (a.end == END_ADD_ACC) {
        static_cast<float*>(a.out)[at] += sum;
        return;
    }
    Elem* out = static_cast<Elem*>(a.out) + at;
    if (a.bias) sum = __fadd_rn(sum, to_float(a.bias[p]));
    switch (a.end) {
        case END_RESIDUAL: *out = to_elem(__fadd_rn(to_float(a.aux[at]), sum)); break;
        case END_ACTIVATE: {
            const Elem before = to_elem(sum);
            if (a.aux_out) a.aux_out[at] = before;
            *out = to_elem(activation(a.function, to_float(before)));
            break;
        }
        case END_ADD: *out = to_elem(__fadd_rn(to_float(*out), sum)); break;
        case END_THROUGH: *out = to_elem(sum * activation_derivative(a.function, to_float(a.aux[at]))); break;
        default: *out = to_elem(sum);
    }
}

#if defined(ELEM_BF16)
// Two elements as they lie in memory.
__device__ __forceinline__ float low_of(unsigned pair) { return bf16_to_float(static_cast<u16>(pair)); }
__device__ __forceinline__ float high_of(unsigned pair) { return bf16_to_float(static_cast<u16>(pair >> 16)); }

__device__ __forceinline__ uint2 four_elements(const float (&x)[4]) {
    return make_uint2(to_elem(x[0]) | static_cast<unsigned>(to_elem(x[1])) << 16,
                      to_elem(x[2]) | static_cast<unsigned>(to_elem(x[3])) << 16);
}

__device__ __forceinline__ void four_floats(float (&x)[4], const Elem* from) {
    const uint2 pairs = *reinterpret_cast<const uint2*>(from);
    x[0] = low_of(pairs.x), x[1] = high_of(pairs.x), x[2] = low_of(pairs.y), x[3] = high_of(pairs.y);
}

// `finish` for four outputs side by side, where all of them and what is read with them can be accessed at once: otherwise the
// end of a tile takes as long as many of its products.
template <typename Arguments>
__device__ __forceinline__ void finish_four(const Arguments& a, unsigned q, unsigned p, float4 four) {
    const size_t at = static_cast<size_t>(q) * a.ldo + p;
    if (a.end == END_ACC || a.end == END_ADD_ACC) {
        float4* to = reinterpret_cast<float4*>(static_cast<float*>(a.out) + at);
        if (a.end == END_ADD_ACC) {
            const float4 old = *to;
            four = make_float4(old.x + four.x, old.y + four.y, old.z + four.z, old.w + four.w);
        }
        *to = four;
        return;
    }
    Elem* out = static_cast<Elem*>(a.out) + at;
    float sum[4] = {four.x, four.y, four.z, four.w}, other[4] = {};
    if (a.bias) {
        four_floats(other, a.bias + p);
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) sum[i] = __fadd_rn(sum[i], other[i]);
    }
    switch (a.end) {
        case END_RESIDUAL:
        case END_ADD:
            four_floats(other, a.end == END_ADD ? out : a.aux + at);
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) sum[i] = __fadd_rn(other[i], sum[i]);
            break;
        case END_ACTIVATE: {
            const uint2 before = four_elements(sum);
            if (a.aux_out) *reinterpret_cast<uint2*>(a.aux_out + at) = before;
            sum[0] = activation(a.function, low_of(before.x)), sum[1] = activation(a.function, high_of(before.x));
            sum[2] = activation(a.function, low_of(before.y)), sum[3] = activation(a.function, high_of(before.y));
            break;
        }
        case END_THROUGH:
            four_floats(other, a.aux + at);
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) sum[i] *= activation_derivative(a.function, other[i]);
            break;
    }
    *reinterpret_cast<uint2*>(out) = four_elements(sum);
}
#endif

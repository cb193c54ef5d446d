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

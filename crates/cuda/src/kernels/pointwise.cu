// Activations, gates, rotary positions, AdamW: one thread for each element or pair.
#include "activation.cuh"

extern "C" __global__ void activate(const Elem *inp, Elem *out, u32 kind, u64 n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = to_elem(activation(kind, to_float(inp[i])));
}

extern "C" __global__ void activate_backward(const Elem *d_out, const Elem *inp, Elem *d_inp, u32 kind, u64 n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) d_inp[i] = to_elem(to_float(d_out[i]) * activation_derivative(kind, to_float(inp[i])));
}

extern "C" __global__ void gate(const Elem *gate, const Elem *up, Elem *out, u32 kind, u64 n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = to_elem(activation(kind, to_float(gate[i])) * to_float(up[i]));
}

extern "C" __global__ void gate_backward(const Elem *d_out, const Elem *gate, const Elem *up, Elem *d_gate, Elem *d_up, u32 kind,
                                         u64 n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float dy = to_float(d_out[i]), g = to_float(gate[i]), u = to_float(up[i]);
    d_gate[i] = to_elem(dy * u * activation_derivative(kind, g));
    d_up[i] = to_elem(dy * activation(kind, g));
}

// Rotates in place, one thread for each pair; `sign` is 1 or, for the way back, -1. Positions out of range give NaN.
extern "C" __global__ void rope(Elem *x, const float *table, const u32 *positions, u64 pairs, u32 n_heads, u32 row_width, u32 d_head,
                                u32 d_rot, u32 n_positions, float sign) {
    u64 item = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= pairs) return;
    u32 half = d_rot / 2;
    u32 i = (u32)(item % half);
    u64 row = item / half / n_heads;
    u32 head = (u32)(item / half % n_heads);
    u32 position = positions[row];
    bool valid = position < n_positions;
    const float *angles = table + (u64)(valid ? position : 0) * d_rot;
    float cosine = valid ? angles[i] : NAN_F;
    float sine = valid ? sign * angles[half + i] : NAN_F;
    Elem *at = x + row * row_width + head * d_head + i;
    float a = to_float(at[0]), b = to_float(at[half]);
    at[0] = to_elem(a * cosine - b * sine);
    at[half] = to_elem(b * cosine + a * sine);
}

// One step of AdamW. Without `master` the weight itself is the exact one.
extern "C" __global__ void adamw(Elem *weight, float *master, const float *grad, float *m, float *v, u64 n, float lr, float beta1,
                                 float beta2, float eps, float weight_decay, float bias_correction1, float bias_correction2,
                                 float grad_scale) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float g = grad[i] * grad_scale;
    float mi = beta1 * m[i] + (1.0f - beta1) * g;
    float vi = beta2 * v[i] + (1.0f - beta2) * g * g;
    m[i] = mi;
    v[i] = vi;
    float update = (mi / bias_correction1) / (sqrtf(vi / bias_correction2) + eps);
    float w = master ? master[i] : to_float(weight[i]);
    w = w * (1.0f - lr * weight_decay) - lr * update;
    if (master) master[i] = w;
    weight[i] = to_elem(w);
}

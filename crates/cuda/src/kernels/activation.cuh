// Activations and their derivatives. The numbers are those of `crate::launch::pointwise::code`.
#pragma once
#include "common.cuh"

#define GELU_TANH 0
#define GELU_ERF 1
#define RELU 2
#define SILU 3

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float activation(u32 kind, float x) {
    switch (kind) {
    case GELU_TANH: {
        float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
        return 0.5f * x * (1.0f + tanhf(u));
    }
    case GELU_ERF:
        return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    case RELU:
        return x > 0.0f ? x : 0.0f;
    default:
        return x * sigmoid(x);
    }
}

__device__ __forceinline__ float activation_derivative(u32 kind, float x) {
    switch (kind) {
    case GELU_TANH: {
        float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
        float d_u = 0.7978845608028654f * (1.0f + 0.134145f * x * x);
        float t = tanhf(u);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * d_u;
    }
    case GELU_ERF: {
        float cdf = 0.5f * (1.0f + erff(x * 0.7071067811865476f));
        return cdf + x * (0.3989422804014327f * expf(-0.5f * x * x));
    }
    case RELU:
        return x > 0.0f ? 1.0f : 0.0f;
    default: {
        float s = sigmoid(x);
        return s * (1.0f + x * (1.0f - s));
    }
    }
}

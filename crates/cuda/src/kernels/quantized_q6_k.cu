// q6_k: see quantized.cuh.
#define LOW 4
#define HIGH 2
#define GROUPS 2
#define OFFSETS 0
#define SUPER 1
#define ZERO 32
#include "quantized.cuh"

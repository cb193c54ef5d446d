// q2_k: see quantized.cuh.
#define LOW 2
#define HIGH 0
#define GROUPS 2
#define OFFSETS 1
#define SUPER 1
#define ZERO 0
#include "quantized.cuh"

// q5_k: see quantized.cuh.
#define LOW 4
#define HIGH 1
#define GROUPS 1
#define OFFSETS 1
#define SUPER 1
#define ZERO 0
#include "quantized.cuh"

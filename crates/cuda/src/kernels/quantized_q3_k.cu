// q3_k: see quantized.cuh.
#define LOW 2
#define HIGH 1
#define GROUPS 2
#define OFFSETS 0
#define SUPER 1
#define ZERO 4
#include "quantized.cuh"

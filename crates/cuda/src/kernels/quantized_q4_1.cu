// q4_1: see quantized.cuh.
#define LOW 4
#define HIGH 0
#define GROUPS 1
#define OFFSETS 1
#define SUPER 0
#define ZERO 0
#include "quantized.cuh"

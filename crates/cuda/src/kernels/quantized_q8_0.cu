// q8_0: see quantized.cuh.
#define LOW 8
#define HIGH 0
#define GROUPS 1
#define OFFSETS 0
#define SUPER 0
#define ZERO 0
#include "quantized.cuh"

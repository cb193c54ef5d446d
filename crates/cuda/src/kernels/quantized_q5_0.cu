// q5_0: see quantized.cuh.
#define LOW 4
#define HIGH 1
#define GROUPS 1
#define OFFSETS 0
#define SUPER 0
#define ZERO 16
#include "quantized.cuh"

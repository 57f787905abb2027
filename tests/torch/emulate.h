/* CUDA's words in C, so that the text for the device runs on the host, one thread after the other. */

#define EMULATED 1
#define KERNEL __attribute__((visibility("default")))
#define UNROLLED
#define ALIGNED(n) __attribute__((aligned(n)))

typedef struct { unsigned x; } Index;
static Index blockIdx, threadIdx, blockDim;

static void atomicMax(long long *target, long long x) { *target = *target > x ? *target : x; }
static void atomicAdd(double *target, double x) { *target += x; }

/* Driving a printed program on a CUDA device: scalars, passes and counters without a word to the host.

   A step is a sequence of kernels on one stream: for each level `evaluate_N`, one thread for each tensor, then `pass_N`,
   one block for each chunk of a tensor; at last `finish`.  Tables stay on the device; hyperparameters, counters, loss
   scale and found_inf are read there.  If the rule says that nothing happens, `skip` is set before anything is stored.
   Sums are exact and maxima are maxima, so atomic operations may come in any order.

   Compiled as CUDA C++; `emulate.h` makes it C for the host. */

#ifndef EMULATED
#define KERNEL extern "C" __global__ __launch_bounds__(256)
#define UNROLLED _Pragma("unroll")
#define ALIGNED(n) __align__(n)
#endif

enum { CHUNK = 16384 };

typedef struct { i64 tensor, begin; } Chunk;

/* trainfn_torch.kernels.cuda fills this in; every field has eight bytes. */
typedef struct {
    i64 tensors;
    double count;                /* elements of the whole model */
    const i64 *sizes;            /* [tensors] */
    char *const *buffers;        /* [tensors][BUFFERS] */
    float *const *steps;         /* [tensors] */
    float *const *scalar_states; /* [tensors][SCALAR_STATES] */
    const double *hyper;         /* [hypers][HYPERS] */
    const double *const *wide;   /* [hypers][HYPERS] where the device keeps it itself, or null */
    const float *const *narrow;  /* the same for float32 */
    const i64 *hyper_of;         /* [tensors] */
    const Chunk *chunks;
    double *slots;               /* [tensors][SLOTS] */
    real *meets;                 /* [tensors][MEETS] */
    u64 *sums;                   /* [tensors][REDUCTIONS] encoded */
    u64 *totals;                 /* encoded; shared by all programs of the model */
    i64 *skip;                   /* likewise */
    float *updates;              /* counter of the whole model, or null */
} Context;

/* Four neighbours, moved as vectors of at most sixteen bytes. */
typedef struct ALIGNED(16) { float at[4]; } four_float32;
typedef struct ALIGNED(16) { double at[4]; } four_float64;
typedef struct ALIGNED(8) { u16 at[4]; } four_bfloat16;
typedef struct ALIGNED(8) { u16 at[4]; } four_float16;
#define IS_ALIGNED(format, array) ((u64)(array) % (sizeof(stored_##format) == 2 ? 8 : 16) == 0)

/* -- reductions: maxima as integers in the order of the numbers, NaN above all; sums as they are ------------------------- */

INLINE i64 ordered_double(double x) {
    const i64 u = (i64)bits_of_double(x);
    return x != x ? 0x7fffffffffffffffll : u ^ ((u >> 63) & 0x7fffffffffffffffll);
}
INLINE double decode(const Reduction *r, u64 encoded) {
    const i64 k = (i64)encoded;
    return double_of_bits(r->is_max ? (u64)(k ^ ((k >> 63) & 0x7fffffffffffffffll)) : encoded);
}
INLINE u64 encoded_initial(const Reduction *r) { return r->is_signed_max ? (u64)ordered_double(-INFINITE) : 0; }

INLINE void merge(const Context *c, i64 tensor, int position, double part) {
    const Reduction *r = reductions + position;
    u64 *target = r->is_global ? c->totals + r->total : c->sums + tensor * REDUCTIONS + position;
#ifndef EMULATED
    for (int distance = 16; distance > 0; distance /= 2) {
        const double other = __shfl_xor_sync(0xffffffffu, part, distance);
        part = r->is_max ? larger(part, other) : DOUBLE_ADD(part, other);
    }
    if (threadIdx.x % 32) return;
#endif
    if (r->is_max) atomicMax((i64 *)target, ordered_double(part));
    else atomicAdd((double *)target, part);
}

/* -- scalars ---------------------------------------------------------------------------------------------------------- */

INLINE void fill_row(const Context *c, i64 tensor) {
    double *s = c->slots + tensor * SLOTS;
    s[STEP] = (double)*c->steps[tensor];
    s[COUNT_LEAF] = (double)c->sizes[tensor];
    s[COUNT_GLOBAL] = c->count;
    for (int i = 0; i < HYPERS; ++i) {
        const i64 at = c->hyper_of[tensor] * HYPERS + i;
        s[FIRST_HYPER + i] = c->wide[at] ? *c->wide[at] : c->narrow[at] ? (double)*c->narrow[at] : c->hyper[at];
    }
    for (int i = 0; i < SCALAR_STATES; ++i)
        s[FIRST_HYPER + HYPERS + i] = (double)*c->scalar_states[tensor * SCALAR_STATES + i];
}

/* What the level before has reduced goes into the row; what this level will reduce starts anew. */
INLINE void take_reductions(const Context *c, i64 tensor, int level) {
    for (int r = 0; r < REDUCTIONS; ++r) {
        u64 *own = c->sums + tensor * REDUCTIONS + r;
        if (reductions[r].level == level - 1) {
            const u64 encoded = reductions[r].is_global ? c->totals[reductions[r].total] : *own;
            c->slots[tensor * SLOTS + reductions[r].slot] = decode(reductions + r, encoded);
        }
        if (reductions[r].level == level) {
            *own = encoded_initial(reductions + r);
            if (tensor == 0 && reductions[r].is_global) c->totals[reductions[r].total] = *own;
        }
    }
}

#define EVALUATE(N) \
    KERNEL void evaluate_##N(const Context c) { \
        const i64 tensor = blockIdx.x * (i64)blockDim.x + threadIdx.x; \
        if (tensor >= c.tensors) return; \
        if (N == 0) fill_row(&c, tensor); \
        take_reductions(&c, tensor, N); \
        scalars_##N(c.slots + tensor * SLOTS, c.meets + tensor * MEETS); \
        if (APPLIED_LEVEL == N && c.slots[tensor * SLOTS + APPLIED] == 0.0) *c.skip = 1; \
    }

KERNEL void begin(const Context c) { *c.skip = 0; }

/* Writes scalar state and moves the counters on. */
KERNEL void finish(const Context c) {
    const i64 tensor = blockIdx.x * (i64)blockDim.x + threadIdx.x;
    if (tensor >= c.tensors || *c.skip) return;
    for (int i = 0; i < SCALAR_STATES; ++i)
        if (stored_scalars[i] >= 0)
            *c.scalar_states[tensor * SCALAR_STATES + i] = (float)c.slots[tensor * SLOTS + stored_scalars[i]];
    const float counted = COUNTED < 0 || c.slots[tensor * SLOTS + COUNTED] != 0.0 ? 1.0f : 0.0f;
    *c.steps[tensor] = FLOAT_ADD(*c.steps[tensor], counted);
    if (tensor == 0 && c.updates) *c.updates = FLOAT_ADD(*c.updates, counted);
}

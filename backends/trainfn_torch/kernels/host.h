/* Driving a printed program on the CPU: all tensors of one program, pass by pass.

   The printed text before this defines the sizes (BUFFERS, SLOTS, ...), scalars_N and pass_N for each level N, and the
   tables `scalars`, `passes`, `reductions`, `stored_scalars`.  A pass runs over one flat range, the elements of all
   tensors one after the other, cut by torch_parallel_for into a stretch for each of torch's own threads.  Sums are
   exact and maxima are maxima, so stretches may end anywhere and finish in any order. */

/* trainfn_torch.kernels.cpu fills this in; every field has eight bytes. */
typedef struct {
    i64 tensors, hypers, rows;
    double count;                 /* elements of the whole model */
    const i64 *starts;            /* [tensors + 1] where each tensor begins in the flat range */
    char *const *buffers;         /* [tensors][BUFFERS] */
    float *const *steps;          /* [tensors] */
    float *const *scalar_states;  /* [tensors][SCALAR_STATES] */
    const double *hyper;          /* [hypers][HYPERS] */
    const i32 *hyper_of;          /* [tensors] */
    i32 *row_of;                  /* [tensors] */
    i32 *hyper_of_row;            /* [tensors] */
    double *slots;                /* [tensors][SLOTS], as many rows as there are different ones */
    real *meets;                  /* [tensors][MEETS] */
    double *sums;                 /* [tensors][REDUCTIONS] */
    double *totals;               /* [REDUCTIONS] */
    ParallelFor parallel_for;     /* or null */
    i64 grain;
    i64 level;
} Context;

/* -- scalars ----------------------------------------------------------------------------------------------------------- */

/* Leaves with equal hyperparameters and steps share a row, unless something else is told apart by leaf. */
static i64 find_row(Context *c, i64 tensor, double step) {
    if (ROW_FOR_EACH_TENSOR) return tensor;
    for (i64 row = c->rows - 1; row >= 0; --row)
        if (c->hyper_of_row[row] == c->hyper_of[tensor] && c->slots[row * SLOTS + STEP] == step) return row;
    return c->rows;
}

static void fill_row(Context *c, i64 row, i64 tensor, double step) {
    double *s = c->slots + row * SLOTS;
    c->hyper_of_row[row] = c->hyper_of[tensor];
    s[STEP] = step;
    s[COUNT_LEAF] = (double)(c->starts[tensor + 1] - c->starts[tensor]);
    s[COUNT_GLOBAL] = c->count;
    for (i64 i = 0; i < HYPERS; ++i) s[FIRST_HYPER + i] = c->hyper[c->hyper_of[tensor] * HYPERS + i];
    for (i64 i = 0; i < SCALAR_STATES; ++i)
        s[FIRST_HYPER + HYPERS + i] = (double)*c->scalar_states[tensor * SCALAR_STATES + i];
}

/* Reads step counters and scalar state, and decides which tensors share a row of scalars. */
EXPORT void gather(Context *c) {
    const unsigned theirs = enter(PLAIN);
    c->rows = 0;
    for (i64 tensor = 0; tensor < c->tensors; ++tensor) {
        const double step = (double)*c->steps[tensor];
        const i64 row = find_row(c, tensor, step);
        if (row >= c->rows) {
            fill_row(c, row, tensor, step);
            c->rows = row + 1;
        }
        c->row_of[tensor] = (i32)row;
    }
    leave(theirs);
}

/* Evaluates the scalars of a level, in float64 as Python does. */
EXPORT void evaluate(Context *c, i64 level) {
    const unsigned theirs = enter(PLAIN);
    for (i64 row = 0; row < c->rows; ++row) {
        double *s = c->slots + row * SLOTS;
        for (i64 r = 0; r < REDUCTIONS; ++r)
            if (reductions[r].level == level - 1 && reductions[r].is_global) s[reductions[r].slot] = c->totals[r];
        scalars[level](s, c->meets + row * MEETS);
    }
    leave(theirs);
}

EXPORT int is_applied(Context *c) {
    if (APPLIED < 0) return 1;
    for (i64 row = 0; row < c->rows; ++row)
        if (c->slots[row * SLOTS + APPLIED] == 0.0) return 0;
    return 1;
}

/* By how much counters move on: every row says the same. */
static float counted(const double *slots) { return COUNTED < 0 || slots[COUNTED] != 0.0 ? 1.0f : 0.0f; }

/* Writes scalar state and moves the counters on; `updates` counts for the whole model, or is null. */
EXPORT void finish(Context *c, float *updates) {
    const unsigned theirs = enter(PLAIN);
    for (i64 tensor = 0; tensor < c->tensors; ++tensor) {
        const double *s = c->slots + c->row_of[tensor] * SLOTS;
        for (i64 i = 0; i < SCALAR_STATES; ++i)
            if (stored_scalars[i] >= 0) *c->scalar_states[tensor * SCALAR_STATES + i] = (float)s[stored_scalars[i]];
        *c->steps[tensor] += counted(s);
    }
    if (updates) *updates += counted(c->slots);
    leave(theirs);
}

/* -- passes -------------------------------------------------------------------------------------------------------------- */

static double initial(const Reduction *r) { return r->is_signed_max ? -INFINITE : 0.0; }

static double combine(const Reduction *r, double x, double y) { return r->is_max ? larger(x, y) : x + y; }

static void merge(const Reduction *r, double *target, double part) {
    u64 before = __atomic_load_n((u64 *)target, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n((u64 *)target, &before,
                                        bits_of_double(combine(r, part, double_of_bits(before))), 1, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
}

static i64 tensor_at(const Context *c, i64 position) {
    i64 low = 0, high = c->tensors;
    while (high - low > 1) {
        const i64 middle = low + (high - low) / 2;
        if (c->starts[middle] <= position) low = middle;
        else high = middle;
    }
    return low;
}

static void run_stretch(i64 begin, i64 end, void *context) {
    Context *c = (Context *)context;
    const unsigned theirs = enter(FLUSHING);
    for (i64 tensor = tensor_at(c, begin); begin < end; ++tensor) {
        const i64 stop = end < c->starts[tensor + 1] ? end : c->starts[tensor + 1];
        if (stop == begin) continue;
        const i64 row = c->row_of[tensor];
        double parts[REDUCTIONS + 1];
        passes[c->level](c->buffers + tensor * BUFFERS, begin - c->starts[tensor], stop - begin,
                         c->meets + row * MEETS, c->slots + row * SLOTS, parts);
        for (i64 r = 0; r < REDUCTIONS; ++r)
            if (reductions[r].level == c->level) merge(reductions + r, c->sums + tensor * REDUCTIONS + r, parts[r]);
        begin = stop;
    }
    leave(theirs);
}

/* One pass over all arrays, and what it reduces. */
EXPORT int pass(Context *c, i64 level) {
    const i64 total = c->starts[c->tensors];
    int failed = 0;
    c->level = level;
    for (i64 tensor = 0; tensor < c->tensors; ++tensor)
        for (i64 r = 0; r < REDUCTIONS; ++r)
            if (reductions[r].level == level) c->sums[tensor * REDUCTIONS + r] = initial(reductions + r);
    if (total > 0 && passes[level]) {
        if (c->parallel_for) failed = c->parallel_for(0, total, c->grain, run_stretch, c);
        else run_stretch(0, total, c);
    }
    for (i64 r = 0; r < REDUCTIONS; ++r) {
        if (reductions[r].level != level) continue;
        double all = initial(reductions + r);
        for (i64 tensor = 0; tensor < c->tensors; ++tensor) {
            const double part = c->sums[tensor * REDUCTIONS + r];
            if (reductions[r].is_global) all = combine(reductions + r, part, all);
            else c->slots[c->row_of[tensor] * SLOTS + reductions[r].slot] = part;
        }
        c->totals[r] = all;
    }
    return failed;
}

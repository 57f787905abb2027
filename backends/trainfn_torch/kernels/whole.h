/* Operations on whole arrays of float32: sums and maxima along an axis and over all elements.

   Sums are those of `trainfn.elementary`: numbers rounded to a grid, whose sums are exact in any order, and what is left
   over rounded to a finer one.  All of it runs in the plain floating-point environment, so what is read is flushed by
   hand.  An array has `outer` x `n` x `inner` elements, and the axis is the one in the middle. */

/* The grids for sums of `count` numbers, as in trainfn/elementary.py. */
INLINE double coarse_grid(double largest, double count) {
    return s_pow2((s_exponent(largest) + 1.0) + (s_exponent(count) + 1.0));
}
INLINE double fine_grid(double coarse, double count) { return coarse * s_pow2((s_exponent(count) + 1.0) - 53.0); }

/* The sum in one rounding; a maximum that is not finite is the sum. */
INLINE float sum_of(double largest, double high, double low) {
    return flush((float)(largest < INFINITE ? high + low : largest));
}

/* The largest |x| of a row, as an ordinal. */
INLINE ordinal size_of_row(const float *x, i64 n) {
    ordinal size = 0;
#pragma omp simd reduction(max : size)
    for (i64 i = 0; i < n; ++i) {
        const ordinal own = size_of(flush(x[i]));
        size = own > size ? own : size;
    }
    return size;
}

/* Columns are taken a block at a time, row by row, so that neighbours in memory are neighbours in time. */
enum { BLOCK = 128 };

/* The largest |x| of each column. */
INLINE void sizes_of_columns(const float *x, i64 n, i64 inner, i64 width, ordinal *size) {
    for (i64 j = 0; j < width; ++j) size[j] = 0;
    for (i64 i = 0; i < n; ++i)
#pragma omp simd
        for (i64 j = 0; j < width; ++j) {
            const ordinal own = size_of(flush(x[i * inner + j]));
            size[j] = own > size[j] ? own : size[j];
        }
}

/* -- along an axis ------------------------------------------------------------------------------------------------------ */

typedef struct {
    const float *x;
    float *result;
    i64 outer, n, inner;
    int is_max;
} Axis;

/* Not inlined, as none of these: their arithmetic must stay behind the change of the floating-point environment. */
FUNCTION float sum_of_row(const float *x, i64 n) {
    const double largest = of_size(size_of_row(x, n)), coarse = coarse_grid(largest, (double)n), fine = fine_grid(coarse, (double)n);
    double high = 0.0, low = 0.0;
#pragma omp simd reduction(+ : high, low)
    for (i64 i = 0; i < n; ++i) {
        const double wide = (double)flush(x[i]), kept = on_grid(wide, coarse);
        high += kept;
        low += on_grid(wide - kept, fine);
    }
    return sum_of(largest, high, low);
}

FUNCTION float max_of_row(const float *x, i64 n) {
    ordinal most = ordered(-INFINITE);
#pragma omp simd reduction(max : most)
    for (i64 i = 0; i < n; ++i) {
        const ordinal own = ordered(flush(x[i]));
        most = own > most ? own : most;
    }
    return (float)of_ordered(most) + 0.0f;
}

FUNCTION void sums_of_columns(const float *x, i64 n, i64 inner, i64 width, float *result) {
    ordinal size[BLOCK];
    double coarse[BLOCK], fine[BLOCK], high[BLOCK] = {0.0}, low[BLOCK] = {0.0};
    sizes_of_columns(x, n, inner, width, size);
    for (i64 j = 0; j < width; ++j) {
        coarse[j] = coarse_grid(of_size(size[j]), (double)n);
        fine[j] = fine_grid(coarse[j], (double)n);
    }
    for (i64 i = 0; i < n; ++i)
#pragma omp simd
        for (i64 j = 0; j < width; ++j) {
            const double wide = (double)flush(x[i * inner + j]), kept = on_grid(wide, coarse[j]);
            high[j] += kept;
            low[j] += on_grid(wide - kept, fine[j]);
        }
    for (i64 j = 0; j < width; ++j) result[j] = sum_of(of_size(size[j]), high[j], low[j]);
}

FUNCTION void maxima_of_columns(const float *x, i64 n, i64 inner, i64 width, float *result) {
    ordinal most[BLOCK];
    for (i64 j = 0; j < width; ++j) most[j] = ordered(-INFINITE);
    for (i64 i = 0; i < n; ++i)
#pragma omp simd
        for (i64 j = 0; j < width; ++j) {
            const ordinal own = ordered(flush(x[i * inner + j]));
            most[j] = own > most[j] ? own : most[j];
        }
    for (i64 j = 0; j < width; ++j) result[j] = (float)of_ordered(most[j]) + 0.0f;
}

static void rows(i64 begin, i64 end, void *context) {
    const unsigned theirs = enter(PLAIN);
    const Axis *a = (const Axis *)context;
    for (i64 row = begin; row < end; ++row)
        a->result[row] = (a->is_max ? max_of_row : sum_of_row)(a->x + row * a->n, a->n);
    leave(theirs);
}

static i64 blocks(i64 inner) { return (inner + BLOCK - 1) / BLOCK; }

static void columns(i64 begin, i64 end, void *context) {
    const unsigned theirs = enter(PLAIN);
    const Axis *a = (const Axis *)context;
    for (i64 unit = begin; unit < end; ++unit) {
        const i64 outer = unit / blocks(a->inner), from = unit % blocks(a->inner) * BLOCK;
        const i64 width = a->inner - from < BLOCK ? a->inner - from : BLOCK;
        (a->is_max ? maxima_of_columns : sums_of_columns)(a->x + outer * a->n * a->inner + from, a->n, a->inner, width,
                                                          a->result + outer * a->inner + from);
    }
    leave(theirs);
}

EXPORT int along_axis(const Threads *threads, int is_max, const float *x, i64 outer, i64 n, i64 inner, float *result) {
    Axis a = {x, result, outer, n, inner, is_max};
    if (inner == 1) return in_parallel(threads, outer, n, rows, &a);
    return in_parallel(threads, outer * blocks(inner), n * BLOCK, columns, &a);
}

/* -- over all elements -------------------------------------------------------------------------------------------------- */

/* What is reduced: x, or x times y if there is a y. */
enum { MAX, MAX_ABS, SUM_COARSE, SUM_FINE };

typedef struct {
    int kind;
    const float *x, *y;
    double coarse, fine, total;
} Whole;

static void merge(double *target, double part, int is_max) {
    u64 before = __atomic_load_n((u64 *)target, __ATOMIC_RELAXED);
    double after;
    do {
        const double old = double_of_bits(before);
        after = is_max ? larger(part, old) : part + old;
    } while (!__atomic_compare_exchange_n((u64 *)target, &before, bits_of_double(after), 1, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
}

FUNCTION double largest_size(const float *x, i64 begin, i64 end) {
    return of_size(size_of_row(x + begin, end - begin));
}

FUNCTION double largest_product(const float *x, const float *y, i64 begin, i64 end) {
    i64 most = 0;
#pragma omp simd reduction(max : most)
    for (i64 i = begin; i < end; ++i) {
        const i64 own = size_of_product((double)flush(x[i]) * (double)flush(y[i]));
        most = own > most ? own : most;
    }
    return of_size_of_product(most);
}

FUNCTION double largest(const Whole *w, i64 begin, i64 end) {
    ordinal most = ordered(-INFINITE);
#pragma omp simd reduction(max : most)
    for (i64 i = begin; i < end; ++i) {
        const ordinal own = ordered(flush(w->x[i]));
        most = own > most ? own : most;
    }
    return of_ordered(most);
}

/* The flags are constants where this is called, so that each has a loop of its own. */
INLINE double sum(const Whole *w, i64 begin, i64 end, int is_product, int is_fine) {
    const float *x = w->x, *y = w->y;
    const double coarse = w->coarse, fine = w->fine;
    double total = 0.0;
#pragma omp simd reduction(+ : total)
    for (i64 i = begin; i < end; ++i) {
        const double a = (double)flush(x[i]), b = is_product ? (double)flush(y[i]) : 1.0;
        const double kept = is_product ? product_on_grid(a, b, coarse) : on_grid(a, coarse);
        const double rest = is_product ? product_plus(a, b, -kept) : a - kept;
        total += is_fine ? on_grid(rest, fine) : kept;
    }
    return total;
}

FUNCTION double reduced(const Whole *w, i64 begin, i64 end) {
    if (w->kind == MAX) return largest(w, begin, end);
    if (w->kind == MAX_ABS && w->y && w->y != w->x) return largest_product(w->x, w->y, begin, end);
    if (w->kind == MAX_ABS) {
        const double size = largest_size(w->x, begin, end);
        return w->y ? size * size : size;
    }
    if (w->y) return w->kind == SUM_FINE ? sum(w, begin, end, 1, 1) : sum(w, begin, end, 1, 0);
    return w->kind == SUM_FINE ? sum(w, begin, end, 0, 1) : sum(w, begin, end, 0, 0);
}

static void stretch_of_whole(i64 begin, i64 end, void *context) {
    const unsigned theirs = enter(PLAIN);
    Whole *w = (Whole *)context;
    merge(&w->total, reduced(w, begin, end), w->kind <= MAX_ABS);
    leave(theirs);
}

EXPORT int over_all(const Threads *threads, int kind, const float *x, const float *y, i64 n, double coarse, double fine,
                    double *result) {
    Whole w = {kind, x, y, coarse, fine, kind == MAX ? -INFINITE : 0.0};
    const int failed = in_parallel(threads, n, 1, stretch_of_whole, &w);
    *result = w.total;
    return failed;
}

/* -- matrices cut for exact products, as `trainfn.elementary.slices` says ------------------------------------------------ */

typedef struct {
    const float *x;
    double *high, *rest; /* rest may be null */
    i64 outer, n, inner; /* the axis in the middle is the one that products sum over */
    double coarse, fine;
} Cut;

INLINE void cut_one(const Cut *c, i64 i, double coarse, double fine) {
    const double wide = (double)flush(c->x[i]), kept = on_grid(wide, coarse);
    c->high[i] = kept;
    if (c->rest) c->rest[i] = on_grid(wide - kept, fine);
}

FUNCTION void cut_row(const Cut *c, i64 from) {
    const double largest = of_size(size_of_row(c->x + from, c->n));
    const double coarse = c->coarse * largest, fine = c->fine * largest;
#pragma omp simd
    for (i64 i = from; i < from + c->n; ++i) cut_one(c, i, coarse, fine);
}

FUNCTION void cut_columns(const Cut *c, i64 from, i64 width) {
    ordinal size[BLOCK];
    double coarse[BLOCK], fine[BLOCK];
    sizes_of_columns(c->x + from, c->n, c->inner, width, size);
    for (i64 j = 0; j < width; ++j) {
        coarse[j] = c->coarse * of_size(size[j]);
        fine[j] = c->fine * of_size(size[j]);
    }
    for (i64 i = 0; i < c->n; ++i)
#pragma omp simd
        for (i64 j = 0; j < width; ++j) cut_one(c, from + i * c->inner + j, coarse[j], fine[j]);
}

static void cut_stretch(i64 begin, i64 end, void *context) {
    const unsigned theirs = enter(PLAIN);
    const Cut *c = (const Cut *)context;
    const i64 each = blocks(c->inner);
    for (i64 unit = begin; unit < end; ++unit) {
        const i64 from = unit % each * BLOCK, width = c->inner - from < BLOCK ? c->inner - from : BLOCK;
        if (c->inner == 1) cut_row(c, unit * c->n);
        else cut_columns(c, unit / each * c->n * c->inner + from, width);
    }
    leave(theirs);
}

EXPORT int slices(const Threads *threads, const float *x, i64 outer, i64 n, i64 inner, double coarse, double fine,
                  double *high, double *rest) {
    Cut c = {x, high, rest, outer, n, inner, coarse, fine};
    return in_parallel(threads, outer * blocks(inner), n * (inner == 1 ? 1 : BLOCK), cut_stretch, &c);
}

typedef struct {
    const double *high, *small; /* small may be null */
    float *result;
} Parts;

static void together_stretch(i64 begin, i64 end, void *context) {
    const unsigned theirs = enter(PLAIN);
    const Parts *p = (const Parts *)context;
    for (i64 i = begin; i < end; ++i)
        p->result[i] = flush((float)(p->small ? p->high[i] + p->small[i] : p->high[i])) + 0.0f;
    leave(theirs);
}

/* The parts of a product in one rounding; zeros are +0. */
EXPORT int together(const Threads *threads, const double *high, const double *small, i64 n, float *result) {
    Parts p = {high, small, result};
    return in_parallel(threads, n, 1, together_stretch, &p);
}

/* Running a printed loop over arrays that fit together: the text before this defines ARRAYS, SCALARS and `loop`.

   Arrays are walked along `axes` axes of these sizes, by so many bytes for each; where an array is the same along an axis
   it takes none. */

typedef struct {
    char *const *arrays; /* [ARRAYS] those read, then those written */
    i64 axes;
    const i64 *sizes;    /* [axes] */
    const i64 *bytes;    /* [ARRAYS][axes] */
    real k[SCALARS + 1]; /* the Scalars, as they meet arrays */
} Run;

/* The elements from `begin` to `end` of all, a row of the last axis, or part of one, at a time. */
static void stretch(i64 begin, i64 end, void *context) {
    const Run *run = (const Run *)context;
    const unsigned theirs = enter(FLUSHING);
    const i64 last = run->axes - 1, inner = run->sizes[last];
    while (begin < end) {
        const i64 column = begin % inner, n = inner - column < end - begin ? inner - column : end - begin;
        char *at[ARRAYS + 1];
        for (i64 array = 0; array < ARRAYS; ++array) {
            const i64 *bytes = run->bytes + array * run->axes;
            i64 row = begin / inner;
            at[array] = run->arrays[array] + column * bytes[last];
            for (i64 axis = last - 1; axis >= 0; --axis) {
                at[array] += row % run->sizes[axis] * bytes[axis];
                row /= run->sizes[axis];
            }
        }
        loop(at, n, run->k);
        begin += n;
    }
    leave(theirs);
}

EXPORT int run(const Threads *threads, char *const *arrays, const double *scalars, i64 axes, const i64 *sizes,
               const i64 *bytes) {
    Run all = {arrays, axes, sizes, bytes, {0}};
    i64 elements = 1;
    for (i64 axis = 0; axis < axes; ++axis) elements *= sizes[axis];
    const unsigned theirs = enter(PLAIN);
    for (i64 i = 0; i < SCALARS; ++i) all.k[i] = meet(scalars[i]);
    leave(theirs);
    return in_parallel(threads, elements, 1, stretch, &all);
}

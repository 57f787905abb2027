/* What code for the CPU runs in: torch's threads, and a floating-point environment of its own. */

#define EXPORT __attribute__((visibility("default")))

typedef void (*Stretch)(i64 begin, i64 end, void *context);
typedef int (*ParallelFor)(i64 begin, i64 end, i64 grain, Stretch stretch, void *context);

typedef struct {
    ParallelFor parallel_for; /* or null */
    i64 grain;                /* elements that are worth a thread */
} Threads;

/* Calls `stretch` for parts of `units`, each of so many elements, in torch's threads. */
static int in_parallel(const Threads *threads, i64 units, i64 elements, Stretch stretch, void *context) {
    if (units <= 0) return 0;
    const i64 grain = threads->grain / (elements > 0 ? elements : 1) + 1;
    if (threads->parallel_for) return threads->parallel_for(0, units, grain, stretch, context);
    stretch(0, units, context);
    return 0;
}

/* -- the floating-point environment: ours inside, the caller's restored -------------------------------------------------- */

#if defined(__x86_64__) || defined(__i386__)
static unsigned enter(unsigned ours) {
    const unsigned theirs = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(ours);
    return theirs;
}
static void leave(unsigned theirs) { __builtin_ia32_ldmxcsr(theirs); }
#else
static unsigned enter(unsigned ours) { return ours; }
static void leave(unsigned theirs) { (void)theirs; }
#endif
enum { PLAIN = 0x1f80, FLUSHING = 0x9fc0 }; /* all exceptions masked, to nearest; FTZ and DAZ */

/* What the primitives of a program are, on whichever processor this is compiled for.

   Arrays are computed in `real` (float, or double for float64 leaves), every operation rounded on its own, subnormal
   inputs and results flushed to zero of their sign.  x86 flushes by itself once two bits of MXCSR are set (the host
   driver sets them); everywhere else the flush is written out here.  Scalars are plain float64, never flushed.

   Whoever includes this defines REAL_IS_DOUBLE and FLUSHED_BY_HARDWARE. */

#ifdef __CUDACC__
#define INLINE static __device__ __forceinline__
#define FUNCTION INLINE
/* Intrinsics are never contracted, whatever the flags. */
#define DOUBLE_ADD(x, y) __dadd_rn(x, y)
#define DOUBLE_SUB(x, y) __dadd_rn(x, -(y))
#define DOUBLE_MUL(x, y) __dmul_rn(x, y)
#define DOUBLE_DIV(x, y) __ddiv_rn(x, y)
#define DOUBLE_SQRT(x) __dsqrt_rn(x)
#define FLOAT_ADD(x, y) __fadd_rn(x, y)
#define FLOAT_SUB(x, y) __fadd_rn(x, -(y))
#define FLOAT_MUL(x, y) __fmul_rn(x, y)
#define FLOAT_DIV(x, y) __fdiv_rn(x, y)
#define FLOAT_SQRT(x) __fsqrt_rn(x)
#define FLOOR(x) floor(x)
#else
#define INLINE static inline __attribute__((always_inline))
#define FUNCTION static __attribute__((noinline))
#define DOUBLE_ADD(x, y) ((x) + (y))
#define DOUBLE_SUB(x, y) ((x) - (y))
#define DOUBLE_MUL(x, y) ((x) * (y))
#define DOUBLE_DIV(x, y) ((x) / (y))
#define DOUBLE_SQRT(x) __builtin_sqrt(x)
#define FLOAT_ADD(x, y) ((x) + (y))
#define FLOAT_SUB(x, y) ((x) - (y))
#define FLOAT_MUL(x, y) ((x) * (y))
#define FLOAT_DIV(x, y) ((x) / (y))
#define FLOAT_SQRT(x) __builtin_sqrtf(x)
#define FLOOR(x) __builtin_floor(x)
#endif

#ifdef __CUDACC__
#define TABLE static __device__ const
#else
#define TABLE static const
#endif

typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;

/* -- bits ----------------------------------------------------------------------------------------------------------- */

INLINE u32 bits_of_float(float x) { union { float f; u32 u; } c; c.f = x; return c.u; }
INLINE float float_of_bits(u32 u) { union { float f; u32 u; } c; c.u = u; return c.f; }
INLINE u64 bits_of_double(double x) { union { double f; u64 u; } c; c.f = x; return c.u; }
INLINE double double_of_bits(u64 u) { union { double f; u64 u; } c; c.u = u; return c.f; }

INLINE float flush_float(float x) {
    const u32 u = bits_of_float(x);
    return float_of_bits((u & 0x7f800000u) ? u : u & 0x80000000u);
}
INLINE double flush_double(double x) {
    const u64 u = bits_of_double(x);
    return double_of_bits((u & 0x7ff0000000000000ull) ? u : u & 0x8000000000000000ull);
}

/* -- random words: Threefry-2x32, as in trainfn/random.py -------------------------------------------------------------- */

typedef struct { u32 x, y; } Words;

#define MIX(n) (w.x += w.y, w.y = (w.y << n | w.y >> (32 - n)) ^ w.x)
#define INJECT(first, second, block) (w.x += first, w.y += second + block)
INLINE Words threefry(Words key, Words counter) {
    const u32 third = key.x ^ key.y ^ 0x1bd11bdau;
    Words w = {counter.x + key.x, counter.y + key.y};
    MIX(13), MIX(15), MIX(26), MIX(6), INJECT(key.y, third, 1u);
    MIX(17), MIX(29), MIX(16), MIX(24), INJECT(third, key.x, 2u);
    MIX(13), MIX(15), MIX(26), MIX(6), INJECT(key.x, key.y, 3u);
    MIX(17), MIX(29), MIX(16), MIX(24), INJECT(key.y, third, 4u);
    MIX(13), MIX(15), MIX(26), MIX(6), INJECT(third, key.x, 5u);
    return w;
}
/* The whole part of a number in [0, 2**32); others, which no word is, count as 0. */
INLINE u32 word(double x) { return x >= 0.0 && x < 0x1p32 ? (u32)x : 0u; }
INLINE Words words(double x, double y) { const Words w = {word(x), word(y)}; return w; }

/* -- scalars: float64 in the written order --------------------------------------------------------------------------- */

#define INFINITE double_of_bits(0x7ff0000000000000ull)
#define NOT_A_NUMBER double_of_bits(0x7ff8000000000000ull)

INLINE double s_add(double x, double y) { return DOUBLE_ADD(x, y); }
INLINE double s_sub(double x, double y) { return DOUBLE_SUB(x, y); }
INLINE double s_mul(double x, double y) { return DOUBLE_MUL(x, y); }
INLINE double s_div(double x, double y) { return DOUBLE_DIV(x, y); }
INLINE double s_sqrt(double x) { return DOUBLE_SQRT(x); }
INLINE double s_neg(double x) { return -x; }
INLINE double s_abs(double x) { return double_of_bits(bits_of_double(x) & 0x7fffffffffffffffull); }
/* The floor of -0 is +0, as in Python, whose floor is an int. */
INLINE double s_floor(double x) { return DOUBLE_ADD(FLOOR(x), 0.0); }
INLINE double s_exponent(double x) { return (double)((i32)((bits_of_double(x) >> 52) & 0x7ff) - 1023); }
/* 2**k for a whole k, clamped to what a normal number can hold; NaN counts as the least. */
INLINE double s_pow2(double k) {
    const double held = k >= -1022.0 ? (k <= 1023.0 ? k : 1023.0) : -1022.0;
    return double_of_bits((u64)((i64)held + 1023) << 52);
}
INLINE double s_single(double x) { return (double)flush_float(((float)(x))); }
INLINE double s_threefry_0(double k, double l, double x, double y) { return threefry(words(k, l), words(x, y)).x; }
INLINE double s_threefry_1(double k, double l, double x, double y) { return threefry(words(k, l), words(x, y)).y; }
INLINE int s_lt(double x, double y) { return x < y; }
INLINE int s_le(double x, double y) { return x <= y; }
INLINE int s_eq(double x, double y) { return x == y; }
INLINE int s_and(int x, int y) { return x & y; }
INLINE int s_or(int x, int y) { return x | y; }
INLINE int s_not(int x) { return !x; }
INLINE double s_where(int c, double x, double y) { return c ? x : y; }
INLINE int s_where_flag(int c, int x, int y) { return c ? x : y; }

/* -- arrays: rounded on their own, flushed ---------------------------------------------------------------------------- */

#if REAL_IS_DOUBLE
typedef double real;
typedef u64 bits;
#define REAL(name) DOUBLE_##name
#define bits_of bits_of_double
#define of_bits double_of_bits
#define flush flush_double
#define SIGN_BIT 0x8000000000000000ull
#define REAL_OF(x) (x)
#define SMALLEST_NORMAL 0x1p-1022
#define A_LARGE_POWER 0x1p+256
#define SMALLEST_TIMES_LARGE 0x1p-766
#else
typedef float real;
typedef u32 bits;
#define REAL(name) FLOAT_##name
#define bits_of bits_of_float
#define of_bits float_of_bits
#define flush flush_float
#define SIGN_BIT 0x80000000u
#define REAL_OF(x) ((float)(x))
#define SMALLEST_NORMAL 0x1p-126f
#define A_LARGE_POWER 0x1p+64f
#define SMALLEST_TIMES_LARGE 0x1p-62f
#endif

/* A Scalar as it enters array arithmetic. */
INLINE real meet(double x) { return flush(REAL_OF(x)); }

/* Whole numbers below 2**24, of the element at `index` of a leaf. */
INLINE Words words_at(double k, double l, double stream, i64 index) {
    const Words counter = {word(stream) + (u32)((u64)index >> 32), (u32)index};
    return threefry(words(k, l), counter);
}
INLINE real a_random_0(double k, double l, double stream, i64 i) { return (real)(i32)(words_at(k, l, stream, i).x >> 8); }
INLINE real a_random_1(double k, double l, double stream, i64 i) { return (real)(i32)(words_at(k, l, stream, i).y >> 8); }

INLINE real a_abs(real x) { return of_bits(bits_of(x) & ~SIGN_BIT); }
INLINE real a_neg(real x) { return of_bits(bits_of(x) ^ SIGN_BIT); }
INLINE real a_where(int c, real x, real y) { return c ? x : y; }
INLINE int a_where_mask(int c, int x, int y) { return c ? x : y; }
INLINE int a_lt(real x, real y) { return x < y; }
INLINE int a_le(real x, real y) { return x <= y; }
INLINE int a_eq(real x, real y) { return x == y; }
INLINE int a_and(int x, int y) { return x & y; }
INLINE int a_or(int x, int y) { return x | y; }
INLINE int a_not(int x) { return !x; }

#if FLUSHED_BY_HARDWARE
/* Arithmetic and comparisons flush what they read and what they give; moves (where, neg, abs, stores) do not, so what
   is loaded for one of these is flushed by hand: FLUSH_MOVED. */
#define FLUSH_LOADED(x) (x)
#define FLUSH_MOVED(x) flush(x)
INLINE real a_add(real x, real y) { return x + y; }
INLINE real a_sub(real x, real y) { return x - y; }
INLINE real a_mul(real x, real y) { return x * y; }
INLINE real a_div(real x, real y) { return x / y; }
#else
/* Sums that are subnormal are exact.  A product or quotient just below the smallest normal number may be rounded up to
   it with the few bits a subnormal has; x86 and the reference round to the full number of bits first and flush what is
   then below.  So where the result is exactly that number it is computed again, scaled up to where no bits are lost.
   PTX does not say which of the two its .ftz does, so it is not used. */
#define FLUSH_LOADED(x) flush(x)
#define FLUSH_MOVED(x) flush(x)
INLINE real a_add(real x, real y) { return flush(REAL(ADD)(x, y)); }
INLINE real a_sub(real x, real y) { return flush(REAL(SUB)(x, y)); }
INLINE real unless_below(real scaled, real result) {
    return a_abs(scaled) < SMALLEST_TIMES_LARGE ? of_bits(bits_of(result) & SIGN_BIT) : result;
}
INLINE real a_mul(real x, real y) {
    const real result = flush(REAL(MUL)(x, y));
    if (a_abs(result) != SMALLEST_NORMAL) return result;
    const real small = a_abs(x) < a_abs(y) ? x : y, other = a_abs(x) < a_abs(y) ? y : x;
    return unless_below(REAL(MUL)(REAL(MUL)(small, A_LARGE_POWER), other), result);
}
INLINE real a_div(real x, real y) {
    const real result = flush(REAL(DIV)(x, y));
    if (a_abs(result) != SMALLEST_NORMAL) return result;
    return unless_below(REAL(DIV)(REAL(MUL)(x, A_LARGE_POWER), y), result);
}
#endif
INLINE real a_sqrt(real x) { return REAL(SQRT)(x); }

/* -- how arrays are stored --------------------------------------------------------------------------------------------- */

typedef float stored_float32;
typedef double stored_float64;
typedef u16 stored_bfloat16;
typedef u16 stored_float16;

INLINE float wide_float32(float x) { return x; }
INLINE double wide_float64(double x) { return x; }
INLINE float wide_bfloat16(u16 h) { return float_of_bits((u32)h << 16); }
/* A float16 subnormal is turned into a normal number, from which the exponent put there is subtracted again. */
INLINE float wide_float16(u16 h) {
    const u32 sign = (u32)(h & 0x8000u) << 16, size = (u32)(h & 0x7fffu) << 13;
    const u32 normal = size + ((127u - 15u) << 23) + (size >= 0x0f800000u ? (127u - 15u) << 23 : 0u);
    const float subnormal = FLOAT_SUB(float_of_bits(size + (113u << 23)), 0x1p-14f);
    return float_of_bits(sign | (size < 0x00800000u ? bits_of_float(subnormal) : normal));
}

INLINE float narrow_float32(real x) { return ((float)(x)); }
INLINE double narrow_float64(real x) { return (double)x; }
INLINE u16 narrow_bfloat16(real x) {
    const u32 u = bits_of_float((float)x);
    const u32 nearest = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (u16)((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u | (u >> 16) : nearest);
}
/* Below 2**-14 the addition of 1/2 leaves the significand's 10 lowest bits where float16 keeps them, rounded. */
INLINE u16 narrow_float16(real x) {
    const u32 u = bits_of_float((float)x), sign = (u >> 16) & 0x8000u, size = u & 0x7fffffffu;
    const u32 normal = (size - ((127u - 15u) << 23) + 0xfffu + ((size >> 13) & 1u)) >> 13;
    const u32 subnormal = bits_of_float(FLOAT_ADD(float_of_bits(size), 0.5f)) - (126u << 23);
    const u32 finite = size < (113u << 23) ? subnormal : normal;
    const u32 large = size > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return (u16)(sign | (size >= 0x477ff000u ? large : finite));
}

/* Rounded to storage and back. */
#define STORED(format, x) ((real)wide_##format(narrow_##format(x)))
#define LOAD(format, array, i) FLUSH_LOADED((real)wide_##format((array)[i]))
#define LOAD_MOVED(format, array, i) FLUSH_MOVED((real)wide_##format((array)[i]))
#define STORE(format, array, i, x) ((array)[i] = narrow_##format(x))

/* -- reductions --------------------------------------------------------------------------------------------------------- */

/* Maxima are taken over bit patterns, which is exact, free of order, and what vector units do best.  `ordered` gives
   signed integers in the order of the numbers, NaN above all, so that NaN wins. */
#if REAL_IS_DOUBLE
typedef i64 ordinal;
#define LARGEST_ORDINAL 0x7fffffffffffffffll
#else
typedef i32 ordinal;
#define LARGEST_ORDINAL 0x7fffffff
#endif
#define ORDINAL_SHIFT (8 * (int)sizeof(ordinal) - 1)

INLINE ordinal ordered(real x) {
    const ordinal u = (ordinal)bits_of(x);
    return x != x ? LARGEST_ORDINAL : u ^ ((u >> ORDINAL_SHIFT) & LARGEST_ORDINAL);
}
INLINE double of_ordered(ordinal k) {
    return (double)of_bits((bits)(k ^ ((k >> ORDINAL_SHIFT) & LARGEST_ORDINAL)));
}
/* Sizes: bits without the sign. */
INLINE ordinal size_of(real x) { return (ordinal)bits_of(a_abs(x)); }
INLINE double of_size(ordinal k) { return (double)of_bits((bits)k); }
INLINE double square_of_size(ordinal k) { return DOUBLE_MUL(of_size(k), of_size(k)); }
INLINE i64 size_of_product(double x) { return (i64)bits_of_double(s_abs(x)); }
INLINE double of_size_of_product(i64 k) { return double_of_bits((u64)k); }
/* What (x + grid) - grid keeps of x. */
INLINE double on_grid(double x, double grid) { return DOUBLE_SUB(DOUBLE_ADD(x, grid), grid); }
/* x * y + z.  The product of two float32 numbers is exact in float64, so one instruction gives the bits of two, sooner. */
#ifndef EXACT_FMA
#if defined(__FMA__) && !REAL_IS_DOUBLE
#define EXACT_FMA 1
#else
#define EXACT_FMA 0
#endif
#endif
#if EXACT_FMA
INLINE double product_plus(double x, double y, double z) { return __builtin_fma(x, y, z); }
#else
INLINE double product_plus(double x, double y, double z) { return DOUBLE_ADD(DOUBLE_MUL(x, y), z); }
#endif
INLINE double product_on_grid(double x, double y, double grid) { return DOUBLE_SUB(product_plus(x, y, grid), grid); }
INLINE double larger(double x, double y) { return (x > y || x != x) ? x : y; }

/* Sixteen lanes in plain C: the portable reference, which every other lanes_*.h matches bit for bit.
 *
 * f32x16 and i32x16 are sixteen lanes; weights8 and weights4 are one line of a quantized tile: 16 rows of four values
 * in bytes, or of eight in nibbles.
 * max and min take the second operand if the comparison fails, as in SSE. */
#include <math.h>

typedef struct { float v[16]; } f32x16_portable;
typedef struct { int32_t v[16]; } i32x16_portable;
typedef struct { uint64_t v[8]; } u64x8_portable;
typedef struct { const uint8_t *p; } weights8_portable;
typedef struct { uint8_t low[64], high[64]; } weights4_portable;

#if defined(__FP_FAST_FMAF) || defined(GPT2RT_ARM64)
#define FMA_INLINE ALWAYS_INLINE
static inline float fma1_portable(float a, float b, float c) { return fmaf(a, b, c); }
#else
#define FMA_INLINE static NEVER_INLINE /* it is long */
/* a * b + c, rounded once, if the ABI's minimum has no such instruction. The product is exact in double; the sum is
 * rounded to odd (Boldo and Melquiond, 2008), so that rounding it again to f32 gives the correct result. */
static inline float fma1_portable(float a, float b, float c) {
    double product = (double)a * b, sum = product + c, back = sum - product;
    double error = (product - (sum - back)) + (c - back);
    uint64_t bits;
    memcpy(&bits, &sum, 8);
    uint64_t up = 0 - (uint64_t)(error > 0), down = 0 - (uint64_t)(error < 0); /* both 0 if it is NaN */
    uint64_t negative = 0 - (bits >> 63), odd = 0 - (bits & 1);
    bits += ((down ^ negative) | 1) & (up | down) & ~odd; /* one unit away from zero or toward it */
    memcpy(&sum, &bits, 8);
    return (float)sum;
}
#endif

#define LANES for (int l = 0; l < 16; l++)

ALWAYS_INLINE f32x16_portable splat_portable(float a) { f32x16_portable r; LANES r.v[l] = a; return r; }
ALWAYS_INLINE f32x16_portable load_portable(const float *p) { f32x16_portable r; memcpy(r.v, p, 64); return r; }
ALWAYS_INLINE void store_portable(float *p, f32x16_portable a) { memcpy(p, a.v, 64); }
ALWAYS_INLINE f32x16_portable load_half_portable(const uint16_t *p) {
    f32x16_portable r;
    LANES r.v[l] = float_from_half(p[l]);
    return r;
}
ALWAYS_INLINE void store_half_portable(uint16_t *p, f32x16_portable a) { LANES p[l] = half_from_float(a.v[l]); }

#define LANEWISE(name, expression) \
    ALWAYS_INLINE f32x16_portable name##_portable(f32x16_portable a, f32x16_portable b) { \
        f32x16_portable r; \
        LANES r.v[l] = expression; \
        return r; \
    }
LANEWISE(add, a.v[l] + b.v[l])
LANEWISE(sub, a.v[l] - b.v[l])
LANEWISE(mul, a.v[l] * b.v[l])
LANEWISE(div, a.v[l] / b.v[l])
LANEWISE(max, a.v[l] > b.v[l] ? a.v[l] : b.v[l])
LANEWISE(min, a.v[l] < b.v[l] ? a.v[l] : b.v[l])
#undef LANEWISE

/* a * b + c, rounded once. */
FMA_INLINE f32x16_portable fma_portable(f32x16_portable a, f32x16_portable b, f32x16_portable c) {
    f32x16_portable r;
    LANES r.v[l] = fma1_portable(a.v[l], b.v[l], c.v[l]);
    return r;
}

ALWAYS_INLINE f32x16_portable abs_portable(f32x16_portable a) { LANES a.v[l] = fabsf(a.v[l]); return a; }

/* Adds the lanes as a tree: l and l + 8, then 4, 2 and 1 apart. */
ALWAYS_INLINE float sum_portable(f32x16_portable a) {
    for (int step = 8; step; step /= 2)
        for (int l = 0; l < step; l++) a.v[l] += a.v[l + step];
    return a.v[0];
}

ALWAYS_INLINE float largest_portable(f32x16_portable a) {
    for (int step = 8; step; step /= 2)
        for (int l = 0; l < step; l++) a.v[l] = a.v[l] > a.v[l + step] ? a.v[l] : a.v[l + step];
    return a.v[0];
}

ALWAYS_INLINE i32x16_portable bits_portable(f32x16_portable a) {
    i32x16_portable r;
    memcpy(r.v, a.v, 64);
    return r;
}

/* 2^n, where a = 1.5 * 2^23 + n and -127 < n < 128: n is in a's lowest bits. */
ALWAYS_INLINE f32x16_portable exp2_of_shifted_portable(f32x16_portable a) {
    uint32_t bits[16];
    memcpy(bits, a.v, 64);
    LANES bits[l] = (bits[l] << 23) + 0x3f800000u;
    memcpy(a.v, bits, 64);
    return a;
}

ALWAYS_INLINE i32x16_portable splat_i32_portable(int32_t a) { i32x16_portable r; LANES r.v[l] = a; return r; }
ALWAYS_INLINE f32x16_portable to_float_portable(i32x16_portable a) {
    f32x16_portable r;
    LANES r.v[l] = (float)a.v[l];
    return r;
}
ALWAYS_INLINE i32x16_portable add_low_bytes_portable(i32x16_portable sum, i32x16_portable a) {
    LANES sum.v[l] += (int8_t)a.v[l];
    return sum;
}
ALWAYS_INLINE int32_t sum_i32_portable(i32x16_portable a) {
    int32_t r = 0;
    LANES r += a.v[l];
    return r;
}
ALWAYS_INLINE void store_low_bytes_portable(int8_t *p, i32x16_portable a) { LANES p[l] = (int8_t)a.v[l]; }

/* Adds the eight 64-bit words at p to those of a. */
ALWAYS_INLINE u64x8_portable add_words_portable(u64x8_portable a, const uint8_t *p) {
    uint64_t words[8];
    memcpy(words, p, 64);
    UNROLL for (int i = 0; i < 8; i++) a.v[i] += words[i];
    return a;
}
ALWAYS_INLINE void store_words_portable(uint64_t *p, u64x8_portable a) { memcpy(p, a.v, 64); }

ALWAYS_INLINE weights8_portable load_weights8_portable(const uint8_t *p) { return (weights8_portable){p}; }

/* acc + the sum over four inputs of (unsigned) weight times (signed) input, exact. */
ALWAYS_INLINE i32x16_portable dot4_portable(i32x16_portable acc, weights8_portable w, const int8_t *x) {
    LANES acc.v[l] += w.p[4 * l] * x[0] + w.p[4 * l + 1] * x[1] + w.p[4 * l + 2] * x[2] + w.p[4 * l + 3] * x[3];
    return acc;
}

ALWAYS_INLINE weights4_portable load_weights4_portable(const uint8_t *p) {
    weights4_portable w;
    for (int i = 0; i < 64; i++) w.low[i] = p[i] & 15, w.high[i] = p[i] >> 4;
    return w;
}

/* The same over eight inputs: the low nibbles are the weights of the first four, the high nibbles of the last four. */
ALWAYS_INLINE i32x16_portable dot8_portable(i32x16_portable acc, weights4_portable w, const int8_t *x) {
    return dot4_portable(dot4_portable(acc, (weights8_portable){w.low}, x), (weights8_portable){w.high}, x + 4);
}
#undef LANES
#undef FMA_INLINE

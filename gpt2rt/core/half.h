/* Converts f16 (IEEE 754 binary16) to and from f32 in integer arithmetic, with the same bits as processors' own
 * conversions. */
#ifndef GPT2RT_HALF_H
#define GPT2RT_HALF_H

#include <stdint.h>
#include <string.h>

/* Exact, and without branches, so that compilers vectorize loops over it. */
static inline float float_from_half(uint16_t half) {
    uint32_t size = (uint32_t)(half & 0x7fff) << 13, bits, sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t infinite = 0u - (size >= 0x0f800000u), nan = 0u - (size > 0x0f800000u);
    float value;
    memcpy(&value, &size, 4);
    value *= 5.192296858534828e33f; /* 2^112: the difference of the exponents' biases; subnormals come out right */
    memcpy(&bits, &value, 4);
    bits = (bits & ~infinite) | ((size | 0x7f800000u) & infinite) | (nan & 0x400000u); /* quiet, as processors do */
    bits |= sign;
    memcpy(&value, &bits, 4);
    return value;
}

/* Rounds to nearest, ties to even; values out of range become infinity. */
static inline uint16_t half_from_float(float value) {
    uint32_t bits, size;
    memcpy(&bits, &value, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return sign | 0x7e00 | (uint16_t)(size >> 13 & 0x3ff); /* NaN */
    if (size >= 0x477ff000u) return sign | 0x7c00;                                 /* rounds to more than 65504 */
    if (size < 0x38800000u) { /* below 2^-14: adding 0.5 moves multiples of 2^-24 into the lowest bits */
        float shifted;
        memcpy(&shifted, &size, 4);
        shifted += 0.5f;
        memcpy(&bits, &shifted, 4);
        return sign | (uint16_t)(bits - 0x3f000000u);
    }
    size += 0xfff + (size >> 13 & 1);
    return sign | (uint16_t)((size - ((127u - 15u) << 23)) >> 13);
}

#endif

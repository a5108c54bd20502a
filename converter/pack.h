/* Packing: a matrix of f32 into the file's tiles (docs/format.md). Plain C, run by the converter only.
 *
 * Letters: a tile has 16 rows (outputs); `values` is one tile gathered as (n_in, 16). */
#ifndef GPT2RT_PACK_H
#define GPT2RT_PACK_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/half.h"

#define TILE 16

/* IN: w, element (row, i) at w[row * row_stride + i * in_stride]. OUT: values (n_in, 16), zero beyond n_out. */
static void pack_gather(float *values, const float *w, ptrdiff_t row_stride, ptrdiff_t in_stride, int64_t row,
                        int64_t n_out, int64_t n_in) {
    int64_t rows = n_out - row < TILE ? n_out - row : TILE;
    w += row * row_stride;
    if (rows < TILE) memset(values, 0, sizeof(float) * TILE * (size_t)n_in);
    if (rows == TILE && row_stride == 1) {
        for (int64_t i = 0; i < n_in; i++) memcpy(values + i * TILE, w + i * in_stride, sizeof(float) * TILE);
        return;
    }
    for (int64_t i = 0; i < n_in; i++)
        for (int64_t lane = 0; lane < rows; lane++) values[i * TILE + lane] = w[lane * row_stride + i * in_stride];
}

/* Whether none of a tile's values is an infinity or no number. */
static int pack_is_finite(const float *values, int64_t n_in) {
    uint32_t odd = 0;
    for (int64_t i = 0; i < n_in * TILE; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, 4);
        odd |= ((bits & 0x7f800000u) + 0x00800000u) & 0x80000000u;
    }
    return !odd;
}

static void pack_f32(uint8_t *tile, const float *values, int64_t n_in) {
    memcpy(tile, values, sizeof(float) * TILE * (size_t)n_in);
}

static void pack_f16(uint8_t *tile, const float *values, int64_t n_in, double error[2]) {
    for (int64_t i = 0; i < n_in * TILE; i++) {
        uint16_t half = half_from_float(values[i]);
        double off = fabs((double)float_from_half(half) - values[i]);
        memcpy(tile + 2 * i, &half, 2);
        if (off > error[0]) error[0] = off;
        error[1] += off;
    }
}

/* Symmetric, one scale for `group` inputs of a row: the least f16 that is not below max|w| / 127, so that no value is
 * cut off and no error is above half a scale.
 * OUT: error[0] the largest absolute error so far, error[1] their sum. */
static void pack_int8(uint8_t *tile, const float *values, int64_t n_in, int64_t group, double error[2]) {
    int64_t n_groups = (n_in + group - 1) / group;
    uint8_t *quants = tile + (n_groups * TILE * 2 + 63) / 64 * 64;
    for (int64_t g = 0; g < n_groups; g++) {
        int64_t begin = g * group, end = begin + group < n_in ? begin + group : n_in;
        float largest[TILE] = {0}, scale[TILE], inverse[TILE];
        for (int64_t i = begin; i < end; i++)
            for (int lane = 0; lane < TILE; lane++) {
                float size = fabsf(values[i * TILE + lane]);
                largest[lane] = size > largest[lane] ? size : largest[lane];
            }
        for (int lane = 0; lane < TILE; lane++) {
            uint16_t half = half_from_float(largest[lane] / 127.0f);
            half += float_from_half(half) < largest[lane] / 127.0f; /* the next number of f16 is the next integer */
            memcpy(tile + 2 * (g * TILE + lane), &half, 2);
            scale[lane] = float_from_half(half);
            inverse[lane] = scale[lane] > 0 ? 1.0f / scale[lane] : 0.0f;
        }
        float most[TILE] = {0}, sum[TILE] = {0};
        for (int64_t i = begin; i < begin + group; i += 4) {
            uint32_t four[TILE] = {0}; /* four inputs' bytes, the first one lowest */
            for (int k = 0; k < 4; k++)
                for (int lane = 0; lane < TILE; lane++) {
                    float w = i + k < end ? values[(i + k) * TILE + lane] : 0.0f;
                    float q = w * inverse[lane];
                    q = q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
                    q = (q + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23: to the nearest whole number, ties to even */
                    float off = fabsf(q * scale[lane] - w);
                    most[lane] = off > most[lane] ? off : most[lane];
                    sum[lane] += off;
                    four[lane] |= (uint32_t)((int)q + 128) << 8 * k;
                }
            for (int lane = 0; lane < TILE; lane++) {
                uint8_t *out = quants + i * TILE + lane * 4;
                for (int k = 0; k < 4; k++) out[k] = (uint8_t)(four[lane] >> 8 * k);
            }
        }
        for (int lane = 0; lane < TILE; lane++) {
            if (most[lane] > error[0]) error[0] = most[lane];
            error[1] += sum[lane];
        }
    }
}

#endif

/* Packs an f32 matrix into the file's tiles (docs/format.md). Plain C, used by the converter only.
 *
 * A tile has 16 rows (outputs); `values` is one tile, gathered as (n_in, 16). */
#ifndef GPT2RT_PACK_H
#define GPT2RT_PACK_H

#include <math.h>
#include <stddef.h>

#include "tile.h"

/* An f32 matrix: element (row, i) is w[row * row_stride + i * in_stride]. */
typedef struct {
    const float *w;
    ptrdiff_t row_stride, in_stride;
    int64_t n_out, n_in;
} PackSource;

/* Gathers the tile that begins at a row. OUT: values (n_in, 16), zero beyond n_out. */
static inline void pack_gather(float *values, const PackSource *source, int64_t row) {
    const int64_t n_in = source->n_in, rows = source->n_out - row < TILE ? source->n_out - row : TILE;
    const ptrdiff_t row_stride = source->row_stride, in_stride = source->in_stride;
    const float *w = source->w + row * row_stride;
    if (rows < TILE) memset(values, 0, sizeof(float) * TILE * (size_t)n_in);
    if (rows == TILE && row_stride == 1) {
        for (int64_t i = 0; i < n_in; i++) memcpy(values + i * TILE, w + i * in_stride, sizeof(float) * TILE);
        return;
    }
    for (int64_t i = 0; i < n_in; i++)
        for (int64_t lane = 0; lane < rows; lane++) values[i * TILE + lane] = w[lane * row_stride + i * in_stride];
}

/* Returns whether all values of a tile are finite. */
static inline int pack_is_finite(const float *values, int64_t n_in) {
    uint32_t odd = 0;
    for (int64_t i = 0; i < n_in * TILE; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, 4);
        odd |= ((bits & 0x7f800000u) + 0x00800000u) & 0x80000000u;
    }
    return !odd;
}

static inline void pack_f32(uint8_t *tile, const float *values, int64_t n_in) {
    for (int64_t i = 0; i < n_in; i++) tile_write_f32(tile, i, values + i * TILE);
}

static inline void pack_f16(uint8_t *tile, const float *values, int64_t n_in, double error[2]) {
    for (int64_t i = 0; i < n_in; i++)
        for (int lane = 0; lane < TILE; lane++) {
            uint16_t half = half_from_float(values[i * TILE + lane]);
            double off = fabs((double)float_from_half(half) - (double)values[i * TILE + lane]);
            tile_write_f16(tile, i, lane, half);
            if (off > error[0]) error[0] = off;
            error[1] += off;
        }
}

/* Symmetric, one scale per `group` inputs of a row: the smallest f16 not below max|w| / 127, so no value is clamped and
 * no error exceeds half a scale.
 * OUT: error[0], the largest absolute error so far; error[1], the sum of all absolute errors. */
static inline void pack_int8(const TileLayout *layout, uint8_t *tile, const float *values, int64_t n_in,
                      double error[2]) {
    const int64_t group = layout->group, n_groups = layout->n_in / group;
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
            if (float_from_half(half) < largest[lane] / 127.0f) half++; /* the bits of the next larger f16 */
            tile_write_scale(tile, g, lane, half);
            scale[lane] = float_from_half(half);
            inverse[lane] = scale[lane] > 0 ? 1.0f / scale[lane] : 0.0f;
        }
        float most[TILE] = {0}, sum[TILE] = {0};
        for (int64_t i = begin; i < begin + group; i += line_inputs(TYPE_INT8)) {
            uint32_t words[TILE] = {0};
            for (int k = 0; k < line_inputs(TYPE_INT8); k++)
                for (int lane = 0; lane < TILE; lane++) {
                    float w = i + k < end ? values[(i + k) * TILE + lane] : 0.0f;
                    float q = w * inverse[lane];
                    q = q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
                    q = (q + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23: rounds to nearest, ties to even */
                    float off = fabsf(q * scale[lane] - w);
                    most[lane] = off > most[lane] ? off : most[lane];
                    sum[lane] += off;
                    words[lane] |= (uint32_t)((int)q + tile_excess(TYPE_INT8)) << line_shift(TYPE_INT8, k);
                }
            tile_write_line(layout, tile, i, words);
        }
        for (int lane = 0; lane < TILE; lane++) {
            if (most[lane] > error[0]) error[0] = most[lane];
            error[1] += sum[lane];
        }
    }
}

/* A scale for each row, and the sum of the squared errors of its group. */
typedef struct { float scale[TILE], squares[TILE]; } Scales4;

/* The nearest integer from -8 to 7, ties to even, as a float; |w * inverse| < 2^22. Clamped as integers, because
 * compilers vectorize that. */
static inline float nibble(float w, float inverse) {
    float q = w * inverse + 12582912.0f; /* 1.5 * 2^23, in bits 4b400000 */
    int32_t bits;
    memcpy(&bits, &q, 4);
    bits = bits > 0x4b400007 ? 0x4b400007 : bits;
    bits = bits < 0x4b3ffff8 ? 0x4b3ffff8 : bits;
    memcpy(&q, &bits, 4);
    return q - 12582912.0f;
}

static inline float inverse_of(float scale) { return scale != 0 ? 1.0f / scale : 0.0f; }

/* Fits a scale, by least squares, to the nibbles of n inputs at a trial scale. IN: w (n, 16).
 * OUT: gain, the reduction of the sum of squares; 0 if all nibbles are zero. */
static inline void fit_scale(float scale[TILE], float gain[TILE], const float *w, int64_t n, const float inverse[TILE]) {
    float products[TILE] = {0}, squares[TILE] = {0};
    for (int64_t i = 0; i < n; i++)
        for (int lane = 0; lane < TILE; lane++) {
            float q = nibble(w[i * TILE + lane], inverse[lane]);
            products[lane] += w[i * TILE + lane] * q;
            squares[lane] += q * q;
        }
    for (int lane = 0; lane < TILE; lane++) {
        scale[lane] = squares[lane] > 0 ? products[lane] / squares[lane] : 0.0f;
        gain[lane] = scale[lane] * products[lane];
    }
}

/* Keeps the scales, rounded to f16, in the rows where their squared error is less than that of `best`. */
static inline void keep_better(Scales4 *best, const float scale[TILE], const float *w, int64_t n) {
    Scales4 trial;
    float inverse[TILE];
    for (int lane = 0; lane < TILE; lane++) {
        trial.scale[lane] = float_from_half(half_from_float(scale[lane]));
        trial.squares[lane] = 0;
        inverse[lane] = inverse_of(trial.scale[lane]);
    }
    for (int64_t i = 0; i < n; i++)
        for (int lane = 0; lane < TILE; lane++) {
            float off = nibble(w[i * TILE + lane], inverse[lane]) * trial.scale[lane] - w[i * TILE + lane];
            trial.squares[lane] += off * off;
        }
    for (int lane = 0; lane < TILE; lane++)
        if (trial.squares[lane] < best->squares[lane]) {
            best->scale[lane] = trial.scale[lane];
            best->squares[lane] = trial.squares[lane];
        }
}

/* Searches for f16 scales with a small squared error for a group of n inputs. The largest value maps to -8, the side
 * with one more step (so a scale may be negative), or is clamped in favor of the others. The best of a grid of such
 * scales is fitted twice. Never worse than max|w| / 7. IN: w (n, 16). */
static inline void search_scales4(float scale[TILE], const float *w, int64_t n) {
    float largest[TILE] = {0}, most[TILE] = {0}, fitted[TILE], gain[TILE], inverse[TILE];
    Scales4 best;
    for (int64_t i = 0; i < n; i++)
        for (int lane = 0; lane < TILE; lane++)
            largest[lane] = fabsf(w[i * TILE + lane]) > fabsf(largest[lane]) ? w[i * TILE + lane] : largest[lane];
    for (int lane = 0; lane < TILE; lane++) {
        best.squares[lane] = INFINITY;
        best.scale[lane] = float_from_half(half_from_float(fabsf(largest[lane]) / 7.0f)); /* infinity if too large */
        scale[lane] = best.scale[lane];
    }
    keep_better(&best, scale, w, n);
    for (float steps = 6.0f; steps <= 10.0f; steps += 0.25f) { /* from the largest value to zero */
        for (int lane = 0; lane < TILE; lane++) inverse[lane] = -inverse_of(largest[lane] / steps);
        fit_scale(fitted, gain, w, n, inverse);
        for (int lane = 0; lane < TILE; lane++) {
            scale[lane] = gain[lane] > most[lane] ? fitted[lane] : scale[lane];
            most[lane] = gain[lane] > most[lane] ? gain[lane] : most[lane];
        }
    }
    keep_better(&best, scale, w, n);
    for (int lane = 0; lane < TILE; lane++) inverse[lane] = inverse_of(scale[lane]);
    fit_scale(fitted, gain, w, n, inverse);
    keep_better(&best, fitted, w, n);
    memcpy(scale, best.scale, sizeof best.scale);
}

/* Asymmetric, -8 to 7, one scale per `group` inputs of a row. OUT: error, as for pack_int8. */
static inline void pack_int4(const TileLayout *layout, uint8_t *tile, const float *values, int64_t n_in,
                      double error[2]) {
    const int64_t group = layout->group, n_groups = layout->n_in / group;
    for (int64_t g = 0; g < n_groups; g++) {
        int64_t begin = g * group, end = begin + group < n_in ? begin + group : n_in;
        float scale[TILE], inverse[TILE], most[TILE] = {0}, sum[TILE] = {0};
        search_scales4(scale, values + begin * TILE, end - begin);
        for (int lane = 0; lane < TILE; lane++) {
            uint16_t half = half_from_float(scale[lane]);
            tile_write_scale(tile, g, lane, half);
            inverse[lane] = inverse_of(scale[lane]);
        }
        for (int64_t i = begin; i < begin + group; i += line_inputs(TYPE_INT4)) {
            uint32_t words[TILE] = {0};
            for (int k = 0; k < line_inputs(TYPE_INT4); k++)
                for (int lane = 0; lane < TILE; lane++) {
                    float w = i + k < end ? values[(i + k) * TILE + lane] : 0.0f;
                    float q = nibble(w, inverse[lane]), off = fabsf(q * scale[lane] - w);
                    most[lane] = off > most[lane] ? off : most[lane];
                    sum[lane] += off;
                    words[lane] |= (uint32_t)((int)q + tile_excess(TYPE_INT4)) << line_shift(TYPE_INT4, k);
                }
            tile_write_line(layout, tile, i, words);
        }
        for (int lane = 0; lane < TILE; lane++) {
            if (most[lane] > error[0]) error[0] = most[lane];
            error[1] += sum[lane];
        }
    }
}

/* Packs a tile. IN: values (n_in, 16). OUT: error, as for pack_int8. */
static inline void pack_tile(const TileLayout *layout, uint8_t *tile, const float *values, int64_t n_in, double error[2]) {
    switch (layout->type) {
    case TYPE_F32: pack_f32(tile, values, n_in); break;
    case TYPE_F16: pack_f16(tile, values, n_in, error); break;
    case TYPE_INT8: pack_int8(layout, tile, values, n_in, error); break;
    default: pack_int4(layout, tile, values, n_in, error); break;
    }
}

#endif

/* A matrix as it lies in the file (docs/format.md), the inputs it is multiplied with, and a cache of keys and values:
 * what the operations of all instruction sets share. */
#ifndef GPT2RT_MATRIX_H
#define GPT2RT_MATRIX_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cpu.h"
#include "half.h"

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 8")
#else
#define UNROLL
#endif

#define TILE 16 /* rows (outputs) that lie together */
#define PREFETCH_MOST (64 << 10) /* bytes of tiles that are asked for ahead of their use: a part of any L2 cache */

enum { TYPE_F32, TYPE_F16, TYPE_INT8, TYPE_INT4 }; /* as in the file's header */

/* n, or the least multiple of `to` above it. */
static inline int64_t align(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

typedef struct {
    const uint8_t *data; /* tiles of 16 rows, (n_out / 16, tile) */
    const float *bias;   /* (n_out), filled up with zeros to 16; NULL for none */
    int type;
    int64_t tiles;  /* n_out / 16, rounded up */
    int64_t n_in;   /* inputs that are stored: int8 and int4 fill up to whole groups */
    int64_t stride; /* bytes from a tile to the next */
    int64_t values; /* bytes from a tile's start to its values, behind the scales */
    int64_t group;  /* inputs that share a scale; 0 for f32 and f16 */
} Matrix;

/* T rows of inputs, as floats or quantized. */
typedef struct {
    float *x;        /* (T, x_stride) */
    int64_t x_stride;
    int8_t *q;       /* (T, n_in) */
    float *scale;    /* (T, n_in / group) */
    int32_t *offset; /* (T, n_in / group): where dot products begin: -excess of the weights * sum of q */
} Inputs;

/* What becomes of a row's sum: stored, added to what stands there, through GELU; or the sum goes on from there. */
enum { MATMUL_STORE, MATMUL_ADD, MATMUL_GELU, MATMUL_CONTINUE };

/* The keys and values of one layer. Keys lie as a matrix whose rows are positions, values as one whose rows are
 * dimensions, so that scores and weighted values are products like any other. */
typedef struct {
    uint8_t *k;  /* (n_head, n_ctx / 16, head_dim, 16 positions) */
    uint8_t *v;  /* (n_head, head_dim / 16, n_ctx, 16 dimensions) */
    int type;    /* TYPE_F32 or TYPE_F16 */
    int64_t n_head, head_dim, n_ctx; /* n_ctx is a multiple of 16 */
} Cache;

enum { FUNCTION_EXP, FUNCTION_GELU, FUNCTION_FMA };

typedef struct {
    const char *name;
    void (*layernorm)(float *out, const float *x, const float *g, const float *b, int64_t n);
    void (*quantize)(int8_t *q, float *scale, int32_t *offset, const float *x, int64_t groups, int64_t group,
                     int type);
    void (*matmul)(const Matrix *m, const Inputs *in, int64_t T, float *out, int64_t out_stride, int64_t first,
                   int64_t end, int mode);
    void (*remember)(const Cache *cache, const float *k, const float *v, int64_t head, int64_t position);
    void (*attention)(const Cache *cache, const float *q, int64_t q_stride, int64_t head, int64_t position, int64_t T,
                      float *out, int64_t out_stride, float *scratch);
    void (*evaluate)(int function, float *x, const float *y, const float *z, int64_t n);
} Kernels;

#define ATTENTION_TOKENS 6 /* queries of a head that are answered together, at most */

static inline int64_t cache_value_size(int type) { return type == TYPE_F16 ? 2 : 4; }

static inline Matrix cache_keys(const Cache *c, int64_t head, int64_t positions) {
    int64_t stride = c->head_dim * TILE * cache_value_size(c->type);
    return (Matrix){.data = c->k + head * (c->n_ctx / TILE) * stride, .type = c->type,
                    .tiles = (positions + TILE - 1) / TILE, .n_in = c->head_dim, .stride = stride};
}

static inline Matrix cache_values(const Cache *c, int64_t head, int64_t position, int64_t positions) {
    int64_t stride = c->n_ctx * TILE * cache_value_size(c->type), tiles = (c->head_dim + TILE - 1) / TILE;
    return (Matrix){.data = c->v + head * tiles * stride + position * TILE * cache_value_size(c->type),
                    .type = c->type, .tiles = tiles, .n_in = positions, .stride = stride};
}

/* Floats that attention needs as scratch: scores and sums of values for each query. */
static inline int64_t attention_scratch(int64_t n_ctx, int64_t head_dim) {
    return ATTENTION_TOKENS * (n_ctx + (head_dim + TILE - 1) / TILE * TILE);
}

/* x (n) = row `row` of m + y (n). */
static void embed(float *x, const Matrix *m, int64_t row, const float *y, int64_t n) {
    const uint8_t *tile = m->data + row / TILE * m->stride;
    int64_t lane = row % TILE;
    for (int64_t i = 0; i < n; i++) {
        float value;
        uint16_t half;
        if (m->type == TYPE_F32) {
            memcpy(&value, tile + 4 * (i * TILE + lane), 4);
        } else if (m->type == TYPE_F16) {
            memcpy(&half, tile + 2 * (i * TILE + lane), 2);
            value = float_from_half(half);
        } else {
            const uint8_t *bytes = tile + m->values + 4 * lane + i % 4;
            int weight = m->type == TYPE_INT8 ? bytes[i / 4 * 64] - 128 : (bytes[i / 8 * 64] >> i / 4 % 2 * 4 & 15) - 8;
            memcpy(&half, tile + 2 * (i / m->group * TILE + lane), 2);
            value = (float)weight * float_from_half(half);
        }
        x[i] = value + y[i];
    }
}

#endif

/* A matrix, its inputs, and the table of kernels that every instruction set implements.
 *
 * Letters: T rows of inputs, one for each token. */
#ifndef GPT2RT_MATRIX_H
#define GPT2RT_MATRIX_H

#include <stdint.h>

#include "kvcache.h"
#include "tile.h"

typedef struct {
    const uint8_t *data; /* (tiles, layout.stride) */
    const float *bias;   /* (n_out), padded with zeros to a multiple of 16; NULL for none */
    int64_t tiles;       /* n_out / 16, rounded up */
    TileLayout layout;
} Matrix;

/* T rows of inputs, as floats or quantized. */
typedef struct {
    float *x; /* (T, x_stride) */
    int64_t x_stride;
    int8_t *q;       /* (T, n_in) */
    float *scale;    /* (T, n_in / group) */
    int32_t *offset; /* (T, n_in / group): initial accumulator of a group: -excess of the weights * sum of q */
} Inputs;

/* What happens to a row's sum: it is stored, added to `out`, or stored after GELU; or `out` is its initial value (f32
 * and f16 only). */
enum { MATMUL_STORE, MATMUL_ADD, MATMUL_GELU, MATMUL_CONTINUE };

typedef struct {
    const Matrix *matrix;
    const Inputs *inputs;
    int64_t n_rows; /* T */
    float *out;     /* (T, out_stride) */
    int64_t out_stride;
    int mode; /* MATMUL_* */
} MatmulArgs;

#define ATTENTION_QUERIES 6 /* maximum queries in one call */

typedef struct {
    const KVCache *cache;
    const float *q; /* (n_queries, q_stride): this head's query in each row */
    int64_t q_stride;
    int64_t head;
    int64_t position;  /* of the first query; the keys and values of all queries are in the cache */
    int64_t n_queries; /* consecutive positions, at most ATTENTION_QUERIES */
    float *out;        /* (n_queries, out_stride): head_dim in each row */
    int64_t out_stride;
    float *scratch; /* attention_scratch() */
    float *weights; /* (n_queries, weights_stride): softmax of the first position + n_queries scores; or NULL */
    int64_t weights_stride;
} AttentionArgs;

enum { FUNCTION_EXP, FUNCTION_GELU, FUNCTION_FMA };

typedef struct {
    const char *name;
    /* IN: x (n); g, b (n, padded with zeros to 16). OUT: out (n, padded with zeros to 16). */
    void (*layernorm)(float *out, const float *x, const float *g, const float *b, int64_t n);
    /* Quantizes a row of inputs for a matrix; does nothing for f32 and f16. IN: x. OUT: q, scale and offset. */
    void (*quantize_inputs)(const Inputs *inputs, int64_t row, const Matrix *matrix);
    /* Multiplies rows of inputs by the rows of a matrix in tiles [first_tile, end_tile). */
    void (*matmul)(const MatmulArgs *args, int64_t first_tile, int64_t end_tile);
    /* Stores a head's key and value, (head_dim) each, in the KV cache. */
    void (*kv_store)(const KVCache *cache, const float *k, const float *v, int64_t head, int64_t position);
    /* Causal attention of one head. */
    void (*attention)(const AttentionArgs *args);
    /* x (n, a multiple of 16) = FUNCTION_* of x, in place; FUNCTION_FMA is x * y + z. For tests. */
    void (*evaluate)(int function, float *x, const float *y, const float *z, int64_t n);
    /* Reads n bytes as fast as memory allows, in the order in which matmul() reads the tiles of a matrix for one token,
     * to measure the limit of its speed. Returns the sum of their 64-bit words modulo 2^64, the last word padded with
     * zeros. */
    uint64_t (*read_bytes)(const uint8_t *p, int64_t n);
} Kernels;

/* Returns the floats of scratch that attention() needs: scores and weighted sums for each query; and with a cache of
 * int8, the inputs of both products, the second with two rows and sums for each query, and the scales of the values. */
static inline int64_t attention_scratch(int64_t n_ctx, int64_t head_dim) {
    const int64_t width = align(head_dim, TILE), inputs = width + 4 + (width + 2 * n_ctx) / 4;
    return ATTENTION_QUERIES * (n_ctx + 2 * width + inputs) + n_ctx;
}

/* A head's keys of the first n positions as a matrix (n, head_dim). */
static inline Matrix key_matrix(const KVCache *cache, int64_t head, int64_t n) {
    return (Matrix){.data = kvcache_key_tile(cache, head, 0), .tiles = align(n, TILE) / TILE,
                    .layout = kvcache_key_layout(cache)};
}

/* A head's values of n positions from `position` on as a matrix (head_dim, n). In int8, `position` is 0. */
static inline Matrix value_matrix(const KVCache *cache, int64_t head, int64_t position, int64_t n) {
    Matrix m = {.data = kvcache_value_tile(cache, head), .tiles = kvcache_value_tiles(cache),
                .layout = kvcache_value_layout(cache)};
    if (!is_quantized(cache->type)) m.data += float_offset(cache->type, position, 0);
    m.layout.n_in = m.layout.group = n;
    return m;
}

/* x (n) = row `row` of m, dequantized. */
static inline void matrix_row(float *x, const Matrix *m, int64_t row, int64_t n) {
    const uint8_t *tile = m->data + row / TILE * m->layout.stride;
    for (int64_t i = 0; i < n; i++) x[i] = tile_read(&m->layout, tile, i, row % TILE);
}

/* x (n) = row `row` of m + y (n). */
static inline void embed(float *x, const Matrix *m, int64_t row, const float *y, int64_t n) {
    const uint8_t *tile = m->data + row / TILE * m->layout.stride;
    for (int64_t i = 0; i < n; i++) x[i] = tile_read(&m->layout, tile, i, row % TILE) + y[i];
}

#endif

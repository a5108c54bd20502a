/* The operations of a forward pass over sixteen lanes: one text for the portable reference and all vector
 * implementations. Included once for each instruction set after its lanes_*.h, with these defined: ISA; TILES (with
 * many tokens) and TILES_ALONE (with one), TOKENS_FLOAT and TOKENS_INT: how many a block holds in registers; EXCESS:
 * the offset of int8 weights as dot4 takes them.
 *
 * Letters: a token is a row of inputs; a tile is 16 rows of a matrix (outputs); a group is inputs with one scale. A
 * lane is an output row, a position or a dimension of a head, so nothing is summed across lanes except as the tree of
 * FN(sum) says. Every sum runs over its inputs in ascending order, whatever the blocking: the same bits from all. */

_Static_assert(TILES <= TILES_ALONE && TILES_ALONE <= MAX_BLOCK_TILES, "tiles of a block");
_Static_assert(TOKENS_FLOAT <= MAX_BLOCK_TOKENS && TOKENS_INT <= MAX_BLOCK_TOKENS, "tokens of a block");

#define F32 FN(f32x16)
#define I32 FN(i32x16)

/* The first `count` of 16 values, then `fill`. */
ALWAYS_INLINE F32 FN(load_part)(const float *p, int64_t count, float fill) {
    float part[16];
    for (int l = 0; l < 16; l++) part[l] = l < count ? p[l] : fill;
    return FN(load)(part);
}

ALWAYS_INLINE F32 FN(exp)(F32 x) {
    const F32 shift = FN(splat)(12582912.0f); /* 1.5 * 2^23: its low bits take the nearest integer */
    x = FN(max)(FN(min)(x, FN(splat)(88.0f)), FN(splat)(-87.0f));
    F32 shifted = FN(fma)(x, FN(splat)(1.44269502f), shift);
    F32 n = FN(sub)(shifted, shift), scale = FN(exp2_of_shifted)(shifted);
    F32 r = FN(fma)(n, FN(splat)(-0.693359375f), x); /* ln 2 in two parts; the first ends in zeros */
    r = FN(fma)(n, FN(splat)(0.000212194442f), r);
    F32 p = FN(splat)(0.00138145837f); /* minimax on [-ln 2 / 2, ln 2 / 2], relative error 3.1e-9 */
    p = FN(fma)(p, r, FN(splat)(0.00836872403f));
    p = FN(fma)(p, r, FN(splat)(0.041668389f));
    p = FN(fma)(p, r, FN(splat)(0.166665211f));
    p = FN(fma)(p, r, FN(splat)(0.49999994f));
    p = FN(fma)(p, FN(mul)(r, r), r);
    return FN(fma)(p, scale, scale);
}

/* The tanh form of GPT-2, 0.5 x (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), is x / (1 + exp(-2u)). */
ALWAYS_INLINE F32 FN(gelu)(F32 x) {
    F32 cubed = FN(mul)(FN(mul)(x, x), x);
    F32 u = FN(fma)(cubed, FN(splat)(0.044715f), x);
    F32 e = FN(exp)(FN(mul)(u, FN(splat)(-1.59576912f)));
    return FN(div)(x, FN(add)(FN(splat)(1.0f), e));
}

#ifndef GPT2RT_STANDALONE
static void FN(evaluate)(int function, float *x, const float *y, const float *z, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        F32 a = FN(load)(x + i);
        a = function == FUNCTION_EXP    ? FN(exp)(a)
            : function == FUNCTION_GELU ? FN(gelu)(a)
                                        : FN(fma)(a, FN(load)(y + i), FN(load)(z + i));
        FN(store)(x + i, a);
    }
}
#endif

static void FN(layernorm)(float *out, const float *x, const float *g, const float *b, int64_t n) {
    int64_t whole = n / 16 * 16, rest = n - whole;
    F32 sum = FN(splat)(0.0f), squares = sum;
    for (int64_t i = 0; i < whole; i += 16) sum = FN(add)(sum, FN(load)(x + i));
    if (rest) sum = FN(add)(sum, FN(load_part)(x + whole, rest, 0.0f));
    float average = FN(sum)(sum) / (float)n;
    F32 mean = FN(splat)(average);
    for (int64_t i = 0; i < whole; i += 16) {
        F32 off = FN(sub)(FN(load)(x + i), mean);
        squares = FN(fma)(off, off, squares);
    }
    if (rest) {
        F32 off = FN(sub)(FN(load_part)(x + whole, rest, average), mean);
        squares = FN(fma)(off, off, squares);
    }
    F32 scale = FN(splat)(1.0f / sqrtf(FN(sum)(squares) / (float)n + 1e-5f));
    for (int64_t i = 0; i < n; i += 16) {
        F32 off = FN(sub)(i < whole ? FN(load)(x + i) : FN(load_part)(x + i, rest, average), mean);
        FN(store)(out + i, FN(fma)(FN(mul)(off, scale), FN(load)(g + i), FN(load)(b + i)));
    }
}

/* To s8 with one scale for a group: max|x| / 127. */
static void FN(quantize_inputs)(const Inputs *inputs, int64_t row, const Matrix *matrix) {
    const int64_t group = matrix->layout.group, n_in = matrix->layout.n_in;
    if (!group) return;
    const F32 shift = FN(splat)(12582912.0f);
    const int32_t excess = matrix->layout.type == TYPE_INT4 ? tile_excess(TYPE_INT4) : EXCESS;
    const int64_t groups = n_in / group;
    const float *x = inputs->x + row * inputs->x_stride;
    int8_t *q = inputs->q + row * n_in;
    float *scale = inputs->scale + row * groups;
    int32_t *offset = inputs->offset + row * groups;
    for (int64_t g = 0; g < groups; g++, x += group, q += group) {
        F32 sizes = FN(abs)(FN(load)(x));
        for (int64_t i = 16; i < group; i += 16) sizes = FN(max)(FN(abs)(FN(load)(x + i)), sizes);
        float size = FN(largest)(sizes);
        F32 inverse = FN(splat)(size > 1e-30f ? 127.0f / size : 0.0f);
        I32 sum = FN(splat_i32)(0);
        for (int64_t i = 0; i < group; i += 16) {
            I32 shifted = FN(bits)(FN(fma)(FN(load)(x + i), inverse, shift));
            FN(store_low_bytes)(q + i, shifted);
            sum = FN(add_low_bytes)(sum, shifted);
        }
        scale[g] = size / 127.0f;
        offset[g] = -excess * FN(sum_i32)(sum);
    }
}

/* GELU of tiles x tokens values, in place. */
static NEVER_INLINE void FN(gelu_block)(float *out, int64_t out_stride, int tiles, int tokens) {
    for (int t = 0; t < tokens; t++, out += out_stride)
        for (int i = 0; i < tiles * TILE; i += TILE) FN(store)(out + i, FN(gelu)(FN(load)(out + i)));
}

/* Writes the sums of a block. Only the block used most for quantized prompts has its own GELU: in all of them it would
 * be half of the code, without a measurable gain. */
ALWAYS_INLINE void FN(finish)(F32 (*acc)[MAX_BLOCK_TOKENS], const Block block, const MatmulArgs *args, float *out) {
    const int64_t out_stride = args->out_stride;
    const int mode = args->mode, tiles = block.tiles, tokens = block.tokens;
    if (is_quantized(block.type) && tokens == TOKENS_INT && mode == MATMUL_GELU) {
        UNROLL for (int k = 0; k < tiles; k++)
            UNROLL for (int t = 0; t < tokens; t++) FN(store)(out + t * out_stride + k * TILE, FN(gelu)(acc[k][t]));
        return;
    }
    if (mode == MATMUL_ADD) /* not in the next loop, which clang 14 then does not unroll */
        UNROLL for (int k = 0; k < tiles; k++)
            UNROLL for (int t = 0; t < tokens; t++)
                acc[k][t] = FN(add)(FN(load)(out + t * out_stride + k * TILE), acc[k][t]);
    UNROLL for (int k = 0; k < tiles; k++)
        UNROLL for (int t = 0; t < tokens; t++) FN(store)(out + t * out_stride + k * TILE, acc[k][t]);
    if (mode == MATMUL_GELU) FN(gelu_block)(out, out_stride, tiles, tokens);
}

/* A block of an f32 or f16 product. */
ALWAYS_INLINE void FN(block_float)(const Block block, const MatmulArgs *args, int64_t tile, int64_t token) {
    const Matrix *m = args->matrix;
    const int half = block.type == TYPE_F16, tiles = block.tiles, tokens = block.tokens, mode = args->mode;
    const int64_t stride = m->layout.stride, x_stride = args->inputs->x_stride, out_stride = args->out_stride;
    const uint8_t *w = m->data + tile * stride;
    const float *x = args->inputs->x + token * x_stride;
    float *out = args->out + token * out_stride + tile * TILE;
    F32 acc[MAX_BLOCK_TILES][MAX_BLOCK_TOKENS];
    UNROLL for (int k = 0; k < tiles; k++)
        UNROLL for (int t = 0; t < tokens; t++)
            acc[k][t] = mode == MATMUL_CONTINUE ? FN(load)(out + t * out_stride + k * TILE)
                        : m->bias               ? FN(load)(m->bias + (tile + k) * TILE)
                                                : FN(splat)(0.0f);
    const int prefetch = token == 0 && tiles * stride <= MAX_PREFETCH; /* as in FN(block_int) */
    for (int64_t i = m->layout.n_in; i; i--, w += half ? 2 * TILE : 4 * TILE, x++) {
        F32 weight[MAX_BLOCK_TILES];
        UNROLL for (int k = 0; k < tiles; k++) {
            if (prefetch) PREFETCH(w + (tiles + k) * stride);
            weight[k] = half ? FN(load_half)((const uint16_t *)(w + k * stride)) : FN(load)((const float *)(w + k * stride));
        }
        UNROLL for (int t = 0; t < tokens; t++) {
            F32 input = FN(splat)(x[t * x_stride]);
            UNROLL for (int k = 0; k < tiles; k++) acc[k][t] = FN(fma)(weight[k], input, acc[k][t]);
        }
    }
    FN(finish)(acc, block, args, out);
}

/* A block of an int8 or int4 product. The dot product of a group is exact in i32; then
 * acc = fma(dot, scale of the weights * scale of the inputs, acc). */
ALWAYS_INLINE void FN(block_int)(const Block block, const MatmulArgs *args, int64_t tile, int64_t token) {
    const Matrix *m = args->matrix;
    const int type = block.type, tiles = block.tiles, tokens = block.tokens;
    const int64_t stride = m->layout.stride, n_in = m->layout.n_in, group = m->layout.group, groups = n_in / group;
    /* The first token of a block prefetches the next tiles, since hardware prefetchers don't predict where they start;
     * long tiles need no help. */
    const int prefetch = token == 0 && tiles * stride <= MAX_PREFETCH;
    const uint8_t *scales = m->data + tile * stride, *lines = scales + m->layout.values;
    const int8_t *q = args->inputs->q + token * n_in;
    const float *input_scale = args->inputs->scale + token * groups;
    const int32_t *offset = args->inputs->offset + token * groups;
    float *out = args->out + token * args->out_stride + tile * TILE;
    F32 acc[MAX_BLOCK_TILES][MAX_BLOCK_TOKENS];
    UNROLL for (int k = 0; k < tiles; k++)
        UNROLL for (int t = 0; t < tokens; t++)
            acc[k][t] = m->bias ? FN(load)(m->bias + (tile + k) * TILE) : FN(splat)(0.0f);
    for (int64_t g = 0; g < groups; g++, scales += scale_offset(1, 0)) {
        I32 dot[MAX_BLOCK_TILES][MAX_BLOCK_TOKENS];
        UNROLL for (int k = 0; k < tiles; k++)
            UNROLL for (int t = 0; t < tokens; t++) dot[k][t] = FN(splat_i32)(offset[t * groups + g]);
        for (int64_t i = 0; i < group; i += line_inputs(type), lines += TILE_LINE, q += line_inputs(type)) {
            FN(weights8) bytes[MAX_BLOCK_TILES];
            FN(weights4) nibbles[MAX_BLOCK_TILES];
            UNROLL for (int k = 0; k < tiles; k++) {
                if (prefetch) PREFETCH(lines + (tiles + k) * stride);
                if (type == TYPE_INT8) bytes[k] = FN(load_weights8)(lines + k * stride);
                if (type == TYPE_INT4) nibbles[k] = FN(load_weights4)(lines + k * stride);
            }
            UNROLL for (int t = 0; t < tokens; t++)
                UNROLL for (int k = 0; k < tiles; k++)
                    dot[k][t] = type == TYPE_INT4 ? FN(dot8)(dot[k][t], nibbles[k], q + t * n_in)
                                                  : FN(dot4)(dot[k][t], bytes[k], q + t * n_in);
        }
        UNROLL for (int k = 0; k < tiles; k++) {
            F32 scale = FN(load_half)((const uint16_t *)(scales + k * stride));
            UNROLL for (int t = 0; t < tokens; t++)
                acc[k][t] = FN(fma)(FN(to_float)(dot[k][t]),
                                    FN(mul)(scale, FN(splat)(input_scale[t * groups + g])), acc[k][t]);
        }
    }
    FN(finish)(acc, block, args, out);
}

ALWAYS_INLINE void FN(block)(const Block block, const MatmulArgs *args, int64_t tile, int64_t token) {
    if (is_quantized(block.type))
        FN(block_int)(block, args, tile, token);
    else
        FN(block_float)(block, args, tile, token);
}

/* All tokens of some tiles: as many at a time as registers hold, then the rest. */
ALWAYS_INLINE void FN(strip)(const int type, const int tiles, const MatmulArgs *args, int64_t tile) {
    const int tokens = is_quantized(type) ? TOKENS_INT : TOKENS_FLOAT;
    const int64_t end = args->n_rows;
    int64_t token = 0;
#define BLOCK(n) FN(block)((Block){type, tiles, n}, args, tile, token)
    for (; token + tokens <= end; token += tokens) BLOCK(tokens);
    if (tiles < TILES) /* the last tile of an odd number: rare, and each block is some 500 bytes */
        for (; token < end; token++) BLOCK(1);
    switch (end - token) {
    case 5: if (tokens > 5) BLOCK(5); break;
    case 4: if (tokens > 4) BLOCK(4); break;
    case 3: if (tokens > 3) BLOCK(3); break;
    case 2: if (tokens > 2) BLOCK(2); break;
    case 1: BLOCK(1); break;
    default: break;
    }
#undef BLOCK
}

ALWAYS_INLINE void FN(matmul_type)(const int type, const MatmulArgs *args, int64_t first_tile, int64_t end_tile) {
    int64_t tile = first_tile;
    if (TILES_ALONE > TILES && args->n_rows == 1) /* more tiles, for more independent sums */
        for (; tile + TILES_ALONE <= end_tile; tile += TILES_ALONE)
            FN(block)((Block){type, TILES_ALONE, 1}, args, tile, 0);
    for (; tile + TILES <= end_tile; tile += TILES) FN(strip)(type, TILES, args, tile);
    for (; tile < end_tile; tile++) FN(strip)(type, 1, args, tile);
}

static void FN(matmul)(const MatmulArgs *args, int64_t first_tile, int64_t end_tile) {
    const MatmulArgs copy = *args; /* so that compilers keep them in registers */
    switch (args->matrix->layout.type) {
    case TYPE_INT8: FN(matmul_type)(TYPE_INT8, &copy, first_tile, end_tile); break;
    case TYPE_INT4: FN(matmul_type)(TYPE_INT4, &copy, first_tile, end_tile); break;
    case TYPE_F16: FN(matmul_type)(TYPE_F16, &copy, first_tile, end_tile); break;
    default: FN(matmul_type)(TYPE_F32, &copy, first_tile, end_tile); break;
    }
}

/* The 16 values at x + i of n, then zeros. */
ALWAYS_INLINE F32 FN(load_of)(const float *x, int64_t i, int64_t n) {
    return i + TILE <= n ? FN(load)(x + i) : FN(load_part)(x + i, n - i, 0.0f);
}

/* Writes a query's softmax: n weights divided by their sum, then zeros to `end`. */
static void FN(write_weights)(float *out, const float *row, float inverse, int64_t n, int64_t end) {
    for (int64_t i = 0; i < n; i++) out[i] = row[i] * inverse;
    for (int64_t i = n; i < end; i++) out[i] = 0.0f;
}

#ifndef GPT2RT_STANDALONE
#include "attention_int8.h"
#endif

static void FN(kv_store)(const KVCache *cache, const float *k, const float *v, int64_t head, int64_t position) {
#ifndef GPT2RT_STANDALONE
    if (cache->type == TYPE_INT8) {
        FN(kv_store_int8)(cache, k, v, head, position);
        return;
    }
#endif
    const int64_t n = cache->head_dim, lane = position % TILE, stride = kvcache_value_layout(cache).stride;
    uint8_t *key = kvcache_key_tile(cache, head, position);
    uint8_t *value = kvcache_value_tile(cache, head) + float_offset(cache->type, position, 0);
    const F32 limit = FN(splat)(65504.0f), low = FN(splat)(-65504.0f); /* the largest f16 */
    for (int64_t d = 0; d < n; d += TILE, value += stride) {
        F32 a = FN(load_of)(k, d, n), b = FN(load_of)(v, d, n);
        int64_t count = n - d < TILE ? n - d : TILE;
        if (cache->type == TYPE_F16) {
            uint16_t halves[TILE], *column = (uint16_t *)(key + float_offset(TYPE_F16, d, lane));
            FN(store_half)(halves, FN(max)(FN(min)(a, limit), low));
            for (int64_t l = 0; l < count; l++) column[l * TILE] = halves[l];
            FN(store_half)((uint16_t *)value, FN(max)(FN(min)(b, limit), low));
        } else {
            float *column = (float *)(key + float_offset(TYPE_F32, d, lane));
            for (int64_t l = 0; l < count; l++) column[l * TILE] = k[d + l];
            FN(store)((float *)value, b);
        }
    }
}

/* row (n scores, with room to a multiple of 16) becomes exp(scale * row - its maximum), padded with zeros; returns
 * 1 / their sum. */
static float FN(softmax)(float *row, int64_t n, float scale) {
    int64_t whole = n / 16 * 16, rest = n - whole;
    F32 factor = FN(splat)(scale), most = FN(splat)(-INFINITY), sum = FN(splat)(0.0f);
    if (rest) FN(store)(row + whole, FN(load_part)(row + whole, rest, -INFINITY));
    for (int64_t i = 0; i < n; i += 16) {
        F32 score = FN(mul)(FN(load)(row + i), factor);
        FN(store)(row + i, score);
        most = FN(max)(score, most);
    }
    most = FN(splat)(FN(largest)(most));
    for (int64_t i = 0; i < n; i += 16) {
        FN(store)(row + i, FN(exp)(FN(sub)(FN(load)(row + i), most)));
        if (i == whole) FN(store)(row + i, FN(load_part)(row + i, rest, 0.0f));
        sum = FN(add)(sum, FN(load)(row + i));
    }
    return 1.0f / FN(sum)(sum);
}

static void FN(attention)(const AttentionArgs *args) {
#ifndef GPT2RT_STANDALONE
    if (args->cache->type == TYPE_INT8) {
        FN(attention_int8)(args);
        return;
    }
#endif
    const KVCache *cache = args->cache;
    const int64_t n = cache->head_dim, width = align(n, TILE), n_ctx = cache->n_ctx;
    const int64_t head = args->head, position = args->position, n_queries = args->n_queries;
    const float scale = 1.0f / sqrtf((float)n);
    float *scores = args->scratch, *sums = scores + n_queries * n_ctx, inverse[ATTENTION_QUERIES];

    const Matrix keys = key_matrix(cache, head, position + n_queries);
    const Inputs queries = {.x = (float *)args->q, .x_stride = args->q_stride};
    const MatmulArgs score = {&keys, &queries, n_queries, scores, n_ctx, MATMUL_STORE};
    FN(matmul)(&score, 0, keys.tiles);
    for (int64_t t = 0; t < n_queries; t++) {
        float *row = scores + t * n_ctx;
        const int64_t seen = position + t + 1;
        inverse[t] = FN(softmax)(row, seen, scale);
        if (args->weights)
            FN(write_weights)(args->weights + t * args->weights_stride, row, inverse[t], seen, position + n_queries);
    }

    /* The positions that all of these queries see, then the remaining positions of each query. */
    const Matrix values = value_matrix(cache, head, 0, position + 1);
    const Inputs weights = {.x = scores, .x_stride = n_ctx};
    const MatmulArgs sum = {&values, &weights, n_queries, sums, width, MATMUL_STORE};
    FN(matmul)(&sum, 0, values.tiles);
    for (int64_t t = 1; t < n_queries; t++) {
        const Matrix later = value_matrix(cache, head, position + 1, t);
        const Inputs rest = {.x = scores + t * n_ctx + position + 1};
        const MatmulArgs more = {&later, &rest, 1, sums + t * width, width, MATMUL_CONTINUE};
        FN(matmul)(&more, 0, later.tiles);
    }

    for (int64_t t = 0; t < n_queries; t++) {
        for (int64_t d = 0; d < n; d += TILE) {
            F32 mean = FN(mul)(FN(load)(sums + t * width + d), FN(splat)(inverse[t]));
            FN(store)(sums + t * width + d, mean);
        }
        memcpy(args->out + t * args->out_stride, sums + t * width, sizeof(float) * (size_t)n);
    }
}

#ifndef GPT2RT_STANDALONE
static uint64_t FN(read_bytes)(const uint8_t *p, int64_t n) {
    const int64_t stride = MAX_PREFETCH / TILES_ALONE; /* as of the longest tiles that a block prefetches */
    FN(u64x8) sums[TILES_ALONE];
    memset(sums, 0, sizeof sums);
    for (; n >= MAX_PREFETCH; n -= MAX_PREFETCH, p += MAX_PREFETCH)
        for (int64_t i = 0; i < stride; i += TILE_LINE)
            UNROLL for (int k = 0; k < TILES_ALONE; k++) {
                PREFETCH(p + (TILES_ALONE + k) * stride + i);
                sums[k] = FN(add_words)(sums[k], p + k * stride + i);
            }
    for (; n >= TILE_LINE; n -= TILE_LINE, p += TILE_LINE) sums[0] = FN(add_words)(sums[0], p);
    uint8_t rest[TILE_LINE] = {0};
    memcpy(rest, p, (size_t)n);
    sums[0] = FN(add_words)(sums[0], rest);

    uint64_t words[TILE_LINE / 8], sum = 0;
    UNROLL for (int k = 0; k < TILES_ALONE; k++) {
        FN(store_words)(words, sums[k]);
        for (int i = 0; i < TILE_LINE / 8; i++) sum += words[i];
    }
    return sum;
}
#endif

static const Kernels FN(kernels) = {
    .name = STRING(ISA),
    .layernorm = FN(layernorm),
    .quantize_inputs = FN(quantize_inputs),
    .matmul = FN(matmul),
    .kv_store = FN(kv_store),
    .attention = FN(attention),
#ifndef GPT2RT_STANDALONE
    .evaluate = FN(evaluate),
    .read_bytes = FN(read_bytes),
#endif
};

#undef F32
#undef I32
#undef ISA
#undef TILES
#undef TILES_ALONE
#undef TOKENS_FLOAT
#undef TOKENS_INT
#undef EXCESS

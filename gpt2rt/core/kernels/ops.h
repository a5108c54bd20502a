/* The operations of a forward pass over sixteen lanes. Included once for each instruction set behind its lanes_*.h, with
 * these defined: ISA; TILES (with many tokens) and TILES_ALONE (with one), TOKENS_FLOAT and TOKENS_INT: what a block holds
 * in registers; EXCESS of int8 weights as dot4 sees them: all twins come from this one text.
 *
 * Letters: T tokens of a pass; n_in, n_out of a matrix; a tile is 16 rows (outputs); a group is inputs with one scale.
 * A lane is an output row, a position or a dimension of a head, so nothing is summed across lanes but where the tree of
 * FN(sum) says how. Every sum runs over its inputs in ascending order, whatever the blocking: the same bits from all. */

#define F32 FN(f32x16)
#define I32 FN(i32x16)

/* The first `count` of 16 values, `fill` behind them. */
ALWAYS_INLINE F32 FN(load_part)(const float *p, int64_t count, float fill) {
    float part[16];
    for (int l = 0; l < 16; l++) part[l] = l < count ? p[l] : fill;
    return FN(load)(part);
}

ALWAYS_INLINE F32 FN(exp)(F32 x) {
    const F32 shift = FN(splat)(12582912.0f); /* 1.5 * 2^23: its lowest bits take the nearest whole number */
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

/* In place, x of x, or x * y + z; n is a multiple of 16. What kernels are made of, for those who test it. */
static void FN(evaluate)(int function, float *x, const float *y, const float *z, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        F32 a = FN(load)(x + i);
        a = function == FUNCTION_EXP    ? FN(exp)(a)
            : function == FUNCTION_GELU ? FN(gelu)(a)
                                        : FN(fma)(a, FN(load)(y + i), FN(load)(z + i));
        FN(store)(x + i, a);
    }
}

/* IN: x (n), g, b (n, filled up with zeros to 16). OUT: out (n, filled up with zeros to 16). */
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

/* Inputs to s8 for weights of this type, one scale a group: max|x| / 127. IN: x (groups * group). OUT: a row of
 * Inputs. */
static void FN(quantize)(int8_t *q, float *scale, int32_t *offset, const float *x, int64_t groups, int64_t group,
                         int type) {
    const F32 shift = FN(splat)(12582912.0f);
    const int32_t excess = type == TYPE_INT4 ? 8 : EXCESS;
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

/* Of `tiles` x `tokens` values, in place. */
static NEVER_INLINE void FN(gelu_block)(float *out, int64_t out_stride, int tiles, int tokens) {
    for (int t = 0; t < tokens; t++, out += out_stride)
        for (int i = 0; i < tiles * TILE; i += TILE) FN(store)(out + i, FN(gelu)(FN(load)(out + i)));
}

/* The sums of a block to their places. Only the block that quantized prompts are made of has a GELU of its own: in all
 * of them it would be half of the code, for nothing that can be measured. */
ALWAYS_INLINE void FN(finish)(F32 (*acc)[6], const int has_gelu, const int tiles, const int tokens, float *out,
                              int64_t out_stride, int mode) {
    if (has_gelu && mode == MATMUL_GELU) {
        UNROLL for (int k = 0; k < tiles; k++)
            UNROLL for (int t = 0; t < tokens; t++) FN(store)(out + t * out_stride + k * TILE, FN(gelu)(acc[k][t]));
        return;
    }
    UNROLL for (int k = 0; k < tiles; k++)
        UNROLL for (int t = 0; t < tokens; t++) {
            float *place = out + t * out_stride + k * TILE;
            FN(store)(place, mode == MATMUL_ADD ? FN(add)(FN(load)(place), acc[k][t]) : acc[k][t]);
        }
    if (mode == MATMUL_GELU) FN(gelu_block)(out, out_stride, tiles, tokens);
}

/* `tiles` x `tokens` of a product, both known to the compiler, so that the sums stay in registers. */
ALWAYS_INLINE void FN(block_float)(const int half, const int tiles, const int tokens, const Matrix *m, int64_t tile,
                                   const Inputs *in, int64_t token, float *out, int64_t out_stride, int mode) {
    const uint8_t *w = m->data + tile * m->stride;
    const float *x = in->x + token * in->x_stride;
    F32 acc[4][6];
    out += token * out_stride + tile * TILE;
    UNROLL for (int k = 0; k < tiles; k++)
        UNROLL for (int t = 0; t < tokens; t++)
            acc[k][t] = mode == MATMUL_CONTINUE ? FN(load)(out + t * out_stride + k * TILE)
                        : m->bias               ? FN(load)(m->bias + (tile + k) * TILE)
                                                : FN(splat)(0.0f);
    const int64_t stride = m->stride, x_stride = in->x_stride;
    const int ask_ahead = token == 0 && tiles * stride <= PREFETCH_MOST; /* as in FN(block_int) */
    for (int64_t i = m->n_in; i; i--, w += half ? 2 * TILE : 4 * TILE, x++) {
        F32 weight[4];
        UNROLL for (int k = 0; k < tiles; k++) {
            if (ask_ahead) PREFETCH(w + (tiles + k) * stride);
            weight[k] = half ? FN(load_half)((const uint16_t *)(w + k * stride)) : FN(load)((const float *)(w + k * stride));
        }
        UNROLL for (int t = 0; t < tokens; t++) {
            F32 input = FN(splat)(x[t * x_stride]);
            UNROLL for (int k = 0; k < tiles; k++) acc[k][t] = FN(fma)(weight[k], input, acc[k][t]);
        }
    }
    FN(finish)(acc, 0, tiles, tokens, out, out_stride, mode);
}

/* The dot product of a group is exact in i32; then acc = fma(dot, scale of the weights * scale of the inputs, acc). */
ALWAYS_INLINE void FN(block_int)(const int type, const int tiles, const int tokens, const Matrix *m, int64_t tile,
                                 const Inputs *in, int64_t token, float *out, int64_t out_stride, int mode) {
    const int step = type == TYPE_INT4 ? 8 : 4; /* inputs of a line */
    /* The first to need tiles waits for memory: processors don't foresee where the next ones begin; long ones they do. */
    const int ask_ahead = token == 0 && tiles * m->stride <= PREFETCH_MOST;
    const int64_t stride = m->stride, group = m->group, groups = m->n_in / group;
    const uint8_t *scales = m->data + tile * stride, *lines = scales + m->values;
    const int8_t *q = in->q + token * m->n_in;
    const float *input_scale = in->scale + token * groups;
    const int32_t *offset = in->offset + token * groups;
    F32 acc[4][6];
    out += token * out_stride + tile * TILE;
    UNROLL for (int k = 0; k < tiles; k++)
        UNROLL for (int t = 0; t < tokens; t++)
            acc[k][t] = m->bias ? FN(load)(m->bias + (tile + k) * TILE) : FN(splat)(0.0f);
    for (int64_t g = 0; g < groups; g++, scales += 2 * TILE) {
        I32 dot[4][6];
        UNROLL for (int k = 0; k < tiles; k++)
            UNROLL for (int t = 0; t < tokens; t++) dot[k][t] = FN(splat_i32)(offset[t * groups + g]);
        for (int64_t i = 0; i < group; i += step, lines += 4 * TILE, q += step) {
            FN(weights8) bytes[4];
            FN(weights4) nibbles[4];
            UNROLL for (int k = 0; k < tiles; k++) {
                if (ask_ahead) PREFETCH(lines + (tiles + k) * stride);
                if (type == TYPE_INT8) bytes[k] = FN(load_weights8)(lines + k * stride);
                if (type == TYPE_INT4) nibbles[k] = FN(load_weights4)(lines + k * stride);
            }
            UNROLL for (int t = 0; t < tokens; t++)
                UNROLL for (int k = 0; k < tiles; k++)
                    dot[k][t] = type == TYPE_INT4 ? FN(dot8)(dot[k][t], nibbles[k], q + t * m->n_in)
                                                  : FN(dot4)(dot[k][t], bytes[k], q + t * m->n_in);
        }
        UNROLL for (int k = 0; k < tiles; k++) {
            F32 scale = FN(load_half)((const uint16_t *)(scales + k * stride));
            UNROLL for (int t = 0; t < tokens; t++)
                acc[k][t] = FN(fma)(FN(to_float)(dot[k][t]),
                                    FN(mul)(scale, FN(splat)(input_scale[t * groups + g])), acc[k][t]);
        }
    }
    FN(finish)(acc, tokens == TOKENS_INT, tiles, tokens, out, out_stride, mode);
}

ALWAYS_INLINE void FN(block)(const int type, const int tiles, const int tokens, const Matrix *m, int64_t tile,
                             const Inputs *in, int64_t token, float *out, int64_t out_stride, int mode) {
    if (type == TYPE_INT8 || type == TYPE_INT4)
        FN(block_int)(type, tiles, tokens, m, tile, in, token, out, out_stride, mode);
    else
        FN(block_float)(type == TYPE_F16, tiles, tokens, m, tile, in, token, out, out_stride, mode);
}

/* All tokens of some tiles: as many as registers hold at a time, then the rest. */
ALWAYS_INLINE void FN(strip)(const int type, const int tiles, const Matrix *m, int64_t tile, const Inputs *in,
                             int64_t T, float *out, int64_t out_stride, int mode) {
    const int tokens = type == TYPE_INT8 || type == TYPE_INT4 ? TOKENS_INT : TOKENS_FLOAT;
    int64_t token = 0;
#define BLOCK(n) FN(block)(type, tiles, n, m, tile, in, token, out, out_stride, mode)
    for (; token + tokens <= T; token += tokens) BLOCK(tokens);
    if (tiles < TILES) /* what is left of the tiles: rare, and each block is some 500 bytes */
        for (; token < T; token++) BLOCK(1);
    switch (T - token) {
    case 5: if (tokens > 5) BLOCK(5); break;
    case 4: if (tokens > 4) BLOCK(4); break;
    case 3: if (tokens > 3) BLOCK(3); break;
    case 2: if (tokens > 2) BLOCK(2); break;
    case 1: BLOCK(1); break;
    }
#undef BLOCK
}

ALWAYS_INLINE void FN(matmul_type)(const int type, const Matrix *m, const Inputs *in, int64_t T, float *out,
                                   int64_t out_stride, int64_t first, int64_t end, int mode) {
    int64_t tile = first;
    if (TILES_ALONE > TILES && T == 1) /* one token: more tiles, for more sums that don't wait for each other */
        for (; tile + TILES_ALONE <= end; tile += TILES_ALONE)
            FN(block)(type, TILES_ALONE, 1, m, tile, in, 0, out, out_stride, mode);
    for (; tile + TILES <= end; tile += TILES) FN(strip)(type, TILES, m, tile, in, T, out, out_stride, mode);
    for (; tile < end; tile++) FN(strip)(type, 1, m, tile, in, T, out, out_stride, mode);
}

/* Rows of tiles [first, end) of m times T rows of inputs. OUT: out (T, out_stride), at the rows' own places. */
static void FN(matmul)(const Matrix *m, const Inputs *in, int64_t T, float *out, int64_t out_stride, int64_t first,
                       int64_t end, int mode) {
    if (m->type == TYPE_INT8)
        FN(matmul_type)(TYPE_INT8, m, in, T, out, out_stride, first, end, mode);
    else if (m->type == TYPE_INT4)
        FN(matmul_type)(TYPE_INT4, m, in, T, out, out_stride, first, end, mode);
    else if (m->type == TYPE_F16)
        FN(matmul_type)(TYPE_F16, m, in, T, out, out_stride, first, end, mode);
    else
        FN(matmul_type)(TYPE_F32, m, in, T, out, out_stride, first, end, mode);
}

/* Puts a head's key and value (head_dim each) into the cache. */
static void FN(remember)(const Cache *c, const float *k, const float *v, int64_t head, int64_t position) {
    const int64_t n = c->head_dim;
    Matrix keys = cache_keys(c, head, position + 1), values = cache_values(c, head, position, 1);
    uint8_t *key = (uint8_t *)keys.data + position / TILE * keys.stride, *value = (uint8_t *)values.data;
    const F32 limit = FN(splat)(65504.0f), low = FN(splat)(-65504.0f); /* the largest f16 */
    for (int64_t d = 0; d < n; d += 16) {
        F32 a = d + 16 <= n ? FN(load)(k + d) : FN(load_part)(k + d, n - d, 0.0f);
        F32 b = d + 16 <= n ? FN(load)(v + d) : FN(load_part)(v + d, n - d, 0.0f);
        int64_t count = n - d < 16 ? n - d : 16;
        if (c->type == TYPE_F16) {
            uint16_t halves[16], *column = (uint16_t *)key + d * TILE + position % TILE;
            FN(store_half)(halves, FN(max)(FN(min)(a, limit), low));
            for (int64_t l = 0; l < count; l++) column[l * TILE] = halves[l];
            FN(store_half)((uint16_t *)(value + d / 16 * values.stride), FN(max)(FN(min)(b, limit), low));
        } else {
            float *column = (float *)key + d * TILE + position % TILE;
            for (int64_t l = 0; l < count; l++) column[l * TILE] = k[d + l];
            FN(store)((float *)(value + d / 16 * values.stride), b);
        }
    }
}

/* row (n scores, room to a multiple of 16) becomes exp(scale * row - its maximum); returns 1 / their sum. */
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

/* Causal attention of one head for T <= ATTENTION_TOKENS consecutive positions, whose keys and values are in the cache.
 * IN: q, rows of this head's queries. OUT: out, rows of head_dim. scratch: attention_scratch() floats. */
static void FN(attention)(const Cache *c, const float *q, int64_t q_stride, int64_t head, int64_t position, int64_t T,
                          float *out, int64_t out_stride, float *scratch) {
    const int64_t n = c->head_dim, width = (n + 15) / 16 * 16;
    const float scale = 1.0f / sqrtf((float)n);
    float *scores = scratch, *sums = scratch + T * c->n_ctx, inverse[ATTENTION_TOKENS];
    Matrix keys = cache_keys(c, head, position + T), values = cache_values(c, head, 0, position + 1);
    Inputs queries = {.x = (float *)q, .x_stride = q_stride}, weights = {.x = scores, .x_stride = c->n_ctx};
    FN(matmul)(&keys, &queries, T, scores, c->n_ctx, 0, keys.tiles, MATMUL_STORE);
    for (int64_t t = 0; t < T; t++) inverse[t] = FN(softmax)(scores + t * c->n_ctx, position + t + 1, scale);
    FN(matmul)(&values, &weights, T, sums, width, 0, values.tiles, MATMUL_STORE);
    for (int64_t t = 1; t < T; t++) { /* the positions that not all of these queries see */
        Matrix later = cache_values(c, head, position + 1, t);
        Inputs rest = {.x = scores + t * c->n_ctx + position + 1};
        FN(matmul)(&later, &rest, 1, sums + t * width, width, 0, later.tiles, MATMUL_CONTINUE);
    }
    for (int64_t t = 0; t < T; t++) {
        for (int64_t d = 0; d < n; d += 16) {
            F32 mean = FN(mul)(FN(load)(sums + t * width + d), FN(splat)(inverse[t]));
            FN(store)(sums + t * width + d, mean);
        }
        memcpy(out + t * out_stride, sums + t * width, sizeof(float) * (size_t)n);
    }
}

static const Kernels FN(kernels) = {
    STRING(ISA), FN(layernorm), FN(quantize), FN(matmul), FN(remember), FN(attention),
    FN(evaluate),
};

#undef F32
#undef I32
#undef ISA
#undef TILES
#undef TILES_ALONE
#undef TOKENS_FLOAT
#undef TOKENS_INT
#undef EXCESS

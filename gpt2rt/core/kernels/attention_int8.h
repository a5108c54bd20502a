/* The KV cache in int8 and attention over it: a part of ops.h, which includes it for each instruction set. */

/* Returns the scale of n values in int8, max|x| / 127 as f16, and its inverse, 0 if it is 0. */
ALWAYS_INLINE uint16_t FN(int8_scale)(const float *x, int64_t n, float *inverse) {
    F32 sizes = FN(splat)(0.0f);
    for (int64_t i = 0; i < n; i += TILE) sizes = FN(max)(FN(abs)(FN(load_of)(x, i, n)), sizes);
    const float size = FN(largest)(sizes) / 127.0f;
    const uint16_t half = half_from_float(size < 65504.0f ? size : 65504.0f); /* the largest f16; also for a NaN */
    const float scale = float_from_half(half);
    *inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    return half;
}

/* 16 bytes at out = x / scale as excess-128 integers from 1 to 255. A scale rounded down makes x too large. */
ALWAYS_INLINE void FN(store_int8)(uint8_t *out, F32 x, F32 inverse) {
    const F32 shift = FN(splat)(12582912.0f + 128.0f), limit = FN(splat)(127.0f), low = FN(splat)(-127.0f);
    x = FN(max)(FN(min)(FN(mul)(x, inverse), limit), low);
    FN(store_low_bytes)((int8_t *)out, FN(bits)(FN(add)(x, shift)));
}

static void FN(kv_store_int8)(const KVCache *c, const float *k, const float *v, int64_t head, int64_t position) {
    KVCache cache = *c;
    cache.type = TYPE_INT8; /* for the compiler */
    const TileLayout keys = kvcache_key_layout(&cache), values = kvcache_value_layout(&cache);
    const int64_t n = cache.head_dim, lane = position % TILE;
    uint8_t *key = kvcache_key_tile(&cache, head, position), *value = kvcache_value_tile(&cache, head), bytes[TILE];
    float k_inverse, v_inverse;
    tile_write_scale(key, 0, lane, FN(int8_scale)(k, n, &k_inverse));
    tile_write_scale(key, 1, lane, FN(int8_scale)(v, n, &v_inverse));
    for (int64_t d = 0; d < n; d += TILE, value += values.stride) {
        FN(store_int8)(bytes, FN(load_of)(k, d, n), FN(splat)(k_inverse));
        for (int i = 0; i < TILE; i += 4) memcpy(key + line_offset(&keys, d + i) + 4 * lane, bytes + i, 4);
        FN(store_int8)(bytes, FN(load_of)(v, d, n), FN(splat)(v_inverse));
        uint8_t *line = value + line_offset(&values, position) + position % 4;
        for (int l = 0; l < TILE; l++) line[4 * l] = bytes[l];
        FN(store_half)((uint16_t *)value, FN(splat)(1.0f));
    }
}

/* The softmax of a query over a cache of int8, as softmax(): row (seen scores, with room to a multiple of 16) becomes
 * exp(scale * row - its maximum); returns 1 / their sum.
 *
 * Its products with the values' scales, v_scale, become rows 2 t and 2 t + 1 of the inputs of the values: the nearest
 * integers to 127 * product / the largest product, and what rounding leaves of these, in units of 1 / 254. One row of
 * s8 would lose the many small weights. Zeros follow, to n. */
static float FN(softmax_int8)(const Inputs *inputs, int64_t t, float *row, int64_t seen, float scale,
                              const float *v_scale, int64_t n) {
    static const float ones[2 * TILE] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}; /* then zeros */
    const F32 zero = FN(splat)(0.0f), shift = FN(splat)(12582912.0f); /* as in FN(quantize_inputs) */
    const F32 limit = FN(splat)(127.0f), units = FN(splat)(254.0f);
    const int64_t last = (seen - 1) / TILE * TILE, end = last + TILE; /* `last`: of the tile with the last position */
    const F32 visible = FN(load)(ones + end - seen), factor = FN(splat)(scale);

    F32 hidden = FN(mul)(FN(sub)(visible, FN(splat)(1.0f)), FN(splat)(3e38f));
    F32 most = FN(add)(FN(load)(row + last), hidden);
    for (int64_t i = 0; i < last; i += TILE) most = FN(max)(FN(load)(row + i), most);
    const F32 offset = FN(splat)(-scale * FN(largest)(most));

    F32 sum = zero, sizes = zero;
    for (int64_t i = 0; i < end; i += TILE) {
        F32 weight = FN(exp)(FN(fma)(FN(load)(row + i), factor, offset));
        if (i == last) weight = FN(mul)(weight, visible);
        FN(store)(row + i, weight);
        sum = FN(add)(sum, weight);
        sizes = FN(max)(FN(mul)(weight, FN(load)(v_scale + i)), sizes);
    }

    const float size = FN(largest)(sizes);
    const F32 inverse = FN(splat)(size > 1e-30f ? 127.0f / size : 0.0f);
    int8_t *high = inputs->q + 2 * t * n, *low = high + n;
    F32 high_sum = zero, low_sum = zero; /* of integers; exact: MAX_N_CTX * 127 < 2^24 */
    for (int64_t i = 0; i < end; i += TILE) {
        F32 weight = FN(mul)(FN(mul)(FN(load)(row + i), FN(load)(v_scale + i)), inverse);
        weight = FN(min)(weight, limit); /* also for a NaN */
        F32 shifted = FN(add)(weight, shift), whole = FN(sub)(shifted, shift);
        F32 left = FN(fma)(FN(sub)(weight, whole), units, shift);
        FN(store_low_bytes)(high + i, FN(bits)(shifted));
        FN(store_low_bytes)(low + i, FN(bits)(left));
        high_sum = FN(add)(high_sum, whole);
        low_sum = FN(add)(low_sum, FN(sub)(left, shift));
    }
    memset(high + end, 0, (size_t)(n - end));
    memset(low + end, 0, (size_t)(n - end));
    inputs->scale[2 * t] = size / 127.0f;
    inputs->scale[2 * t + 1] = size / (127.0f * 254.0f);
    inputs->offset[2 * t] = -EXCESS * (int32_t)FN(sum)(high_sum);
    inputs->offset[2 * t + 1] = -EXCESS * (int32_t)FN(sum)(low_sum);
    return 1.0f / FN(sum)(sum);
}

/* Attention over a cache of int8. A sum over positions is exact, so it needs no order, and the positions after a
 * query's own have a weight of 0 in it. */
static void FN(attention_int8)(const AttentionArgs *args) {
    const KVCache *cache = args->cache;
    const int64_t dim = cache->head_dim, width = align(dim, TILE), n_ctx = cache->n_ctx;
    const int64_t head = args->head, position = args->position, n_queries = args->n_queries;
    const int64_t n = align(position + n_queries, TILE);
    const float scale = 1.0f / sqrtf((float)dim);
    float *scores = args->scratch, *v_scale = scores + n_queries * n_ctx, *sums = v_scale + n_ctx;
    float *padded = sums + 2 * n_queries * width, inverse[ATTENTION_QUERIES];
    Inputs inputs = {.x = padded, .x_stride = width, .scale = padded + n_queries * width};
    inputs.offset = (int32_t *)(inputs.scale + 2 * n_queries);
    inputs.q = (int8_t *)(inputs.offset + 2 * n_queries);

    const Matrix keys = key_matrix(cache, head, position + n_queries);
    for (int64_t t = 0; t < n_queries; t++) {
        for (int64_t d = 0; d < dim; d += TILE)
            FN(store)(padded + t * width + d, FN(load_of)(args->q + t * args->q_stride, d, dim));
        FN(quantize_inputs)(&inputs, t, &keys);
    }
    const MatmulArgs score = {&keys, &inputs, n_queries, scores, n_ctx, MATMUL_STORE};
    FN(matmul)(&score, 0, keys.tiles);

    const uint8_t *halves = kvcache_value_scales(cache, head);
    for (int64_t i = 0; i < n; i += TILE, halves += keys.layout.stride)
        FN(store)(v_scale + i, FN(load_half)((const uint16_t *)halves));
    for (int64_t t = 0; t < n_queries; t++) {
        float *row = scores + t * n_ctx;
        const int64_t seen = position + t + 1;
        inverse[t] = FN(softmax_int8)(&inputs, t, row, seen, scale, v_scale, n);
        if (args->weights)
            FN(write_weights)(args->weights + t * args->weights_stride, row, inverse[t], seen, position + n_queries);
    }

    const Matrix values = value_matrix(cache, head, 0, n);
    const MatmulArgs sum = {&values, &inputs, 2 * n_queries, sums, width, MATMUL_STORE};
    FN(matmul)(&sum, 0, values.tiles);
    for (int64_t t = 0; t < n_queries; t++) {
        float *high = sums + 2 * t * width, *low = high + width;
        for (int64_t d = 0; d < dim; d += TILE)
            FN(store)(high + d, FN(mul)(FN(add)(FN(load)(high + d), FN(load)(low + d)), FN(splat)(inverse[t])));
        memcpy(args->out + t * args->out_stride, high, sizeof(float) * (size_t)dim);
    }
}

/* The keys and values of one layer. Keys are stored in tiles as a matrix whose rows are positions, values as one whose
 * rows are dimensions, so that attention's scores and weighted sums are ordinary matrix products.
 *
 * In int8, a key and a value each have one scale. A tile of keys starts with the scales of its 16 keys, as in any matrix
 * of int8, and those of the same positions' values follow in the padding: the sum over positions has them in its
 * weights. The scales of the matrix of values are 1. */
#ifndef GPT2RT_KVCACHE_H
#define GPT2RT_KVCACHE_H

#include "tile.h"

typedef struct {
    uint8_t *k;  /* (n_head, n_ctx / 16, head_dim, 16 positions) */
    uint8_t *v;  /* (n_head, head_dim / 16 rounded up, n_ctx, 16 dimensions) */
    int type;    /* TYPE_F32, TYPE_F16 or TYPE_INT8 */
    int64_t n_head, head_dim, n_ctx; /* n_ctx is a multiple of 16 */
} KVCache;

static inline TileLayout kvcache_key_layout(const KVCache *c) { return tile_layout_one_group(c->type, c->head_dim); }
static inline TileLayout kvcache_value_layout(const KVCache *c) { return tile_layout_one_group(c->type, c->n_ctx); }

/* Tiles of a head. */
static inline int64_t kvcache_key_tiles(const KVCache *c) { return c->n_ctx / TILE; }
static inline int64_t kvcache_value_tiles(const KVCache *c) { return align(c->head_dim, TILE) / TILE; }

/* Bytes of a head's keys and values, and of a layer's. */
static inline int64_t kvcache_head_k_size(const KVCache *c) {
    return kvcache_key_tiles(c) * kvcache_key_layout(c).stride;
}
static inline int64_t kvcache_head_v_size(const KVCache *c) {
    return kvcache_value_tiles(c) * kvcache_value_layout(c).stride;
}
static inline int64_t kvcache_k_size(const KVCache *c) { return c->n_head * kvcache_head_k_size(c); }
static inline int64_t kvcache_v_size(const KVCache *c) { return c->n_head * kvcache_head_v_size(c); }

/* Returns the tile with a position's key, in row position % 16. */
static inline uint8_t *kvcache_key_tile(const KVCache *c, int64_t head, int64_t position) {
    return c->k + head * kvcache_head_k_size(c) + position / TILE * kvcache_key_layout(c).stride;
}

/* Returns the tile with the first 16 dimensions of a head's values; the others follow. */
static inline uint8_t *kvcache_value_tile(const KVCache *c, int64_t head) {
    return c->v + head * kvcache_head_v_size(c);
}

/* Returns the f16 scales of the values of a head's first 16 positions, in int8; the next 16 are one tile of keys on. */
static inline uint8_t *kvcache_value_scales(const KVCache *c, int64_t head) {
    return kvcache_key_tile(c, head, 0) + scale_offset(1, 0);
}

/* Copies the keys and values of the first `length` positions to a cache that may have another n_ctx. */
static inline void kvcache_copy(const KVCache *to, const KVCache *from, int64_t length) {
    if (!length) return; /* `from` may have no memory yet */
    const int64_t k_bytes = align(length, TILE) / TILE * kvcache_key_layout(from).stride;
    const TileLayout values = kvcache_value_layout(from);
    const int64_t v_bytes = tile_prefix(&values, length), v_tiles = from->n_head * kvcache_value_tiles(from);
    const int64_t to_stride = kvcache_value_layout(to).stride, from_stride = values.stride;
    for (int64_t head = 0; head < from->n_head; head++)
        memcpy(kvcache_key_tile(to, head, 0), kvcache_key_tile(from, head, 0), (size_t)k_bytes);
    for (int64_t tile = 0; tile < v_tiles; tile++)
        memcpy(to->v + tile * to_stride, from->v + tile * from_stride, (size_t)v_bytes);
}

#endif

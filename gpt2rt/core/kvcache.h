/* The keys and values of one layer. Keys are stored in tiles as a matrix whose rows are positions, values as one whose
 * rows are dimensions, so that attention's scores and weighted sums are ordinary matrix products. */
#ifndef GPT2RT_KVCACHE_H
#define GPT2RT_KVCACHE_H

#include "tile.h"

typedef struct {
    uint8_t *k;  /* (n_head, n_ctx / 16, head_dim, 16 positions) */
    uint8_t *v;  /* (n_head, head_dim / 16 rounded up, n_ctx, 16 dimensions) */
    int type;    /* TYPE_F32 or TYPE_F16 */
    int64_t n_head, head_dim, n_ctx; /* n_ctx is a multiple of 16 */
} KVCache;

static inline TileLayout kvcache_key_layout(const KVCache *c) { return tile_layout(c->type, c->head_dim, 0); }
static inline TileLayout kvcache_value_layout(const KVCache *c) { return tile_layout(c->type, c->n_ctx, 0); }

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

/* Returns the first 16 dimensions of a position's value; the next 16 are one stride of kvcache_value_layout() on. */
static inline uint8_t *kvcache_value(const KVCache *c, int64_t head, int64_t position) {
    return c->v + head * kvcache_head_v_size(c) + float_offset(c->type, position, 0);
}

/* Copies the keys and values of the first `length` positions to a cache that may have another n_ctx. */
static inline void kvcache_copy(const KVCache *to, const KVCache *from, int64_t length) {
    if (!length) return; /* `from` may have no memory yet */
    const int64_t k_bytes = align(length, TILE) / TILE * kvcache_key_layout(from).stride;
    const int64_t v_bytes = float_offset(from->type, length, 0), v_tiles = from->n_head * kvcache_value_tiles(from);
    const int64_t to_stride = kvcache_value_layout(to).stride, from_stride = kvcache_value_layout(from).stride;
    for (int64_t head = 0; head < from->n_head; head++)
        memcpy(kvcache_key_tile(to, head, 0), kvcache_key_tile(from, head, 0), (size_t)k_bytes);
    for (int64_t tile = 0; tile < v_tiles; tile++)
        memcpy(to->v + tile * to_stride, from->v + tile * from_stride, (size_t)v_bytes);
}

#endif

/* A GPT-2 network: pointers into the weights section of a model file.
 *
 * Letters: E = n_embd and F = 4 n_embd padded to whole groups, Q = 3 n_embd and V = n_vocab padded to 16. */
#ifndef GPT2RT_NETWORK_H
#define GPT2RT_NETWORK_H

#include <stdlib.h>

#include "layout.h"
#include "matrix.h"

typedef struct {
    int64_t n_vocab, n_ctx, n_embd, n_head, n_layer;
    int64_t head_dim;
    int64_t E, F, Q, V;
} Config;

typedef struct {
    const float *ln_1_g; /* (n_embd) */
    const float *ln_1_b; /* (n_embd) */
    Matrix attn_c_attn;  /* (3 n_embd, n_embd): q, k, v */
    Matrix attn_c_proj;  /* (n_embd, n_embd) */
    const float *ln_2_g; /* (n_embd) */
    const float *ln_2_b; /* (n_embd) */
    Matrix mlp_c_fc;     /* (4 n_embd, n_embd) */
    Matrix mlp_c_proj;   /* (n_embd, 4 n_embd) */
} Layer;

typedef struct {
    Config config;
    const Kernels *kernels;
    int kv_type;         /* of the KV caches: TYPE_F32, TYPE_F16 or TYPE_INT8 */
    const float *wpe;    /* (n_ctx, n_embd) */
    Layer *layers;       /* (n_layer) */
    const float *ln_f_g; /* (n_embd) */
    const float *ln_f_b; /* (n_embd) */
    Matrix wte;          /* (n_vocab, n_embd): the embedding */
    Matrix head;         /* (n_vocab, n_embd): the output head, `wte` if they are tied */
} Network;

static inline const float *next_vector(TensorCursor *cursor, const uint8_t *weights) {
    return (const float *)(weights + next_tensor(cursor).offset);
}

static inline Matrix next_matrix(TensorCursor *cursor, const uint8_t *weights, int has_bias) {
    const ModelShape *s = cursor->shape;
    const Tensor t = next_tensor(cursor);
    Matrix m = {.data = weights + t.offset, .tiles = align(t.n_out, TILE) / TILE,
                .layout = tile_layout((int)s->type, t.n_in, s->group)};
    if (has_bias) m.bias = next_vector(cursor, weights);
    return m;
}

/* Fills a network whose kernels are set; the KV caches are f32 if the weights are, and f16 otherwise. IN: s, a valid shape; weights (weights_length(s)), aligned to 4 bytes. Returns
 * 0 if memory runs out. The caller frees `layers`. */
static inline int network_open(Network *network, const ModelShape *s, const uint8_t *weights) {
    const int64_t n = s->n_embd, width = s->group > TILE ? s->group : TILE;
    network->config = (Config){.n_vocab = s->n_vocab, .n_ctx = s->n_ctx, .n_embd = n, .n_head = s->n_head,
                               .n_layer = s->n_layer, .head_dim = n / s->n_head, .E = align(n, width),
                               .F = align(4 * n, width), .Q = align(3 * n, TILE), .V = align(s->n_vocab, TILE)};
    network->layers = calloc((size_t)s->n_layer, sizeof(Layer));
    if (!network->layers) return 0;
    network->kv_type = s->type == TYPE_F32 ? TYPE_F32 : TYPE_F16;
    TensorCursor cursor = {.shape = s};
    network->wpe = next_vector(&cursor, weights);
    for (int64_t i = 0; i < s->n_layer; i++) {
        Layer *layer = &network->layers[i];
        layer->ln_1_g = next_vector(&cursor, weights);
        layer->ln_1_b = next_vector(&cursor, weights);
        layer->attn_c_attn = next_matrix(&cursor, weights, 1);
        layer->attn_c_proj = next_matrix(&cursor, weights, 1);
        layer->ln_2_g = next_vector(&cursor, weights);
        layer->ln_2_b = next_vector(&cursor, weights);
        layer->mlp_c_fc = next_matrix(&cursor, weights, 1);
        layer->mlp_c_proj = next_matrix(&cursor, weights, 1);
    }
    network->ln_f_g = next_vector(&cursor, weights);
    network->ln_f_b = next_vector(&cursor, weights);
    network->wte = next_matrix(&cursor, weights, 0);
    network->head = s->has_head ? next_matrix(&cursor, weights, 0) : network->wte;
    return 1;
}

#endif

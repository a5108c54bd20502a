/* A GPT-2 network: pointers into the weights section of a model file.
 *
 * Letters: E = n_embd and F = 4 n_embd padded to whole groups, Q = 3 n_embd and V = n_vocab padded to 16. */
#ifndef GPT2RT_NETWORK_H
#define GPT2RT_NETWORK_H

#include <stdlib.h>

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
    const float *wpe;    /* (n_ctx, n_embd) */
    Layer *layers;       /* (n_layer) */
    const float *ln_f_g; /* (n_embd) */
    const float *ln_f_b; /* (n_embd) */
    Matrix wte;          /* (n_vocab, n_embd): the embedding */
    Matrix head;         /* (n_vocab, n_embd): the output head, `wte` if they are tied */
} Network;

/* Returns the number of tensors of a network, with or without a separate output head. */
static inline int64_t network_tensors(int64_t n_layer, int has_head) { return 12 * n_layer + 4 + has_head; }

/* The tensors of a section, in the order of the model file's tensor table. */
typedef struct {
    const uint8_t *section;
    const int64_t *offsets; /* of the next tensor and those after it */
    int type;
    int64_t group;
} Tensors;

static inline const float *next_vector(Tensors *t) { return (const float *)(t->section + *t->offsets++); }

static inline Matrix next_matrix(Tensors *t, int64_t n_out, int64_t n_in, int has_bias) {
    Matrix m = {.data = t->section + *t->offsets++, .tiles = align(n_out, TILE) / TILE,
                .layout = tile_layout(t->type, n_in, t->group)};
    if (has_bias) m.bias = next_vector(t);
    return m;
}

/* Fills a network whose kernels and hyperparameters are set; returns 0 if memory runs out. The caller frees
 * `layers`. */
static inline int network_open(Network *network, Tensors t, int has_head) {
    Config *c = &network->config;
    const int64_t n = c->n_embd, width = t.group > TILE ? t.group : TILE;
    c->head_dim = n / c->n_head;
    c->E = align(n, width), c->F = align(4 * n, width), c->Q = align(3 * n, TILE), c->V = align(c->n_vocab, TILE);
    network->layers = calloc((size_t)c->n_layer, sizeof(Layer));
    if (!network->layers) return 0;
    network->wpe = next_vector(&t);
    for (int64_t i = 0; i < c->n_layer; i++) {
        Layer *layer = &network->layers[i];
        layer->ln_1_g = next_vector(&t);
        layer->ln_1_b = next_vector(&t);
        layer->attn_c_attn = next_matrix(&t, 3 * n, n, 1);
        layer->attn_c_proj = next_matrix(&t, n, n, 1);
        layer->ln_2_g = next_vector(&t);
        layer->ln_2_b = next_vector(&t);
        layer->mlp_c_fc = next_matrix(&t, 4 * n, n, 1);
        layer->mlp_c_proj = next_matrix(&t, n, 4 * n, 1);
    }
    network->ln_f_g = next_vector(&t);
    network->ln_f_b = next_vector(&t);
    network->wte = next_matrix(&t, c->n_vocab, n, 0);
    network->head = has_head ? next_matrix(&t, c->n_vocab, n, 0) : network->wte;
    return 1;
}

#endif

/* One run through a network: consecutive tokens of one or more sequences.
 *
 * It runs on all members of a thread team; every member runs the same text, does its share of the rows, heads or tokens,
 * and meets the others at barriers. Work is never split along a sum, so the logits don't depend on how many they are.
 *
 * Letters: T tokens of the pass; E, F, Q and V as in network.h. */
#ifndef GPT2RT_PASS_H
#define GPT2RT_PASS_H

#include "clock.h"
#include "network.h"
#include "team.h"

#define SIGNAL_INTERVAL 0.005 /* seconds between looks for Ctrl-C; at most one look a layer */

/* What a member of the team writes alone. */
typedef struct {
    float *norm;    /* (E), of a pass of one token */
    Inputs inputs;  /* (F), likewise */
    float *scratch; /* attention_scratch() */
} Private;

typedef struct {
    float *x;         /* (T, E) the residual stream */
    float *norm;      /* (T, E) normalized */
    Inputs inputs;    /* (T, F) quantized */
    float *qkv;       /* (T, Q) */
    float *att;       /* (T, E) */
    float *fc;        /* (T, F) */
    Private *private; /* (members) */
} Activations;

/* Consecutive tokens of one sequence: rows [first, first + count) of a pass, from `position` on. */
typedef struct {
    uint8_t *k; /* (n_layer, n_head, n_ctx / 16, head_dim, 16) */
    uint8_t *v; /* (n_layer, n_head, head_dim / 16, n_ctx, 16) */
    int64_t position, first, count;
} Span;

/* What a pass spends its time on, with the wait for the other members that follows. */
typedef enum {
    PART_EMBED,
    PART_C_ATTN,
    PART_ATTENTION,
    PART_ATTN_C_PROJ,
    PART_C_FC,
    PART_MLP_C_PROJ,
    PART_HEAD,
    N_PARTS
} Part;

typedef struct {
    const Network *network;
    Activations *state;
    Team *team;
    const int32_t *tokens; /* (T) */
    int64_t n_tokens;
    const Span *spans; /* (n_spans) */
    int64_t n_spans;
    const int64_t *logit_rows; /* (n_logits) rows whose logits are wanted */
    int64_t n_logits;
    float *logits;            /* (n_logits, V) */
    KVCache cache;              /* shape of a layer's cache */
    int64_t k_layer, v_layer; /* bytes of a layer in k and in v */
    double check_at;          /* when to look for signals next, seconds */
    Shared stop;              /* set once a signal handler raised */
    double *parts;            /* (N_PARTS) seconds, or NULL */
} Pass;

/* The memory of a pass of n_tokens, which `state` then points into, for the caller to free; NULL where there is none. */
static void *activations_new(Activations *state, const Config *c, int64_t n_tokens, int members) {
    const int64_t groups = c->F / TILE; /* at most */
    const int64_t scratch = attention_scratch(align(c->n_ctx, TILE), c->head_dim);
    const int64_t own = align(c->E + 2 * groups + scratch, 16) + 16; /* the last 16: no two members' on one cache line */
    const int64_t floats = n_tokens * (3 * c->E + c->Q + c->F + 2 * groups) + members * own;
    const int64_t bytes = (n_tokens + members) * c->F;
    void *memory = calloc((size_t)(4 * floats + bytes + members * (int64_t)sizeof(Private) + 128), 1);
    if (!memory) return NULL;
    float *at = (float *)align((intptr_t)memory, 64);
    state->x = at, at += n_tokens * c->E;
    state->norm = at, at += n_tokens * c->E;
    state->att = at, at += n_tokens * c->E;
    state->qkv = at, at += n_tokens * c->Q;
    state->fc = at, at += n_tokens * c->F;
    state->inputs.scale = at, at += n_tokens * groups;
    state->inputs.offset = (int32_t *)at, at += n_tokens * groups;
    int8_t *q = (int8_t *)(at + members * own);
    state->inputs.q = q, q += n_tokens * c->F;
    state->private = (Private *)align((intptr_t)(q + members * c->F), 64);
    for (int i = 0; i < members; i++, at += own) {
        Private *private = &state->private[i];
        private->norm = at;
        private->scratch = at + c->E;
        private->inputs.scale = at + own - 16 - 2 * groups;
        private->inputs.offset = (int32_t *)(at + own - 16 - groups);
        private->inputs.q = q + i * c->F;
    }
    return memory;
}

/* Times a matrix: a member's share of its rows, for all tokens. */
static inline void project(const Pass *p, const Matrix *m, const Inputs *inputs, float *out, int64_t stride, int mode,
                           int member, int members) {
    const MatmulArgs args = {m, inputs, p->n_tokens, out, stride, mode};
    p->network->kernels->matmul(&args, share(m->tiles, member, members), share(m->tiles, member + 1, members));
}

/* Makes a row of floats row i of the inputs of m: through layer norm into inputs->x where g is given, and quantized. */
static inline void prepare_row(const Pass *p, const Matrix *m, const Inputs *inputs, int64_t i, const float *row,
                               const float *g, const float *b) {
    const Kernels *kernels = p->network->kernels;
    if (g) kernels->layernorm(inputs->x + i * inputs->x_stride, row, g, b, p->network->config.n_embd);
    kernels->quantize_inputs(inputs, i, m);
}

/* Makes (T, stride) floats the inputs of m: through layer norm (g, b, into norm) where g is given, and quantized.
 * A single token is prepared by each member for itself, which saves a barrier; many are shared out. */
static void prepare(const Pass *p, const Matrix *m, Inputs *inputs, float *rows, int64_t stride, const float *g,
                    const float *b, float *norm, int member, int members) {
    const int alone = p->n_tokens == 1;
    const int64_t end = alone ? 1 : share(p->n_tokens, member + 1, members);
    inputs->x = g ? norm : rows, inputs->x_stride = stride;
    for (int64_t t = alone ? 0 : share(p->n_tokens, member, members); t < end; t++)
        prepare_row(p, m, inputs, t, rows + t * stride, g, b);
    if (!alone) team_barrier(p->team);
}

/* Puts the keys and values of all tokens into their caches, then answers all queries: qkv -> att. */
static void attend(const Pass *p, int64_t layer, float *scratch, int member, int members) {
    const Config *c = &p->network->config;
    const Kernels *kernels = p->network->kernels;
    const int64_t n = c->head_dim;
    KVCache cache = p->cache;
    for (int64_t h = share(c->n_head, member, members); h < share(c->n_head, member + 1, members); h++)
        for (const Span *span = p->spans; span < p->spans + p->n_spans; span++) {
            cache.k = span->k + layer * p->k_layer, cache.v = span->v + layer * p->v_layer;
            float *row = p->state->qkv + span->first * c->Q + h * n;
            for (int64_t t = 0; t < span->count; t++, row += c->Q)
                kernels->kv_store(&cache, row + c->n_embd, row + 2 * c->n_embd, h, span->position + t);
            if (p->n_tokens == 1) /* nobody else has to wait for this head */
                kernels->attention(&(AttentionArgs){
                    .cache = &cache, .q = row - c->Q, .q_stride = c->Q, .head = h, .position = span->position,
                    .n_queries = 1, .out = p->state->att + h * n, .out_stride = c->E, .scratch = scratch});
        }
    if (p->n_tokens == 1) return;
    team_barrier(p->team);
    int64_t item = 0;
    for (const Span *span = p->spans; span < p->spans + p->n_spans; span++) {
        cache.k = span->k + layer * p->k_layer, cache.v = span->v + layer * p->v_layer;
        for (int64_t t = 0; t < span->count; t += ATTENTION_QUERIES) {
            const int64_t count = span->count - t < ATTENTION_QUERIES ? span->count - t : ATTENTION_QUERIES;
            for (int64_t h = 0; h < c->n_head; h++, item++)
                if (item % members == member)
                    kernels->attention(&(AttentionArgs){
                        .cache = &cache, .q = p->state->qkv + (span->first + t) * c->Q + h * n, .q_stride = c->Q,
                        .head = h, .position = span->position + t, .n_queries = count,
                        .out = p->state->att + (span->first + t) * c->E + h * n, .out_stride = c->E,
                        .scratch = scratch});
        }
    }
}

/* The logits of the wanted rows: final layer norm, then times the head. Prepared as in `prepare`. */
static void head(const Pass *p, Private *own, int member, int members) {
    const Network *network = p->network;
    const Config *c = &network->config;
    const Matrix *m = &network->head;
    const int alone = p->n_logits == 1;
    Inputs inputs = alone ? own->inputs : p->state->inputs;
    const int64_t end = alone ? 1 : share(p->n_logits, member + 1, members);
    inputs.x = alone ? own->norm : p->state->norm, inputs.x_stride = c->E;
    for (int64_t i = alone ? 0 : share(p->n_logits, member, members); i < end; i++)
        prepare_row(p, m, &inputs, i, p->state->x + p->logit_rows[i] * c->E, network->ln_f_g, network->ln_f_b);
    if (!alone) team_barrier(p->team);
    if (p->n_logits) {
        const MatmulArgs args = {m, &inputs, p->n_logits, p->logits, c->V, MATMUL_STORE};
        network->kernels->matmul(&args, share(m->tiles, member, members), share(m->tiles, member + 1, members));
    }
}

/* Runs Python's signal handlers now and then; one that raises (Ctrl-C) ends the pass behind this layer. */
static void look_for_signals(Pass *p) {
    const double now = clock_seconds();
    if (now < p->check_at) return;
    p->check_at = now + SIGNAL_INTERVAL;
    PyGILState_STATE gil = PyGILState_Ensure();
    if (PyErr_CheckSignals()) shared_store(&p->stop, 1);
    PyGILState_Release(gil);
}

/* Notes what a part took where that is asked for; returns when the next one begins. */
static inline double spent(const Pass *p, Part part, int member, double begin) {
    if (!p->parts || member) return begin;
    const double now = clock_seconds();
    p->parts[part] += now - begin;
    return now;
}

/* What each member of the team does: the whole pass, but only its share of it. A TeamJob. */
static void run_pass(void *argument, int member, int members) {
    Pass *p = argument;
    const Network *network = p->network;
    const Config *c = &network->config;
    Activations *s = p->state;
    Private *own = &s->private[member];
    const int alone = p->n_tokens == 1;
    Inputs inputs = alone ? own->inputs : s->inputs;
    float *norm = alone ? own->norm : s->norm;
    double begin = clock_seconds();

    if (members == 1) p->team = NULL; /* it is busy with another pass: no barriers here */
    for (const Span *span = p->spans; span < p->spans + p->n_spans; span++)
        for (int64_t t = span->first; t < span->first + span->count; t++)
            if (t % members == member)
                embed(s->x + t * c->E, &network->wte, p->tokens[t],
                      network->wpe + (span->position + t - span->first) * c->n_embd, c->n_embd);
    team_barrier(p->team);
    begin = spent(p, PART_EMBED, member, begin);

    for (int64_t i = 0; i < c->n_layer; i++) {
        const Layer *layer = &network->layers[i];
        prepare(p, &layer->attn_c_attn, &inputs, s->x, c->E, layer->ln_1_g, layer->ln_1_b, norm, member, members);
        project(p, &layer->attn_c_attn, &inputs, s->qkv, c->Q, MATMUL_STORE, member, members);
        team_barrier(p->team);
        begin = spent(p, PART_C_ATTN, member, begin);
        attend(p, i, own->scratch, member, members);
        team_barrier(p->team);
        begin = spent(p, PART_ATTENTION, member, begin);
        prepare(p, &layer->attn_c_proj, &inputs, s->att, c->E, NULL, NULL, NULL, member, members);
        project(p, &layer->attn_c_proj, &inputs, s->x, c->E, MATMUL_ADD, member, members);
        team_barrier(p->team);
        begin = spent(p, PART_ATTN_C_PROJ, member, begin);
        prepare(p, &layer->mlp_c_fc, &inputs, s->x, c->E, layer->ln_2_g, layer->ln_2_b, norm, member, members);
        project(p, &layer->mlp_c_fc, &inputs, s->fc, c->F, MATMUL_GELU, member, members);
        team_barrier(p->team);
        begin = spent(p, PART_C_FC, member, begin);
        prepare(p, &layer->mlp_c_proj, &inputs, s->fc, c->F, NULL, NULL, NULL, member, members);
        project(p, &layer->mlp_c_proj, &inputs, s->x, c->E, MATMUL_ADD, member, members);
        if (member == 0) look_for_signals(p);
        team_barrier(p->team);
        begin = spent(p, PART_MLP_C_PROJ, member, begin);
        if (shared_load(&p->stop)) return;
    }

    head(p, own, member, members);
    if (p->parts) {
        team_barrier(p->team);
        spent(p, PART_HEAD, member, begin);
    }
}

#endif

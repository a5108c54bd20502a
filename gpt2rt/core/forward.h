/* One forward pass through a network: rows of one or more sequences.
 *
 * Every worker of the thread pool runs the same code, takes chunks of the tiles, heads or rows of a step until none are
 * left, and meets the others at barriers. Work is never split along a sum, so the logits do not depend on the number
 * of workers.
 *
 * Letters: T rows (tokens) of the pass, R of them whose logits are wanted; E, F, Q and V as in network.h. */
#ifndef GPT2RT_FORWARD_H
#define GPT2RT_FORWARD_H

#include "platform.h"

#include <stdlib.h>

#include "clock.h"
#include "network.h"
#include "threadpool.h"

#define MAX_TOKENS 256 /* rows of a pass: more would take memory without being faster */
#define CHUNK_TILES 4  /* minimum tiles per chunk: as many as kernels multiply side by side */

#ifdef GPT2RT_SLOW_WORKER /* a benchmark build: worker 1 computes each of its chunks twice */
#define REPEATS(worker) ((worker)->index == 1 ? 2 : 1)
#else
#define REPEATS(worker) 1
#endif

/* Per-worker scratch. */
typedef struct {
    float *norm;      /* (E) */
    Inputs inputs;    /* (1, F) */
    float *attention; /* attention_scratch() */
} WorkerScratch;

/* Activations, valid during one pass. */
typedef struct {
    int64_t max_rows;
    void *memory;
    float *x;               /* (T, E) the residual stream */
    float *norm;            /* (T, E) layer norm of x */
    Inputs inputs;          /* (T, F) inputs of the next matrix, quantized */
    float *qkv;             /* (T, Q) */
    float *att;             /* (T, E) */
    float *fc;              /* (T, F) */
    WorkerScratch *workers; /* (n_workers) */
} Scratch;

/* Consecutive tokens of one sequence: rows [first, first + count) of a pass, starting at `position`. */
typedef struct {
    KVCache kv; /* of layer 0; those of the other layers follow */
    int64_t position, first, count;
} SequenceSlice;

/* Consecutive queries that attention computes together: rows [row, row + count) of one sequence slice. */
typedef struct {
    int64_t slice, row, position, count;
} QueryRun;

/* Copies of intermediate results of a pass, where a pointer is not NULL; and parts of the network to leave out. */
typedef struct {
    float *hidden;    /* (n_layer + 1, n_rows, n_embd): the residual stream before layer 0 and after each layer */
    float *middle;    /* (n_layer, n_rows, n_embd): the residual stream between a layer's attention and its MLP */
    float *heads;     /* (n_layer, n_rows, n_embd): the outputs of all heads, which are the inputs of attn.c_proj */
    float *attention; /* (n_layer, n_head, n_rows, n_positions): 0 after a row's own position */
    const uint8_t *ablated; /* (n_layer, n_head + 1): heads whose output becomes 0; last, layers that are skipped */
    int64_t n_rows, n_positions;
    int64_t first; /* the trace's row for row 0 of the pass */
} Trace;

/* The steps of a pass that are timed, including the wait for the other workers. */
typedef enum {
    STEP_EMBED,
    STEP_ATTN_C_ATTN,
    STEP_ATTENTION,
    STEP_ATTN_C_PROJ,
    STEP_MLP_C_FC,
    STEP_MLP_C_PROJ,
    STEP_HEAD,
    N_STEPS
} ForwardStep;

typedef struct {
    const Network *network;
    Scratch *scratch;
    const int32_t *tokens; /* (T) */
    int64_t n_rows;        /* T */
    const SequenceSlice *slices; /* (n_slices) */
    int64_t n_slices;
    const int64_t *logit_rows; /* (R) ascending: the rows whose logits are wanted */
    int64_t n_logits;          /* R */
    float *logits;             /* (R, V) */
    Trace *trace;              /* or NULL */
    double *seconds;           /* (N_STEPS) to add to, or NULL */
    int (*should_stop)(void *); /* called by worker 0, the calling thread, after each layer; or NULL */
    void *stop_argument;
    Atomic stopped;
    QueryRun runs[MAX_TOKENS];   /* of all rows */
    QueryRun wanted[MAX_TOKENS]; /* of the R rows, numbered from 0 */
    int64_t n_runs, n_wanted;
} ForwardPass;

static inline void scratch_free(Scratch *s) {
    free(s->memory);
    s->memory = NULL;
    s->max_rows = 0;
}

/* Makes room for passes of n_rows on n_workers; returns 0, with nothing changed, if memory runs out. */
static inline int scratch_reserve(Scratch *s, const Config *c, int64_t n_rows, int n_workers) {
    if (n_rows <= s->max_rows) return 1;
    n_rows = n_rows > 32 ? MAX_TOKENS : n_rows > 1 ? 32 : 1;
    const int64_t groups = c->F / TILE; /* at most */
    const int64_t scores = attention_scratch(align(c->n_ctx, TILE), c->head_dim);
    const int64_t own = align(c->E + 2 * groups + scores, 16) + 16; /* the last 16: no shared cache lines */
    const int64_t floats = n_rows * (3 * c->E + c->Q + c->F + 2 * groups) + n_workers * own;
    const int64_t bytes = (n_rows + n_workers) * c->F;
    void *memory = calloc((size_t)(4 * floats + bytes + n_workers * (int64_t)sizeof(WorkerScratch) + 128), 1);
    if (!memory) return 0;
    free(s->memory);
    s->memory = memory, s->max_rows = n_rows;
    float *at = (float *)align((intptr_t)memory, 64);
    s->x = at, at += n_rows * c->E;
    s->norm = at, at += n_rows * c->E;
    s->att = at, at += n_rows * c->E;
    s->qkv = at, at += n_rows * c->Q;
    s->fc = at, at += n_rows * c->F;
    s->inputs.scale = at, at += n_rows * groups;
    s->inputs.offset = (int32_t *)at, at += n_rows * groups;
    int8_t *q = (int8_t *)(at + n_workers * own);
    s->inputs.q = q, q += n_rows * c->F;
    s->workers = (WorkerScratch *)align((intptr_t)(q + n_workers * c->F), 64);
    for (int i = 0; i < n_workers; i++, at += own) {
        WorkerScratch *worker = &s->workers[i];
        worker->norm = at;
        worker->attention = at + c->E;
        worker->inputs.scale = at + own - 16 - 2 * groups;
        worker->inputs.offset = (int32_t *)(at + own - 16 - groups);
        worker->inputs.q = q + i * c->F;
    }
    return 1;
}

/* Splits the rows of the pass, and those whose logits are wanted, into runs of queries. Call it before forward(). */
static inline void plan_queries(ForwardPass *p) {
    p->n_runs = p->n_wanted = 0;
    int64_t i = 0;
    for (int64_t s = 0; s < p->n_slices; s++) {
        const SequenceSlice *slice = &p->slices[s];
        for (int64_t t = 0; t < slice->count; t += ATTENTION_QUERIES) {
            const int64_t left = slice->count - t;
            p->runs[p->n_runs++] = (QueryRun){.slice = s, .row = slice->first + t, .position = slice->position + t,
                                              .count = left < ATTENTION_QUERIES ? left : ATTENTION_QUERIES};
        }
        int64_t run = -1; /* no run to extend yet */
        for (; i < p->n_logits && p->logit_rows[i] < slice->first + slice->count; i++) {
            const int64_t position = slice->position + p->logit_rows[i] - slice->first;
            QueryRun *last = run < 0 ? NULL : &p->wanted[run];
            if (last && last->position + last->count == position && last->count < ATTENTION_QUERIES)
                last->count++;
            else
                p->wanted[run = p->n_wanted++] = (QueryRun){.slice = s, .row = i, .position = position, .count = 1};
        }
    }
}

static inline KVCache layer_cache(const ForwardPass *p, int64_t slice, int64_t layer) {
    KVCache cache = p->slices[slice].kv;
    cache.k += layer * kvcache_k_size(&cache);
    cache.v += layer * kvcache_v_size(&cache);
    return cache;
}

/* x = wte[token] + wpe[position] for every row. */
static inline void embed_rows(const ForwardPass *p, Worker *w) {
    const Network *network = p->network;
    const Config *c = &network->config;
    for (int64_t begin, end, s = 0; pool_chunk(w, p->n_rows, 1, &begin, &end);)
        for (int64_t row = begin; row < end; row++) {
            if (row < p->slices[s].first) s = 0;
            while (row >= p->slices[s].first + p->slices[s].count) s++;
            const int64_t position = p->slices[s].position + row - p->slices[s].first;
            embed(p->scratch->x + row * c->E, &network->wte, p->tokens[row], network->wpe + position * c->n_embd,
                  c->n_embd);
        }
}

/* A layer norm, or none. */
typedef struct {
    const float *g, *b; /* (n_embd) */
} Norm;

/* Makes n rows (n, stride) the inputs of a matrix: applies the norm, if there is one, and quantizes them. Every worker
 * computes a single row for itself, which saves a barrier. Returns the inputs. */
static inline Inputs inputs_of(const ForwardPass *p, Worker *w, const Matrix *m, float *rows, int64_t stride, int64_t n, Norm norm) {
    WorkerScratch *own = &p->scratch->workers[w->index];
    const int is_alone = n == 1;
    Inputs inputs = is_alone ? own->inputs : p->scratch->inputs;
    inputs.x = !norm.g ? rows : is_alone ? own->norm : p->scratch->norm;
    inputs.x_stride = stride;
    for (int64_t begin = 0, end = 1; is_alone || pool_chunk(w, n, 1, &begin, &end);) {
        for (int repeat = 0; repeat < REPEATS(w); repeat++)
            for (int64_t i = begin; i < end; i++) {
                if (norm.g)
                    p->network->kernels->layernorm(inputs.x + i * stride, rows + i * stride, norm.g, norm.b,
                                                   p->network->config.n_embd);
                p->network->kernels->quantize_inputs(&inputs, i, m);
            }
        if (is_alone) return inputs;
    }
    pool_barrier(w);
    return inputs;
}

/* Tiles [first, end) of a matrix times n rows of inputs: out (n, stride). */
static inline void project(const ForwardPass *p, Worker *w, const Matrix *m, const Inputs *inputs, int64_t n, float *out,
                    int64_t stride, int mode, int64_t first, int64_t end) {
    const MatmulArgs args = {.matrix = m, .inputs = inputs, .n_rows = n, .out = out, .out_stride = stride, .mode = mode};
#ifdef GPT2RT_SLOW_WORKER
    MatmulArgs again = args;
    if (mode == MATMUL_ADD) again.out = p->scratch->qkv, again.out_stride = p->network->config.Q, again.mode = MATMUL_STORE;
#endif
    for (int64_t a, b; pool_chunk(w, end - first, CHUNK_TILES, &a, &b);) {
        p->network->kernels->matmul(&args, first + a, first + b);
#ifdef GPT2RT_SLOW_WORKER
        if (w->index == 1) p->network->kernels->matmul(&again, first + a, first + b);
#endif
    }
}

/* Stores one head's keys and values of a slice in its KV cache. */
static inline void store_keys_values(const ForwardPass *p, const KVCache *cache, const SequenceSlice *slice, int64_t head) {
    const Config *c = &p->network->config;
    const float *row = p->scratch->qkv + slice->first * c->Q + head * c->head_dim;
    for (int64_t t = 0; t < slice->count; t++, row += c->Q)
        p->network->kernels->kv_store(cache, row + c->n_embd, row + 2 * c->n_embd, head, slice->position + t);
}

/* Returns whether a head is left out; n_head stands for the whole layer. */
static inline int is_ablated(const ForwardPass *p, int64_t layer, int64_t head) {
    return p->trace && p->trace->ablated && p->trace->ablated[layer * (p->network->config.n_head + 1) + head];
}

/* Computes attention for a run of queries of one head: q of qkv -> att. */
static inline void answer(const ForwardPass *p, Worker *w, const KVCache *cache, const QueryRun *run, int64_t layer, int64_t head) {
    const Config *c = &p->network->config;
    Trace *trace = p->trace;
    AttentionArgs args = {.cache = cache,
                          .q = p->scratch->qkv + run->row * c->Q + head * c->head_dim,
                          .q_stride = c->Q,
                          .head = head,
                          .position = run->position,
                          .n_queries = run->count,
                          .out = p->scratch->att + run->row * c->E + head * c->head_dim,
                          .out_stride = c->E,
                          .scratch = p->scratch->workers[w->index].attention};
    if (trace && trace->attention) {
        args.weights_stride = trace->n_positions;
        args.weights = trace->attention +
                       ((layer * c->n_head + head) * trace->n_rows + trace->first + run->row) * trace->n_positions;
    }
    for (int repeat = 0; repeat < REPEATS(w); repeat++) p->network->kernels->attention(&args);
    if (is_ablated(p, layer, head))
        for (int64_t i = 0; i < run->count; i++)
            memset(args.out + i * args.out_stride, 0, sizeof(float) * (size_t)c->head_dim);
}

/* Stores the keys and values of all rows. */
static inline void store_all(const ForwardPass *p, Worker *w, int64_t layer) {
    for (int64_t head, end; pool_chunk(w, p->network->config.n_head, 1, &head, &end);)
        for (; head < end; head++)
            for (int64_t s = 0; s < p->n_slices; s++) {
                const KVCache cache = layer_cache(p, s, layer);
                for (int repeat = 0; repeat < REPEATS(w); repeat++) store_keys_values(p, &cache, &p->slices[s], head);
            }
}

/* Computes attention for runs of queries, all heads of each. */
static inline void answer_all(const ForwardPass *p, Worker *w, int64_t layer, const QueryRun *runs, int64_t n) {
    const int64_t n_head = p->network->config.n_head;
    for (int64_t item, end; pool_chunk(w, n * n_head, 1, &item, &end);)
        for (; item < end; item++) {
            const QueryRun *run = &runs[item % n]; /* all runs of a head, whose keys and values stay in a cache */
            const KVCache cache = layer_cache(p, run->slice, layer);
            answer(p, w, &cache, run, layer, item / n);
        }
}

/* Attention of all rows: qkv -> att. A single row needs no barrier between a head's KV store and its attention. */
static inline void attend(const ForwardPass *p, Worker *w, int64_t layer) {
    if (p->n_rows > 1) {
        store_all(p, w, layer);
        pool_barrier(w);
        answer_all(p, w, layer, p->runs, p->n_runs);
        return;
    }
    const KVCache cache = layer_cache(p, 0, layer);
    for (int64_t head, end; pool_chunk(w, p->network->config.n_head, 1, &head, &end);)
        for (; head < end; head++) {
            store_keys_values(p, &cache, &p->slices[0], head);
            answer(p, w, &cache, &p->runs[0], layer, head);
        }
}

/* Moves the rows whose logits are wanted to the front: of x, and of the inputs of a matrix, if it is given. */
static inline void keep_wanted_rows(const ForwardPass *p, const Matrix *m, const Inputs *inputs) {
    const int64_t E = p->network->config.E, n_in = m ? m->layout.n_in : 0;
    const int64_t groups = m && m->layout.group ? n_in / m->layout.group : 0;
    for (int64_t i = 0; i < p->n_logits; i++) {
        const int64_t row = p->logit_rows[i];
        if (row == i) continue;
        memcpy(p->scratch->x + i * E, p->scratch->x + row * E, sizeof(float) * (size_t)E);
        if (!m) continue;
        if (groups) {
            memcpy(inputs->q + i * n_in, inputs->q + row * n_in, (size_t)n_in);
            memcpy(inputs->scale + i * groups, inputs->scale + row * groups, sizeof(float) * (size_t)groups);
            memcpy(inputs->offset + i * groups, inputs->offset + row * groups, sizeof(int32_t) * (size_t)groups);
        } else {
            memcpy(inputs->x + i * E, inputs->x + row * E, sizeof(float) * (size_t)E);
        }
    }
}

/* Attention of the last layer if not all rows' logits are wanted: keys and values of all rows, but queries and outputs
 * only of those R, which are then at the front of x and att. */
static inline void attend_wanted(const ForwardPass *p, Worker *w, int64_t layer, const Inputs *inputs) {
    const Config *c = &p->network->config;
    const Matrix *m = &p->network->layers[layer].attn_c_attn;
    project(p, w, m, inputs, p->n_rows, p->scratch->qkv, c->Q, MATMUL_STORE, c->n_embd / TILE, m->tiles);
    pool_barrier(w);
    store_all(p, w, layer);
    if (w->index == 0) keep_wanted_rows(p, m, inputs);
    pool_barrier(w);
    project(p, w, m, inputs, p->n_logits, p->scratch->qkv, c->Q, MATMUL_STORE, 0, (c->n_embd + TILE - 1) / TILE);
    pool_barrier(w);
    answer_all(p, w, layer, p->wanted, p->n_wanted);
}

/* Copies this worker's part of the rows (T, E) to the trace: to entry `i` of an array (n, n_rows, n_embd), or NULL. */
static inline void trace_rows(const ForwardPass *p, const Worker *w, float *to, int64_t i, const float *rows) {
    const Config *c = &p->network->config;
    const Trace *t = p->trace;
    if (!to) return;
    for (int64_t n = partition(p->n_rows, w->index, w->count); n < partition(p->n_rows, w->index + 1, w->count); n++)
        memcpy(to + (i * t->n_rows + t->first + n) * c->n_embd, rows + n * c->E, sizeof(float) * (size_t)c->n_embd);
}

/* Computes the logits of the first n rows of x. Every worker may read them afterwards. */
static inline void output_logits(const ForwardPass *p, Worker *w, int64_t n) {
    const Network *network = p->network;
    const Config *c = &network->config;
    const Inputs inputs = inputs_of(p, w, &network->head, p->scratch->x, c->E, n,
                                    (Norm){network->ln_f_g, network->ln_f_b});
    project(p, w, &network->head, &inputs, n, p->logits, c->V, MATMUL_STORE, 0, network->head.tiles);
    pool_barrier(w);
}

/* Adds the time of a step; returns when the next step begins. */
static inline double end_step(const ForwardPass *p, const Worker *w, ForwardStep step, double begin) {
    if (!p->seconds || w->index) return begin;
    const double now = clock_seconds();
    p->seconds[step] += now - begin;
    return now;
}

/* Runs the pass on all workers of a pool; returns 0 if it was stopped after a layer. */
static inline int forward(ForwardPass *p, Worker *w) {
    const Network *network = p->network;
    const Config *c = &network->config;
    Scratch *s = p->scratch;
    const Norm no_norm = {NULL, NULL};
    Inputs inputs;
    int64_t n = p->n_rows;
    double begin = p->seconds ? clock_seconds() : 0;

    /* 1. The embedding of each token and position. */
    embed_rows(p, w);
    pool_barrier(w);
    begin = end_step(p, w, STEP_EMBED, begin);

    for (int64_t i = 0; i < c->n_layer; i++) {
        const Layer *layer = &network->layers[i];
        if (p->trace) trace_rows(p, w, p->trace->hidden, i, s->x);
        if (is_ablated(p, i, c->n_head)) { /* the layer adds nothing to the residual stream */
            trace_rows(p, w, p->trace->middle, i, s->x);
            continue;
        }

        /* 2. Queries, keys and values. 3. Attention. In the last layer, only for the rows whose logits are wanted. */
        inputs = inputs_of(p, w, &layer->attn_c_attn, s->x, c->E, n, (Norm){layer->ln_1_g, layer->ln_1_b});
        if (i + 1 == c->n_layer && p->n_logits < n && !p->trace) {
            attend_wanted(p, w, i, &inputs);
            n = p->n_logits;
        } else {
            project(p, w, &layer->attn_c_attn, &inputs, n, s->qkv, c->Q, MATMUL_STORE, 0, layer->attn_c_attn.tiles);
            pool_barrier(w);
            begin = end_step(p, w, STEP_ATTN_C_ATTN, begin);
            attend(p, w, i);
        }
        pool_barrier(w);
        begin = end_step(p, w, STEP_ATTENTION, begin);
        if (n == 0) return 1;
        if (p->trace) trace_rows(p, w, p->trace->heads, i, s->att);

        /* 4. The attention's output, added to the residual stream. */
        inputs = inputs_of(p, w, &layer->attn_c_proj, s->att, c->E, n, no_norm);
        project(p, w, &layer->attn_c_proj, &inputs, n, s->x, c->E, MATMUL_ADD, 0, layer->attn_c_proj.tiles);
        pool_barrier(w);
        begin = end_step(p, w, STEP_ATTN_C_PROJ, begin);
        if (p->trace) trace_rows(p, w, p->trace->middle, i, s->x);

        /* 5. The MLP, also added to the residual stream. */
        inputs = inputs_of(p, w, &layer->mlp_c_fc, s->x, c->E, n, (Norm){layer->ln_2_g, layer->ln_2_b});
        project(p, w, &layer->mlp_c_fc, &inputs, n, s->fc, c->F, MATMUL_GELU, 0, layer->mlp_c_fc.tiles);
        pool_barrier(w);
        begin = end_step(p, w, STEP_MLP_C_FC, begin);
        inputs = inputs_of(p, w, &layer->mlp_c_proj, s->fc, c->F, n, no_norm);
        project(p, w, &layer->mlp_c_proj, &inputs, n, s->x, c->E, MATMUL_ADD, 0, layer->mlp_c_proj.tiles);
        if (w->index == 0 && p->should_stop && p->should_stop(p->stop_argument)) atomic_set(&p->stopped, 1);
        pool_barrier(w);
        begin = end_step(p, w, STEP_MLP_C_PROJ, begin);
        if (atomic_get(&p->stopped)) return 0;
    }
    if (p->trace) trace_rows(p, w, p->trace->hidden, c->n_layer, s->x);

    /* 6. The logits of the wanted rows, which are at the front now. */
    if (p->n_logits < n) {  /* with a trace, all rows are still there */
        pool_barrier(w);       /* until every worker has written its part of the trace */
        if (w->index == 0) keep_wanted_rows(p, NULL, NULL);
        pool_barrier(w);
        n = p->n_logits;
    }
    if (n == 0) return 1;
    output_logits(p, w, n);
    end_step(p, w, STEP_HEAD, begin);
    return 1;
}

#endif

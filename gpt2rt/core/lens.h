/* The logit lens: the final layer norm and the output head, applied to any rows of the residual stream.
 *
 * A row after the last layer gives the logits of its token, bit for bit; one of an earlier layer shows what the model
 * would say if it ended there. The caller holds the engine's lock, or owns the engine.
 *
 * Letters: V as in network.h. */
#ifndef GPT2RT_LENS_H
#define GPT2RT_LENS_H

#include "engine.h"

typedef struct {
    Engine *engine;
    const float *hidden;    /* (n_rows, n_embd) */
    const int32_t *targets; /* (n_rows) tokens */
    int64_t n_rows;
    int n_top;
    Score *scores;  /* (n_rows) of the targets */
    int64_t *ranks; /* (n_rows) how many tokens come before the target, most likely first, the lower id among equals */
} Lens;

static inline int64_t rank_of_target(const float *logits, int64_t n_vocab, int32_t target) {
    const float own = logits[target];
    int32_t rank = 0; /* as wide as a float, for vectors */
    for (int64_t i = 0; i < target; i++) rank += logits[i] >= own;
    for (int64_t i = target + 1; i < n_vocab; i++) rank += logits[i] > own;
    return rank;
}

static inline void lens_job(void *argument, Worker *w) {
    const Lens *lens = argument;
    Engine *e = lens->engine;
    const Config *c = &e->network->config;
    int64_t begin, end;
    for (; pool_chunk(w, lens->n_rows, 1, &begin, &end);)
        for (int64_t i = begin; i < end; i++)
            memcpy(e->scratch.x + i * c->E, lens->hidden + i * c->n_embd, sizeof(float) * (size_t)c->n_embd);
    pool_barrier(w);
    output_logits(&e->pass, w, lens->n_rows);
    for (; pool_chunk(w, lens->n_rows, 1, &begin, &end);)
        for (int64_t i = begin; i < end; i++) {
            const float *logits = e->logits + i * c->V;
            score_token(&e->samplers[w->index], logits, c->n_vocab, lens->targets[i], lens->n_top, &lens->scores[i]);
            lens->ranks[i] = rank_of_target(logits, c->n_vocab, lens->targets[i]);
        }
}

/* Fills the scores and ranks of all rows, at most SCORED_TOKENS at a time. */
static inline SequenceStatus lens_run(Lens all) {
    Engine *e = all.engine;
    ForwardPass *p = &e->pass;
    if (!engine_reserve(e, SCORED_TOKENS, SCORED_TOKENS, 1)) return SEQUENCE_NO_MEMORY;
    e->raised = 0;
    for (int64_t at = 0; at < all.n_rows; at += SCORED_TOKENS) {
        Lens part = all;
        part.n_rows = all.n_rows - at < SCORED_TOKENS ? all.n_rows - at : SCORED_TOKENS;
        part.hidden += at * e->network->config.n_embd;
        part.targets += at, part.scores += at, part.ranks += at;
        p->network = e->network, p->scratch = &e->scratch, p->logits = e->logits;
        pool_run(e->pool, lens_job, &part);
        if (engine_should_stop(e)) return SEQUENCE_STOPPED;
    }
    return SEQUENCE_OK;
}

#endif

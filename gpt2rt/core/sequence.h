/* A sequence: the only owner of its token ids, KV cache, length, kept logits and sampler state.
 *
 * The fields are the committed state. Everything after `length` in the cache, after `n_ids` in ids, after `n_history`
 * in the history, after `n_scores` in the scores and in the spare logits is scratch: a step works there, and commits at its end by changing the counts.
 * A step that fails or is stopped changes none of them.
 *
 * Letters: V as in network.h. */
#ifndef GPT2RT_SEQUENCE_H
#define GPT2RT_SEQUENCE_H

#include "platform.h"

#include "kvcache.h"
#include "lock.h"
#include "logprobs.h"
#include "network.h"
#include "sampler.h"

#define MAX_GUESSES 7                /* tokens that prompt lookup may propose at a time */
#define MAX_SAMPLED (MAX_GUESSES + 1) /* tokens that a step may sample for a sequence */
#define MAX_STOP_TOKENS 16
#define MIN_POSITIONS 64 /* of a KV cache */

/* The result of a call, or of a step for one sequence. */
typedef enum {
    SEQUENCE_OK,
    SEQUENCE_STOPPED,       /* cancelled, or a signal handler raised; the state is that of the last commit */
    SEQUENCE_NO_MEMORY,     /* nothing has changed */
    SEQUENCE_FULL,          /* no position is left for the next token */
    SEQUENCE_EMPTY,         /* there are no tokens, so nothing to sample from */
    SEQUENCE_NOT_FINITE,    /* a logit is NaN or infinite */
    SEQUENCE_ALL_FORBIDDEN, /* all tokens are forbidden */
} SequenceStatus;

/* How a sequence chooses its next token. */
typedef struct {
    SamplingOptions options;
    LogitBias *bias; /* (n_bias) distinct tokens */
    int64_t n_bias;
    Random random;
    int32_t *history; /* (n_history) the ids that penalties apply to, oldest first */
    int64_t n_history, history_capacity;
    int32_t *exempt; /* (n_exempt) ascending: ids that are never penalized */
    int64_t n_exempt;
    int32_t stop[MAX_STOP_TOKENS]; /* (n_stop) ids after which guesses are ignored */
    int n_stop;
    int n_logprobs; /* number of most likely tokens to report; 0: only the sampled one's log probability; -1: nothing */
    int n_prompt_logprobs; /* the same, to record for the ids that steps evaluate */
} SequenceSampler;

/* The tokens that the last step sampled. */
typedef struct {
    int n;
    int32_t ids[MAX_SAMPLED];
    Score *scores;              /* (MAX_SAMPLED) NULL until requested */
    Random random[MAX_SAMPLED]; /* the generator before each of them */
} Sampled;

/* What threads without the lock may read: the state as of the last commit. ids[0:n_ids] were written before n_ids. */
typedef struct {
    Atomic64 length, n_ids, n_logits;
    Atomic64 size; /* bytes */
} Published;

typedef struct {
    const Network *network;
    KVCache kv;   /* of layer 0; those of the other layers follow. n_ctx is the number of positions allocated */
    void *memory; /* of the cache */
    int32_t *ids;   /* (n_ctx + 1) evaluated ids, then pending ones */
    int64_t length; /* evaluated tokens, whose keys and values are in the cache */
    int64_t n_ids;  /* all ids; ids[length:n_ids] are pending */
    float *logits, *spare; /* (logits_rows, V), (spare_rows, V) */
    int64_t logits_rows, spare_rows;
    int64_t n_logits; /* kept rows of `logits`: those of the last n_logits evaluated tokens */
    Score *scores;    /* (scores_capacity) of each id after those before it */
    int64_t n_scores; /* the first ids, which have one, perhaps -1; at most length + 1: a pending id may have one too */
    int64_t scores_capacity;
    int samples;      /* whether a step samples when nothing is pending */
    SequenceSampler sampler;
    Sampled sampled;
    int32_t guesses[MAX_GUESSES]; /* (n_guesses) guessed tokens after the pending one */
    int n_guesses;
    SequenceStatus status; /* of the last step */
    int n_new;             /* tokens that the last step sampled */
    Atomic cancelled;
    Published published;
    Lock lock;
} Sequence;

/* --- memory ------------------------------------------------------------------------------------------------------ */

/* Returns a KV cache of n_ctx positions, which has no memory yet. */
static inline KVCache cache_of(const Network *network, int64_t n_ctx) {
    const Config *c = &network->config;
    return (KVCache){.type = network->kv_type, .n_head = c->n_head, .head_dim = c->head_dim, .n_ctx = n_ctx};
}

/* Returns the bytes of a KV cache, of all layers. */
static inline int64_t cache_size(const Network *network, const KVCache *kv) {
    return network->config.n_layer * (kvcache_k_size(kv) + kvcache_v_size(kv));
}

/* Returns the bytes that one position takes in the smallest KV cache; in int8, slightly fewer in a larger one. */
static inline int64_t cache_position_size(const Network *network) {
    const KVCache smallest = cache_of(network, MIN_POSITIONS);
    return cache_size(network, &smallest) / MIN_POSITIONS;
}

/* Returns the bytes of memory that a sequence has allocated. */
static inline int64_t sequence_size(const Sequence *s) {
    const Config *c = &s->network->config;
    const SequenceSampler *sampler = &s->sampler;
    const int64_t ids = c->n_ctx + 1 + sampler->history_capacity + sampler->n_exempt;
    const int64_t scores = s->scores_capacity + (s->sampled.scores ? MAX_SAMPLED : 0);
    return cache_size(s->network, &s->kv) + ids * (int64_t)sizeof(int32_t) +
           sampler->n_bias * (int64_t)sizeof(LogitBias) + (s->logits_rows + s->spare_rows) * c->V * (int64_t)sizeof(float) +
           scores * (int64_t)sizeof(Score);
}

static inline void sequence_publish(Sequence *s) {
    atomic_set64(&s->published.length, s->length);
    atomic_set64(&s->published.n_ids, s->n_ids);
    atomic_set64(&s->published.n_logits, s->n_logits);
    atomic_set64(&s->published.size, sequence_size(s));
}

/* Bracket each change of the state. */
static inline void commit_begin(Sequence *s) { atomic_set(&s->lock.committing, 1); }
static inline void commit_end(Sequence *s) {
    sequence_publish(s);
    atomic_set(&s->lock.committing, 0);
}

static inline void sequence_free(Sequence *s) {
    free(s->memory);
    free(s->ids);
    free(s->logits);
    free(s->spare);
    free(s->sampler.bias);
    free(s->sampler.history);
    free(s->sampler.exempt);
    free(s->sampled.scores);
    free(s->scores);
    memset(s, 0, sizeof(*s));
}

/* Fills an empty sequence of a network; returns 0 if memory runs out. The caller frees the sequence. */
static inline int sequence_open(Sequence *s, const Network *network) {
    memset(s, 0, sizeof(*s));
    s->network = network;
    s->kv = cache_of(network, 0);
    s->sampler.n_logprobs = s->sampler.n_prompt_logprobs = -1;
    s->ids = calloc((size_t)network->config.n_ctx + 1, sizeof(int32_t));
    sequence_publish(s);
    return s->ids != NULL;
}

/* Copies the first `length` positions of the cache, of all layers. */
static inline void sequence_copy_cache(const KVCache *to, const KVCache *from, int64_t n_layer, int64_t length) {
    KVCache a = *to, b = *from;
    if (!length) return; /* there may be no memory, to which C allows no offset, not even 0 */
    for (int64_t i = 0; i < n_layer; i++) {
        kvcache_copy(&a, &b, length);
        a.k += kvcache_k_size(to), a.v += kvcache_v_size(to);
        b.k += kvcache_k_size(from), b.v += kvcache_v_size(from);
    }
}

/* Makes room for n positions in the cache; returns 0 if memory runs out. The cache grows on demand: if the heads of a
 * short sequence were n_ctx positions apart, they would touch many more pages of memory. */
static inline int sequence_reserve_positions(Sequence *s, int64_t n) {
    const Config *c = &s->network->config;
    KVCache kv = s->kv;
    if (n <= kv.n_ctx) return 1;
    const int64_t doubled = 2 * kv.n_ctx, most = align(c->n_ctx, TILE);
    kv.n_ctx = align(n, MIN_POSITIONS) > doubled ? align(n, MIN_POSITIONS) : doubled;
    kv.n_ctx = kv.n_ctx < most ? kv.n_ctx : most;
    void *memory = calloc((size_t)(cache_size(s->network, &kv) + 64), 1);
    if (!memory) return 0;
    kv.k = (uint8_t *)align((intptr_t)memory, 64);
    kv.v = kv.k + c->n_layer * kvcache_k_size(&kv);
    sequence_copy_cache(&kv, &s->kv, c->n_layer, s->length);
    commit_begin(s);
    free(s->memory);
    s->memory = memory, s->kv = kv;
    commit_end(s);
    return 1;
}

/* Makes room for rows of logits that a pass may write before its commit; returns 0 if memory runs out. */
static inline int sequence_reserve_spare(Sequence *s, int64_t rows) {
    if (rows <= s->spare_rows) return 1;
    float *spare = malloc((size_t)(rows * s->network->config.V) * sizeof(float));
    if (!spare) return 0;
    commit_begin(s);
    free(s->spare);
    s->spare = spare, s->spare_rows = rows;
    commit_end(s);
    return 1;
}

/* Exchanges the spare and the kept rows. Part of a commit. */
static inline void sequence_swap_logits(Sequence *s) {
    float *logits = s->logits;
    const int64_t rows = s->logits_rows;
    s->logits = s->spare, s->logits_rows = s->spare_rows;
    s->spare = logits, s->spare_rows = rows;
}

/* Makes room for more ids in the history; returns 0 if memory runs out. */
static inline int sequence_reserve_history(Sequence *s, int64_t more) {
    SequenceSampler *sampler = &s->sampler;
    const int64_t needed = sampler->n_history + more;
    if (needed <= sampler->history_capacity) return 1;
    const int64_t capacity = needed > 2 * sampler->history_capacity ? needed : 2 * sampler->history_capacity;
    int32_t *history = malloc((size_t)capacity * sizeof(int32_t));
    if (!history) return 0;
    if (sampler->n_history) memcpy(history, sampler->history, (size_t)sampler->n_history * sizeof(int32_t));
    commit_begin(s);
    free(sampler->history);
    sampler->history = history, sampler->history_capacity = capacity;
    commit_end(s);
    return 1;
}

/* Makes room for the scores of sampled tokens; returns 0 if memory runs out. */
static inline int sequence_reserve_sampled(Sequence *s) {
    if (s->sampled.scores) return 1;
    Score *scores = malloc(MAX_SAMPLED * sizeof(Score));
    if (!scores) return 0;
    commit_begin(s);
    s->sampled.scores = scores;
    commit_end(s);
    return 1;
}

/* Makes room for the scores of n ids; returns 0 if memory runs out. */
static inline int sequence_reserve_scores(Sequence *s, int64_t n) {
    if (n <= s->scores_capacity) return 1;
    const int64_t capacity = n > 2 * s->scores_capacity ? n : 2 * s->scores_capacity;
    Score *scores = malloc((size_t)capacity * sizeof(Score));
    if (!scores) return 0;
    if (s->n_scores) memcpy(scores, s->scores, (size_t)s->n_scores * sizeof(Score));
    commit_begin(s);
    free(s->scores);
    s->scores = scores, s->scores_capacity = capacity;
    commit_end(s);
    return 1;
}

/* --- operations: the caller holds the lock and has checked the arguments ------------------------------------------ */

static inline int sequence_records(const Sequence *s) { return s->sampler.n_prompt_logprobs >= 0; }

/* Keeps the scores of the first n ids. Part of a commit. */
static inline void sequence_drop_scores(Sequence *s, int64_t n) { s->n_scores = s->n_scores < n ? s->n_scores : n; }

/* Adds ids to the pending ones. */
static inline void sequence_push(Sequence *s, const int32_t *ids, int64_t n) {
    memcpy(s->ids + s->n_ids, ids, (size_t)n * sizeof(int32_t));
    commit_begin(s);
    s->n_ids += n;
    s->sampled.n = s->n_guesses = 0;
    commit_end(s);
}

/* Keeps the first `length` evaluated tokens, and drops the others and the pending ones. */
static inline void sequence_truncate(Sequence *s, int64_t length) {
    commit_begin(s);
    const int64_t dropped = s->length - length;
    s->n_logits = s->n_logits > dropped ? s->n_logits - dropped : 0;
    s->length = s->n_ids = length;
    sequence_drop_scores(s, length);
    s->sampled.n = s->n_guesses = 0;
    commit_end(s);
}

/* Undoes the last n of the tokens that the last step sampled. */
static inline void sequence_retract(Sequence *s, int n) {
    const int kept = s->sampled.n - n;
    if (n == 0) return;
    commit_begin(s);
    /* Of m sampled tokens, the last is pending; the m - 1 before it were guessed and are evaluated. */
    s->length -= s->sampled.n - 1 - (kept ? kept - 1 : 0);
    s->n_ids = s->length + (kept ? 1 : 0);
    if (kept) s->ids[s->length] = s->sampled.ids[kept - 1];
    sequence_drop_scores(s, s->n_ids);
    s->sampler.random = s->sampled.random[kept];
    s->sampler.n_history -= n;
    s->n_logits = 0;
    s->sampled.n = kept;
    commit_end(s);
}

/* Replaces the sampler, which may keep some of the current one's memory; the sequence owns the new sampler's. */
static inline void sequence_configure(Sequence *s, const SequenceSampler *sampler, int samples) {
    commit_begin(s);
    if (s->sampler.bias != sampler->bias) free(s->sampler.bias);
    if (s->sampler.history != sampler->history) free(s->sampler.history);
    if (s->sampler.exempt != sampler->exempt) free(s->sampler.exempt);
    s->sampler = *sampler;
    s->samples = samples;
    /* If the pending id's score has too few of the most likely tokens, it is recorded again. */
    if (s->n_scores > s->length && s->scores[s->length].n_top < sampler->n_prompt_logprobs)
        sequence_drop_scores(s, s->length);
    s->sampled.n = s->n_guesses = 0;
    commit_end(s);
}

/* Copies a sequence into an empty one of the same network: the first n_ids ids, of which the first `length` are
 * evaluated, with their cache, kept logits and scores, and the sampler; returns 0 if memory runs out. The caller frees
 * the copy. */
static inline int sequence_copy(Sequence *to, const Sequence *from, int64_t length, int64_t n_ids) {
    const Config *c = &from->network->config;
    const SequenceSampler *sampler = &from->sampler;
    const int64_t n_logits = from->n_logits - (from->length - length); /* those after the first `length` tokens */
    if (!sequence_open(to, from->network)) return 0;
    if (!sequence_reserve_positions(to, length)) return 0;
    sequence_copy_cache(&to->kv, &from->kv, c->n_layer, length);
    memcpy(to->ids, from->ids, (size_t)n_ids * sizeof(int32_t));
    if (n_logits > 0) {
        if (!sequence_reserve_spare(to, n_logits)) return 0;
        memcpy(to->spare, from->logits, (size_t)(n_logits * c->V) * sizeof(float));
        sequence_swap_logits(to);
        to->n_logits = n_logits;
    }
    to->sampler = *sampler;
    to->sampler.bias = NULL, to->sampler.history = NULL, to->sampler.exempt = NULL;
    to->sampler.n_bias = to->sampler.n_history = to->sampler.history_capacity = to->sampler.n_exempt = 0;
    if (!sequence_reserve_history(to, sampler->n_history)) return 0;
    if (sampler->n_history) memcpy(to->sampler.history, sampler->history, (size_t)sampler->n_history * sizeof(int32_t));
    to->sampler.n_history = sampler->n_history;
    if (sampler->n_bias) {
        to->sampler.bias = malloc((size_t)sampler->n_bias * sizeof(LogitBias));
        if (!to->sampler.bias) return 0;
        memcpy(to->sampler.bias, sampler->bias, (size_t)sampler->n_bias * sizeof(LogitBias));
        to->sampler.n_bias = sampler->n_bias;
    }
    if (sampler->n_exempt) {
        to->sampler.exempt = malloc((size_t)sampler->n_exempt * sizeof(int32_t));
        if (!to->sampler.exempt) return 0;
        memcpy(to->sampler.exempt, sampler->exempt, (size_t)sampler->n_exempt * sizeof(int32_t));
        to->sampler.n_exempt = sampler->n_exempt;
    }
    const int64_t n_scores = from->n_scores < n_ids ? from->n_scores : n_ids;
    if (!sequence_reserve_scores(to, n_scores)) return 0;
    if (n_scores) memcpy(to->scores, from->scores, (size_t)n_scores * sizeof(Score));
    to->n_scores = n_scores;
    to->samples = from->samples;
    to->length = length, to->n_ids = n_ids;
    sequence_publish(to);
    return 1;
}

#endif

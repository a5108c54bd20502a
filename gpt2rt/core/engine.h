/* The engine: plans one forward pass over many sequences, runs it, samples, and commits.
 *
 * engine_step() advances any number of sequences by one pass; engine_append() evaluates ids of a single sequence. Both
 * run without Python. The caller holds the locks of the engine and the sequences.
 *
 * Letters: V as in network.h. */
#ifndef GPT2RT_ENGINE_H
#define GPT2RT_ENGINE_H

#include "forward.h"
#include "sequence.h"

#define MIXED_TOKENS 128 /* maximum rows of a pass with decoding sequences, so that a long prompt does not stall them */
#define PROMPT_TOKENS 32 /* rows reserved for prompts, however many sequences decode */
#define SCORED_TOKENS 64 /* rows of a pass that needs the logits of all rows: 200 KB per row in a GPT-2 */

/* One sequence's part in a step. */
typedef struct {
    Sequence *sequence;
    int64_t count;          /* pending ids that the pass evaluates */
    int64_t n_guesses;      /* guesses after them */
    int64_t logits, n_rows; /* its rows of the step's logits to sample from or keep; n_rows is 0 if those it has kept */
    int samples, keeps;     /* whether it samples; whether it keeps the logits of its last row */
    Sampled sampled;        /* except the scores, which are written to the sequence's own */
    Random random;          /* the generator after sampling */
} Part;

/* A row of the pass's logits, and the score to compute from it. */
typedef struct {
    int64_t row;
    int32_t token; /* the one that follows */
    int n_top;
    Score *score;
} ScoredRow;

typedef struct {
    const Network *network;
    ThreadPool *pool; /* NULL for the caller alone; may change between steps */
    int n_workers;
    Scratch scratch;
    SamplerScratch *samplers; /* (n_workers) */
    float *logits;            /* (logits_rows, V) of a step */
    int64_t logits_rows;
    ForwardPass pass;
    int32_t tokens[MAX_TOKENS];
    SequenceSlice slices[MAX_TOKENS];
    int64_t wanted[MAX_TOKENS];
    Part *parts; /* (n_parts) */
    int64_t n_parts, parts_capacity;
    int64_t turn, prompt_turn; /* the sequence with which the next step starts, decoding and with prompts, so that no
                                  sequence waits forever */
    ScoredRow scored[SCORED_TOKENS]; /* (n_scored) */
    int64_t n_scored;
    int (*check)(void);  /* runs signal handlers; returns whether one raised; NULL if this thread must not run them */
    double check_at; /* when to do that next, whatever step that is in */
    int raised; /* whether a signal handler raised */
    Atomic cancelled;
    Lock lock;
} Engine;

#define CHECK_INTERVAL 0.005 /* seconds between checks for signals; at most one check per layer */

static inline int engine_open(Engine *e, const Network *network, int n_workers) {
    memset(e, 0, sizeof(*e));
    e->network = network, e->n_workers = n_workers;
    e->samplers = calloc((size_t)n_workers, sizeof(SamplerScratch));
    return e->samplers != NULL;
}

static inline void engine_free(Engine *e) {
    scratch_free(&e->scratch);
    for (int i = 0; e->samplers && i < e->n_workers; i++) sampler_scratch_free(&e->samplers[i]);
    free(e->samplers);
    free(e->logits);
    free(e->parts);
    memset(e, 0, sizeof(*e));
}

/* --- the workers' job --------------------------------------------------------------------------------------------- */

/* Returns whether to stop after this layer: a signal handler raised, or the engine or all sequences were cancelled. */
static inline int engine_should_stop(void *argument) {
    Engine *e = argument;
    if (e->check) {
        const double now = clock_seconds();
        if (now >= e->check_at) {
            e->check_at = now + CHECK_INTERVAL;
            if (e->check()) return e->raised = 1;
        }
    }
    if (atomic_get(&e->cancelled)) return 1;
    for (int64_t i = 0; i < e->n_parts; i++)
        if (!atomic_get(&e->parts[i].sequence->cancelled)) return 0;
    return e->n_parts > 0;
}

/* Samples for one part: a token after its last prompt row, then one after each correct guess. */
static inline void sample_part(Engine *e, const Worker *w, Part *part) {
    Sequence *s = part->sequence;
    const SequenceSampler *sampler = &s->sampler;
    const int64_t V = e->network->config.V, n_vocab = e->network->config.n_vocab;
    const int reported = sampler->n_logprobs, recorded = sampler->n_prompt_logprobs;
    const int n_top = reported > recorded ? reported : recorded;
    Random *random = &part->random;
    SamplerInput input = {.options = sampler->options, .bias = sampler->bias, .n_bias = sampler->n_bias,
                          .history = sampler->history, .n_history = sampler->n_history,
                          .exempt = sampler->exempt, .n_exempt = sampler->n_exempt};
    const float *logits = part->n_rows ? e->logits + part->logits * V : s->logits + (s->n_logits - 1) * V;
    Sampled *sampled = &part->sampled;
    *random = sampler->random;
    sampled->n = 0;
    s->status = SEQUENCE_OK;
    for (int i = 0; i <= part->n_guesses; i++, logits += V) {
        int32_t token;
        sampled->random[i] = *random;
        const int status = sampler_sample(&e->samplers[w->index], logits, &input, random, &token);
        if (status != SAMPLE_OK) { /* after the first token, the next step reports it */
            if (i == 0) s->status = status == SAMPLE_NOT_FINITE ? SEQUENCE_NOT_FINITE : SEQUENCE_ALL_FORBIDDEN;
            return;
        }
        if (n_top >= 0) score_token(&e->samplers[w->index], logits, n_vocab, token, n_top, &s->sampled.scores[i]);
        sampled->ids[sampled->n++] = token;
        sampler->history[input.n_history++] = token; /* room was reserved; the commit updates the count */
        for (int j = 0; j < sampler->n_stop; j++)
            if (token == sampler->stop[j]) return;
        if (i < part->n_guesses && token != s->guesses[i]) return;
    }
}

static inline void engine_job(void *argument, Worker *w) {
    Engine *e = argument;
    const int64_t V = e->network->config.V, n_vocab = e->network->config.n_vocab;
    int64_t begin, end;
    if (e->pass.n_rows && !forward(&e->pass, w)) return;
    for (; pool_chunk(w, e->n_scored + e->n_parts, 1, &begin, &end);)
        for (int64_t i = begin; i < end; i++) {
            if (i < e->n_scored) {
                const ScoredRow *scored = &e->scored[i];
                score_token(&e->samplers[w->index], e->pass.logits + scored->row * V, n_vocab, scored->token,
                            scored->n_top, scored->score);
                continue;
            }
            Part *part = &e->parts[i - e->n_scored];
            if (part->samples) sample_part(e, w, part);
            if (part->keeps)
                memcpy(part->sequence->spare, e->logits + part->logits * V, (size_t)V * sizeof(float));
        }
}

/* Runs the planned pass; returns 0 if it was stopped. */
static inline int engine_run(Engine *e) {
    ForwardPass *p = &e->pass;
    p->network = e->network, p->scratch = &e->scratch;
    p->tokens = e->tokens, p->slices = e->slices, p->logit_rows = e->wanted;
    p->should_stop = engine_should_stop, p->stop_argument = e;
    p->stopped = 0;
    e->raised = 0;
    plan_queries(p);
    pool_run(e->pool, engine_job, e);
    return !atomic_get(&p->stopped);
}

/* Bracket each exchange of memory, so that a child process forked in between knows that it is incomplete. */
static inline void exchange_begin(Engine *e) { atomic_set(&e->lock.committing, 1); }
static inline void exchange_end(Engine *e) { atomic_set(&e->lock.committing, 0); }

/* Makes room for a pass; returns 0 if memory runs out. */
static inline int engine_reserve(Engine *e, int64_t n_rows, int64_t logits_rows, int is_sampling) {
    if (n_rows > e->scratch.max_rows) {
        Scratch scratch = {0};
        if (!scratch_reserve(&scratch, &e->network->config, n_rows, e->n_workers)) return 0;
        exchange_begin(e);
        scratch_free(&e->scratch);
        e->scratch = scratch;
        exchange_end(e);
    }
    if (logits_rows > e->logits_rows) {
        float *logits = malloc((size_t)(logits_rows * e->network->config.V) * sizeof(float));
        if (!logits) return 0;
        exchange_begin(e);
        free(e->logits);
        e->logits = logits, e->logits_rows = logits_rows;
        exchange_end(e);
    }
    for (int i = 0; is_sampling && i < e->n_workers; i++) {
        SamplerScratch sampler;
        if (e->samplers[i].logits) continue;
        if (!sampler_scratch_new(&sampler, e->network->config.n_vocab)) return 0;
        exchange_begin(e);
        e->samplers[i] = sampler;
        exchange_end(e);
    }
    return 1;
}

/* --- a single sequence -------------------------------------------------------------------------------------------- */

/* Evaluates the pending ids and then n more, in passes of at most MAX_TOKENS. Each pass is committed when it is done;
 * a stopped pass leaves the sequence at the last commit, with the remaining pending ids still pending.
 *
 * n_logits: how many of the last tokens to keep logits for. scores: NULL, or (pending + n) scores, each of the
 * following token; the last one is not computed. trace: NULL, or a trace with n_rows = pending + n. */
static inline SequenceStatus engine_append(Engine *e, Sequence *s, const int32_t *ids, int64_t n, int64_t n_logits,
                                    Score *scores, Trace *trace) {
    ForwardPass *p = &e->pass;
    const int64_t V = e->network->config.V, begin = s->length, end = s->n_ids + n;
    const int64_t rows = end - begin, kept = n_logits < rows ? n_logits : rows; /* kept: the last rows */
    const int64_t most = scores ? SCORED_TOKENS : MAX_TOKENS;
    if (rows == 0) return SEQUENCE_OK;
    if (!sequence_reserve_spare(s, kept) || !sequence_reserve_positions(s, end)) return SEQUENCE_NO_MEMORY;
    if (!engine_reserve(e, rows < most ? rows : most, scores ? rows < most ? rows : most : 0, 0)) return SEQUENCE_NO_MEMORY;
    if (n) memcpy(s->ids + s->n_ids, ids, (size_t)n * sizeof(int32_t)); /* scratch until the commit */
    if (atomic_swap(&s->cancelled, 0)) return SEQUENCE_STOPPED;
    Part part = {.sequence = s};
    Part *const parts = e->parts;
    SequenceStatus status = SEQUENCE_OK;
    int64_t in_spare = 0; /* rows of logits written to `spare`, or to `logits` after the swap */
    for (int64_t at = begin; at < end;) {
        const int64_t count = end - at < most ? end - at : most;
        memcpy(e->tokens, s->ids + at, (size_t)count * sizeof(int32_t));
        e->slices[0] = (SequenceSlice){s->kv, at, 0, count};
        const int64_t first = scores ? 0 : at + count > end - kept ? (end - kept > at ? end - kept - at : 0) : count;
        for (int64_t i = first; i < count; i++) e->wanted[i - first] = i;
        p->n_rows = count, p->n_slices = 1, p->n_logits = count - first;
        p->trace = trace;
        if (trace) trace->first = at - begin;
        p->logits = scores ? e->logits : (at == begin ? s->spare : NULL);
        if (!scores && at > begin) p->logits = (in_spare ? s->logits : s->spare) + in_spare * V;
        e->n_scored = scores ? count - (at + count == end) : 0; /* nothing follows the last token */
        for (int64_t i = 0; i < e->n_scored; i++)
            e->scored[i] = (ScoredRow){.row = i, .token = s->ids[at + i + 1], .score = scores + (at - begin + i)};
        e->parts = &part, e->n_parts = 1;
        const int is_done = engine_run(e);
        e->parts = parts, e->n_parts = 0;
        if (!is_done) {
            atomic_set(&s->cancelled, 0);
            status = SEQUENCE_STOPPED;
            break;
        }
        at += count;
        commit_begin(s);
        if (!scores && p->n_logits && !in_spare) sequence_swap_logits(s);
        if (!scores) in_spare += p->n_logits;
        s->length = at;
        if (s->n_ids < at) s->n_ids = at;
        s->n_logits = in_spare;
        s->sampled.n = s->n_guesses = 0;
        commit_end(s);
    }
    p->trace = NULL;
    return status;
}

/* Computes the logits after the last token again, into out (V). The sequence does not change: the same keys and values
 * are stored again. Only a signal handler stops it: the sequence's cancel() applies to its next change. */
static inline SequenceStatus engine_logits_again(Engine *e, const Sequence *s, float *out) {
    ForwardPass *p = &e->pass;
    if (!engine_reserve(e, 1, 0, 0)) return SEQUENCE_NO_MEMORY;
    e->tokens[0] = s->ids[s->length - 1];
    e->slices[0] = (SequenceSlice){s->kv, s->length - 1, 0, 1};
    e->wanted[0] = 0;
    p->n_rows = p->n_slices = p->n_logits = 1, p->logits = out;
    e->n_parts = e->n_scored = 0;
    return engine_run(e) ? SEQUENCE_OK : SEQUENCE_STOPPED;
}

/* --- many sequences ----------------------------------------------------------------------------------------------- */

/* Returns the most positions that a sequence may have after a step. */
static inline int64_t step_end(const Sequence *s) {
    const int64_t n_ctx = s->network->config.n_ctx, pending = s->n_ids - s->length;
    const int64_t end = s->length + (pending < MAX_TOKENS ? pending : MAX_TOKENS) + s->n_guesses;
    return end < n_ctx ? end : n_ctx;
}

/* Returns whether a step must evaluate the last token again, to score the pending id after it. */
static inline int scores_again(const Sequence *s) {
    return sequence_records(s) && s->length > 0 && s->n_ids > s->length && s->n_scores <= s->length;
}

/* Returns the rows of a sequence that has a prompt to evaluate, more than its next token; otherwise 0. */
static inline int64_t prompt_rows(const Sequence *s) {
    const int64_t rows = s->n_ids - s->length + scores_again(s);
    return rows > 1 ? rows : 0;
}

/* Adds a sequence's rows to the pass: its last token, if it is evaluated again, `count` pending ids, and guesses. */
static inline void plan_part(Engine *e, Sequence *s, int again, int64_t count, int64_t n_guesses) {
    ForwardPass *p = &e->pass;
    const int is_last = count == s->n_ids - s->length;
    const int64_t position = s->length - again, rows = again + count;
    const int64_t n_scored = sequence_records(s) ? rows - is_last : 0; /* a sampled token is scored there */
    Part *part = &e->parts[e->n_parts++];
    *part = (Part){.sequence = s, .count = count, .n_guesses = n_guesses, .samples = s->samples && is_last,
                   .keeps = !s->samples && is_last && count > 0};
    if (rows == 0) return;
    e->slices[p->n_slices++] = (SequenceSlice){s->kv, position, p->n_rows, rows + n_guesses};
    for (int64_t i = 0; i < n_scored; i++) {
        const int64_t next = position + i + 1;
        e->scored[e->n_scored++] = (ScoredRow){.row = p->n_logits, .token = s->ids[next],
                                               .n_top = s->sampler.n_prompt_logprobs, .score = &s->scores[next]};
        e->wanted[p->n_logits++] = p->n_rows + i;
    }
    for (int64_t i = 0; i < rows; i++) e->tokens[p->n_rows++] = s->ids[position + i];
    for (int64_t i = 0; i < n_guesses; i++) e->tokens[p->n_rows++] = s->guesses[i];
    if (is_last) {
        part->logits = p->n_logits, part->n_rows = 1 + n_guesses;
        for (int64_t i = part->n_rows; i > 0; i--) e->wanted[p->n_logits++] = p->n_rows - i;
    }
}

/* Commits the results of a step to a sequence. */
static inline void commit_part(Part *part) {
    Sequence *s = part->sequence;
    Sampled *sampled = &part->sampled;
    const int n = part->samples ? sampled->n : 0;
    if (part->samples && s->status != SEQUENCE_OK) return; /* nothing was sampled: the sequence is unchanged */
    commit_begin(s);
    s->sampled.n = s->n_new = n;
    if (part->keeps) sequence_swap_logits(s);
    if (part->count) {
        s->length += part->count;
        s->n_logits = part->keeps;
    }
    if (n) {
        memcpy(s->ids + s->length, sampled->ids, (size_t)n * sizeof(int32_t));
        for (int i = 0; i < n && sequence_records(s); i++) {
            s->scores[s->length + i] = s->sampled.scores[i];
            s->scores[s->length + i].n_top = s->sampler.n_prompt_logprobs; /* perhaps fewer than were reported */
        }
        s->length += n - 1; /* the correct guesses */
        if (n > 1) s->n_logits = 0;
        s->n_ids = s->length + 1;
        s->sampler.n_history += n;
        s->sampler.random = part->random;
        memcpy(s->sampled.ids, sampled->ids, sizeof(sampled->ids));
        memcpy(s->sampled.random, sampled->random, sizeof(sampled->random));
    }
    if (sequence_records(s)) s->n_scores = s->length + (s->n_ids > s->length);
    s->n_guesses = 0;
    commit_end(s);
}

/* Returns why a sequence can't take part in a step, or SEQUENCE_OK. */
static inline SequenceStatus part_problem(const Sequence *s) {
    if (s->n_ids == 0) return SEQUENCE_EMPTY;
    if (s->n_ids > s->network->config.n_ctx) return SEQUENCE_FULL; /* there is no position for the sampled token */
    return SEQUENCE_OK;
}

/* Ends a step that reports cancelled sequences; a step that fails as a whole leaves that to the next one. */
static inline SequenceStatus report_cancelled(Sequence *const *sequences, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (sequences[i]->status == SEQUENCE_STOPPED) atomic_set(&sequences[i]->cancelled, 0);
    return SEQUENCE_OK;
}

/* The memory that a step needs. */
typedef struct {
    int64_t rows, logits; /* at most */
    int is_sampling, has_prompts; /* is_sampling: or finding the most likely tokens of prompts */
} StepNeeds;

/* Makes room for what a step may record of a sequence; returns 0 if memory runs out. */
static inline int prepare_scores(Sequence *s) {
    const int64_t n = s->n_ids + s->n_guesses + 1, most = s->network->config.n_ctx + 1;
    if (!sequence_reserve_scores(s, n < most ? n : most)) return 0;
    for (int64_t i = s->n_scores; i <= s->length; i++) s->scores[i].n_top = -1; /* those that were not recorded */
    return 1;
}

/* Determines which sequences take part, and reserves all memory that their commits may need, before anything runs. */
static inline SequenceStatus prepare_step(Sequence *const *sequences, int64_t n, StepNeeds *needs) {
    int64_t scored = 0; /* rows */
    memset(needs, 0, sizeof(*needs));
    for (int64_t i = 0; i < n; i++) {
        Sequence *s = sequences[i];
        const int64_t pending = s->n_ids - s->length;
        s->n_new = 0;
        s->status = atomic_get(&s->cancelled) ? SEQUENCE_STOPPED : part_problem(s);
        if (s->status != SEQUENCE_OK) continue;
        const int records = sequence_records(s);
        if (!sequence_reserve_positions(s, step_end(s))) return SEQUENCE_NO_MEMORY;
        if (records && !prepare_scores(s)) return SEQUENCE_NO_MEMORY;
        needs->is_sampling |= s->samples || s->sampler.n_prompt_logprobs > 0;
        if (s->samples) {
            const int reports = s->sampler.n_logprobs >= 0 || records;
            if (!sequence_reserve_history(s, MAX_SAMPLED)) return SEQUENCE_NO_MEMORY;
            if (reports && !sequence_reserve_sampled(s)) return SEQUENCE_NO_MEMORY;
        } else if (pending && !sequence_reserve_spare(s, 1)) {
            return SEQUENCE_NO_MEMORY;
        }
        const int64_t prompt = prompt_rows(s);
        needs->has_prompts |= prompt > 0;
        needs->rows += prompt ? prompt : 1 + s->n_guesses;
        needs->logits += !prompt ? 1 + s->n_guesses : !records;
        scored += records ? prompt : 0;
    }
    needs->logits += scored < SCORED_TOKENS ? scored : SCORED_TOKENS;
    needs->rows = needs->rows < MAX_TOKENS ? needs->rows : MAX_TOKENS;
    needs->logits = needs->logits < needs->rows ? needs->logits : needs->rows;
    return SEQUENCE_OK;
}

/* Adds a row for each decoding sequence, with its guesses, while there is room. Returns where the next step starts. */
static inline int64_t plan_decoding(Engine *e, Sequence *const *sequences, int64_t n, int64_t most) {
    int64_t turn = 0;
    int is_full = 0;
    for (int64_t i = 0; i < n; i++) {
        Sequence *s = sequences[(e->turn + i) % n];
        const int64_t pending = s->n_ids - s->length, room = most - e->pass.n_rows;
        if (s->status != SEQUENCE_OK || prompt_rows(s) || (pending == 0 && !s->samples)) continue;
        if (room == 0) { /* the first one left out goes first next time */
            if (!is_full) turn = (e->turn + i) % n;
            is_full = 1;
            continue;
        }
        const int64_t left = e->network->config.n_ctx - s->n_ids; /* positions for guesses */
        int64_t n_guesses = pending && s->samples ? s->n_guesses : 0;
        n_guesses = n_guesses < left ? n_guesses : left;
        plan_part(e, s, pending == 0 && s->n_logits == 0, pending, 1 + n_guesses <= room ? n_guesses : 0);
    }
    return turn;
}

/* Gives the remaining rows to prompts. Returns where the next step starts. */
static inline int64_t plan_prompts(Engine *e, Sequence *const *sequences, int64_t n) {
    const int64_t decoding = e->pass.n_rows;
    const int64_t mixed = decoding + PROMPT_TOKENS > MIXED_TOKENS ? decoding + PROMPT_TOKENS : MIXED_TOKENS;
    const int64_t most = decoding ? mixed : MAX_TOKENS;
    int64_t turn = e->prompt_turn, scored = 0; /* rows */
    for (int64_t i = 0; i < n; i++) {
        Sequence *s = sequences[(e->prompt_turn + i) % n];
        const int64_t pending = s->n_ids - s->length;
        const int records = sequence_records(s), again = scores_again(s);
        int64_t room = most - e->pass.n_rows;
        if (records && room > SCORED_TOKENS - scored) room = SCORED_TOKENS - scored;
        room -= again;
        if (s->status != SEQUENCE_OK || !prompt_rows(s) || room <= 0) continue;
        plan_part(e, s, again, pending < room ? pending : room, 0);
        scored += records ? again + (pending < room ? pending : room) : 0;
        turn = (e->prompt_turn + i + (pending <= room)) % n; /* an unfinished prompt goes first next time */
    }
    return turn;
}

/* Advances sequences by one pass: first a row for each decoding one, with its guesses, then chunks of prompts.
 *
 * Sets each sequence's `status`, and `n_new`, the number of tokens sampled. Returns SEQUENCE_OK, or SEQUENCE_STOPPED or
 * SEQUENCE_NO_MEMORY if no sequence has changed. */
static inline SequenceStatus engine_step(Engine *e, Sequence *const *sequences, int64_t n) {
    ForwardPass *p = &e->pass;
    StepNeeds needs;
    if (atomic_swap(&e->cancelled, 0)) return SEQUENCE_STOPPED;

    /* 1. Memory. */
    if (n > e->parts_capacity) {
        Part *parts = malloc((size_t)n * sizeof(Part));
        if (!parts) return SEQUENCE_NO_MEMORY;
        exchange_begin(e);
        free(e->parts);
        e->parts = parts, e->parts_capacity = n;
        exchange_end(e);
    }
    if (prepare_step(sequences, n, &needs) != SEQUENCE_OK) return SEQUENCE_NO_MEMORY;
    if (!engine_reserve(e, needs.rows, needs.logits, needs.is_sampling)) return SEQUENCE_NO_MEMORY;

    /* 2. Plan: decoding sequences, then prompts. */
    e->n_parts = e->n_scored = 0;
    p->n_rows = p->n_slices = p->n_logits = 0;
    p->logits = e->logits, p->trace = NULL;
    const int64_t turn = plan_decoding(e, sequences, n, needs.has_prompts ? MAX_TOKENS - PROMPT_TOKENS : MAX_TOKENS);
    const int64_t prompt_turn = plan_prompts(e, sequences, n);
    if (e->n_parts == 0) return report_cancelled(sequences, n);

    /* 3. Forward pass and sampling; if stopped, nothing changes. */
    if (!engine_run(e)) {
        if (e->raised || atomic_swap(&e->cancelled, 0)) return SEQUENCE_STOPPED;
        for (int64_t i = 0; i < e->n_parts; i++) e->parts[i].sequence->status = SEQUENCE_STOPPED; /* all cancelled */
        return report_cancelled(sequences, n);
    }

    /* 4. Commit. */
    e->turn = turn, e->prompt_turn = prompt_turn;
    for (int64_t i = 0; i < e->n_parts; i++) {
        Sequence *s = e->parts[i].sequence;
        if (atomic_get(&s->cancelled))
            s->status = SEQUENCE_STOPPED;
        else
            commit_part(&e->parts[i]);
    }
    return report_cancelled(sequences, n);
}

#endif

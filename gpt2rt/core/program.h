/* A model that the standalone program runs, and what its two modes, a text and a chat, have in common. */
#ifndef GPT2RT_PROGRAM_H
#define GPT2RT_PROGRAM_H

#include "platform.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpus.h"
#include "engine.h"
#include "kernels/kernels.h"
#include "mapped.h"
#include "modelfile.h"
#include "options.h"
#include "stream.h"
#include "terminal.h"
#include "text.h"
#include "tokenizer.h"

typedef struct {
    const char *name; /* for messages */
    Mapped bytes;
    ModelFile file;
    Tokenizer tokenizer;
    Network network;
    ThreadPool *pool; /* NULL for the caller alone */
    int n_threads;
    Engine engine;
} Model;

static inline int no_memory(void) { return complain("not enough memory"), EXIT_ERROR; }

/* --- opening ----------------------------------------------------------------------------------------------------- */

/* Returns the number of threads: the option's, else that of GPT2RT_THREADS, else one for each core; 0 after a
 * problem. */
static inline int threads_wanted(const Options *o, Problem *problem) {
    const char *variable = getenv("GPT2RT_THREADS");
    uint64_t wanted = (uint64_t)o->threads;
    int most;
    const int best = default_threads(&most);
    if (!wanted && variable && *variable &&
        !whole_number("GPT2RT_THREADS", variable, 1, MAX_THREADS, &wanted, problem))
        return 0;
    if (!wanted) return best;
    if (wanted <= (uint64_t)most) return (int)wanted;
    complain("threads: got %d, but this process may use %d (CPU affinity or quota); running with %d", (int)wanted, most,
             most);
    return most;
}

/* Returns the kernels of an instruction set, of the best one if there is no name; NULL after a problem. */
static inline const Kernels *kernels_named(const char *isa, Problem *problem) {
    const Kernels *found[MAX_KERNELS];
    const int n = kernels_here(found);
    char names[160] = "";
    if (!isa || !*isa) isa = getenv("GPT2RT_ISA");
    for (int i = 0; i < n; i++) {
        if (!isa || !*isa || !strcmp(isa, found[i]->name)) return found[i];
        if (i) strcat(names, ", ");
        strcat(names, found[i]->name);
    }
    problem_set(problem, "instruction set '%.40s': not available, expected one of %s", isa, names);
    return NULL;
}

/* Opens the model, unless the program carries one and has mapped it. Returns an exit status, 0 if all is well. */
static inline int model_open(Model *m, const Options *o) {
    const Vocabulary *v = &m->file.vocabulary;
    Problem problem;
    if (!m->bytes.data) {
        m->name = o->model;
        const MappedResult result = mapped_open(&m->bytes, o->model, 0, !o->no_mmap, &problem);
        if (result == MAPPED_NO_MEMORY) return no_memory();
        if (result != MAPPED_OK) return complain("%s: %s", m->name, problem.text), EXIT_ERROR;
    }
    crc32c_init();
    if (!modelfile_open(&m->file, m->bytes.data, m->bytes.size, &problem))
        return complain("%s: %s", m->name, problem.text), EXIT_ERROR;
    const Tables tables = {.token_offsets = v->token_offsets, .byte_tokens = v->byte_tokens,
                           .special_tokens = v->special_tokens, .controls = v->controls,
                           .merge_slots = v->merge_slots, .token_bytes = v->token_bytes,
                           .n_vocab = (uint32_t)m->file.shape.n_vocab, .n_special = v->counts.n_special,
                           .n_controls = v->counts.n_controls, .n_slots = v->counts.n_slots,
                           .n_token_bytes = v->counts.n_token_bytes};
    if (tokenizer_open(&m->tokenizer, &tables, &problem)) return 0;
    return complain("%s: %s", m->name, problem.text), EXIT_ERROR;
}

/* Prepares an open model for running. Returns an exit status, 0 if all is well. */
static inline int model_start(Model *m, const Options *o) {
    Problem problem;
    m->network.kernels = kernels_named(o->isa, &problem);
    m->n_threads = m->network.kernels ? threads_wanted(o, &problem) : 0;
    if (!m->n_threads) return complain("%s", problem.text), EXIT_USAGE;
    mapped_prefetch(&m->bytes);
    if (!network_open(&m->network, &m->file.shape, m->file.sections[SECTION_WEIGHTS].data)) return no_memory();
    if (!engine_open(&m->engine, &m->network, m->n_threads)) return no_memory();
    if (m->n_threads > 1 && !(m->pool = pool_new(m->n_threads))) return no_memory();
    m->engine.pool = m->pool;
    m->engine.check = was_interrupted;
    return 0;
}

static inline void model_close(Model *m) {
    pool_free(m->pool);
    engine_free(&m->engine);
    free(m->network.layers);
    mapped_close(&m->bytes);
}

/* --- sampling ---------------------------------------------------------------------------------------------------- */

/* A text that is being sampled. */
typedef struct {
    uint32_t *tokens; /* (n, at most n_ctx) the ids of the text, without one that ends it */
    size_t n;
    int64_t n_prompt;              /* tokens that were evaluated first */
    uint64_t n_sampled;            /* in all drafts */
    double begin, first, last;     /* seconds: the start, the first token and the newest one */
} Sampling;

/* Sets how the sequence samples, keeping its random generator; it takes over the memory of `history` and, unless that is
 * NULL, `exempt`. */
static inline void sequence_sample(const Model *m, Sequence *s, const SamplingOptions *options, int32_t *history,
                                   int64_t n_history, int32_t *exempt, int64_t n_exempt) {
    SequenceSampler sampler = s->sampler;
    const Tokenizer *t = &m->tokenizer;
    sampler.options = *options;
    sampler.history = history, sampler.n_history = sampler.history_capacity = n_history;
    if (exempt) sampler.exempt = exempt, sampler.n_exempt = n_exempt;
    sampler.n_stop = (int)t->n_eos;
    for (int i = 0; i < sampler.n_stop; i++) sampler.stop[i] = (int32_t)table_value(t->eos, (size_t)i);
    sequence_configure(s, &sampler, 1);
}

/* Runs steps until tokens are sampled, and adds them to a stream: the text that is then final is added to `text`. Returns
 * an exit status, 0 if all is well; EXIT_INTERRUPTED after Ctrl-C, without a sentence. */
static inline int sample_more(Model *m, Sequence *s, TextStream *stream, Sampling *sampling, Buffer *text) {
    Sequence *const sequences[] = {s};
    size_t n_used;
    Problem problem;
    do {
        const SequenceStatus step = engine_step(&m->engine, sequences, 1), status = step ? step : s->status;
        if (status == SEQUENCE_STOPPED) return EXIT_INTERRUPTED;
        if (status == SEQUENCE_NO_MEMORY) return no_memory();
        if (status == SEQUENCE_OK) continue;
        complain("%s", status == SEQUENCE_ALL_FORBIDDEN
                           ? "all tokens are forbidden (no_repeat_ngram_size is too small for this vocabulary)"
                           : "logits are not finite: the weights are damaged or untrained (--verify checks them)");
        return EXIT_ERROR;
    } while (!s->n_new);
    const uint32_t tokens[] = {(uint32_t)s->sampled.ids[0]}; /* without guesses, a step samples one */
    const int is_full = s->length == m->file.shape.n_ctx;
    const uint64_t before = stream->n_tokens;
    const StreamStatus status = stream_accept(stream, tokens, 1, is_full, text, &n_used, &problem);
    if (status == STREAM_NO_MEMORY) return no_memory();
    if (status == STREAM_DAMAGED) return complain("%s", problem.text), EXIT_ERROR;
    if (stream->n_tokens > before) sampling->tokens[sampling->n++] = tokens[0], sampling->n_sampled++;
    sampling->last = clock_seconds();
    if (sampling->first == 0) sampling->first = sampling->last;
    return 0;
}

/* Writes a speed. */
static inline void speed_shown(char text[32], uint64_t n_tokens, double seconds) {
    if (seconds > 0)
        snprintf(text, 32, "%.1f tokens/s", (double)n_tokens / seconds);
    else
        snprintf(text, 32, "not measured");
}

#endif

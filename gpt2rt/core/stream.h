/* The text of sampled tokens: whole characters, up to a stop string, a token that ends a text, or a limit.
 *
 * What gives a step's tokens to stream_accept() samples the same text as `gpt2rt generate`. */
#ifndef GPT2RT_STREAM_H
#define GPT2RT_STREAM_H

#include "stops.h"
#include "text.h"
#include "tokenizer.h"

/* Why a text ended, as FINISH_REASONS names it. */
typedef enum {
    FINISH_NONE,        /* it has not */
    FINISH_STOP,        /* a stop string, or a token that ends a text */
    FINISH_LENGTH,      /* the most tokens, or the context is full */
    FINISH_INTERRUPTED, /* its reader stopped it */
    FINISH_BLANK,       /* of a reply: there was no text */
} FinishReason;

static const char *const FINISH_REASONS[] = {NULL, "stop", "length", "interrupted", "blank"};

/* The caller closes it with stream_close(). */
typedef struct {
    const Tokenizer *tokenizer;
    uint64_t max_tokens; /* of the text; 0 for as many as the context holds */
    uint64_t n_tokens;   /* of the text so far; a stop string's are included, one that ends a text is not */
    FinishReason reason;
    Utf8Decoder decoder;
    Stops stops;
    Buffer piece; /* scratch */
} TextStream;

typedef enum { STREAM_OK, STREAM_NO_MEMORY, STREAM_DAMAGED /* the vocabulary is: see the problem */ } StreamStatus;

/* Returns 0 if memory runs out, or if the limits of stops.h are exceeded. OUT: s, to be closed in either case. */
static inline int stream_open(TextStream *s, const Tokenizer *tokenizer, const StopText *stops, int n_stops,
                              uint64_t max_tokens) {
    *s = (TextStream){.tokenizer = tokenizer, .max_tokens = max_tokens};
    return stops_open(&s->stops, stops, n_stops);
}

static inline void stream_close(TextStream *s) {
    stops_close(&s->stops);
    buffer_close(&s->piece);
}

/* Begins another text with the same limits. */
static inline void stream_restart(TextStream *s) {
    s->n_tokens = 0, s->reason = FINISH_NONE, s->decoder.n = 0;
    stops_restart(&s->stops);
}

/* Adds bytes to the decoder, or ends it where they are NULL, and what comes out of it to the text, which has room. */
static inline void stream_add(TextStream *s, const TokenBytes *bytes, Buffer *text) {
    const size_t n = bytes ? utf8_feed(&s->decoder, bytes->at, bytes->n, s->piece.at)
                           : utf8_finish(&s->decoder, s->piece.at);
    text->n += stops_feed(&s->stops, s->piece.at, n, text->at + text->n);
}

/* Ends the text, which has room for what was held back. */
static inline void stream_finish(TextStream *s, FinishReason reason, Buffer *text) {
    stream_add(s, NULL, text);
    text->n += stops_finish(&s->stops, text->at + text->n);
    s->reason = s->stops.found < 0 ? reason : FINISH_STOP;
}

/* Makes room for the text of n more bytes and of all that was held back; returns 0 if memory runs out. */
static inline int stream_reserve(TextStream *s, size_t n, Buffer *text) {
    if (n > PTRDIFF_MAX / 8) return 0;
    const size_t most = UTF8_MOST(n) + UTF8_MOST(0);
    return buffer_reserve(&s->piece, most) && buffer_reserve(text, most + MAX_STOP_BYTES);
}

/* Adds the tokens that a step sampled. If s->reason is set afterwards, the text has ended, and the sequence is to retract
 * the tokens after the first `n_used`. All of those are part of the text, but a last one that ends a text: s->n_tokens
 * has then grown by one less. On a failure nothing has changed.
 *
 * IN: is_full, whether the sequence has no position left after these tokens. OUT: text, to which the text that is now
 * final is added; n_used; problem, after STREAM_DAMAGED. */
static inline StreamStatus stream_accept(TextStream *s, const uint32_t *tokens, size_t n, int is_full, Buffer *text,
                                         size_t *n_used, Problem *problem) {
    TokenBytes bytes;
    size_t n_bytes = 0;
    *n_used = 0;
    for (size_t i = 0; i < n; i++) {
        if (!token_bytes(&s->tokenizer->tables, tokens[i], &bytes, problem)) return STREAM_DAMAGED;
        n_bytes += bytes.n;
    }
    if (!stream_reserve(s, n_bytes, text)) return STREAM_NO_MEMORY;
    while (*n_used < n && !s->reason) {
        const uint32_t token = tokens[(*n_used)++];
        if (tokenizer_ends_text(s->tokenizer, token)) {
            stream_finish(s, FINISH_STOP, text);
            continue;
        }
        s->n_tokens++;
        token_bytes(&s->tokenizer->tables, token, &bytes, problem);
        stream_add(s, &bytes, text);
        if (s->stops.found >= 0)
            s->reason = FINISH_STOP;
        else if (s->n_tokens == s->max_tokens)
            stream_finish(s, FINISH_LENGTH, text);
    }
    if (!s->reason && is_full) stream_finish(s, FINISH_LENGTH, text);
    return STREAM_OK;
}

#endif

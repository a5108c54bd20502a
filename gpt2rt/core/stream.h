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
                              uint64_t max_tokens);

static inline void stream_close(TextStream *s);

/* Begins another text with the same limits. */
static inline void stream_restart(TextStream *s);

/* Adds the tokens that a step sampled. If s->reason is set afterwards, the text has ended, and the tokens after the
 * first `n_used` are not part of it: the sequence is to retract them. On a failure nothing has changed.
 *
 * IN: is_full, whether the sequence has no position left after these tokens. OUT: text, to which the text that is now
 * final is added; n_used; problem, after STREAM_DAMAGED. */
static inline StreamStatus stream_accept(TextStream *s, const uint32_t *tokens, size_t n, int is_full, Buffer *text,
                                         size_t *n_used, Problem *problem);

/* Ends the text for a reason; a stop string that is complete comes first. OUT: text, to which what was held back is
 * added. */
static inline StreamStatus stream_end(TextStream *s, FinishReason reason, Buffer *text);

#endif

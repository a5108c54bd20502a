/* A reply: the text of an answer while it is sampled, until it is one that was not given before.
 *
 * In a talk, an answer is stripped, and a blank one or one that was given before is discarded and sampled again, a little
 * warmer. Text that may still become an earlier answer is held back, so a piece that was returned stays.
 *
 * The caller samples with a TextStream, starting with the temperature of reply_temperature(), and gives each piece to
 * reply_accept(). When that asks for another draft, the caller cuts the sequence back to the prompt, restarts the stream,
 * sets the sampling with reply_temperature() and the same history, lets the random generator continue, and goes on. */
#ifndef GPT2RT_REPLY_H
#define GPT2RT_REPLY_H

#include "stream.h"
#include "words.h"

#define MAX_DRAFTS 5 /* of an answer: blank ones and repeated ones are sampled again */
#define WARMER 1.25  /* factor of the temperature from one draft to the next, up to a temperature of 1 */

/* The caller closes it with reply_close(). */
typedef struct {
    int is_talk;
    double temperature;  /* of the first draft */
    Buffer earlier;      /* what must not be given again: words, each ended by a line feed */
    int draft, last_draft;
    Buffer raw;          /* the text of this draft */
    size_t n_returned;   /* bytes of it that were returned, from its first character that is not white space on */
    Buffer words;        /* scratch */
    FinishReason reason; /* of the answer */
} Reply;

typedef enum {
    REPLY_OK,
    REPLY_AGAIN, /* the draft is discarded, and another is to be sampled */
    REPLY_NO_MEMORY,
} ReplyStatus;

/* IN: is_talk, whether blank and repeated answers are sampled again; earlier, the answers that must not be given again,
 * as conversation_earlier() has them. Returns 0 if memory runs out. OUT: r, to be closed in either case. */
static inline int reply_open(Reply *r, int is_talk, double temperature, Text earlier);

static inline void reply_close(Reply *r);

/* Returns the temperature of the current draft. */
static inline double reply_temperature(const Reply *r);

/* Adds a piece of the draft's text. After it, r->reason says whether the answer has ended.
 *
 * IN: reason, the stream's after this piece. OUT: text, the part of the answer that is now final, which may be empty; it
 * is valid until the next call. */
static inline ReplyStatus reply_accept(Reply *r, Text piece, FinishReason reason, Text *text);

#endif

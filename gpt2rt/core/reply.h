/* A reply: the text of an answer while it is sampled, until it is one that was not given before.
 *
 * In a talk, an answer is stripped, and a blank one or one that was given before is discarded and sampled again, a
 * little warmer. Text that may still become an earlier answer is held back, so a piece that was returned stays.
 *
 * The caller samples with a TextStream and gives each piece to reply_accept(). When that asks for another draft, the
 * caller cuts the sequence back to the prompt, restarts the stream, and sets the sampling again, with the temperature
 * of reply_temperature() and the same history; the random generator continues. */
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
    Buffer held;         /* text of this draft: its first n_returned bytes were returned, the rest is held back */
    size_t n_returned;
    int is_begun;        /* whether any text of this draft was returned */
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
static inline int reply_open(Reply *r, int is_talk, double temperature, Text earlier) {
    *r = (Reply){.is_talk = is_talk, .temperature = temperature};
    r->last_draft = is_talk && temperature > 0 ? MAX_DRAFTS - 1 : 0;
    return buffer_add(&r->earlier, earlier);
}

static inline void reply_close(Reply *r) {
    buffer_close(&r->earlier);
    buffer_close(&r->held);
    buffer_close(&r->words);
}

/* Returns the temperature of the current draft. The same words come again if they are the likely ones, so each draft is
 * sampled warmer. */
static inline double reply_temperature(const Reply *r) {
    const double most = r->temperature > 1 ? r->temperature : 1;
    double factor = 1;
    for (int i = 0; i < r->draft; i++) factor *= WARMER;
    return r->temperature * factor < most ? r->temperature * factor : most;
}

/* Returns whether an earlier answer begins with these words, or is these words. */
static inline int reply_is_earlier(const Reply *r, Text words, int is_whole) {
    const uint8_t *p = r->earlier.at, *end = p + r->earlier.n;
    while (p < end) {
        const uint8_t *after = memchr(p, '\n', (size_t)(end - p));
        const Text answer = {p, (size_t)((after ? after : end) - p)};
        if (text_begins(answer, words) && (!is_whole || answer.n == words.n)) return 1;
        p += answer.n + 1;
    }
    return 0;
}

/* Adds a piece of the draft's text. After it, r->reason says whether the answer has ended.
 *
 * IN: reason, the stream's after this piece. OUT: text, the part of the answer that is now final, which may be empty;
 * it is valid until the next call. On a failure nothing has changed. */
static inline ReplyStatus reply_accept(Reply *r, Text piece, FinishReason reason, Text *text) {
    *text = (Text){(const uint8_t *)"", 0};
    r->held.n -= r->n_returned;
    if (r->n_returned) memmove(r->held.at, r->held.at + r->n_returned, r->held.n);
    r->n_returned = 0;
    const size_t before = r->held.n;
    if (!buffer_add(&r->held, piece)) return REPLY_NO_MEMORY;
    const Text held = buffer_text(&r->held), stripped = text_strip(held);
    const Text rest = {held.at, (size_t)(stripped.at - held.at) + stripped.n}; /* without white space at its end */
    const Text answer = !r->is_talk ? held : r->is_begun ? rest : stripped;
    const int may_repeat = !r->is_begun && r->draft < r->last_draft;
    r->words.n = 0;
    if (may_repeat && !words_of(&r->words, answer)) return r->held.n = before, REPLY_NO_MEMORY;
    if (!reason) {
        if (may_repeat && reply_is_earlier(r, buffer_text(&r->words), 0)) return REPLY_OK;
    } else if (!may_repeat || (answer.n && !reply_is_earlier(r, buffer_text(&r->words), 1))) {
        r->reason = answer.n || r->is_begun ? reason : FINISH_BLANK;
    } else {
        r->draft++, r->held.n = 0;
        return REPLY_AGAIN;
    }
    *text = answer;
    r->n_returned = (size_t)(answer.at - held.at) + answer.n;
    if (!answer.n) r->n_returned = 0; /* white space stays held: text may follow */
    r->is_begun |= answer.n > 0;
    return REPLY_OK;
}

#endif

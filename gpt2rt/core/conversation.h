/* Conversations: which turns the model reads, what it must not repeat, and what is kept of an answer.
 *
 * The turns themselves belong to the caller, in an array. */
#ifndef GPT2RT_CONVERSATION_H
#define GPT2RT_CONVERSATION_H

#include "chat_format.h"
#include "words.h"

#define CHAT_MAX_TOKENS 120  /* of an answer, unless the user says otherwise, or n_ctx if that is less */
#define ANSWERS_REMEMBERED 8 /* that the next answer must differ from */
#define ECHO_WORDS 4         /* a message of so many words must not come back as the answer */

/* A message, its answer, and the answer's ids as they were sampled. */
typedef struct {
    Text user, answer;
    const uint32_t *tokens; /* (n_tokens) */
    size_t n_tokens;
} Turn;

/* Adds the ids of the whole prompt, from the start of the context, and drops whole turns if they do not fit. Positions
 * are learned, so old tokens can't be shifted out of the cache. Several turns are dropped at once, so that the rest is
 * evaluated again only once in a while.
 *
 * IN: turns (n_turns), those that were not dropped before; message, a clean one; max_tokens, of the answer. OUT: ids,
 * unchanged on a failure, ids->problem after CHAT_DAMAGED, CHAT_REFUSED and CHAT_FULL; n_dropped, how many of the first
 * turns there is no room for any more. */
static inline ChatStatus conversation_prompt(const ChatFormat *f, const Turn *turns, size_t n_turns, Text message,
                                             size_t n_ctx, size_t max_tokens, Encoding *ids, size_t *n_dropped);

/* Adds the answers that must not be given again: their words, each ended by a line feed; none if the format is no talk.
 * IN: turns (n_turns), all before this one, dropped or not; replaced, the answer that the next one replaces, or a text
 * that is NULL. Returns 0 if memory runs out. */
static inline int conversation_earlier(const ChatFormat *f, const Turn *turns, size_t n_turns, Text replaced,
                                       Text message, Buffer *earlier);

/* Adds what remains of a sampled answer: the ids up to a stop string, without the part of a character that an
 * interruption leaves. Where that is in the middle of a token, the rest of the text is encoded again.
 * IN: sampled (n) ids, TextStream's, without one that ends a text; stops (n_stops), those of the stream. OUT: ids;
 * ids->problem. */
static inline ChatStatus conversation_answer_tokens(const ChatFormat *f, const uint32_t *sampled, size_t n,
                                                    const StopText *stops, int n_stops, int is_interrupted,
                                                    Encoding *ids);

/* Adds the text of an answer's ids: its characters, stripped if that is asked for (in a talk). If it is empty, there is
 * no turn. */
static inline ChatStatus conversation_answer_text(const ChatFormat *f, const uint32_t *tokens, size_t n, int is_stripped,
                                                  Buffer *text, Problem *problem);

#endif

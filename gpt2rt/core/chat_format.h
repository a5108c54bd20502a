/* Chat formats: how the turns of a conversation become one text for the model. Text of users never becomes a special
 * token. */
#ifndef GPT2RT_CHAT_FORMAT_H
#define GPT2RT_CHAT_FORMAT_H

#include "problem.h"
#include "stops.h"
#include "text.h"
#include "tokenizer.h"

#define MAX_NAME 40           /* characters */
#define MAX_OPENING (1 << 16) /* characters */

/* What a model file's metadata has in `chat`, or what overrides it. A text whose `at` is NULL is absent. */
typedef struct {
    Text format, user_name, bot_name, opening;
    Text template, opening_template; /* only of a file */
} ChatSettings;

typedef enum { CHAT_PLAIN, CHAT_DIALOGPT, CHAT_TEMPLATE, CHAT_RAW, N_CHAT_FORMATS } ChatKind;

static const char *const CHAT_FORMATS[N_CHAT_FORMATS] = {"plain", "dialogpt", "template", "raw"};

typedef enum {
    CHAT_OK,
    CHAT_STOPPED,   /* `check` of the encoding returned nonzero */
    CHAT_NO_MEMORY,
    CHAT_DAMAGED,   /* the vocabulary is damaged: see the problem */
    CHAT_REFUSED,   /* a setting or a text can't be used: see the problem */
    CHAT_FULL,      /* the context has no room: see the problem */
} ChatStatus;

/* Immutable; the caller closes it with chat_format_close(). The texts and ids are in memory of its own. */
typedef struct {
    ChatKind kind;
    const Tokenizer *tokenizer;
    Text user_name, bot_name, opening;
    Text before, between, after;       /* of the template: around a message and its answer */
    Encoding opening_tokens;           /* ids before the first turn */
    Encoding closing_tokens;           /* ids after an answer */
    Encoding exempt;                   /* ascending ids that a repetition penalty must leave alone, because they hold
                                          turns and sentences together */
    StopText stops[2];                 /* (n_stops) strings that end an answer */
    int n_stops;
    int turns_kept;                    /* how many of the last turns the model reads; 0 for as many as fit */
    int is_talk;                       /* answers are utterances: stripped, never blank, and not given twice */
    int is_scene;                      /* the opening is the scene for models that were not trained to chat */
    Buffer memory[8];                  /* of the texts */
} ChatFormat;

/* Makes the format that a model's file asks for. A plain format without an opening gets one with example turns, as many
 * as leave half of n_ctx free; an empty opening means none. The file's opening is used in the file's format only, and
 * names in it that are overridden are replaced.
 *
 * IN: own, what the file says; options, what overrides it. OUT: f, to be closed whatever the result; problem, after
 * CHAT_DAMAGED and CHAT_REFUSED. */
static inline ChatStatus chat_format_open(ChatFormat *f, const Tokenizer *tokenizer, size_t n_ctx,
                                          const ChatSettings *own, const ChatSettings *options, Problem *problem);

static inline void chat_format_close(ChatFormat *f);

/* Returns whether the opening leaves half of the context free, as a conversation requires. OUT: problem, if not. */
static inline int chat_opening_fits(const ChatFormat *f, size_t n_ctx, Problem *problem);

/* Adds what is kept of a user's message: in most formats one line, so that it can't end its turn. Returns 0 if memory
 * runs out. A message of which nothing is left is to be refused. */
static inline int chat_clean(const ChatFormat *f, Buffer *cleaned, Text message);

/* Adds the ids of a user's clean message and of what asks for the answer. Options of `ids` but `check` are set here. */
static inline ChatStatus chat_prompt(const ChatFormat *f, Encoding *ids, Text message);

/* Adds the ids of an answer, as a model would have given it. */
static inline ChatStatus chat_answer(const ChatFormat *f, Encoding *ids, Text answer);

#endif

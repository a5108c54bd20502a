/* Chat formats: how the turns of a conversation become one text for the model. Text of users never becomes a special
 * token. */
#ifndef GPT2RT_CHAT_FORMAT_H
#define GPT2RT_CHAT_FORMAT_H

#include "chat_settings.h"
#include "stops.h"
#include "tokenizer.h"

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
    Text before, between, after; /* of a template: around a message and its answer */
    Encoding opening_tokens;     /* ids before the first turn */
    Encoding closing_tokens;     /* ids after an answer */
    Encoding exempt;             /* ascending ids that a repetition penalty must leave alone, because they hold turns
                                    and sentences together */
    StopText stops[2];           /* (n_stops) strings that end an answer */
    int n_stops;
    int turns_kept;              /* how many of the last turns the model reads; 0 for as many as fit */
    int is_talk;                 /* answers are utterances: stripped, never blank, and not given twice */
    int is_scene;                /* the opening is the scene for models that were not trained to chat */
    Buffer memory;               /* of the texts */
} ChatFormat;

/* --- encoding ---------------------------------------------------------------------------------------------------- */

enum { CHAT_OPENS = 1, CHAT_CONTINUES = 2, CHAT_SPECIAL = 4 }; /* how a text is encoded; as in Encoding */

/* Adds the ids of a text. */
static inline ChatStatus chat_encode(Encoding *ids, Text text, int how) {
    static const ChatStatus statuses[] = {
        [ENCODE_OK] = CHAT_OK, [ENCODE_STOPPED] = CHAT_STOPPED, [ENCODE_NO_MEMORY] = CHAT_NO_MEMORY,
        [ENCODE_DAMAGED] = CHAT_DAMAGED, [ENCODE_TOO_LONG] = CHAT_REFUSED};
    Buffer paired = {.at = NULL};
    if (text_has_surrogates(text)) {
        if (!text_paired(&paired, text)) return CHAT_NO_MEMORY;
        text = buffer_text(&paired);
    }
    ids->opens = !!(how & CHAT_OPENS), ids->continues = !!(how & CHAT_CONTINUES), ids->special = !!(how & CHAT_SPECIAL);
    const EncodeStatus status = encode_text(ids, text.at, text.n);
    buffer_close(&paired);
    return statuses[status];
}

/* Adds the ids of several texts that are joined, as the middle of a text. */
static inline ChatStatus chat_encode_joined(Encoding *ids, const Text *texts, int n) {
    Buffer joined = {.at = NULL};
    ChatStatus status = CHAT_OK;
    for (int i = 0; i < n && status == CHAT_OK; i++)
        if (!buffer_add(&joined, texts[i])) status = CHAT_NO_MEMORY;
    if (status == CHAT_OK) status = chat_encode(ids, buffer_text(&joined), CHAT_CONTINUES);
    buffer_close(&joined);
    return status;
}

static inline ChatStatus chat_add_token(Encoding *ids, uint32_t token) {
    return encode_token(ids, token) == ENCODE_OK ? CHAT_OK : CHAT_NO_MEMORY;
}

/* Adds the token that ends a turn of DialoGPT. */
static inline ChatStatus chat_end_turn(Encoding *ids) {
    const Tokenizer *t = ids->tokenizer;
    if (t->n_eos) return chat_add_token(ids, table_value(t->eos, 0));
    problem_set(&ids->problem, "chat format 'dialogpt': the vocabulary has no token that ends a text (use plain)");
    return CHAT_REFUSED;
}

/* Adds the ids of an answer, as a model would have given it. */
static inline ChatStatus chat_answer(const ChatFormat *f, Encoding *ids, Text answer) {
    const Text spaced[] = {text_of(" "), answer};
    if (f->kind == CHAT_PLAIN) return chat_encode_joined(ids, spaced, 2);
    return chat_encode(ids, answer, f->kind == CHAT_DIALOGPT ? 0 : CHAT_CONTINUES);
}

/* Adds the ids of a user's clean message and of what asks for the answer. On a failure, some may have been added. */
static inline ChatStatus chat_prompt(const ChatFormat *f, Encoding *ids, Text message) {
    /* No space after the colon: it belongs to the answer's first token. */
    const Text lines[] = {f->user_name, text_of(": "), message, text_of("\n"), f->bot_name, text_of(":")};
    ChatStatus status = CHAT_OK;
    if (f->kind == CHAT_PLAIN) return chat_encode_joined(ids, lines, 6);
    if (f->kind == CHAT_TEMPLATE) status = chat_encode(ids, f->before, CHAT_SPECIAL | CHAT_CONTINUES);
    if (status == CHAT_OK) status = chat_answer(f, ids, message);
    if (status == CHAT_OK && f->kind == CHAT_DIALOGPT) status = chat_end_turn(ids);
    if (status == CHAT_OK && f->kind == CHAT_TEMPLATE)
        status = chat_encode(ids, f->between, CHAT_SPECIAL | CHAT_CONTINUES);
    return status;
}

/* Adds what is kept of a user's message: in most formats one line, so that it can't end its turn. Returns 0 if memory
 * runs out. A message of which nothing is left is to be refused. */
static inline int chat_clean(const ChatFormat *f, Buffer *cleaned, Text message) {
    if (f->kind == CHAT_RAW) return buffer_add(cleaned, message);
    return f->kind == CHAT_TEMPLATE ? buffer_add(cleaned, text_strip(message)) : text_clean(cleaned, message);
}

/* --- opening ----------------------------------------------------------------------------------------------------- */

/* Writes the scene and as many of the example turns as leave half of the context free. IN: ids, for scratch. */
static inline ChatStatus scene_fit(Buffer *scene, Text user_name, Text bot_name, size_t n_ctx, Encoding *ids) {
    /* Two lines at once, which are an exchange; the scene and the empty line after it go last. */
    for (int n = SCENE_LINES; n >= 0; n -= 2) {
        ids->n = 0;
        if (!scene_write(scene, n, user_name, bot_name)) return CHAT_NO_MEMORY;
        const ChatStatus status = chat_encode(ids, buffer_text(scene), CHAT_OPENS);
        if (status != CHAT_OK) return status;
        if (ids->n <= n_ctx / 2) break;
    }
    ids->n = 0;
    return CHAT_OK;
}

/* Adds the ids of an opening of DialoGPT, in which every line is a turn; a line ends with \n or \r\n. */
static inline ChatStatus chat_add_lines(Encoding *ids, Text text) {
    ChatStatus status = CHAT_OK;
    while (text.n && status == CHAT_OK) {
        const uint8_t *end = memchr(text.at, '\n', text.n);
        const size_t n = end ? (size_t)(end - text.at) : text.n, used = end ? n + 1 : n;
        status = chat_encode(ids, (Text){text.at, end && n && end[-1] == '\r' ? n - 1 : n}, 0);
        if (status == CHAT_OK) status = chat_end_turn(ids);
        text = (Text){text.at + used, text.n - used};
    }
    return status;
}

/* IN: around, what the template has before and after an opening. */
static inline ChatStatus chat_add_opening(const ChatFormat *f, Encoding *ids, const Text around[2]) {
    const Text opening = f->opening;
    const int is_template = f->kind == CHAT_TEMPLATE, is_marked = is_template && opening.n;
    if (f->kind == CHAT_PLAIN && opening.n && opening.at[opening.n - 1] != '\n') {
        Buffer ended = {.at = NULL};
        ChatStatus status = CHAT_NO_MEMORY;
        if (buffer_add(&ended, opening) && buffer_add(&ended, text_of("\n")))
            status = chat_encode(ids, buffer_text(&ended), CHAT_OPENS);
        buffer_close(&ended);
        return status;
    }
    if (f->kind == CHAT_PLAIN || f->kind == CHAT_RAW) return chat_encode(ids, opening, CHAT_OPENS);
    ChatStatus status = chat_encode(ids, text_of(""), CHAT_OPENS);
    if (status == CHAT_OK && !is_template) return chat_add_lines(ids, opening);
    if (status == CHAT_OK && is_marked) status = chat_encode(ids, around[0], CHAT_SPECIAL | CHAT_CONTINUES);
    if (status == CHAT_OK && is_marked) status = chat_encode(ids, opening, CHAT_CONTINUES);
    if (status == CHAT_OK && is_marked) status = chat_encode(ids, around[1], CHAT_SPECIAL | CHAT_CONTINUES);
    return status;
}

static inline ChatStatus chat_add_closing(const ChatFormat *f, Encoding *ids) {
    if (f->kind == CHAT_PLAIN) return chat_encode(ids, text_of("\n"), CHAT_CONTINUES);
    if (f->kind == CHAT_DIALOGPT) return chat_end_turn(ids);
    return f->kind == CHAT_TEMPLATE ? chat_encode(ids, f->after, CHAT_SPECIAL | CHAT_CONTINUES) : CHAT_OK;
}

static inline int compare_ids(const void *a, const void *b) {
    uint32_t first, second;
    memcpy(&first, a, sizeof(first)), memcpy(&second, b, sizeof(second));
    return (first > second) - (first < second);
}

/* Adds the exempt ids: the closing ones, line ends, punctuation, names, and what ends a text. */
static inline ChatStatus chat_add_exempt(const ChatFormat *f, Encoding *ids) {
    static const char *const marks[] = {"\n", ":", ".", ",", "!", "?", "'"};
    const Text names[] = {f->user_name, f->bot_name};
    ChatStatus status = CHAT_OK;
    for (size_t i = 0; i < f->closing_tokens.n && status == CHAT_OK; i++)
        status = chat_add_token(ids, f->closing_tokens.ids[i]);
    for (uint32_t i = 0; i < f->tokenizer->n_eos && status == CHAT_OK; i++)
        status = chat_add_token(ids, table_value(f->tokenizer->eos, i));
    for (int i = 0; i < 7 + 4 && status == CHAT_OK; i++) {
        const size_t before = ids->n;
        const Text mark = i < 7 ? text_of(marks[i]) : names[(i - 7) % 2];
        const Text texts[] = {text_of(i < 9 ? "" : " "), mark}; /* a name alone, then after a space */
        status = chat_encode_joined(ids, texts, 2);
        /* A name of several tokens is left out: its parts are parts of other words as well. */
        if (status == CHAT_OK && ids->n - before != 1) ids->n = before;
    }
    if (status != CHAT_OK || !ids->n) return status;
    qsort(ids->ids, ids->n, sizeof(ids->ids[0]), compare_ids);
    size_t n = 1;
    for (size_t i = 1; i < ids->n; i++)
        if (ids->ids[i] != ids->ids[n - 1]) ids->ids[n++] = ids->ids[i];
    ids->n = n;
    return CHAT_OK;
}

/* Keeps a text in the format's memory, which has room. */
static inline Text chat_keep(ChatFormat *f, Text text) {
    const Text kept = {f->memory.at + f->memory.n, text.n};
    buffer_add(&f->memory, text);
    return kept;
}

/* Computes the strings that end an answer, in the format's memory, which has room. */
static inline void chat_set_stops(ChatFormat *f) {
    const Text marks[] = {f->after, f->before};
    if (f->kind == CHAT_PLAIN) {
        const Text line = chat_keep(f, text_of("\n")), name = chat_keep(f, f->user_name);
        chat_keep(f, text_of(":"));
        f->stops[0] = (StopText){line.at, 1}, f->stops[1] = (StopText){name.at, name.n + 1};
        f->n_stops = 2;
    }
    for (int i = 0; i < 2 && f->kind == CHAT_TEMPLATE; i++) {
        const Text stripped = text_strip(marks[i]), mark = stripped.n ? stripped : marks[i];
        const Text first = {f->stops[0].text, f->stops[0].n};
        if (!mark.n || (f->n_stops && text_equal(mark, first))) continue;
        f->stops[f->n_stops++] = (StopText){mark.at, mark.n};
    }
}

static inline Text text_or(Text text, Text other) { return text.at ? text : other; }

/* As chat_format_open(). IN: opening, for scratch. */
static inline ChatStatus chat_format_make(ChatFormat *f, size_t n_ctx, const ChatSettings *own,
                                          const ChatSettings *options, Buffer *opening, Problem *problem) {
    const Text own_format = text_or(own->format, text_of(CHAT_FORMATS[CHAT_PLAIN]));
    const Text name = text_or(options->format, own_format);
    const int is_own = text_equal(name, own_format);
    char shown[4 * SHOWN + 16];
    int kind = 0;
    while (kind < N_CHAT_FORMATS && !text_equal(name, text_of(CHAT_FORMATS[kind]))) kind++;
    if (kind == N_CHAT_FORMATS) {
        text_shown(shown, name);
        problem_set(problem, "chat format %s: expected one of %s, %s, %s, %s", shown, CHAT_FORMATS[0], CHAT_FORMATS[1],
                    CHAT_FORMATS[2], CHAT_FORMATS[3]);
        return CHAT_REFUSED;
    }
    f->kind = (ChatKind)kind;
    f->turns_kept = kind == CHAT_DIALOGPT ? 5 : 0; /* more confuse DialoGPT, which was trained on short exchanges */
    f->is_talk = kind != CHAT_RAW;

    Text parts[3] = {{NULL, 0}}, around[2] = {{NULL, 0}};
    if (kind == CHAT_TEMPLATE) {
        if (!is_own || !own->template.at) {
            problem_set(problem,
                        "chat format 'template': the model file has no template (gpt2rt convert --chat-template)");
            return CHAT_REFUSED;
        }
        const Text opening_template = text_or(own->opening_template, text_of("{opening}"));
        if (!template_parts(own->template, "{user}", "{bot}", "template", parts, problem) ||
            !template_parts(opening_template, "{opening}", NULL, "opening_template", around, problem))
            return CHAT_REFUSED;
    }
    const Text own_names[2] = {text_or(own->user_name, text_of(DEFAULT_NAMES[kind][0])),
                               text_or(own->bot_name, text_of(DEFAULT_NAMES[kind][1]))};
    const Text names[2] = {text_or(options->user_name, own_names[0]), text_or(options->bot_name, own_names[1])};
    if (!name_is_valid("user_name", names[0], problem) || !name_is_valid("bot_name", names[1], problem))
        return CHAT_REFUSED;

    /* The opening; the file's would be misread in another format. */
    Encoding *ids = &f->opening_tokens;
    const int has_own = is_own && own->opening.at;
    f->is_scene = !options->opening.at && !has_own && kind == CHAT_PLAIN;
    if (f->is_scene) {
        const ChatStatus status = scene_fit(opening, names[0], names[1], n_ctx, ids);
        if (status != CHAT_OK) return *problem = ids->problem, status;
        f->is_scene = opening->n > 0;
    } else if (options->opening.at) {
        if (!buffer_add(opening, options->opening)) return CHAT_NO_MEMORY;
    } else if (has_own && !text_renamed(opening, own->opening, own_names, names)) {
        return CHAT_NO_MEMORY;
    }
    if (text_length(buffer_text(opening)) > MAX_OPENING) {
        problem_set(problem, "opening: expected text of at most %d characters", MAX_OPENING);
        return CHAT_REFUSED;
    }

    /* All texts move to the format's memory, which then has room for them and for the stop strings. */
    const size_t n_parts = parts[0].n + parts[1].n + parts[2].n;
    if (!buffer_reserve(&f->memory, 2 * names[0].n + names[1].n + opening->n + n_parts + 2)) return CHAT_NO_MEMORY;
    f->user_name = chat_keep(f, names[0]), f->bot_name = chat_keep(f, names[1]);
    f->opening = chat_keep(f, buffer_text(opening));
    f->before = chat_keep(f, parts[0]), f->between = chat_keep(f, parts[1]), f->after = chat_keep(f, parts[2]);
    chat_set_stops(f);

    ChatStatus status = chat_add_opening(f, ids, around);
    if (status != CHAT_OK) return *problem = ids->problem, status;
    status = chat_add_closing(f, &f->closing_tokens);
    if (status != CHAT_OK) return *problem = f->closing_tokens.problem, status;
    status = chat_add_exempt(f, &f->exempt);
    if (status != CHAT_OK) *problem = f->exempt.problem;
    return status;
}

/* Makes the format that a model's file asks for. A plain format without an opening gets one with example turns, as many
 * as leave half of n_ctx free; an empty opening means none. The file's opening is used in the file's format only, and
 * names in it that are overridden are replaced.
 *
 * IN: own, what the file says; options, what overrides it. OUT: f, to be closed whatever the result; problem, after
 * CHAT_DAMAGED and CHAT_REFUSED. */
static inline ChatStatus chat_format_open(ChatFormat *f, const Tokenizer *tokenizer, size_t n_ctx,
                                          const ChatSettings *own, const ChatSettings *options, Problem *problem) {
    Buffer opening = {.at = NULL};
    *f = (ChatFormat){.tokenizer = tokenizer,
                      .opening_tokens = {.tokenizer = tokenizer},
                      .closing_tokens = {.tokenizer = tokenizer},
                      .exempt = {.tokenizer = tokenizer}};
    problem->text[0] = 0;
    const ChatStatus status = chat_format_make(f, n_ctx, own, options, &opening, problem);
    buffer_close(&opening);
    return status;
}

static inline void chat_format_close(ChatFormat *f) {
    free(f->opening_tokens.ids);
    free(f->closing_tokens.ids);
    free(f->exempt.ids);
    buffer_close(&f->memory);
}

/* Returns whether the opening leaves half of the context free, as a conversation requires. OUT: problem, if not. */
static inline int chat_opening_fits(const ChatFormat *f, size_t n_ctx, Problem *problem) {
    if (f->opening_tokens.n <= n_ctx / 2) return 1;
    return problem_set(problem,
                       "opening: %" PRIu64 " tokens, expected at most %" PRIu64 ", half of the model's context",
                       (uint64_t)f->opening_tokens.n, (uint64_t)(n_ctx / 2));
}

#endif

/* The turns of the standalone program's chat: what is said, and how it is answered. Which turns the model reads, and
 * which answers are sampled again, is decided in conversation.h and reply.h. */
#ifndef GPT2RT_TURNS_H
#define GPT2RT_TURNS_H

#include "platform.h"

#include "conversation.h"
#include "line_editor.h"
#include "program.h"
#include "reply.h"
#include "wrap.h"

typedef struct {
    Model *model;
    ChatFormat format;
    Sequence sequence;
    StopText stops[MAX_STOPS]; /* (n_stops) the format's and the user's */
    int n_stops;
    SamplingOptions sampling;
    uint64_t seed;
    int64_t max_tokens;
    Turn *turns; /* (n_turns), each in memory of its own */
    size_t n_turns, n_dropped; /* how many of the first turns are no longer in the context */
    Sampling last; /* the last answer, for /stats */
    int is_interactive, has_colors;
    int has_editor; /* whether the terminal can edit lines, unlike a dumb one */
    int has_hinted; /* that /exit leaves, just now */
    int status;     /* of the program */
    LineEditor editor;
} Talk;

/* Its texts are in the memory of its ids. */
static inline void turn_free(Turn *turn) { free((void *)turn->tokens); }

static inline void talk_close(Talk *t) {
    for (size_t i = 0; i < t->n_turns; i++) turn_free(&t->turns[i]);
    free(t->turns);
    free(t->last.tokens);
    sequence_free(&t->sequence);
    chat_format_close(&t->format);
    line_free(&t->editor);
}

#if defined(__GNUC__) && !defined(_WIN32)
__attribute__((format(printf, 2, 3)))
#endif
/* Prints a remark that is no answer: in a pipe, to standard error. */
static inline void note(const Talk *t, const char *format, ...) {
    char text[1500];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (!t->is_interactive) {
        print_safely(stderr, (const uint8_t *)text, strlen(text));
        fputs("\n", stderr);
        return;
    }
    Wrapper w = {.columns = terminal_columns()};
    if (!buffer_reserve(&w.word, sizeof(text)) || !buffer_reserve(&w.spaces, sizeof(text)))
        w.columns = 0; /* without memory for words, lines break anywhere */
    wrap_text(&w, text_of(text));
    wrap_end(&w);
    print_text((const uint8_t *)"\n", 1);
}

/* Reports what a message or a command got wrong. */
static inline void refuse(Talk *t, const char *sentence) {
    if (t->is_interactive)
        note(t, "gpt2rt: %s", sentence);
    else
        complain("%s", sentence), t->status = EXIT_ERROR;
}

/* Reports a failure of the core. */
static inline void refuse_status(Talk *t, ChatStatus status, const Problem *problem) {
    refuse(t, status == CHAT_NO_MEMORY ? "not enough memory" : problem->text);
}

/* --- answers ----------------------------------------------------------------------------------------------------- */

/* Adds a turn, or replaces the last one. Returns 0 if memory runs out. */
static inline int talk_add(Talk *t, Text user, Text answer, const Encoding *ids, int replaces) {
    const size_t at = t->n_turns - (size_t)replaces, n_ids = ids->n * sizeof(uint32_t);
    uint32_t *memory = malloc(n_ids + user.n + answer.n + 1);
    Turn *turns = realloc(t->turns, (at + 1) * sizeof(Turn));
    if (turns) t->turns = turns;
    if (!turns || !memory) return free(memory), 0;
    uint8_t *texts = (uint8_t *)memory + n_ids;
    if (n_ids) memcpy(memory, ids->ids, n_ids);
    if (user.n) memcpy(texts, user.at, user.n);
    if (answer.n) memcpy(texts + user.n, answer.at, answer.n);
    if (replaces) turn_free(&t->turns[at]); /* last: `user` may be its text */
    t->turns[at] = (Turn){{texts, user.n}, {texts + user.n, answer.n}, memory, ids->n};
    t->n_turns = at + 1;
    return 1;
}

/* Sets how the next draft is sampled: warmer than the last one, with the same history. Returns 0 if memory runs out. */
static inline int talk_sample(Talk *t, double temperature, size_t n_before) {
    SamplingOptions options = t->sampling;
    size_t n = 0;
    for (size_t i = t->n_dropped; i < n_before; i++) n += t->turns[i].n_tokens;
    int32_t *history = malloc((n + 1) * sizeof(int32_t));
    if (!history) return 0;
    n = 0;
    for (size_t i = t->n_dropped; i < n_before; i++)
        for (size_t j = 0; j < t->turns[i].n_tokens; j++) history[n++] = (int32_t)t->turns[i].tokens[j];
    options.temperature = temperature;
    sequence_sample(t->model, &t->sequence, &options, history, (int64_t)n, NULL, 0);
    return 1;
}

/* Samples drafts until one is the answer, and prints it. Returns an exit status; EXIT_INTERRUPTED after Ctrl-C.
 * IN: n_before, the turns before it. */
static inline int talk_sample_reply(Talk *t, Reply *reply, TextStream *stream, Wrapper *output, size_t n_before,
                                    size_t *n_shown) {
    const int64_t n_prompt = t->sequence.n_ids;
    Buffer piece = {0};
    int status = 0;
    while (!status && !reply->reason && !output_error) {
        Text text;
        piece.n = 0;
        status = sample_more(t->model, &t->sequence, stream, &t->last, &piece);
        if (status) break;
        const ReplyStatus accepted = reply_accept(reply, buffer_text(&piece), stream->reason, &text);
        if (accepted == REPLY_NO_MEMORY || (text.n && !wrap_text(output, text))) status = no_memory();
        *n_shown += text.n;
        if (accepted != REPLY_AGAIN) continue;
        sequence_truncate(&t->sequence, n_prompt);
        stream_restart(stream);
        t->last.n = 0;
        if (!talk_sample(t, reply_temperature(reply), n_before)) status = no_memory();
    }
    buffer_close(&piece);
    return status;
}

/* Makes the turn, of the tokens before a stop string, and prints what was held back; or says that nothing is left. */
static inline int talk_keep(Talk *t, Text message, int replaces, int status, Wrapper *output, size_t n_shown) {
    Encoding ids = {.tokenizer = &t->model->tokenizer};
    Buffer text = {0};
    Problem problem;
    const int was_stopped = status == EXIT_INTERRUPTED;
    ChatStatus kept = conversation_answer_tokens(t->last.tokens, t->last.n, t->stops, t->n_stops, was_stopped, &ids);
    if (kept == CHAT_OK)
        kept = conversation_answer_text(ids.tokenizer, ids.ids, ids.n, t->format.is_talk, &text, &problem);
    else
        problem = ids.problem;
    const size_t n = text.n;
    if (kept == CHAT_OK && n > n_shown && !wrap_text(output, (Text){text.at + n_shown, n - n_shown}))
        kept = CHAT_NO_MEMORY;
    wrap_end(output);
    print_text((const uint8_t *)"\n", 1);
    if (kept == CHAT_OK && n && !talk_add(t, message, buffer_text(&text), &ids, replaces)) kept = CHAT_NO_MEMORY;
    if (kept != CHAT_OK) refuse_status(t, kept, &problem);
    free(ids.ids);
    buffer_close(&text);
    if (kept == CHAT_OK && !n)
        note(t, was_stopped ? "(stopped before the first word; your message is discarded)"
                            : "(no answer; rephrase your message)");
    return kept == CHAT_OK && n > 0;
}

/* Answers a clean message, or the last one again. */
static inline void talk_answer(Talk *t, Text message, int replaces) {
    const size_t n_ctx = (size_t)t->model->file.shape.n_ctx, n_before = t->n_turns - (size_t)replaces;
    const size_t first = t->n_dropped < n_before ? t->n_dropped : n_before;
    const Text replaced = replaces ? t->turns[n_before].answer : (Text){NULL, 0};
    Encoding ids = {.tokenizer = &t->model->tokenizer};
    Buffer earlier = {0};
    Reply reply = {0};
    TextStream stream = {0};
    Sequence *s = &t->sequence;
    size_t n_dropped = 0, n_more = 0, n_shown = 0;
    int status = 0;
    const ChatStatus planned = conversation_prompt(&t->format, t->turns + first, n_before - first, message, n_ctx,
                                                   (size_t)t->max_tokens, &ids, &n_dropped);
    if (planned != CHAT_OK) {
        refuse_status(t, planned, &ids.problem);
        free(ids.ids);
        return;
    }
    if (first + n_dropped > t->n_dropped) n_more = first + n_dropped - t->n_dropped;
    t->n_dropped = first + n_dropped;
    if (n_more == 1) note(t, "(the context was full: the oldest turn was dropped)");
    if (n_more > 1) note(t, "(the context was full: the oldest %zu turns were dropped)", n_more);

    /* The rest of the prompt is evaluated, and the answer sampled. */
    size_t same = 0;
    while (same < ids.n && (int64_t)same < s->length && ids.ids[same] == (uint32_t)s->ids[same]) same++;
    sequence_truncate(s, (int64_t)same);
    t->last.n = 0, t->last.n_sampled = 0, t->last.n_prompt = (int64_t)(ids.n - same);
    t->last.begin = clock_seconds(), t->last.first = t->last.last = 0;
    if (t->is_interactive) is_interrupted = 0; /* an earlier Ctrl-C was not for this answer */
    if (!conversation_earlier(&t->format, t->turns, n_before, replaced, message, &earlier) ||
        !reply_open(&reply, t->format.is_talk, t->sampling.temperature, buffer_text(&earlier)) ||
        !stream_open(&stream, &t->model->tokenizer, t->stops, t->n_stops, (uint64_t)t->max_tokens) ||
        !talk_sample(t, reply_temperature(&reply), n_before))
        status = no_memory();
    if (status == 0) {
        char label[MAX_NAME * 4 + 3] = "";
        if (t->is_interactive && t->format.is_talk)
            snprintf(label, sizeof(label), "%.*s: ", (int)t->format.bot_name.n, (const char *)t->format.bot_name.at);
        Wrapper output = {.columns = *label ? terminal_columns() : 0, .column = text_width(text_of(label))};
        if (*label) printf(t->has_colors ? BOLD_CYAN "%s" PLAIN : "%s", label);
        output_flush();
        sequence_push(s, (const int32_t *)ids.ids + same, (int64_t)(ids.n - same));
        status = talk_sample_reply(t, &reply, &stream, &output, n_before, &n_shown);
        if (!talk_keep(t, message, replaces, status, &output, n_shown)) t->n_dropped -= n_more;
    }
    if (status == EXIT_INTERRUPTED && t->is_interactive)
        is_interrupted = 0; /* it was for this answer alone */
    else if (status)
        t->status = status;
    free(ids.ids);
    buffer_close(&earlier);
    reply_close(&reply);
    stream_close(&stream);
}

#endif

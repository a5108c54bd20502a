/* A chat: hostile settings, then a conversation in which the fuzzer chooses messages, sampled tokens and draft lengths.
 *
 * What holds: a prompt fits the context; text that was returned to the reader stays the beginning of the answer; the
 * tokens that are kept give the answer's text. */
#include "conversation.h"
#include "reply.h"
#include "vocabulary.h"

#define MOST_TURNS 6
#define MOST_SAMPLED 40

/* Returns a text that the caller frees, or none. */
static Text text_made(Input *input, int is_there, size_t most) {
    size_t n;
    if (!is_there) return (Text){NULL, 0};
    uint8_t *at = input_bytes(input, most, &n);
    return (Text){at, n};
}

/* IN: format, whose name the fuzzer need not spell. */
static void settings_make(ChatSettings *s, Input *input, int is_own) {
    const uint32_t there = input_byte(input), kind = input_byte(input);
    s->format = text_made(input, (there & 1) && kind >= 200, 30);
    if ((there & 1) && kind < 200) {
        const char *name = CHAT_FORMATS[kind % N_CHAT_FORMATS];
        s->format = (Text){copied(name, strlen(name)), strlen(name)};
    }
    s->user_name = text_made(input, there & 2, 60), s->bot_name = text_made(input, there & 4, 60);
    s->opening = text_made(input, there & 8, 400);
    s->template = text_made(input, is_own && there & 16, 100);
    s->opening_template = text_made(input, is_own && there & 32, 60);
}

static void settings_free(ChatSettings *s) {
    const Text texts[] = {s->format, s->user_name, s->bot_name, s->opening, s->template, s->opening_template};
    for (int i = 0; i < 6; i++) free((void *)texts[i].at);
}

/* A sampled answer. */
typedef struct {
    uint32_t tokens[MOST_SAMPLED]; /* (n) */
    size_t n;
    Buffer text; /* what reply_accept() returned */
    FinishReason reason;
} Answer;

/* Samples drafts, whose tokens are the fuzzer's, until one is the answer. */
static void answer_sample(Answer *a, const ChatFormat *f, Text earlier, Input *input) {
    const uint32_t n_vocab = f->tokenizer->tables.n_vocab;
    const double temperature = input_byte(input) % 3 * 0.6;
    const uint64_t max_tokens = input_between(input, 1, MOST_SAMPLED);
    Reply reply;
    TextStream stream;
    Buffer piece = {.at = NULL};
    Problem problem;
    int n_drafts = 1;
    CHECK(reply_open(&reply, f->is_talk, temperature, earlier));
    CHECK(stream_open(&stream, f->tokenizer, f->stops, f->n_stops, max_tokens));
    a->n = 0;
    while (!reply.reason) {
        const uint32_t token = input_left(input) ? input_u16(input) % n_vocab : 'x';
        const uint64_t before = stream.n_tokens;
        size_t n_used;
        Text text;
        piece.n = 0;
        const StreamStatus status = stream_accept(&stream, &token, 1, 0, &piece, &n_used, &problem);
        if (status == STREAM_DAMAGED) break; /* the caller gives up, as after every failure */
        CHECK(status == STREAM_OK && a->n < MOST_SAMPLED);
        if (stream.n_tokens > before) a->tokens[a->n++] = token;
        const ReplyStatus accepted = reply_accept(&reply, buffer_text(&piece), stream.reason, &text);
        CHECK(accepted != REPLY_NO_MEMORY && buffer_add(&a->text, text));
        CHECK(utf8_is_valid(text.at, text.n));
        CHECK(reply_temperature(&reply) <= (temperature > 1 ? temperature : 1));
        if (accepted != REPLY_AGAIN) continue;
        CHECK(a->text.n == 0 && ++n_drafts <= MAX_DRAFTS);
        a->n = 0;
        stream_restart(&stream);
    }
    a->reason = reply.reason;
    buffer_close(&piece);
    stream_close(&stream);
    reply_close(&reply);
}

/* Keeps an answer as a turn. Returns whether there is one. */
static int turn_make(Turn *turn, const ChatFormat *f, const Answer *a, Text message, int is_damaged) {
    Encoding kept = {.tokenizer = f->tokenizer};
    Buffer text = {.at = NULL};
    Problem problem;
    const ChatStatus status = conversation_answer_tokens(a->tokens, a->n, f->stops, f->n_stops, 0, &kept);
    CHECK(status == CHAT_OK || is_damaged);
    ChatStatus read = status;
    if (status == CHAT_OK) read = conversation_answer_text(f->tokenizer, kept.ids, kept.n, f->is_talk, &text, &problem);
    CHECK(read == CHAT_OK || is_damaged);
    const int is_kept = read == CHAT_OK && text.n && a->reason;
    if (read == CHAT_OK && !is_damaged && a->reason && a->reason != FINISH_BLANK) {
        /* Part of a character before a stop string is dropped from what is kept. */
        CHECK(utf8_is_valid(text.at, text.n) && text.n <= a->text.n + 6);
        if (text_find(buffer_text(&a->text), text_of(UTF8_REPLACEMENT)) < 0)
            CHECK(text_equal(buffer_text(&text), buffer_text(&a->text)));
    }
    if (is_kept)
        *turn = (Turn){.user = {copied(message.at, message.n), message.n}, .answer = {copied(text.at, text.n), text.n},
                       .tokens = (uint32_t *)(void *)copied(kept.ids, kept.n * sizeof(uint32_t)), .n_tokens = kept.n};
    free(kept.ids);
    buffer_close(&text);
    return is_kept;
}

static void converse(const ChatFormat *f, size_t n_ctx, Input *input, int is_damaged) {
    Turn turns[MOST_TURNS];
    size_t n_turns = 0, n_dropped = 0;
    for (uint32_t left = MOST_TURNS; left && input_left(input); left--) {
        size_t n;
        uint8_t *said = input_bytes(input, 120, &n);
        const size_t max_tokens = input_between(input, 1, 300);
        Buffer message = {.at = NULL}, earlier = {.at = NULL};
        Encoding ids = {.tokenizer = f->tokenizer};
        size_t n_new = 0;
        Answer answer = {.n = 0};
        CHECK(chat_clean(f, &message, (Text){said, n}));
        const ChatStatus status = conversation_prompt(f, turns + n_dropped, n_turns - n_dropped, buffer_text(&message),
                                                      n_ctx, max_tokens, &ids, &n_new);
        CHECK(status == CHAT_OK ? ids.n <= n_ctx : ids.n == 0 && strlen(ids.problem.text) > 10);
        CHECK(status == CHAT_OK || status == CHAT_FULL || status == CHAT_DAMAGED);
        CHECK(status != CHAT_DAMAGED || is_damaged);
        CHECK(n_new <= n_turns - n_dropped);
        for (size_t i = 0; i < ids.n; i++) CHECK(ids.ids[i] < f->tokenizer->tables.n_vocab);
        if (status == CHAT_OK) {
            const Text replaced = n_turns ? turns[n_turns - 1].answer : (Text){NULL, 0};
            CHECK(conversation_earlier(f, turns, n_turns, replaced, buffer_text(&message), &earlier));
            answer_sample(&answer, f, buffer_text(&earlier), input);
            n_dropped += n_new;
            if (turn_make(&turns[n_turns], f, &answer, buffer_text(&message), is_damaged)) n_turns++;
        }
        free(said), free(ids.ids);
        buffer_close(&message), buffer_close(&earlier), buffer_close(&answer.text);
    }
    for (size_t i = 0; i < n_turns; i++)
        free((void *)turns[i].user.at), free((void *)turns[i].answer.at), free((void *)turns[i].tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input = {data, data + size};
    const uint32_t how = input_byte(&input);
    const size_t n_ctx = how & 2 ? input_between(&input, 1, 64) : 300 + input_byte(&input);
    FuzzTables made;
    Tokenizer tokenizer;
    ChatFormat format;
    Problem problem;
    ChatSettings own = {.format = {NULL, 0}}, options = {.format = {NULL, 0}};
    tables_make(&made, how & 128 ? -1 : (int)(how >> 4 & 3));
    if (how & 1) tables_damage(&made, &input);
    settings_make(&own, &input, 1), settings_make(&options, &input, 0);
    if (tokenizer_open(&tokenizer, &made.tables, &problem)) {
        const ChatStatus status = chat_format_open(&format, &tokenizer, n_ctx, &own, &options, &problem);
        CHECK(status == CHAT_OK || status == CHAT_REFUSED || (status == CHAT_DAMAGED && how & 1));
        CHECK(status == CHAT_OK || strlen(problem.text) > 10);
        if (status == CHAT_OK) {
            for (size_t i = 1; i < format.exempt.n; i++) CHECK(format.exempt.ids[i] > format.exempt.ids[i - 1]);
            for (int i = 0; i < format.n_stops; i++) CHECK(format.stops[i].n);
            if (chat_opening_fits(&format, n_ctx, &problem)) converse(&format, n_ctx, &input, how & 1);
        }
        chat_format_close(&format);
    }
    settings_free(&own), settings_free(&options);
    tables_free(&made);
    return 0;
}

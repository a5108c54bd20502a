/* The policy of a chat, without Python: `chat CASE` prints what a format has, what a conversation decides, and what
 * remains of a sampled answer. It exits with 0, with 1 and a message about a setting, or with 2.
 *
 * CASE is a file of u32 (little-endian): n_vocab and the lengths of the tables, then the tables; then texts, each with
 * its length before it, 0xFFFFFFFF for one that is absent, and numbers, in the order in which main() reads them. */
#include <stdio.h>
#include <stdlib.h>

#include "chat_format.h"
#include "conversation.h"
#include "reply.h"
#include "stream.h"

#define MOST 64 /* turns */

static FILE *file;
static void *inputs[1000]; /* all that was read, so that it is no leak */
static size_t n_inputs;

static uint32_t number(void) {
    uint32_t value;
    if (fread(&value, sizeof(value), 1, file) != 1) exit(2);
    return value;
}

/* Returns n bytes in memory of their own, so that a sanitizer finds every access outside them. */
static uint8_t *content(size_t n) {
    uint8_t *at = malloc(n ? n : 1);
    if (!at || n_inputs == 1000 || fread(at, 1, n, file) != n) exit(2);
    inputs[n_inputs++] = at;
    return at;
}

static Text text(void) {
    const uint32_t n = number();
    if (n == 0xFFFFFFFFu) return (Text){NULL, 0};
    return (Text){content(n), n};
}

static const uint32_t *tokens(size_t *n) {
    *n = number();
    return (const uint32_t *)(const void *)content(*n * sizeof(uint32_t));
}

static void print_ids(const char *name, const uint32_t *ids, size_t n) {
    printf("%s", name);
    for (size_t i = 0; i < n; i++) printf(" %" PRIu32, ids[i]);
    printf("\n");
}

static void print_text(const char *name, Text value) {
    printf("%s ", name);
    for (size_t i = 0; i < value.n; i++) printf("%02x", value.at[i]);
    printf("\n");
}

static void need(int is_done) {
    if (!is_done) exit(2);
}

/* Samples the answer as a chat does: from `sampled`, a token at a time, in as many drafts as it takes. */
static void print_reply(const Tokenizer *t, const StopText *stops, int n_stops, Text earlier, const uint32_t *sampled,
                        size_t n) {
    TextStream stream;
    Reply reply;
    Buffer piece = {.at = NULL}, answer = {.at = NULL};
    Problem problem;
    size_t n_used;
    need(stream_open(&stream, t, stops, n_stops, 20));
    need(reply_open(&reply, 1, 0.7, earlier));
    for (size_t i = 0; i < n && !reply.reason; i++) {
        Text part;
        piece.n = 0;
        need(stream_accept(&stream, sampled + i, 1, i == n - 1, &piece, &n_used, &problem) == STREAM_OK);
        const ReplyStatus status = reply_accept(&reply, buffer_text(&piece), stream.reason, &part);
        need(status != REPLY_NO_MEMORY);
        need(buffer_add(&answer, part));
        if (status == REPLY_AGAIN) stream_restart(&stream);
    }
    printf("reply %d %.9g %" PRIu64 " %s\n", reply.draft, reply_temperature(&reply), stream.n_tokens,
           reply.reason ? FINISH_REASONS[reply.reason] : "none");
    print_text("answer", buffer_text(&answer));
    buffer_close(&piece);
    buffer_close(&answer);
    stream_close(&stream);
    reply_close(&reply);
}

int main(int argc, char **argv) {
    uint32_t lengths[7];
    Problem problem;
    Tokenizer tokenizer;
    ChatFormat format;
    file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (!file) return 2;
    for (int i = 0; i < 7; i++) lengths[i] = number();
    Tables tables = {.n_vocab = lengths[0], .n_special = lengths[3] / 4, .n_controls = lengths[4] / 4,
                     .n_slots = lengths[5] / (uint32_t)sizeof(Merge), .n_token_bytes = lengths[6]};
    tables.token_offsets = content(lengths[1]), tables.byte_tokens = content(lengths[2]);
    tables.special_tokens = content(lengths[3]), tables.controls = content(lengths[4]);
    tables.merge_slots = content(lengths[5]), tables.token_bytes = content(lengths[6]);
    if (!tokenizer_open(&tokenizer, &tables, &problem)) return fputs(problem.text, stderr), 1;

    ChatSettings own = {.format = text()}, options;
    own.user_name = text(), own.bot_name = text(), own.opening = text();
    own.template = text(), own.opening_template = text();
    options = (ChatSettings){.format = text()};
    options.user_name = text(), options.bot_name = text(), options.opening = text();
    const size_t n_ctx = number(), max_tokens = number();
    const Text message = text(), replaced = text();
    Turn turns[MOST];
    const size_t n_turns = number();
    need(n_turns <= MOST);
    for (size_t i = 0; i < n_turns; i++) {
        turns[i].user = text(), turns[i].answer = text();
        turns[i].tokens = tokens(&turns[i].n_tokens);
    }
    size_t n_sampled;
    const uint32_t *sampled = tokens(&n_sampled);

    const ChatStatus opened = chat_format_open(&format, &tokenizer, n_ctx, &own, &options, &problem);
    need(opened == CHAT_OK || opened == CHAT_REFUSED);
    if (opened == CHAT_REFUSED) return chat_format_close(&format), fputs(problem.text, stderr), 1;
    print_ids("opening", format.opening_tokens.ids, format.opening_tokens.n);
    print_ids("closing", format.closing_tokens.ids, format.closing_tokens.n);
    print_ids("exempt", format.exempt.ids, format.exempt.n);
    for (int i = 0; i < format.n_stops; i++) print_text("stop", (Text){format.stops[i].text, format.stops[i].n});

    Encoding ids = {.tokenizer = &tokenizer};
    Buffer cleaned = {.at = NULL}, earlier = {.at = NULL}, kept = {.at = NULL};
    size_t n_dropped;
    need(chat_clean(&format, &cleaned, message));
    print_text("message", buffer_text(&cleaned));
    const ChatStatus prompted = conversation_prompt(&format, turns, n_turns, buffer_text(&cleaned), n_ctx, max_tokens,
                                                    &ids, &n_dropped);
    need(prompted == CHAT_OK || prompted == CHAT_FULL);
    if (prompted == CHAT_OK) printf("dropped %zu\n", n_dropped);
    print_ids("prompt", ids.ids, ids.n);
    need(conversation_earlier(&format, turns, n_turns, replaced, message, &earlier));
    print_text("earlier", buffer_text(&earlier));
    ids.n = 0;
    need(conversation_answer_tokens(sampled, n_sampled, format.stops, format.n_stops, 1, &ids) == CHAT_OK);
    print_ids("kept", ids.ids, ids.n);
    need(conversation_answer_text(&tokenizer, ids.ids, ids.n, 1, &kept, &problem) == CHAT_OK);
    print_text("text", buffer_text(&kept));
    print_reply(&tokenizer, format.stops, format.n_stops, buffer_text(&earlier), sampled, n_sampled);
    free(ids.ids);
    buffer_close(&cleaned);
    buffer_close(&earlier);
    buffer_close(&kept);
    chat_format_close(&format);
    return 0;
}

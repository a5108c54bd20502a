/* Conversations: which turns the model reads, what it must not repeat, and what is kept of an answer.
 *
 * The turns themselves belong to the caller, in an array. The history that penalties count as generated is the ids of
 * the turns that are in the context, joined: turns[n_dropped:]. */
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

/* Adds the ids of a turn. */
static inline ChatStatus conversation_add_turn(const ChatFormat *f, const Turn *turn, Encoding *ids) {
    const ChatStatus status = chat_prompt(f, ids, turn->user);
    if (status != CHAT_OK) return status;
    if (!encoding_add(ids, turn->tokens, turn->n_tokens)) return CHAT_NO_MEMORY;
    return encoding_add(ids, f->closing_tokens.ids, f->closing_tokens.n) ? CHAT_OK : CHAT_NO_MEMORY;
}

/* Adds the ids of the opening, of the last turns, as many as there is room for, and of a message.
 * IN: first, the first turn that the model may read; ends (n_turns - first), for scratch. */
static inline ChatStatus conversation_fit(const ChatFormat *f, const Turn *turns, size_t n_turns, size_t first,
                                          Text message, size_t n_ctx, size_t max_tokens, size_t *ends, Encoding *asked,
                                          Encoding *ids, size_t *n_dropped) {
    const int64_t answer = (int64_t)(max_tokens < n_ctx / 4 ? max_tokens : n_ctx / 4);
    const int64_t room = (int64_t)n_ctx - answer - (int64_t)f->opening_tokens.n;
    ChatStatus status = chat_prompt(f, asked, message);
    if (status != CHAT_OK) return ids->problem = asked->problem, status;
    if ((int64_t)asked->n > room) {
        problem_set(&ids->problem, "message: %" PRIu64 " tokens, the context has room for %" PRId64 " (shorten it)",
                    (uint64_t)asked->n, room);
        return CHAT_FULL;
    }
    if (!encoding_add(ids, f->opening_tokens.ids, f->opening_tokens.n)) return CHAT_NO_MEMORY;
    const size_t begin = ids->n;
    for (size_t i = first; i < n_turns; i++) {
        status = conversation_add_turn(f, &turns[i], ids);
        if (status != CHAT_OK) return status;
        ends[i - first] = ids->n - begin;
    }
    int64_t used = (int64_t)(asked->n + ids->n - begin);
    if (used > room) {
        size_t n_cut = 0, cut = 0; /* turns, and their ids */
        for (; n_cut < n_turns - first && used - (int64_t)cut > room - (int64_t)(n_ctx / 4); n_cut++) cut = ends[n_cut];
        memmove(ids->ids + begin, ids->ids + begin + cut, (ids->n - begin - cut) * sizeof(ids->ids[0]));
        ids->n -= cut;
        *n_dropped = first + n_cut;
    }
    return encoding_add(ids, asked->ids, asked->n) ? CHAT_OK : CHAT_NO_MEMORY;
}

/* Adds the ids of the whole prompt, from the start of the context, and drops whole turns if they do not fit. Positions
 * are learned, so old tokens can't be shifted out of the cache. Several turns are dropped at once, so that the rest is
 * evaluated again only once in a while.
 *
 * IN: turns (n_turns), those that were not dropped before; message, a clean one; max_tokens, of the answer. OUT: ids,
 * unchanged on a failure, ids->problem after CHAT_DAMAGED, CHAT_REFUSED and CHAT_FULL; n_dropped, how many of the first
 * turns there is no room for any more. */
static inline ChatStatus conversation_prompt(const ChatFormat *f, const Turn *turns, size_t n_turns, Text message,
                                             size_t n_ctx, size_t max_tokens, Encoding *ids, size_t *n_dropped) {
    const size_t kept = (size_t)f->turns_kept, before = ids->n;
    const size_t first = kept && n_turns > kept ? n_turns - kept : 0;
    size_t *ends = malloc((n_turns - first + 1) * sizeof(size_t));
    Encoding asked = {.tokenizer = ids->tokenizer, .check = ids->check};
    *n_dropped = 0;
    const ChatStatus status = !ends ? CHAT_NO_MEMORY
                                    : conversation_fit(f, turns, n_turns, first, message, n_ctx, max_tokens, ends,
                                                       &asked, ids, n_dropped);
    free(ends);
    free(asked.ids);
    if (status != CHAT_OK) ids->n = before;
    return status;
}

/* Adds the words of a text, ended by a line feed. */
static inline int conversation_add_words(Buffer *earlier, Text text) {
    return words_of(earlier, text) && buffer_add(earlier, text_of("\n"));
}

/* Adds the answers that must not be given again: their words, each ended by a line feed; none if the format is no talk.
 * IN: turns (n_turns), all before this one, dropped or not; replaced, the answer that the next one replaces, or a text
 * that is NULL. Returns 0 if memory runs out. */
static inline int conversation_earlier(const ChatFormat *f, const Turn *turns, size_t n_turns, Text replaced,
                                       Text message, Buffer *earlier) {
    if (!f->is_talk) return 1;
    for (size_t i = n_turns > ANSWERS_REMEMBERED ? n_turns - ANSWERS_REMEMBERED : 0; i < n_turns; i++)
        if (!conversation_add_words(earlier, turns[i].answer)) return 0;
    if (replaced.at && !conversation_add_words(earlier, replaced)) return 0;
    const size_t before = earlier->n;
    if (!conversation_add_words(earlier, message)) return 0;
    const Text words = {earlier->at + before, earlier->n - before - 1};
    if (words_count(words) < ECHO_WORDS) earlier->n = before;
    return 1;
}

/* Joins the bytes of tokens. OUT: joined; problem, after CHAT_DAMAGED. */
static inline ChatStatus tokens_join(const Tokenizer *t, const uint32_t *tokens, size_t n, Buffer *joined,
                                     Problem *problem) {
    for (size_t i = 0; i < n; i++) {
        TokenBytes bytes;
        if (!token_bytes(&t->tables, tokens[i], &bytes, problem)) return CHAT_DAMAGED;
        if (!buffer_add(joined, (Text){bytes.at, bytes.n})) return CHAT_NO_MEMORY;
    }
    return CHAT_OK;
}

/* Returns how many of the first bytes become the first n bytes of the decoded text. */
static inline size_t content_before(Text content, size_t n) {
    size_t at = 0, size;
    int is_character;
    for (size_t n_text = 0; at < content.n && n_text < n; at += size, n_text += is_character ? size : 3) {
        size = utf8_size(content.at + at, content.n - at, &is_character);
        if (!size) break; /* part of a character */
    }
    return at;
}

/* Returns 0 if memory runs out. OUT: n, how many bytes there are before a stop string, without the part of a character
 * that an interruption leaves; text, for scratch. A stop string may have U+FFFD in it, which is no byte of the content. */
static inline int content_end(Text content, const StopText *stops, int n_stops, int is_interrupted, Buffer *text,
                              size_t *n) {
    Stops s;
    Utf8Decoder decoder = {.n = 0};
    *n = content.n;
    const int is_open = content.n <= PTRDIFF_MAX / 16 && stops_open(&s, stops, n_stops);
    if (!is_open) return 0;
    text->n = 0;
    const int has_room = buffer_reserve(text, 2 * UTF8_MOST(content.n)); /* the text, and what passes of it */
    if (has_room) {
        size_t n_text = utf8_feed(&decoder, content.at, content.n, text->at);
        if (!is_interrupted) n_text += utf8_finish(&decoder, text->at + n_text);
        const size_t passed = stops_feed(&s, text->at, n_text, text->at + n_text);
        if (s.found >= 0) *n = content_before(content, passed);
        decoder.n = 0;
        if (is_interrupted) utf8_feed(&decoder, content.at, *n, text->at);
        *n -= decoder.n;
    }
    stops_close(&s);
    return has_room;
}

/* Adds the ids of the characters in bytes that need not be UTF-8. IN: text, for scratch. */
static inline ChatStatus encode_characters(Encoding *ids, Text content, Buffer *text) {
    const uint8_t *end = content.at + content.n;
    size_t size;
    text->n = 0;
    if (!buffer_reserve(text, content.n)) return CHAT_NO_MEMORY;
    for (const uint8_t *p = content.at; p < end; p += size) {
        int is_character;
        size = utf8_size(p, (size_t)(end - p), &is_character);
        if (!size) break;
        if (is_character) buffer_add(text, (Text){p, size});
    }
    return chat_encode(ids, buffer_text(text), CHAT_CONTINUES);
}

/* Adds what remains of a sampled answer: the ids up to a stop string, without the part of a character that an
 * interruption leaves. Where that is in the middle of a token, the rest of the text is encoded again.
 * IN: sampled (n) ids, those of a TextStream's text; stops (n_stops), those of the stream. OUT: ids, unchanged on a
 * failure; ids->problem. */
static inline ChatStatus conversation_answer_tokens(const uint32_t *sampled, size_t n, const StopText *stops,
                                                    int n_stops, int is_interrupted, Encoding *ids) {
    const Tokenizer *t = ids->tokenizer;
    Buffer content = {.at = NULL}, text = {.at = NULL};
    const size_t before = ids->n;
    size_t end, length = 0;
    ChatStatus status = tokens_join(t, sampled, n, &content, &ids->problem);
    if (status == CHAT_OK && !content_end(buffer_text(&content), stops, n_stops, is_interrupted, &text, &end))
        status = CHAT_NO_MEMORY;
    for (size_t i = 0; i < n && status == CHAT_OK; i++) {
        TokenBytes bytes;
        token_bytes(&t->tables, sampled[i], &bytes, &ids->problem);
        if (length + bytes.n > end) break;
        status = chat_add_token(ids, sampled[i]);
        length += bytes.n;
    }
    if (status == CHAT_OK && length < end)
        status = encode_characters(ids, (Text){content.at + length, end - length}, &text);
    buffer_close(&content);
    buffer_close(&text);
    if (status != CHAT_OK) ids->n = before;
    return status;
}

/* Writes the text of an answer's ids: its characters, stripped if that is asked for (in a talk). If it is empty, there
 * is no turn. OUT: text; problem, after CHAT_DAMAGED. */
static inline ChatStatus conversation_answer_text(const Tokenizer *t, const uint32_t *tokens, size_t n, int is_stripped,
                                                  Buffer *text, Problem *problem) {
    Buffer content = {.at = NULL};
    Utf8Decoder decoder = {.n = 0};
    ChatStatus status = tokens_join(t, tokens, n, &content, problem);
    if (status == CHAT_OK && (content.n > PTRDIFF_MAX / 8 || !buffer_reserve(text, UTF8_MOST(content.n) + 6)))
        status = CHAT_NO_MEMORY;
    if (status == CHAT_OK) {
        text->n = utf8_feed(&decoder, buffer_text(&content).at, content.n, text->at);
        text->n += utf8_finish(&decoder, text->at + text->n);
        if (is_stripped) {
            const Text stripped = text_strip(buffer_text(text));
            memmove(text->at, stripped.at, stripped.n);
            text->n = stripped.n;
        }
    }
    buffer_close(&content);
    return status;
}

#endif

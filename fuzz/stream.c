/* The text of sampled tokens (utf8.h, stops.h, stream.h), against plain functions over the whole text. The tokens are
 * parts of the fuzzer's bytes. */
#include "input.h"
#include "stream.h"

#define MOST_TOKENS 64
#define MOST_STOPS 6

/* Returns the bytes at p that begin a character, at most n: all of it if `is_whole` then says so; at least 1. */
static size_t character_at(const uint8_t *p, size_t n, int *is_whole) {
    const uint8_t first = p[0];
    size_t size = 0, i = 1;
    if (first < 0x80) return *is_whole = 1, 1;
    if (first >= 0xC2 && first <= 0xDF) size = 2;
    if (first >= 0xE0 && first <= 0xEF) size = 3;
    if (first >= 0xF0 && first <= 0xF4) size = 4;
    *is_whole = 0;
    for (; i < size && i < n && (p[i] & 0xC0) == 0x80; i++) {
        if (i > 1) continue;
        if ((first == 0xE0 && p[1] < 0xA0) || (first == 0xED && p[1] > 0x9F)) break; /* overlong, a surrogate */
        if ((first == 0xF0 && p[1] < 0x90) || (first == 0xF4 && p[1] > 0x8F)) break; /* overlong, above U+10FFFF */
    }
    *is_whole = size && i == size;
    return i;
}

/* Decodes bytes: what is no character is U+FFFD. IN: is_end, whether nothing follows; if something does, a last character
 * that is not whole is left out. Returns the bytes of the text. */
static size_t decode_plainly(const uint8_t *p, size_t n, int is_end, uint8_t *text) {
    size_t n_text = 0;
    for (size_t i = 0, size; i < n; i += size) {
        int is_whole;
        if (!is_end && utf8_is_half_surrogate(p + i, n - i)) break; /* Python's decoder waits for the third byte */
        size = character_at(p + i, n - i, &is_whole);
        if (!is_whole && i + size == n && !is_end && p[i] >= 0xC2 && p[i] <= 0xF4) break;
        memcpy(text + n_text, is_whole ? p + i : (const uint8_t *)UTF8_REPLACEMENT, is_whole ? size : 3);
        n_text += is_whole ? size : 3;
    }
    return n_text;
}

/* Returns where the first stop string that is complete begins, of those the longest; n if there is none. */
static size_t stop_plainly(const uint8_t *text, size_t n, const StopText *stops, int n_stops) {
    for (size_t end = 1; end <= n; end++) {
        size_t longest = 0;
        for (int i = 0; i < n_stops; i++)
            if (stops[i].n <= end && stops[i].n > longest && !memcmp(text + end - stops[i].n, stops[i].text, stops[i].n))
                longest = stops[i].n;
        if (longest) return end - longest;
    }
    return n;
}

/* Returns the bytes at the end of a text that may become a stop string. */
static size_t held_plainly(const uint8_t *text, size_t n, const StopText *stops, int n_stops) {
    size_t most = 0;
    for (int i = 0; i < n_stops; i++)
        for (size_t k = 1; k < stops[i].n && k <= n; k++)
            if (k > most && !memcmp(text + n - k, stops[i].text, k)) most = k;
    return most;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input = {data, data + size};
    StopText stops[MOST_STOPS];
    const int n_stops = (int)input_between(&input, 0, MOST_STOPS);
    for (int i = 0; i < n_stops; i++) {
        size_t n;
        stops[i].text = input_bytes(&input, i == MOST_STOPS - 1 ? MAX_STOP_BYTES : 9, &n);
        if (!n) { /* a stop string is not empty */
            free((void *)stops[i].text);
            stops[i].text = copied("\n", 1), n = 1;
        }
        stops[i].n = n;
    }
    const uint64_t max_tokens = input_byte(&input);
    const uint32_t ending = input_byte(&input); /* the token that ends a text */
    const uint32_t full_after = input_byte(&input);

    /* Every part of what is left is a token. */
    uint32_t offsets[MOST_TOKENS + 1] = {0}, n_tokens = 0;
    uint8_t *content = allocated(input_left(&input));
    while (n_tokens < MOST_TOKENS && input_left(&input)) {
        const size_t wanted = input_byte(&input) % 16, n_left = input_left(&input), n = wanted < n_left ? wanted : n_left;
        input_copy(&input, content + offsets[n_tokens], n);
        offsets[n_tokens + 1] = offsets[n_tokens] + (uint32_t)n;
        n_tokens++;
    }
    const Tokenizer tokenizer = {.tables = {.token_offsets = (const uint8_t *)offsets, .token_bytes = content,
                                            .n_vocab = n_tokens, .n_token_bytes = offsets[n_tokens]},
                                 .bos = MERGES_NONE, .pad = MERGES_NONE, .eos = (const uint8_t *)&ending, .n_eos = 1};
    const size_t n_content = offsets[n_tokens];
    uint8_t *plain = allocated(3 * n_content);
    TextStream stream;
    Buffer text = {.at = NULL};
    Problem problem;
    CHECK(stream_open(&stream, &tokenizer, stops, n_stops, max_tokens));
    uint32_t n_given = 0;
    while (n_given < n_tokens && !stream.reason) {
        uint32_t tokens[8], n = 0;
        size_t n_used;
        while (n < 1 + n_given % 3 && n_given + n < n_tokens) tokens[n] = n_given + n, n++;
        const uint8_t *before = copied(buffer_text(&text).at, text.n);
        const size_t n_before = text.n;
        CHECK(stream_accept(&stream, tokens, n, n_given >= full_after, &text, &n_used, &problem) == STREAM_OK);
        CHECK(text.n >= n_before && (!n_before || !memcmp(before, text.at, n_before)));
        CHECK(n_used && (n_used == n || stream.reason));
        free((void *)before);
        n_given += (uint32_t)n_used;
        if (stream.reason) break;
        /* Everything that can't become part of a stop string is there. */
        const size_t n_plain = decode_plainly(content, offsets[n_given], 0, plain);
        CHECK(stop_plainly(plain, n_plain, stops, n_stops) == n_plain);
        const size_t expected = n_plain - held_plainly(plain, n_plain, stops, n_stops);
        CHECK(text.n == expected && (!expected || !memcmp(text.at, plain, expected)));
    }
    if (!stream.reason) CHECK(stream_end(&stream, FINISH_INTERRUPTED, &text) == STREAM_OK);
    const size_t n_bytes = offsets[n_given > ending ? ending : n_given];
    const size_t n_plain = decode_plainly(content, n_bytes, 1, plain);
    const size_t expected = stop_plainly(plain, n_plain, stops, n_stops);
    CHECK(text.n == expected && (!expected || !memcmp(text.at, plain, expected)));
    CHECK(expected == n_plain || stream.reason == FINISH_STOP);
    CHECK(!max_tokens || stream.n_tokens <= max_tokens);
    for (int i = 0; i < n_stops; i++) free((void *)stops[i].text);
    free(content), free(plain);
    buffer_close(&text);
    stream_close(&stream);
    return 0;
}

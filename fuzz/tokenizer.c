/* The tokenizer: texts to tokens over a sound vocabulary, against the plainest BPE, and over a damaged one. */
#include "stream.h"
#include "vocabulary.h"

/* Merges as the definition says: the lowest rank first, the leftmost of equals, one pair at a time. Returns the number of
 * tokens left. */
static size_t merge_plainly(const Tables *t, uint32_t *tokens, size_t n) {
    for (;;) {
        uint32_t least = MERGES_NONE, least_merged = 0;
        size_t best = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            for (uint32_t slot = 0; slot < t->n_slots; slot++) {
                Merge merge;
                memcpy(&merge, t->merge_slots + slot * sizeof(Merge), sizeof(Merge));
                if (merge.left != tokens[i] || merge.right != tokens[i + 1] || merge.rank >= least) continue;
                least = merge.rank, least_merged = merge.merged, best = i;
            }
        }
        if (least == MERGES_NONE) return n;
        tokens[best] = least_merged;
        n--;
        memmove(tokens + best + 1, tokens + best + 2, (n - best - 1) * sizeof(*tokens));
    }
}

/* Adds the tokens of a text in which no special tokens are looked for. */
static void encode_plainly(Encoding *e, const uint8_t *p, const uint8_t *end) {
    while (p < end) {
        const uint8_t *after = piece_end(p, end);
        const size_t n = (size_t)(after - p);
        CHECK(after > p && after <= end);
        CHECK(encoding_reserve(e, n));
        for (size_t i = 0; i < n; i++) e->ids[e->n + i] = table_value(e->tokenizer->tables.byte_tokens, p[i]);
        e->n += merge_plainly(&e->tokenizer->tables, e->ids + e->n, n);
        p = after;
    }
}

static void check_sound(const Tokenizer *t, const Encoding *found, const uint8_t *text, size_t n) {
    const int has_space = t->add_prefix_space && !found->continues && n && *text != ' ';
    const int has_bos = found->opens && t->add_bos && !found->continues;
    uint8_t *spaced = allocated(n + 1), *joined = allocated(16 * (found->n + 1));
    Encoding plain = {.tokenizer = t};
    Problem problem;
    size_t n_joined = 0;
    spaced[0] = ' ';
    if (n) memcpy(spaced + has_space, text, n);
    for (size_t i = (size_t)has_bos; i < found->n; i++) {
        TokenBytes bytes;
        CHECK(token_bytes(&t->tables, found->ids[i], &bytes, &problem) && bytes.n <= 16);
        memcpy(joined + n_joined, bytes.at, bytes.n);
        n_joined += bytes.n;
    }
    if (!found->special) {
        CHECK(n_joined == n + (size_t)has_space && !memcmp(joined, spaced, n_joined));
        if (has_bos) CHECK(encode_token(&plain, t->bos) == ENCODE_OK);
        encode_plainly(&plain, spaced, spaced + n_joined);
        CHECK(plain.n == found->n && (!plain.n || !memcmp(plain.ids, found->ids, plain.n * sizeof(*plain.ids))));
    } else if (!t->add_prefix_space) {
        CHECK(n_joined == n && (!n || !memcmp(joined, text, n)));
    }
    free(spaced), free(joined), free(plain.ids);
}

/* Decodes all tokens, and ids that are none. */
static void decode_all(const Tokenizer *t, Input *input) {
    const StopText stops[] = {{(const uint8_t *)"the", 3}};
    const uint32_t n_vocab = t->tables.n_vocab;
    TextStream stream;
    Buffer text = {.at = NULL};
    Problem problem;
    size_t n_used;
    CHECK(stream_open(&stream, t, stops, 1, input_byte(input)));
    for (uint32_t token = 0; token < n_vocab + 2; token++) {
        const uint32_t tokens[] = {token, token == n_vocab + 1 ? UINT32_MAX : input_byte(input)};
        const StreamStatus status = stream_accept(&stream, tokens, 2, 0, &text, &n_used, &problem);
        CHECK(status != STREAM_NO_MEMORY && n_used <= 2);
        CHECK(token < n_vocab || status == STREAM_DAMAGED);
        if (stream.reason) stream_restart(&stream);
    }
    CHECK(stream_end(&stream, FINISH_INTERRUPTED, &text) == STREAM_OK);
    CHECK(utf8_is_valid(buffer_text(&text).at, text.n));
    buffer_close(&text);
    stream_close(&stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input = {data, data + size};
    const uint32_t how = input_byte(&input);
    FuzzTables made;
    Tokenizer tokenizer;
    Problem problem;
    tables_make(&made, how & 128 ? -1 : (int)(how >> 4 & 3));
    const int is_damaged = how & 1;
    if (is_damaged) tables_damage(&made, &input);
    if (tokenizer_open(&tokenizer, &made.tables, &problem)) {
        if (is_damaged) decode_all(&tokenizer, &input);
        const size_t n = input_left(&input);
        uint8_t *text = copied(input.at, n);
        Encoding e = {.tokenizer = &tokenizer, .special = how >> 1 & 1, .opens = how >> 2 & 1, .continues = how >> 3 & 1};
        const EncodeStatus status = encode_text(&e, text, n);
        CHECK(status == ENCODE_OK || (is_damaged && status == ENCODE_DAMAGED && e.n == 0));
        for (size_t i = 0; i < e.n; i++) CHECK(e.ids[i] < tokenizer.tables.n_vocab);
        if (!is_damaged) check_sound(&tokenizer, &e, text, n);
        free(e.ids), free(text);
    } else {
        CHECK(is_damaged && strlen(problem.text) > 10);
    }
    tables_free(&made);
    return 0;
}

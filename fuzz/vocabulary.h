/* A small sound vocabulary, its tables in memory of exactly their sizes, and words of it that the fuzzer replaces. */
#ifndef GPT2RT_FUZZ_VOCABULARY_H
#define GPT2RT_FUZZ_VOCABULARY_H

#include "input.h"
#include "layout.h"
#include "tokenizer.h"

#define N_SLOTS 64u
#define N_SPECIALS 3u
#define N_CONTROLS 5u /* flags, bos, pad and two that end a text */

/* Pairs of texts, each a byte or merged before; the order is the rank. */
static const char *const FUZZ_MERGES[][2] = {
    {"t", "h"}, {" ", "t"}, {"e", "r"}, {"th", "e"}, {" t", "he"}, {"h", "e"}, {"i", "n"}, {"a", "a"}, {"aa", "aa"},
    {"in", "g"}, {" ", "a"}, {"\n", "\n"}, {"\xE6", "\x97"}, {"\xE6\x97", "\xA5"}, {"l", "l"}, {"he", "ll"},
    {"hell", "o"}, {"a", "b"}, {"b", "a"}, {"ab", "ab"}, {" ", " "}, {"  ", "  "}, {"S", "am"}, {"a", "m"},
    {"\xF0", "\x9F"}, {":", " "}};
static const char *const FUZZ_SPECIALS[N_SPECIALS] = {"<|endoftext|>", "<|user|>", "<|bot|>"};

#define N_MERGES (sizeof(FUZZ_MERGES) / sizeof(*FUZZ_MERGES))
#define FUZZ_VOCAB (256 + N_MERGES + N_SPECIALS)
#define MOST_TOKEN_BYTES 1024

enum { FUZZ_TABLES = 6 };

typedef struct {
    uint32_t offsets[FUZZ_VOCAB + 1], bytes[256], specials[N_SPECIALS], controls[N_CONTROLS], slots[4 * N_SLOTS];
    uint8_t text[MOST_TOKEN_BYTES];
    uint32_t n_text;
} SoundTables;

/* Tables whose memory is of exactly their sizes. */
typedef struct {
    Tables tables;
    void *memory[FUZZ_TABLES];
    size_t sizes[FUZZ_TABLES];
} FuzzTables;

/* Returns the token of a text, of which there must be one. */
static inline uint32_t sound_token(const SoundTables *t, size_t n_tokens, const char *text) {
    for (uint32_t i = 0; i < n_tokens; i++)
        if (t->offsets[i + 1] - t->offsets[i] == strlen(text) && !memcmp(t->text + t->offsets[i], text, strlen(text)))
            return i;
    return MERGES_NONE;
}

static inline void sound_add(SoundTables *t, size_t token, const char *text, size_t n) {
    memcpy(t->text + t->n_text, text, n);
    t->offsets[token] = t->n_text;
    t->n_text += (uint32_t)n;
    t->offsets[token + 1] = t->n_text;
}

static inline const SoundTables *sound_tables(void) {
    static SoundTables t;
    if (t.n_text) return &t;
    memset(t.slots, 0xFF, sizeof(t.slots));
    for (uint32_t byte = 0; byte < 256; byte++) {
        const char letter = (char)byte;
        sound_add(&t, byte, &letter, 1);
        t.bytes[byte] = byte;
    }
    for (uint32_t rank = 0; rank < N_MERGES; rank++) {
        char merged[32];
        snprintf(merged, sizeof(merged), "%s%s", FUZZ_MERGES[rank][0], FUZZ_MERGES[rank][1]);
        sound_add(&t, 256 + rank, merged, strlen(merged));
    }
    for (uint32_t rank = 0; rank < N_MERGES; rank++) { /* a part may be merged after what it is a part of */
        const uint32_t left = sound_token(&t, 256 + N_MERGES, FUZZ_MERGES[rank][0]);
        const uint32_t right = sound_token(&t, 256 + N_MERGES, FUZZ_MERGES[rank][1]);
        const uint64_t mixed = left * 0x9E3779B1u + right * 0x85EBCA77u;
        uint32_t slot = (uint32_t)(mixed * N_SLOTS >> 32);
        CHECK(left != MERGES_NONE && right != MERGES_NONE);
        while (t.slots[4 * slot] != MERGES_NONE) slot = (slot + 1) % N_SLOTS;
        const uint32_t merge[] = {left, right, rank, 256 + rank};
        memcpy(t.slots + 4 * slot, merge, sizeof(merge));
    }
    for (uint32_t i = 0; i < N_SPECIALS; i++) {
        t.specials[i] = (uint32_t)(256 + N_MERGES + i);
        sound_add(&t, t.specials[i], FUZZ_SPECIALS[i], strlen(FUZZ_SPECIALS[i]));
    }
    const uint32_t controls[N_CONTROLS] = {0, t.specials[0], MERGES_NONE, t.specials[0], t.specials[2]};
    memcpy(t.controls, controls, sizeof(controls));
    return &t;
}

/* Makes tables that the caller frees. IN: flags, as CONTROL_*, or -1 for no controls. */
static inline void tables_make(FuzzTables *made, int flags) {
    const SoundTables *sound = sound_tables();
    const void *from[FUZZ_TABLES] = {sound->offsets, sound->bytes, sound->specials,
                                     sound->controls, sound->slots, sound->text};
    const size_t sizes[FUZZ_TABLES] = {sizeof(sound->offsets), sizeof(sound->bytes), sizeof(sound->specials),
                                       flags < 0 ? 0 : sizeof(sound->controls), sizeof(sound->slots), sound->n_text};
    memcpy(made->sizes, sizes, sizeof(sizes));
    for (int i = 0; i < FUZZ_TABLES; i++) made->memory[i] = copied(from[i], sizes[i]);
    if (flags >= 0) memcpy(made->memory[3], &flags, sizeof(flags));
    made->tables = (Tables){.token_offsets = made->memory[0], .byte_tokens = made->memory[1],
                            .special_tokens = made->memory[2], .controls = made->memory[3],
                            .merge_slots = made->memory[4], .token_bytes = made->memory[5],
                            .n_vocab = FUZZ_VOCAB, .n_special = N_SPECIALS, .n_controls = flags < 0 ? 0 : N_CONTROLS,
                            .n_slots = N_SLOTS, .n_token_bytes = sound->n_text};
}

/* Replaces up to 255 words of the tables. */
static inline void tables_damage(FuzzTables *made, Input *input) {
    for (uint32_t left = input_byte(input); left; left--) {
        const uint32_t i = input_between(input, 0, FUZZ_TABLES - 1), kind = input_byte(input), at = input_u16(input);
        const size_t n_words = made->sizes[i] / 4;
        uint32_t value = input_u32(input);
        if (!n_words) continue;
        uint8_t *word = (uint8_t *)made->memory[i] + 4 * (at % n_words);
        if (kind & 1) value = read_u32(word) + (value & 0xFF) - 0x80; /* one that is close to the sound value */
        if (kind & 2) value %= made->tables.n_vocab;
        write_u32(word, value);
    }
}

static inline void tables_free(FuzzTables *made) {
    for (int i = 0; i < FUZZ_TABLES; i++) free(made->memory[i]);
}

#endif

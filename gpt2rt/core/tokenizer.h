/* The tokenizer: text to tokens and back, by byte-level BPE over the tables of a model file (docs/format.md,
 * "Vocabulary").
 *
 * A text is split at special tokens if they are requested, then into pieces (pieces.h), and the bytes of each piece are
 * merged by rank (merges.h). Nothing is built at startup, and everything read from the tables is checked: a damaged
 * vocabulary gives wrong tokens or an error. */
#ifndef GPT2RT_TOKENIZER_H
#define GPT2RT_TOKENIZER_H

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "layout.h"
#include "merges.h"
#include "pieces.h"
#include "problem.h"

#define ENCODING_PATIENCE 0x10000 /* bytes or comparisons between calls of `check` */
#define DAMAGE_REMEDY "(gpt2rt verify lists the damage; copy or convert the file again)"

/* The table of controls, which may be empty; from CONTROL_EOS on, the tokens that end a text. */
enum { CONTROL_FLAGS, CONTROL_BOS, CONTROL_PAD, CONTROL_EOS };
enum { CONTROL_PREFIX_SPACE = 1, CONTROL_ADD_BOS = 2 }; /* flags */

/* Immutable. */
typedef struct {
    Tables tables;
    uint32_t bos, pad;    /* the token that begins a text, and the one for padding; MERGES_NONE if there is none */
    const uint8_t *eos;   /* u32 (n_eos) tokens that end a text, all valid; in a table */
    uint32_t n_eos;
    int add_bos;          /* whether a text begins with bos */
    int add_prefix_space; /* whether a text that does not begin with a space gets one */
} Tokenizer;

/* The bytes of a token, which may be parts of characters. */
typedef struct {
    const uint8_t *at; /* (n) */
    size_t n;
} TokenBytes;

typedef enum {
    ENCODE_OK,
    ENCODE_STOPPED,  /* `check` returned nonzero */
    ENCODE_NO_MEMORY,
    ENCODE_DAMAGED,  /* the vocabulary is damaged */
    ENCODE_TOO_LONG, /* the text has too many bytes without a break */
} EncodeStatus;

/* The tokens of a text, or of several that follow each other. Starts as {.tokenizer = ..., and options}; the caller
 * frees the ids. */
typedef struct {
    const Tokenizer *tokenizer;
    int special;         /* encode the text of special tokens as those tokens: the leftmost first, then the longest */
    int opens;           /* begin with bos if the vocabulary says so */
    int continues;       /* the text goes on in the middle of another: neither bos nor a space comes before it */
    int (*check)(void);  /* called now and then; nonzero ends the work; or NULL */
    uint32_t *ids;       /* (capacity), of which n are in use */
    size_t n, capacity;
    Problem problem;     /* after ENCODE_DAMAGED and ENCODE_TOO_LONG */
} Encoding;

static inline uint32_t table_value(const uint8_t *table, size_t i) {
    uint32_t value;
    memcpy(&value, table + 4 * i, 4);
    return value;
}

/* Returns whether a token and its bytes are in the vocabulary. OUT: bytes; problem, if they are not. */
static inline int token_bytes(const Tables *t, uint32_t token, TokenBytes *bytes, Problem *problem) {
    *bytes = (TokenBytes){.n = 0};
    if (token >= t->n_vocab)
        return problem_set(problem, "token %" PRIu32 ": out of range, expected 0 to %" PRIu32, token, t->n_vocab - 1);
    const uint32_t start = table_value(t->token_offsets, token);
    const uint32_t end = table_value(t->token_offsets, (size_t)token + 1);
    if (start > end || end > t->n_token_bytes)
        return problem_set(problem,
                           "token %" PRIu32 ": is at bytes %" PRIu32 " to %" PRIu32
                           ", expected ascending and at most %" PRIu32 " " DAMAGE_REMEDY,
                           token, start, end, t->n_token_bytes);
    if (end - start > MAX_TOKEN_LENGTH)
        return problem_set(problem, "token %" PRIu32 ": has %" PRIu32 " bytes, expected at most %d " DAMAGE_REMEDY, token,
                           end - start, MAX_TOKEN_LENGTH);
    *bytes = (TokenBytes){.at = t->token_bytes + start, .n = end - start};
    return 1;
}

/* Returns whether the controls are valid. Without any, <|endoftext|> begins and ends a text if it is the first special
 * token. The tables must have the lengths that their counts imply, and stay where they are. OUT: t; problem, if the
 * controls are not valid. */
static inline int tokenizer_open(Tokenizer *t, const Tables *tables, Problem *problem) {
    static const char end_of_text[] = "<|endoftext|>";
    *t = (Tokenizer){.tables = *tables, .bos = MERGES_NONE, .pad = MERGES_NONE};
    if (tables->n_controls < CONTROL_EOS) {
        TokenBytes bytes;
        Problem ignored;
        if (!tables->n_special) return 1;
        const uint32_t first = table_value(tables->special_tokens, 0);
        if (!token_bytes(tables, first, &bytes, &ignored)) return 1;
        if (bytes.n != sizeof(end_of_text) - 1 || memcmp(bytes.at, end_of_text, bytes.n) != 0) return 1;
        t->bos = first, t->eos = tables->special_tokens, t->n_eos = 1;
        return 1;
    }
    const uint32_t flags = table_value(tables->controls, CONTROL_FLAGS);
    for (uint32_t i = CONTROL_BOS; i < tables->n_controls; i++) {
        const uint32_t token = table_value(tables->controls, i);
        if (token < tables->n_vocab || (token == MERGES_NONE && i < CONTROL_EOS)) continue;
        return problem_set(problem,
                           "vocabulary: the %s token is %" PRIu32 ", expected at most %" PRIu32 " " DAMAGE_REMEDY,
                           i == CONTROL_BOS ? "bos" : i == CONTROL_PAD ? "pad" : "eos", token, tables->n_vocab - 1);
    }
    t->bos = table_value(tables->controls, CONTROL_BOS), t->pad = table_value(tables->controls, CONTROL_PAD);
    if (flags & ~(uint32_t)(CONTROL_PREFIX_SPACE | CONTROL_ADD_BOS) ||
        (flags & CONTROL_ADD_BOS && t->bos == MERGES_NONE))
        return problem_set(problem,
                           "vocabulary: unknown flags 0x%" PRIx32 ", or a bos token that is missing " DAMAGE_REMEDY,
                           flags);
    t->eos = tables->controls + 4 * CONTROL_EOS, t->n_eos = tables->n_controls - CONTROL_EOS;
    t->add_bos = !!(flags & CONTROL_ADD_BOS), t->add_prefix_space = !!(flags & CONTROL_PREFIX_SPACE);
    return 1;
}

/* Returns whether a token is one of those that end a text. */
static inline int tokenizer_ends_text(const Tokenizer *t, uint32_t token) {
    for (uint32_t i = 0; i < t->n_eos; i++)
        if (table_value(t->eos, i) == token) return 1;
    return 0;
}

/* --- special tokens ---------------------------------------------------------------------------------------------- */

#define NO_SPECIAL 0xFFFFFFFFu

typedef struct {
    const uint8_t *text; /* (n) */
    uint32_t n, token;
    uint32_t next; /* index of the one before it with the same first byte, or NO_SPECIAL */
} Special;

/* The special tokens, in chains by their first byte, the last one first. */
typedef struct {
    Special *all;        /* (n_special) in the order of their table */
    uint32_t first[256]; /* index for each byte, or NO_SPECIAL */
    size_t steps;        /* comparisons since `check` was called, long ones counted several times */
} Specials;

/* OUT: specials, whose memory the caller frees whatever the result; problem, after ENCODE_DAMAGED. */
static inline EncodeStatus specials_open(Specials *specials, const Tables *t, Problem *problem) {
    specials->all = NULL, specials->steps = 0;
    memset(specials->first, 0xFF, sizeof(specials->first));
    if (!t->n_special) return ENCODE_OK;
    specials->all = calloc(t->n_special, sizeof(Special));
    if (!specials->all) return ENCODE_NO_MEMORY;
    for (uint32_t i = 0; i < t->n_special; i++) {
        const uint32_t token = table_value(t->special_tokens, i);
        TokenBytes bytes;
        if (!token_bytes(t, token, &bytes, problem)) return ENCODE_DAMAGED;
        if (!bytes.n) continue; /* no text contains it */
        uint32_t *first = &specials->first[bytes.at[0]];
        specials->all[i] = (Special){.text = bytes.at, .n = (uint32_t)bytes.n, .token = token, .next = *first};
        *first = i;
    }
    return ENCODE_OK;
}

/* Finds the first special token in a text: the longest one if several begin there, of equal ones the first. Returns
 * ENCODE_OK or ENCODE_STOPPED. OUT: found, of length 0 if there is none; at, where it begins, or the end. */
static inline EncodeStatus specials_find(Specials *specials, const uint8_t *p, const uint8_t *end, int (*check)(void),
                                         Special *found, const uint8_t **at) {
    found->n = 0;
    for (; p < end && !found->n; p++) {
        for (uint32_t i = specials->first[*p]; i != NO_SPECIAL; i = specials->all[i].next) {
            const Special *one = &specials->all[i];
            if (one->n >= found->n && one->n <= (size_t)(end - p) && !memcmp(p, one->text, one->n)) *found = *one;
            specials->steps += 1 + one->n / 64;
            if (specials->steps < ENCODING_PATIENCE) continue;
            specials->steps = 0;
            if (check && check()) return ENCODE_STOPPED;
        }
    }
    *at = found->n ? p - 1 : end;
    return ENCODE_OK;
}

/* --- encoding ---------------------------------------------------------------------------------------------------- */

/* Makes room for more ids; returns 0 if memory runs out. */
static inline int encoding_reserve(Encoding *e, size_t more) {
    const size_t most = PTRDIFF_MAX / sizeof(uint32_t);
    if (more <= e->capacity - e->n) return 1;
    if (more > most - e->n) return 0;
    const size_t needed = e->n + more, generous = needed + needed / 2 + 64;
    const size_t capacity = generous < most ? generous : most;
    uint32_t *ids = realloc(e->ids, capacity * sizeof(uint32_t));
    if (!ids) return 0;
    e->ids = ids, e->capacity = capacity;
    return 1;
}

static inline EncodeStatus encode_token(Encoding *e, uint32_t token) {
    if (!encoding_reserve(e, 1)) return ENCODE_NO_MEMORY;
    e->ids[e->n++] = token;
    return ENCODE_OK;
}

/* Adds n ids; returns 0 if memory runs out. */
static inline int encoding_add(Encoding *e, const uint32_t *ids, size_t n) {
    if (!encoding_reserve(e, n)) return 0;
    if (n) memcpy(e->ids + e->n, ids, n * sizeof(uint32_t));
    e->n += n;
    return 1;
}

/* Adds the tokens of a piece. */
static inline EncodeStatus encode_piece(Encoding *e, const uint8_t *p, size_t size) {
    const Tables *t = &e->tokenizer->tables;
    if (size >= MERGES_NONE) {
        problem_set(&e->problem, "text: got %" PRIu64 " bytes without a break, expected less than %" PRIu32,
                    (uint64_t)size, (uint32_t)MERGES_NONE);
        return ENCODE_TOO_LONG;
    }
    if (!encoding_reserve(e, size)) return ENCODE_NO_MEMORY;
    uint32_t *tokens = e->ids + e->n;
    ptrdiff_t n = (ptrdiff_t)size;
    for (size_t i = 0; i < size; i++) {
        tokens[i] = table_value(t->byte_tokens, p[i]);
        if (tokens[i] < t->n_vocab) continue;
        problem_set(&e->problem,
                    "vocabulary: byte %d has token %" PRIu32 ", expected at most %" PRIu32 " " DAMAGE_REMEDY, p[i],
                    tokens[i], t->n_vocab - 1);
        return ENCODE_DAMAGED;
    }
    if (n > 1) n = n <= MERGES_SHORT ? merge_short(t, tokens, n) : merge_long(t, tokens, n, e->check);
    if (n == MERGES_STOPPED) return ENCODE_STOPPED;
    if (n == MERGES_NO_MEMORY) return ENCODE_NO_MEMORY;
    if (n == MERGES_DAMAGED) {
        problem_set(&e->problem, "vocabulary: the table of merges is full or has a bad token " DAMAGE_REMEDY);
        return ENCODE_DAMAGED;
    }
    e->n += (size_t)n;
    return ENCODE_OK;
}

/* Adds the tokens of the UTF-8 text from p to end, in which no special tokens are looked for. */
static inline EncodeStatus encode_pieces(Encoding *e, const uint8_t *p, const uint8_t *end) {
    const uint8_t *check_at = p;
    while (p < end) {
        const uint8_t *after = piece_end(p, end);
        const EncodeStatus status = encode_piece(e, p, (size_t)(after - p));
        if (status != ENCODE_OK) return status;
        p = after;
        if (p - check_at < ENCODING_PATIENCE) continue;
        check_at = p;
        if (e->check && e->check()) return ENCODE_STOPPED;
    }
    return ENCODE_OK;
}

/* Adds the tokens of a text between special tokens, which may get a space, as in Hugging Face's tokenizers. */
static inline EncodeStatus encode_part(Encoding *e, const uint8_t *p, const uint8_t *end, int continues) {
    if (!e->tokenizer->add_prefix_space || continues || p == end || *p == ' ') return encode_pieces(e, p, end);
    const size_t n = (size_t)(end - p);
    uint8_t *spaced = malloc(n + 1);
    if (!spaced) return ENCODE_NO_MEMORY;
    spaced[0] = ' ';
    memcpy(spaced + 1, p, n);
    const EncodeStatus status = encode_pieces(e, spaced, spaced + n + 1);
    free(spaced);
    return status;
}

/* Adds the tokens of a text in which special tokens are encoded as such. */
static inline EncodeStatus encode_with_specials(Encoding *e, const uint8_t *p, const uint8_t *end) {
    int continues = e->continues;
    Specials specials;
    EncodeStatus status = specials_open(&specials, &e->tokenizer->tables, &e->problem);
    while (status == ENCODE_OK) {
        Special found = {.n = 0};
        const uint8_t *at;
        status = specials_find(&specials, p, end, e->check, &found, &at);
        if (status == ENCODE_OK) status = encode_part(e, p, at, continues);
        if (status != ENCODE_OK || !found.n) break;
        status = encode_token(e, found.token);
        p = at + found.n;
        continues = 0;
    }
    free(specials.all);
    return status;
}

/* Adds the tokens of n bytes of UTF-8. If it fails, the ids are those from before. */
static inline EncodeStatus encode_text(Encoding *e, const uint8_t *text, size_t n) {
    const size_t before = e->n;
    EncodeStatus status = ENCODE_OK;
    if (e->opens && e->tokenizer->add_bos && !e->continues) status = encode_token(e, e->tokenizer->bos);
    if (status == ENCODE_OK)
        status = e->special ? encode_with_specials(e, text, text + n) : encode_part(e, text, text + n, e->continues);
    if (status != ENCODE_OK) e->n = before;
    return status;
}

#endif

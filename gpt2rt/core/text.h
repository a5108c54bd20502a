/* Texts in UTF-8, and what counts as white space in them: as in Python's str.
 *
 * A surrogate in UTF-8's form, which a Python string may hold, is a character like any other until it is encoded
 * (text_paired). Any other byte that is not UTF-8 is one too, and is neither space nor letter. */
#ifndef GPT2RT_TEXT_H
#define GPT2RT_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "unicode.h"
#include "utf8.h"

typedef struct {
    const uint8_t *at; /* (n); NULL if there is no text at all, which is not the same as an empty one */
    size_t n;          /* bytes */
} Text;

/* Text that grows. Starts as zeros; the caller frees it with buffer_close(). */
typedef struct {
    uint8_t *at; /* (capacity), of which n are in use */
    size_t n, capacity;
} Buffer;

static inline Text text_of(const char *content) { return (Text){(const uint8_t *)content, strlen(content)}; }

static inline Text buffer_text(const Buffer *b) { return (Text){b->at ? b->at : (const uint8_t *)"", b->n}; }

static inline void buffer_close(Buffer *b) { free(b->at), *b = (Buffer){.at = NULL}; }

/* Makes room for more bytes; returns 0 if memory runs out, and then nothing has changed. */
static inline int buffer_reserve(Buffer *b, size_t more) {
    if (b->at && more <= b->capacity - b->n) return 1;
    if (more > PTRDIFF_MAX / 2 - b->n) return 0;
    const size_t capacity = b->n + more + (b->n + more) / 2 + 64;
    uint8_t *at = realloc(b->at, capacity);
    if (!at) return 0;
    b->at = at, b->capacity = capacity;
    return 1;
}

/* Adds a text; returns 0 if memory runs out. */
static inline int buffer_add(Buffer *b, Text text) {
    if (!buffer_reserve(b, text.n)) return 0;
    if (text.n) memcpy(b->at + b->n, text.at, text.n);
    b->n += text.n;
    return 1;
}

static inline int text_equal(Text a, Text b) { return a.n == b.n && (!a.n || !memcmp(a.at, b.at, a.n)); }

/* Whether a text begins with another. */
static inline int text_begins(Text text, Text with) {
    return with.n <= text.n && (!with.n || !memcmp(text.at, with.at, with.n));
}

/* Returns where a text begins in another, or -1. */
static inline ptrdiff_t text_find(Text text, Text wanted) {
    for (size_t i = 0; i + wanted.n <= text.n; i++)
        if (!wanted.n || !memcmp(text.at + i, wanted.at, wanted.n)) return (ptrdiff_t)i;
    return -1;
}

#define NO_CHARACTER 0xFFFFFFFFu /* above Unicode, so that it is neither space nor letter */

/* Returns the code point at p < end, or NO_CHARACTER for a byte that is not UTF-8. OUT: size, its bytes. */
static inline uint32_t text_character(const uint8_t *p, const uint8_t *end, size_t *size) {
    int is_character;
    const size_t left = (size_t)(end - p);
    if (p[0] < 0x80) return *size = 1, p[0];
    if (left >= 3 && p[0] == 0xED && p[1] >= 0xA0 && p[1] <= 0xBF && (p[2] & 0xC0) == 0x80)
        return *size = 3, 0xD000u | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    *size = utf8_size(p, left, &is_character);
    if (!*size || !is_character) return *size = 1, NO_CHARACTER;
    return utf8_point(p, *size);
}

/* Returns the number of characters. */
static inline size_t text_length(Text text) {
    size_t size, n = 0;
    for (const uint8_t *p = text.at, *end = p + text.n; p < end; p += size, n++) text_character(p, end, &size);
    return n;
}

/* White space as str.isspace has it: Unicode's, and the separators of ASCII. */
static inline int text_is_space(uint32_t c) { return (c >= 0x1C && c <= 0x1F) || unicode_class(c) == UNICODE_SPACE; }

/* Letters and digits, as str.isalnum has them. */
static inline int text_is_alphanumeric(uint32_t c) {
    const int kind = unicode_class(c);
    return kind == UNICODE_LETTER || kind == UNICODE_NUMBER;
}

/* Returns the text without white space at its ends, a part of it. */
static inline Text text_strip(Text text) {
    const uint8_t *first = text.at, *last = text.at, *end = text.at + text.n;
    size_t size;
    int is_begun = 0;
    for (const uint8_t *p = text.at; p < end; p += size) {
        if (text_is_space(text_character(p, end, &size))) continue;
        if (!is_begun) first = p;
        is_begun = 1, last = p + size;
    }
    return (Text){first, (size_t)(last - first)};
}

/* Adds the text in one line: stripped, and every run of white space a single space. Returns 0 if memory runs out. */
static inline int text_clean(Buffer *line, Text text) {
    const uint8_t *end = text.at + text.n;
    const size_t before = line->n;
    size_t size;
    int is_apart = 0;
    if (!buffer_reserve(line, text.n)) return 0;
    for (const uint8_t *p = text.at; p < end; p += size) {
        if (text_is_space(text_character(p, end, &size))) {
            is_apart = 1;
            continue;
        }
        if (is_apart && line->n > before) line->at[line->n++] = ' ';
        is_apart = 0;
        memcpy(line->at + line->n, p, size);
        line->n += size;
    }
    return 1;
}

/* Adds the text as it is encoded: a pair of surrogates is one character, and a lone one becomes U+FFFD. Returns 0 if
 * memory runs out. */
static inline int text_paired(Buffer *paired, Text text) {
    const uint8_t *end = text.at + text.n;
    size_t size, next_size = 0;
    if (!buffer_reserve(paired, text.n)) return 0;
    for (const uint8_t *p = text.at; p < end; p += size) {
        const uint32_t c = text_character(p, end, &size);
        uint8_t *out = paired->at + paired->n;
        if (c < 0xD800 || c > 0xDFFF) {
            memcpy(out, p, size);
            paired->n += size;
            continue;
        }
        const uint32_t next = c < 0xDC00 && p + size < end ? text_character(p + size, end, &next_size) : 0;
        if (next >= 0xDC00 && next <= 0xDFFF) {
            const uint32_t both = 0x10000 + ((c & 0x3FF) << 10 | (next & 0x3FF));
            paired->n += utf8_write(out, both);
            size += next_size;
        } else {
            utf8_replace(out, 1);
            paired->n += 3;
        }
    }
    return 1;
}

/* Whether text_paired() would change the text. */
static inline int text_has_surrogates(Text text) {
    for (size_t i = 0; i + 1 < text.n; i++)
        if (text.at[i] == 0xED && text.at[i + 1] >= 0xA0) return 1;
    return 0;
}

#endif

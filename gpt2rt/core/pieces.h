/* Splits UTF-8 text into pieces, within which BPE merges, by GPT-2's pattern
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
#ifndef GPT2RT_PIECES_H
#define GPT2RT_PIECES_H

#include <stddef.h>
#include <stdint.h>

#include "unicode.h"

/* Returns the class of the character at p < end. OUT: size, its bytes; 1 if it is not UTF-8, which happens if a special
 * token cuts a character. */
static inline int class_at(const uint8_t *p, const uint8_t *end, ptrdiff_t *size) {
    uint32_t c = p[0];
    ptrdiff_t n = 1;
    if (c >= 0x80) {
        n = 2 + (c >= 0xE0) + (c >= 0xF0);
        if (c < 0xC0 || n > end - p) {
            *size = 1;
            return UNICODE_OTHER;
        }
        c &= 0x3Fu >> (n - 1);
        for (ptrdiff_t i = 1; i < n; i++) c = c << 6 | (p[i] & 0x3F);
    }
    *size = n;
    return unicode_class(c);
}

/* Returns the bytes of 's 't 're 've 'm 'll 'd at p, an apostrophe, or 0. */
static inline ptrdiff_t contraction(const uint8_t *p, const uint8_t *end) {
    const uint8_t first = end - p > 1 ? p[1] : 0, second = end - p > 2 ? p[2] : 0;
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    return ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l') ? 3 : 0;
}

/* Returns the end of the piece that starts at p < end. */
static inline const uint8_t *piece_end(const uint8_t *p, const uint8_t *end) {
    const uint8_t *start = p, *last;
    ptrdiff_t size = 0, n;
    if (p[0] == '\'') {
        size = contraction(p, end);
        if (size) return p + size;
    }
    int kind = class_at(p, end, &size);
    if (p[0] == ' ' && end - p > 1) {
        int next = class_at(p + 1, end, &n);
        if (next != UNICODE_SPACE) {
            kind = next;
            size = 1 + n;
        }
    }
    last = p;
    p += size;
    while (p < end && class_at(p, end, &size) == kind) {
        last = p;
        p += size;
    }
    /* The last of several white spaces belongs to the next piece. */
    return kind == UNICODE_SPACE && p < end && last != start ? last : p;
}

#endif

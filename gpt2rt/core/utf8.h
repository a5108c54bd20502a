/* Decodes UTF-8 that arrives in parts: characters come out whole, and each maximal part that can't belong to a
 * character becomes U+FFFD, as Unicode recommends (section 3.9, "U+FFFD Substitution of Maximal Subparts") and Python's
 * incremental decoder does. */
#ifndef GPT2RT_UTF8_H
#define GPT2RT_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */
#define UTF8_MOST(n) (3 * (n) + 6)      /* bytes of text that n bytes can complete: each may become U+FFFD */

/* What came before. Starts as zeros. */
typedef struct {
    uint8_t bytes[4]; /* (n) the first bytes of a character that is not complete */
    size_t n;         /* at most 3 between calls */
} Utf8Decoder;

/* Returns the number of bytes of the character at p, of which there are n, or of the part there that can't belong to
 * one; 0 if the character goes on after the last byte. OUT: is_character. */
static inline size_t utf8_size(const uint8_t *p, size_t n, int *is_character) {
    const uint8_t first = p[0];
    const size_t size = first < 0x80 ? 1 : first < 0xC2 || first > 0xF4 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    /* The second byte tells overlong forms, surrogates and numbers above U+10FFFF. */
    uint8_t least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    uint8_t most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    *is_character = 0;
    if (!size) return 1;
    for (size_t i = 1; i < size; i++) {
        if (i == n) return 0;
        if (p[i] < least || p[i] > most) return i;
        least = 0x80, most = 0xBF;
    }
    *is_character = 1;
    return size;
}

static inline int utf8_is_valid(const uint8_t *p, size_t n) {
    int is_character = 1;
    for (size_t at = 0, size; at < n; at += size) {
        size = utf8_size(p + at, n - at, &is_character);
        if (!size || !is_character) return 0;
    }
    return 1;
}

/* Returns the code point of a character of `size` bytes, as utf8_size() returns it. */
static inline uint32_t utf8_point(const uint8_t *p, size_t size) {
    uint32_t point = size == 1 ? p[0] : p[0] & 0x7Fu >> size;
    for (size_t i = 1; i < size; i++) point = point << 6 | (p[i] & 0x3Fu);
    return point;
}

/* Writes a code point up to U+10FFFF. Returns the number of its bytes. OUT: p (4). */
static inline size_t utf8_write(uint8_t *p, uint32_t point) {
    if (point < 0x80) return p[0] = (uint8_t)point, 1;
    const size_t size = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = size; --i; point >>= 6) p[i] = (uint8_t)(0x80 | (point & 0x3F));
    p[0] = (uint8_t)(point | (0xF00u >> size & 0xFF));
    return size;
}

/* Returns whether p, of n bytes, are the first two of a surrogate in UTF-8. They can't belong to a character, but
 * Python's decoder waits for the third. */
static inline int utf8_is_half_surrogate(const uint8_t *p, size_t n) {
    return n == 2 && p[0] == 0xED && p[1] >= 0xA0 && p[1] <= 0xBF;
}

/* Writes U+FFFD `count` times; returns the end. */
static inline uint8_t *utf8_replace(uint8_t *text, int count) {
    for (; count; count--, text += 3) memcpy(text, UTF8_REPLACEMENT, 3);
    return text;
}

/* Ends the text: an incomplete character becomes U+FFFD. Returns the number of bytes. OUT: text (6). */
static inline size_t utf8_finish(Utf8Decoder *decoder, uint8_t *text) {
    const int count = utf8_is_half_surrogate(decoder->bytes, decoder->n) ? 2 : decoder->n > 0;
    decoder->n = 0;
    return (size_t)(utf8_replace(text, count) - text);
}

/* Adds n bytes. Returns the number of bytes of text that are now complete. OUT: text (UTF8_MOST(n)), UTF-8. */
static inline size_t utf8_feed(Utf8Decoder *decoder, const uint8_t *p, size_t n, uint8_t *text) {
    const uint8_t *end = p + n;
    uint8_t *out = text;
    while (p < end) {
        const uint8_t *at = p;
        size_t available = (size_t)(end - p);
        const size_t waiting = decoder->n;
        int is_character;
        if (utf8_is_half_surrogate(decoder->bytes, waiting)) {
            out += utf8_finish(decoder, out);
            continue;
        }
        if (waiting) { /* with one byte more: it may complete the character, be part of it, or belong to the next */
            decoder->bytes[waiting] = *p;
            at = decoder->bytes, available = waiting + 1;
        }
        const size_t size = utf8_is_half_surrogate(at, available) ? 0 : utf8_size(at, available, &is_character);
        if (!size) {
            memmove(decoder->bytes, at, available);
            decoder->n = available;
            p += available - waiting;
            continue;
        }
        if (is_character)
            for (size_t i = 0; i < size; i++) *out++ = at[i];
        else
            out = utf8_replace(out, 1);
        decoder->n = 0;
        p += size - waiting;
    }
    return (size_t)(out - text);
}

#endif

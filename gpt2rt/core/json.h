/* Reads texts out of a JSON document (RFC 8259), such as the metadata of a model file. Nothing is allocated.
 *
 * json_open() checks the whole document; the other functions take values of a checked one. */
#ifndef GPT2RT_JSON_H
#define GPT2RT_JSON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "utf8.h"

#define JSON_DEPTH 64 /* of arrays and objects in each other; more are refused */

/* A value, as it is in its document: from its first byte on. NULL if there is none. */
typedef const uint8_t *Json;

typedef struct {
    const uint8_t *at, *end;
} JsonCursor;

static inline void json_skip_space(JsonCursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r')) c->at++;
}

/* Steps over a byte, and white space before and after it, if it is there. */
static inline int json_skip(JsonCursor *c, char wanted) {
    json_skip_space(c);
    if (c->at == c->end || *c->at != (uint8_t)wanted) return 0;
    c->at++;
    json_skip_space(c);
    return 1;
}

static inline int json_skip_word(JsonCursor *c, const char *word) {
    const size_t n = strlen(word);
    if ((size_t)(c->end - c->at) < n || memcmp(c->at, word, n)) return 0;
    c->at += n;
    return 1;
}

static inline int json_skip_digits(JsonCursor *c) {
    const uint8_t *begin = c->at;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9') c->at++;
    return c->at > begin;
}

static inline int json_skip_number(JsonCursor *c) {
    if (c->at < c->end && *c->at == '-') c->at++;
    if (c->at < c->end && *c->at == '0')
        c->at++;
    else if (!json_skip_digits(c))
        return json_skip_word(c, "Infinity"); /* as Python reads and writes it */
    if (c->at < c->end && *c->at == '.') {
        c->at++;
        if (!json_skip_digits(c)) return 0;
    }
    if (c->at < c->end && (*c->at | 32) == 'e') {
        c->at++;
        if (c->at < c->end && (*c->at == '+' || *c->at == '-')) c->at++;
        if (!json_skip_digits(c)) return 0;
    }
    return 1;
}

/* Returns the value of four hexadecimal digits, or -1. */
static inline int32_t json_hex(const uint8_t *p, const uint8_t *end) {
    int32_t value = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const int letter = p[i] | 32;
        if (p[i] >= '0' && p[i] <= '9')
            value = value * 16 + p[i] - '0';
        else if (letter >= 'a' && letter <= 'f')
            value = value * 16 + letter - 'a' + 10;
        else
            return -1;
    }
    return value;
}

/* Takes the next code point of a string, of which the first quote has been taken: a lone surrogate is U+FFFD. Returns
 * -1 at its end, with the last quote taken, and -2 if it is not valid. */
static inline int32_t json_next(JsonCursor *c) {
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    int is_character;
    if (c->at == c->end || *c->at < 0x20) return -2;
    if (*c->at == '"') return c->at++, -1;
    if (*c->at != '\\') {
        const size_t n = utf8_size(c->at, (size_t)(c->end - c->at), &is_character);
        if (!n || !is_character) return -2;
        c->at += n;
        return (int32_t)utf8_point(c->at - n, n);
    }
    if (++c->at == c->end) return -2;
    if (*c->at != 'u') {
        const char *found = *c->at ? strchr(escapes, *c->at) : NULL;
        if (!found) return -2;
        c->at++;
        return meanings[found - escapes];
    }
    const int32_t first = json_hex(c->at + 1, c->end);
    if (first < 0) return -2;
    c->at += 5;
    if (first < 0xD800 || first > 0xDFFF) return first;
    if (first > 0xDBFF || c->end - c->at < 6 || c->at[0] != '\\' || c->at[1] != 'u') return 0xFFFD;
    const int32_t second = json_hex(c->at + 2, c->end);
    if (second < 0xDC00 || second > 0xDFFF) return 0xFFFD;
    c->at += 6;
    return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
}

static inline int json_skip_string(JsonCursor *c) {
    int32_t found;
    if (c->at == c->end || *c->at++ != '"') return 0;
    while ((found = json_next(c)) >= 0) {
    }
    return found == -1;
}

/* Steps over a value; returns whether it is valid, with at most `depth` arrays and objects in each other. */
static inline int json_skip_value(JsonCursor *c, int depth) {
    json_skip_space(c);
    if (c->at == c->end) return 0;
    const uint8_t first = *c->at;
    if (first == '"') return json_skip_string(c);
    if (first != '{' && first != '[') {
        if (first == 't' || first == 'f') return json_skip_word(c, first == 't' ? "true" : "false");
        if (first == 'n' || first == 'N') return json_skip_word(c, first == 'n' ? "null" : "NaN");
        return json_skip_number(c);
    }
    if (!depth) return 0;
    json_skip(c, (char)first);
    if (json_skip(c, first == '{' ? '}' : ']')) return 1;
    do {
        json_skip_space(c);
        if (first == '{' && (!json_skip_string(c) || !json_skip(c, ':'))) return 0;
        if (!json_skip_value(c, depth - 1)) return 0;
    } while (json_skip(c, ','));
    return json_skip(c, first == '{' ? '}' : ']');
}

/* Returns the value of a document of n bytes, or NULL if it is not valid. */
static inline Json json_open(const uint8_t *document, size_t n) {
    JsonCursor c = {document, document + n};
    json_skip_space(&c);
    const Json value = c.at;
    if (!json_skip_value(&c, JSON_DEPTH)) return NULL;
    json_skip_space(&c);
    return c.at == c.end ? value : NULL;
}

static inline int json_is(Json value, char first) { return value && *value == (uint8_t)first; }

/* Returns the value of a member of an object: the last one of this name, or NULL. end: of the document. */
static inline Json json_member(Json object, const uint8_t *end, const char *name) {
    JsonCursor c = {object, end};
    Json found = NULL;
    if (!json_is(object, '{')) return NULL;
    json_skip(&c, '{');
    if (json_skip(&c, '}')) return NULL;
    do {
        const char *rest = name;
        int32_t letter;
        json_skip_space(&c);
        c.at++; /* the quote */
        while ((letter = json_next(&c)) >= 0) rest = rest && letter && letter == (uint8_t)*rest ? rest + 1 : NULL;
        json_skip(&c, ':');
        if (rest && !*rest) found = c.at;
        json_skip_value(&c, JSON_DEPTH);
    } while (json_skip(&c, ','));
    return found;
}

/* Returns the bytes of a string in UTF-8. OUT: text, room for them, or NULL to count them. */
static inline size_t json_text(Json string, const uint8_t *end, uint8_t *text) {
    JsonCursor c = {string + 1, end};
    size_t n = 0;
    int32_t letter;
    while ((letter = json_next(&c)) >= 0) {
        uint8_t bytes[4];
        const size_t size = utf8_write(bytes, (uint32_t)letter);
        if (text) memcpy(text + n, bytes, size);
        n += size;
    }
    return n;
}

#endif

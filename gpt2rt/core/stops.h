/* Stop strings: passes text through until one of them is complete, and holds back what may become one.
 *
 * A string's partial match needs no memory of its own: it is the beginning of the string. It is extended a byte at a
 * time, by the string's borders where the next byte does not fit (Knuth, Morris and Pratt 1977). */
#ifndef GPT2RT_STOPS_H
#define GPT2RT_STOPS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STOPS 64
#define MAX_STOP_LENGTH 256 /* characters */
#define MAX_STOP_BYTES (4 * MAX_STOP_LENGTH)

typedef struct {
    const uint8_t *text; /* (n), n at least 1 */
    size_t n;
} StopText;

/* A stop string. */
typedef struct {
    uint8_t text[MAX_STOP_BYTES];     /* (n) */
    uint16_t borders[MAX_STOP_BYTES]; /* (n) of the first i + 1 bytes: how many of their last bytes they begin with */
    uint16_t n;
} Stop;

/* The strings, which do not change, and where a text is in them; a copy is another text. */
typedef struct {
    Stop *stops;            /* (n) */
    const uint8_t *begins;  /* (256) whether a string begins with this byte; in the memory of `stops` */
    int n;
    int found;                   /* the index of the string that ended the text, or -1 */
    int holder;                  /* a string that begins with the bytes held back */
    uint16_t held;               /* their number: the most of `matched` */
    uint16_t matched[MAX_STOPS]; /* (n) for each string: how many of the last bytes of the text it begins with */
} Stops;

/* Extends a partial match by a byte. Returns the bytes that then match. */
static inline uint16_t stop_extend(const Stop *stop, uint16_t matched, uint8_t byte) {
    while (matched && stop->text[matched] != byte) matched = stop->borders[matched - 1];
    return (uint16_t)(matched + (stop->text[matched] == byte));
}

/* Returns 0 if memory runs out, or if the limits above are exceeded. OUT: s, to be closed in either case. */
static inline int stops_open(Stops *s, const StopText *texts, int n) {
    memset(s, 0, sizeof(*s));
    s->found = -1;
    if (n < 0 || n > MAX_STOPS) return 0;
    for (int i = 0; i < n; i++)
        if (texts[i].n < 1 || texts[i].n > MAX_STOP_BYTES) return 0;
    if (!n) return 1;
    s->stops = malloc((size_t)n * sizeof(Stop) + 256);
    if (!s->stops) return 0;
    uint8_t *begins = (uint8_t *)(s->stops + n);
    memset(begins, 0, 256);
    s->begins = begins, s->n = n;
    for (int i = 0; i < n; i++) {
        Stop *stop = &s->stops[i];
        memcpy(stop->text, texts[i].text, texts[i].n);
        stop->n = (uint16_t)texts[i].n;
        stop->borders[0] = 0;
        for (int j = 1; j < stop->n; j++) stop->borders[j] = stop_extend(stop, stop->borders[j - 1], stop->text[j]);
        begins[stop->text[0]] = 1;
    }
    return 1;
}

static inline void stops_close(Stops *s) { free(s->stops); }

/* Begins another text. */
static inline void stops_restart(Stops *s) {
    memset(s->matched, 0, sizeof(s->matched));
    s->held = 0, s->found = -1;
}

/* Adds n bytes, whole characters if the result should be. Returns the number of bytes that can't become part of a stop
 * string, or that came before one; after one was found there are none. OUT: text (s->held + n). */
static inline size_t stops_feed(Stops *s, const uint8_t *p, size_t n, uint8_t *text) {
    if (s->found >= 0) return 0;
    const size_t held = s->held;
    const uint8_t *held_text = held ? s->stops[s->holder].text : NULL;
    size_t size = held + n;
    for (size_t i = 0; i < n && s->n; i++) {
        if (!s->held && !s->begins[p[i]]) continue;
        s->held = 0;
        for (int j = 0; j < s->n; j++) {
            const Stop *stop = &s->stops[j];
            const uint16_t matched = s->matched[j] = stop_extend(stop, s->matched[j], p[i]);
            if (matched > s->held) s->held = matched, s->holder = j;
            /* Of those that end here, the longest: the result does not depend on how the text is split. */
            if (matched == stop->n && (s->found < 0 || stop->n > s->stops[s->found].n)) s->found = j;
        }
        if (s->found >= 0) {
            size = held + i + 1 - s->stops[s->found].n;
            s->held = 0;
            break;
        }
    }
    size -= s->held;
    const size_t from_held = size < held ? size : held;
    if (from_held) memcpy(text, held_text, from_held);
    if (size > from_held) memcpy(text + from_held, p, size - from_held);
    return size;
}

/* Ends the text. Returns the number of bytes that were held back. OUT: text (s->held). */
static inline size_t stops_finish(Stops *s, uint8_t *text) {
    const size_t held = s->held;
    if (held) memcpy(text, s->stops[s->holder].text, held);
    memset(s->matched, 0, sizeof(s->matched));
    s->held = 0;
    return held;
}

#endif

/* Words: texts as they are compared, to tell whether an answer was given before. */
#ifndef GPT2RT_WORDS_H
#define GPT2RT_WORDS_H

#include "casefold.h"
#include "text.h"

/* Adds the words of a text: its letters and digits, case-folded, separated by single spaces. Returns 0 if memory runs
 * out. In Python:
 *
 *     kept = (c if c.isalnum() else " " if c.isspace() else "" for c in text.casefold())
 *     words = " ".join("".join(kept).split()) */
static inline int words_of(Buffer *words, Text text) {
    const uint8_t *end = text.at + text.n;
    const size_t before = words->n;
    size_t size;
    int is_apart = 0;
    for (const uint8_t *p = text.at; p < end; p += size) {
        uint32_t folded[CASEFOLD_MOST];
        const int n = unicode_casefold(text_character(p, end, &size), folded);
        for (int i = 0; i < n; i++) {
            if (text_is_space(folded[i])) is_apart = 1;
            if (!text_is_alphanumeric(folded[i])) continue;
            if (!buffer_reserve(words, 1 + 4)) return words->n = before, 0;
            if (is_apart && words->n > before) words->at[words->n++] = ' ';
            is_apart = 0;
            words->n += utf8_write(words->at + words->n, folded[i]);
        }
    }
    return 1;
}

/* Returns the number of words in what words_of() added. */
static inline size_t words_count(Text words) {
    size_t n = words.n > 0;
    for (size_t i = 0; i < words.n; i++) n += words.at[i] == ' ';
    return n;
}

#endif

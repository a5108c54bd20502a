/* Words: texts as they are compared, to tell whether an answer was given before. */
#ifndef GPT2RT_WORDS_H
#define GPT2RT_WORDS_H

#include "casefold.h"
#include "text.h"

/* Adds the words of a text: its letters and digits, case-folded, separated by single spaces. Returns 0 if memory runs
 * out. The same as `words` in Python:
 *
 *     kept = (c if c.isalnum() else " " if c.isspace() else "" for c in text.casefold())
 *     words = " ".join("".join(kept).split()) */
static inline int words_of(Buffer *words, Text text);

/* Returns the number of words in what words_of() added. */
static inline size_t words_count(Text words);

#endif

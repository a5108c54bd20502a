/* Text that is wrapped between words while it streams to a terminal, as gpt2rt/cli/wrap.py does it. */
#ifndef GPT2RT_WRAP_H
#define GPT2RT_WRAP_H

#include "platform.h"

#include "terminal.h"
#include "text.h"
#include "width.h"

#define WRAP_TAB 8 /* columns */

/* A word is held back until it is complete. One that is longer than a line is left to the terminal. Starts with the
 * columns of a line, 0 to wrap nothing, and the column where the text begins; the caller frees the buffers. */
typedef struct {
    int columns, column;
    Buffer spaces, word;
    uint32_t base; /* the word's last character that takes columns, 0 if there is none */
    int is_wide;   /* whether it takes two */
} Wrapper;

/* Returns whether a line may break between two characters that no space separates: beside a wide one, as in Chinese and
 * Japanese, but not so that an opening bracket ends the line or other punctuation begins the next one. */
static inline int may_break(uint32_t before, uint32_t after, int is_wide) {
    static const uint32_t opening[] = {'(', '[', '{', 0x2018, 0x201C, 0x3008, 0x300A, 0x300C, 0x300E, 0x3010, 0x3014,
                                       0xFF08, 0xFF3B, 0xFF5B};
    static const uint32_t closing[] = {'!', ')', ',', '.', ':', ';', '?', ']', '}', 0x2019, 0x201D, 0x2026, 0x3001,
                                       0x3002, 0x3009, 0x300B, 0x300D, 0x300F, 0x3011, 0x3015, 0x30FB, 0xFF01, 0xFF09,
                                       0xFF0C, 0xFF0E, 0xFF1A, 0xFF1B, 0xFF1F, 0xFF3D, 0xFF5D};
    if (!is_wide) return 0;
    for (size_t i = 0; i < sizeof(opening) / sizeof(*opening); i++)
        if (before == opening[i]) return 0;
    for (size_t i = 0; i < sizeof(closing) / sizeof(*closing); i++)
        if (after == closing[i]) return 0;
    return 1;
}

/* Returns the columns of a text in one line. */
static inline int text_width(Text text) {
    int width = 0;
    for (size_t at = 0, size; at < text.n; at += size) width += character_width((const char *)text.at + at, &size);
    return width;
}

/* Prints the word, on a new line if it needs one. Spaces where a line breaks are dropped. */
static inline void wrap_word(Wrapper *w) {
    if (!w->word.n) return;
    const int width = text_width(buffer_text(&w->word));
    int column = w->column;
    for (size_t i = 0; i < w->spaces.n; i++) column += w->spaces.at[i] == '\t' ? WRAP_TAB - column % WRAP_TAB : 1;
    if (w->column && column + width > w->columns && width <= w->columns) {
        print_text((const uint8_t *)"\n", 1);
        column = 0;
    } else {
        print_text(w->spaces.at, w->spaces.n);
    }
    print_text(w->word.at, w->word.n);
    for (size_t at = 0, size; width > w->columns && at < w->word.n; at += size) {
        const int one = character_width((const char *)w->word.at + at, &size);
        column = column + one <= w->columns ? column + one : one;
    }
    w->column = width > w->columns ? column : column + width;
    w->spaces.n = w->word.n = w->base = 0;
}

/* Prints the text but for its last word. Returns 0 if memory runs out. */
static inline int wrap_text(Wrapper *w, Text text) {
    if (!w->columns) return print_text(text.at, text.n), 1;
    for (size_t at = 0, size; at < text.n; at += size) {
        const uint8_t *p = text.at + at;
        const uint32_t c = text_character(p, text.at + text.n, &size);
        size_t ignored;
        const int width = character_width((const char *)p, &ignored);
        if (c == '\n') {
            wrap_word(w);
            print_text(p, 1);
            w->spaces.n = 0, w->column = 0;
        } else if (c == ' ' || c == '\t') {
            wrap_word(w);
            if (!buffer_add(&w->spaces, (Text){p, 1})) return 0;
        } else {
            if (width && w->base && may_break(w->base, c, width > 1 || w->is_wide)) wrap_word(w);
            if (width) w->base = c, w->is_wide = width > 1;
            if (!buffer_add(&w->word, (Text){p, size})) return 0;
        }
    }
    return 1;
}

static inline void wrap_end(Wrapper *w) {
    wrap_word(w);
    buffer_close(&w->word);
    buffer_close(&w->spaces);
}

#endif

/* Reads messages at a terminal, with editing and a history of this run.
 *
 * Control characters and escape sequences that are typed are never echoed. Pasted lines are one message; Alt-Enter
 * begins another line of it. A character is a code point with the combining marks after it: joined emoji are several.
 * Widths are those of the common scripts. The cursor is put in place by writing what is before it in its row again, so
 * a wrong width is harmless until the row is full. */
#ifndef GPT2RT_LINE_EDITOR_H
#define GPT2RT_LINE_EDITOR_H

#include "console.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>

#include "utf8.h"

#define LINE_HISTORY 100 /* messages */

typedef enum {
    LINE_OK,
    LINE_END,         /* Ctrl-D in an empty message, or the end of the input */
    LINE_INTERRUPTED, /* Ctrl-C */
    LINE_NO_MEMORY,
} LineStatus;

/* Starts as zeros. */
typedef struct {
    char *text;                      /* (n + 1) UTF-8, ends with 0; no control characters but \n and \t */
    size_t n, capacity, cursor;      /* cursor: the bytes before it */
    char *history[LINE_HISTORY + 1]; /* (n_history) the oldest first; then a new message while an old one is edited */
    size_t n_history, edited;        /* edited: the place in the history */
    const char *prompt;
    Utf8Decoder decoder;
    int top, row, column, columns; /* as drawn: the row in which the screen begins, the cursor from there, the width */
} LineEditor;

/* --- the screen -------------------------------------------------------------------------------------------------- */

/* Returns the columns of the character at p, which takes `size` bytes. */
static inline int line_width(const char *p, size_t *size) {
    static const struct { uint32_t first, last; int width; } unusual[] = {
        {0x300, 0x36F, 0},     {0x483, 0x489, 0},     {0x591, 0x5BD, 0},     {0x610, 0x61A, 0},     {0x64B, 0x65F, 0},
        {0x900, 0x902, 0},     {0x941, 0x948, 0},     {0x94D, 0x94D, 0},     {0xE31, 0xE31, 0},     {0xE34, 0xE3A, 0},
        {0xE47, 0xE4E, 0},     {0x1100, 0x115F, 2},   {0x1160, 0x11FF, 0},   {0x1AB0, 0x1AFF, 0},   {0x1DC0, 0x1DFF, 0},
        {0x200B, 0x200F, 0},   {0x202A, 0x202E, 0},   {0x2060, 0x206F, 0},   {0x20D0, 0x20F0, 0},   {0x2705, 0x2705, 2},
        {0x274C, 0x274C, 2},   {0x2753, 0x2757, 2},   {0x2B50, 0x2B50, 2},   {0x2E80, 0x3029, 2},   {0x302A, 0x302D, 0},
        {0x302E, 0x303E, 2},   {0x3041, 0x3098, 2},   {0x3099, 0x309A, 0},   {0x309B, 0x3247, 2},   {0x3250, 0xA4CF, 2},
        {0xA960, 0xA97C, 2},   {0xAC00, 0xD7A3, 2},   {0xF900, 0xFAFF, 2},   {0xFE00, 0xFE0F, 0},   {0xFE20, 0xFE2F, 0},
        {0xFE30, 0xFE6B, 2},   {0xFEFF, 0xFEFF, 0},   {0xFF01, 0xFF60, 2},   {0xFFE0, 0xFFE6, 2},   {0x1F300, 0x1F64F, 2},
        {0x1F680, 0x1F6FF, 2}, {0x1F900, 0x1FAFF, 2}, {0x20000, 0x3FFFD, 2}, {0xE0000, 0xE0FFF, 0}};
    uint32_t c = (unsigned char)*p;
    const size_t n = c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    if (n > 1) c &= 0x7Fu >> n;
    for (*size = 1; *size < n && (p[*size] & 0xC0) == 0x80; ++*size) c = c << 6 | (p[*size] & 0x3F);
    size_t i = 0;
    while (i < sizeof(unusual) / sizeof(*unusual) && c > unusual[i].last) i++;
    return i < sizeof(unusual) / sizeof(*unusual) && c >= unusual[i].first ? unusual[i].width : 1;
}

/* Walks over the prompt and n bytes of the text as the terminal places them, and writes the rows from first to last.
 * Returns the row of the end. OUT: column. */
static inline int line_walk(const LineEditor *e, size_t n, int first, int last, int *column) {
    int row = *column = 0;
    for (int part = 0; part < 2; part++) {
        const char *p = part ? e->text : e->prompt, *end = p + (part ? n : strlen(p));
        for (size_t size; p < end; p += size) {
            int width = line_width(p, &size);
            if (*p == '\n') width = 0;
            if (*p == '\033') width = 0, size = strcspn(p, "m") + 1; /* a color of the prompt */
            if (*p == '\n' || *column + width > e->columns) *column = 0, row++;
            *column += width;
            if (row < first || row > last) continue;
            if (*p != '\n') fwrite(*p == '\t' ? " " : p, 1, size, stdout);
            else if (row > first) fputs("\r\n", stdout);
        }
    }
    if (*column < e->columns) return row;
    *column = 0; /* which terminals do with the next character only */
    if (row >= first && row < last) fputs(" \r", stdout);
    return row + 1;
}

/* Draws the message: all of it if `whole`, else the part that the screen has room for. */
static inline void line_draw(LineEditor *e, int whole) {
    int rows, columns, column, ignored;
    console_size(&rows, &columns);
    if (e->columns != columns) e->row = (e->row * e->columns + e->column) / columns; /* as the terminal wraps it now */
    e->columns = columns;
    const int row = line_walk(e, e->cursor, 0, -1, &column), end = line_walk(e, e->n, 0, -1, &ignored);
    if (e->row) printf("\033[%dA", e->row);
    fputs("\r\033[J", stdout);
    if (row >= e->top + rows) e->top = row - rows + 1;
    if (row < e->top) e->top = row;
    if (whole) e->top = 0;
    const int last = whole || end < e->top + rows ? end : e->top + rows - 1;
    line_walk(e, e->n, e->top, last, &ignored);
    if (last > row) printf("\033[%dA", last - row);
    fputs("\r", stdout);
    line_walk(e, e->cursor, row, row, &ignored);
    fflush(stdout);
    e->row = row - e->top, e->column = column;
}

/* --- the message ------------------------------------------------------------------------------------------------- */

/* Replaces text[from..to) and puts the cursor after it; returns 0 if memory runs out. */
static inline int line_replace(LineEditor *e, size_t from, size_t to, const char *p, size_t n) {
    const size_t needed = e->n - (to - from) + n + 1;
    if (needed > e->capacity) {
        char *text = realloc(e->text, 2 * needed);
        if (!text) return 0;
        e->text = text, e->capacity = 2 * needed;
    }
    memmove(e->text + from + n, e->text + to, e->n - to);
    memcpy(e->text + from, p, n);
    e->n = needed - 1, e->cursor = from + n;
    e->text[e->n] = 0;
    return 1;
}

/* Adds a byte of a character. */
static inline int line_add(LineEditor *e, int byte) {
    const uint8_t input = (uint8_t)byte;
    uint8_t text[UTF8_MOST(1)];
    size_t n = utf8_feed(&e->decoder, &input, 1, text);
    if (n == 2 && text[0] == 0xC2 && text[1] < 0xA0) n = 0; /* a control character */
    return line_replace(e, e->cursor, e->cursor, (const char *)text, n);
}

/* Copies the message to the end of the history. */
static inline int line_keep(LineEditor *e) {
    char *copy = malloc(e->n + 1);
    if (!copy) return 0;
    free(e->history[e->n_history]);
    e->history[e->n_history] = memcpy(copy, e->text, e->n + 1);
    return 1;
}

/* Edits another message of the history, or the new one after them. */
static inline int line_recall(LineEditor *e, size_t other) {
    if (other > e->n_history || (e->edited == e->n_history && !line_keep(e))) return 0;
    e->edited = other;
    return line_replace(e, 0, e->n, e->history[other], strlen(e->history[other]));
}

/* Returns where the character before the cursor begins. */
static inline size_t line_left(const LineEditor *e) {
    size_t at = e->cursor, size;
    while (at && ((e->text[--at] & 0xC0) == 0x80 || !line_width(e->text + at, &size))) continue;
    return at;
}

/* Returns where the character after the cursor ends. */
static inline size_t line_right(const LineEditor *e) {
    size_t at = e->cursor, size;
    if (at < e->n) line_width(e->text + at, &size), at += size;
    while (at < e->n && !line_width(e->text + at, &size)) at += size;
    return at;
}

/* Returns the begin of the word before the cursor, or the end of the one after it: of letters and digits, or if `spaced`
 * of all but spaces. */
static inline size_t line_word(const LineEditor *e, int left, int spaced) {
    size_t at = e->cursor;
    for (int inside = 0; left ? at > 0 : at < e->n; at = left ? at - 1 : at + 1) {
        const unsigned char c = (unsigned char)e->text[left ? at - 1 : at];
        const int in_word = c >= 0x80 || (spaced ? c > ' ' : isalnum(c));
        if (inside && !in_word) break;
        inside = in_word;
    }
    return at;
}

/* --- keys -------------------------------------------------------------------------------------------------------- */

#define LINE_CTRL(letter) ((letter) - '@')
#define LINE_RUBOUT 127
enum { LINE_NONE = 256, LINE_DELETE, LINE_WORD_LEFT, LINE_WORD_RIGHT, LINE_KILL_WORD, LINE_BREAK, LINE_PASTE, LINE_PASTED };

/* Returns a byte of text, a control character, one of the above, CONSOLE_END or CONSOLE_WOKEN. */
static inline int line_key(void) {
    int c = console_byte(), number[3] = {0}, i = 0;
    if (c != '\033') return c;
    while (c == '\033') c = console_byte();
    if (c != '[' && c != 'O') { /* Alt and a key */
        if (c == '\r' || c == '\n') return LINE_BREAK;
        if (c == '\b' || c == LINE_RUBOUT) return LINE_KILL_WORD;
        return c == 'b' ? LINE_WORD_LEFT : c == 'f' ? LINE_WORD_RIGHT : c < ' ' || c > 127 ? c : LINE_NONE;
    }
    for (; (c = console_byte()) >= ' ' && c < '@'; i = c == ';' ? 1 : i)
        if (isdigit(c)) number[i] = (number[i] * 10 + c - '0') % 1000;
    const int by_word = number[1] > 2; /* with Alt or Ctrl */
    switch (c == '~' ? number[0] : c) {
    case 'A': return LINE_CTRL('P');
    case 'B': return LINE_CTRL('N');
    case 'C': return by_word ? LINE_WORD_RIGHT : LINE_CTRL('F');
    case 'D': return by_word ? LINE_WORD_LEFT : LINE_CTRL('B');
    case 'H': case 1: case 7: return LINE_CTRL('A');
    case 'F': case 4: case 8: return LINE_CTRL('E');
    case 3: return LINE_DELETE;
    case 200: return LINE_PASTE;
    case 201: return LINE_PASTED;
    case '[': console_byte(); return LINE_NONE; /* a function key of Linux' console */
    default: return c < 0 ? c : LINE_NONE;
    }
}

/* Does what a key of editing does; returns 0 if memory runs out. */
static inline int line_edit(LineEditor *e, int key) {
    switch (key) {
    case LINE_CTRL('A'): e->cursor = 0; return 1;
    case LINE_CTRL('E'): e->cursor = e->n; return 1;
    case LINE_CTRL('B'): e->cursor = line_left(e); return 1;
    case LINE_CTRL('F'): e->cursor = line_right(e); return 1;
    case LINE_WORD_LEFT: e->cursor = line_word(e, 1, 0); return 1;
    case LINE_WORD_RIGHT: e->cursor = line_word(e, 0, 0); return 1;
    case LINE_CTRL('P'): return e->edited == 0 || line_recall(e, e->edited - 1);
    case LINE_CTRL('N'): return e->edited == e->n_history || line_recall(e, e->edited + 1);
    case LINE_CTRL('H'): case LINE_RUBOUT: return line_replace(e, line_left(e), e->cursor, "", 0);
    case LINE_CTRL('D'): case LINE_DELETE: return line_replace(e, e->cursor, line_right(e), "", 0);
    case LINE_CTRL('U'): return line_replace(e, 0, e->cursor, "", 0);
    case LINE_CTRL('K'): return line_replace(e, e->cursor, e->n, "", 0);
    case LINE_CTRL('W'): return line_replace(e, line_word(e, 1, 1), e->cursor, "", 0);
    case LINE_KILL_WORD: return line_replace(e, line_word(e, 1, 0), e->cursor, "", 0);
    case LINE_CTRL('L'): fputs("\033[H", stdout), e->row = 0; return 1;
    case LINE_CTRL('Z'): case LINE_CTRL('\\'): console_stop(key); return 1;
    case CONSOLE_WOKEN: e->row = 0; return 1; /* another program may have written */
    default: return 1;
    }
}

/* Reads a message into `text`, which stays until the next call. The prompt may have colors (escape sequences that end
 * with m). The cursor must be in the first column, and is afterwards, in a new row. Keys of before the call count. */
static inline LineStatus line_read(LineEditor *e, const char *prompt) {
    int pasting = 0, key = 0, ok = line_replace(e, 0, e->n, "", 0);
    LineStatus status = LINE_NO_MEMORY;
    e->prompt = prompt, e->edited = e->n_history, e->decoder.n = 0, e->top = e->row = e->column = e->columns = 0;
    if (!ok) return LINE_NO_MEMORY;
    if (!console_open()) return LINE_END;
    while (ok && status == LINE_NO_MEMORY) {
        const int before = key;
        if (!pasting && !console_waiting()) line_draw(e, 0);
        key = line_key();
        if (pasting && key == '\r') ok = line_add(e, '\n');
        else if (key == LINE_BREAK || (pasting && key == '\n' && before != '\r')) ok = line_add(e, '\n');
        else if ((key >= ' ' && key < 256 && key != LINE_RUBOUT) || (pasting && key == '\t')) ok = line_add(e, key);
        else if (key == LINE_PASTE || key == LINE_PASTED) pasting = key == LINE_PASTE;
        else if (key == CONSOLE_END || (key == LINE_CTRL('D') && !e->n && !pasting)) status = LINE_END;
        else if (key == LINE_CTRL('C')) status = LINE_INTERRUPTED;
        else if (pasting && key != CONSOLE_WOKEN) continue;
        else if (key == '\r' || key == '\n') status = LINE_OK;
        else ok = line_edit(e, key);
    }
    e->cursor = e->n;
    line_draw(e, 1);
    fputs(status == LINE_INTERRUPTED ? "^C\r\n" : "\r\n", stdout);
    fflush(stdout);
    console_close();
    if (status != LINE_OK || !e->n || (e->n_history && !strcmp(e->text, e->history[e->n_history - 1]))) return status;
    if (!line_keep(e)) return LINE_NO_MEMORY;
    if (e->n_history < LINE_HISTORY) e->n_history++;
    else free(e->history[0]), memmove(e->history, e->history + 1, LINE_HISTORY * sizeof(*e->history)), e->history[LINE_HISTORY] = NULL;
    return LINE_OK;
}

static inline void line_free(LineEditor *e) {
    for (size_t i = 0; i <= LINE_HISTORY; i++) free(e->history[i]);
    free(e->text);
    *e = (LineEditor){.n = 0};
}

#endif

/* Reads messages at a terminal, with editing and a history of this run.
 *
 * Control characters and escape sequences that are typed are never echoed. Pasted lines are one message; Alt-Enter
 * begins another line of it. A character is a code point with the combining marks after it; joined emoji are several.
 * The cursor is put in place by writing what is before it in its row again, so that a wrong width (width.h) is harmless
 * in a message of one row. */
#ifndef GPT2RT_LINE_EDITOR_H
#define GPT2RT_LINE_EDITOR_H

#include "console.h"

#include <stdio.h>

#include "utf8.h"
#include "width.h"

#define LINE_HISTORY 100 /* messages */
typedef enum {
    LINE_OK,
    LINE_END,         /* Ctrl-D in an empty message, or the end of the input */
    LINE_INTERRUPTED, /* Ctrl-C */
    LINE_NO_MEMORY,
} LineStatus;

/* Starts as zeros; line_free() ends it. */
typedef struct {
    char *text;                      /* (n + 1) UTF-8 that ends with 0; no control characters but \n and \t */
    size_t n, capacity, cursor;      /* cursor: the bytes before it */
    char *history[LINE_HISTORY + 1]; /* (n_history) the oldest first; then the new message while an old one is edited */
    size_t n_history, edited;        /* edited: place in the history */
    const char *prompt;
    Utf8Decoder decoder;
    int top, row, column, columns; /* as drawn: the first row on the screen, the cursor from there, the width */
} LineEditor;

/* Walks over the prompt and n bytes of the text as a terminal places them, and writes the rows from first to last.
 * Returns the row of the end. OUT: column. */
static inline int line_walk(const LineEditor *e, size_t n, int first, int last, int *column) {
    int row = *column = 0;
    for (int part = 0; part < 2; part++) {
        const char *p = part ? e->text : e->prompt, *end = p + (part ? n : strlen(p));
        for (size_t size = 1; p < end; p += size, size = 1) {
            const int width = *p == '\n' || *p == '\033' ? 0 : character_width(p, &size);
            if (*p == '\033') size = strcspn(p, "m") + 1; /* a color of the prompt */
            if (*p == '\n' || *column + width > e->columns) *column = 0, row++;
            *column += width;
            if (row < first || row > last) continue;
            if (*p != '\n') fwrite(*p == '\t' ? " " : p, 1, size, stdout);
            else if (row > first) fputs("\r\n", stdout);
        }
    }
    if (*column < e->columns) return row;
    if (row >= first && row < last) fputs(" \r", stdout); /* terminals begin the next row with its first character */
    *column = 0;
    return row + 1;
}

/* Draws the message: all of it if `whole`, else as many rows as the screen has. */
static inline void line_draw(LineEditor *e, int whole) {
    int rows, columns, column, ignored;
    console_size(&rows, &columns);
    if (e->columns != columns) e->row = (e->row * e->columns + e->column) / columns; /* terminals wrap text again */
    e->columns = columns;
    const int row = line_walk(e, e->cursor, 0, -1, &column), end = line_walk(e, e->n, 0, -1, &ignored);
    if (e->row) printf("\033[%dA", e->row);
    e->top = whole ? 0 : row < e->top ? row : row < e->top + rows ? e->top : row - rows + 1;
    const int last = whole || end < e->top + rows ? end : e->top + rows - 1;
    fputs("\r\033[J", stdout);
    line_walk(e, e->n, e->top, last, &ignored);
    if (last > row) printf("\033[%dA", last - row);
    fputs("\r", stdout);
    line_walk(e, e->cursor, row, row, &ignored);
    fflush(stdout);
    e->row = row - e->top, e->column = column;
}

/* Replaces text[from..to) by n bytes and puts the cursor after them; returns 0 if memory runs out. */
static inline int line_replace(LineEditor *e, size_t from, size_t to, const void *p, size_t n) {
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

/* Adds a byte of a character; returns 0 if memory runs out. */
static inline int line_add(LineEditor *e, int byte) {
    uint8_t text[UTF8_MOST(1)];
    size_t n = utf8_feed(&e->decoder, &(uint8_t){(uint8_t)byte}, 1, text);
    if (n == 2 && text[0] == 0xC2 && text[1] < 0xA0) n = 0; /* a control character */
    return line_replace(e, e->cursor, e->cursor, text, n);
}

/* Copies the message to the end of the history; returns 0 if memory runs out. */
static inline int line_keep(LineEditor *e) {
    char *copy = malloc(e->n + 1);
    if (!copy) return 0;
    free(e->history[e->n_history]);
    e->history[e->n_history] = memcpy(copy, e->text, e->n + 1);
    return 1;
}

/* Edits another message of the history, or the new one; returns 0 if memory runs out. */
static inline int line_recall(LineEditor *e, size_t other) {
    if (e->edited == e->n_history && !line_keep(e)) return 0;
    e->edited = other;
    return line_replace(e, 0, e->n, e->history[other], strlen(e->history[other]));
}

/* Returns where the cursor is a character further to the left or to the right. */
static inline size_t line_character(const LineEditor *e, int left) {
    size_t at = e->cursor, size = 0;
    while (left && at && ((e->text[--at] & 0xC0) == 0x80 || !character_width(e->text + at, &size))) continue;
    while (!left && at < e->n && (!character_width(e->text + at, &size) || at == e->cursor)) at += size;
    return at;
}

/* The same for a word: of letters and digits, or if `spaced` of all but spaces. */
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

/* Does what a key does; returns 0 if memory runs out. */
static inline int line_edit(LineEditor *e, int key) {
    switch (key) {
    case CTRL_KEY('A'): e->cursor = 0; return 1;
    case CTRL_KEY('E'): e->cursor = e->n; return 1;
    case CTRL_KEY('B'): e->cursor = line_character(e, 1); return 1;
    case CTRL_KEY('F'): e->cursor = line_character(e, 0); return 1;
    case KEY_WORD_LEFT: e->cursor = line_word(e, 1, 0); return 1;
    case KEY_WORD_RIGHT: e->cursor = line_word(e, 0, 0); return 1;
    case CTRL_KEY('P'): return !e->edited || line_recall(e, e->edited - 1);
    case CTRL_KEY('N'): return e->edited == e->n_history || line_recall(e, e->edited + 1);
    case CTRL_KEY('H'): case KEY_RUBOUT: return line_replace(e, line_character(e, 1), e->cursor, "", 0);
    case CTRL_KEY('D'): case KEY_DELETE: return line_replace(e, e->cursor, line_character(e, 0), "", 0);
    case CTRL_KEY('U'): return line_replace(e, 0, e->cursor, "", 0);
    case CTRL_KEY('K'): return line_replace(e, e->cursor, e->n, "", 0);
    case CTRL_KEY('W'): return line_replace(e, line_word(e, 1, 1), e->cursor, "", 0);
    case KEY_KILL_WORD: return line_replace(e, line_word(e, 1, 0), e->cursor, "", 0);
    case CTRL_KEY('L'): fputs("\033[H", stdout), e->row = 0; return 1;
    case CTRL_KEY('Z'): case CTRL_KEY('\\'): console_stop(key); return 1;
    case KEY_REDRAW: e->row = 0;
    }
    return 1;
}

/* Reads a message into `text`, which stays until the next call. The prompt may have colors (escape sequences that end
 * with m). The cursor must be in the first column, and is so afterwards, in a new row. */
static inline LineStatus line_read(LineEditor *e, const char *prompt) {
    int pasting = 0, key = 0, ok = line_replace(e, 0, e->n, "", 0);
    LineStatus status = LINE_NO_MEMORY;
    e->prompt = prompt, e->edited = e->n_history, e->decoder.n = 0, e->top = e->row = e->column = e->columns = 0;
    if (!ok || !console_open()) return ok ? LINE_END : LINE_NO_MEMORY;
    while (ok && status == LINE_NO_MEMORY) {
        const int before = key;
        if (!pasting && !console_waiting()) line_draw(e, 0);
        key = console_key();
        if (key == KEY_LINE_BREAK || (pasting && key == '\r')) ok = line_add(e, '\n');
        else if (pasting && key == '\n') ok = before == '\r' || line_add(e, '\n');
        else if ((key >= ' ' && key < 256 && key != KEY_RUBOUT) || (pasting && key == '\t')) ok = line_add(e, key);
        else if (key == KEY_PASTE_BEGIN || key == KEY_PASTE_END) pasting = key == KEY_PASTE_BEGIN;
        else if (key == KEY_INPUT_END || (key == CTRL_KEY('D') && !e->n && !pasting)) status = LINE_END;
        else if (key == CTRL_KEY('C')) status = LINE_INTERRUPTED;
        else if (key == '\r' || key == '\n') status = LINE_OK;
        else if (!pasting || key == KEY_REDRAW) ok = line_edit(e, key);
    }
    e->cursor = e->n;
    line_draw(e, 1);
    printf("%s\r\n", status == LINE_INTERRUPTED ? "^C" : "");
    fflush(stdout);
    console_close();
    if (status != LINE_OK || !e->n || (e->n_history && !strcmp(e->text, e->history[e->n_history - 1]))) return status;
    if (!line_keep(e)) return LINE_NO_MEMORY;
    if (++e->n_history <= LINE_HISTORY) return LINE_OK;
    free(e->history[0]);
    memmove(e->history, e->history + 1, LINE_HISTORY * sizeof(*e->history));
    e->history[--e->n_history] = NULL;
    return LINE_OK;
}

static inline void line_free(LineEditor *e) {
    for (size_t i = 0; i <= LINE_HISTORY; i++) free(e->history[i]);
    free(e->text);
    *e = (LineEditor){.n = 0};
}

#endif

/* The standard streams of the standalone program: text that can't do anything to a terminal, colors, and Ctrl-C. */
#ifndef GPT2RT_TERMINAL_H
#define GPT2RT_TERMINAL_H

#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <io.h>
#include <process.h>
#include <windows.h>
#else
#include <sys/ioctl.h>
#include <unistd.h>
#endif

#include "text.h"
#include "utf8.h"

#define BOLD_GREEN "\033[1;32m"
#define BOLD_CYAN "\033[1;36m"
#define PLAIN "\033[0m"

enum { EXIT_ERROR = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

static volatile sig_atomic_t is_interrupted; /* by Ctrl-C, since it was last cleared */
static volatile sig_atomic_t is_reading;     /* standard input, a pipe: Ctrl-C ends the program */
static int output_error;                     /* the first error of writing standard output, 0 for none */

#if defined(_WIN32)
static BOOL WINAPI on_interrupt(DWORD event) {
    if (event != CTRL_C_EVENT) return FALSE;
    if (is_reading) _exit(EXIT_INTERRUPTED);
    is_interrupted = 1;
    return TRUE;
}
static inline int is_terminal(FILE *stream) { return _isatty(_fileno(stream)); }
#else
static void on_interrupt(int number) {
    (void)number;
    if (is_reading) _exit(EXIT_INTERRUPTED);
    is_interrupted = 1;
}
static inline int is_terminal(FILE *stream) { return isatty(fileno(stream)); }
#endif

static inline int was_interrupted(void) { return is_interrupted; }

/* Lets Ctrl-C set `is_interrupted`, if it is not ignored. */
static inline void catch_interrupts(void) {
#if defined(_WIN32)
    SetConsoleCtrlHandler(on_interrupt, TRUE);
#else
    struct sigaction action = {0}, before;
    action.sa_handler = on_interrupt;
    action.sa_flags = SA_RESTART;
    if (!sigaction(SIGINT, NULL, &before) && before.sa_handler != SIG_IGN) sigaction(SIGINT, &action, NULL);
#endif
}

/* Prepares the streams: UTF-8, line feeds as they are, and escape sequences on Windows. One that the caller has closed
 * becomes an empty one, so that no file that is opened later takes its place. */
static inline void streams_open(void) {
#if defined(_WIN32)
    DWORD mode;
    const HANDLE console = GetStdHandle(STD_OUTPUT_HANDLE);
    SetConsoleOutputCP(CP_UTF8);
    SetConsoleCP(CP_UTF8);
    if (GetConsoleMode(console, &mode)) SetConsoleMode(console, mode | 4 /* ENABLE_VIRTUAL_TERMINAL_PROCESSING */);
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
    _setmode(_fileno(stderr), _O_BINARY);
#else
    for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++)
        if (fcntl(i, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0) _exit(EXIT_ERROR); /* it gets the lowest number */
#endif
}

static inline int has_colors(void) {
    const char *no_color = getenv("NO_COLOR"), *color = getenv("CLICOLOR"), *term = getenv("TERM");
    if (!is_terminal(stdout) || (no_color && *no_color) || (color && !strcmp(color, "0"))) return 0;
#if defined(_WIN32)
    return !term || strcmp(term, "dumb");
#else
    return term && *term && strcmp(term, "dumb");
#endif
}

/* Returns the width of the terminal that is standard output, 0 if it is none or does not tell. */
static inline int terminal_columns(void) {
#if defined(_WIN32)
    CONSOLE_SCREEN_BUFFER_INFO info;
    if (!GetConsoleScreenBufferInfo(GetStdHandle(STD_OUTPUT_HANDLE), &info)) return 0;
    return info.srWindow.Right - info.srWindow.Left + 1;
#else
    struct winsize size;
    return isatty(STDOUT_FILENO) && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) ? size.ws_col : 0;
#endif
}

/* Returns the bytes at p that are a control character: C0 but tab and line feed, DEL, or C1; or 0. */
static inline size_t control_size(const uint8_t *p, size_t n) {
    if ((*p < 32 && *p != '\t' && *p != '\n') || *p == 127) return 1;
    return n > 1 && p[0] == 0xC2 && p[1] >= 0x80 && p[1] < 0xA0 ? 2 : 0;
}

/* Writes UTF-8 in which control characters, which could move the cursor or change the title, are U+FFFD. */
static inline void print_safely(FILE *stream, const uint8_t *p, size_t n) {
    if (!n) return; /* p may be NULL, which fwrite() may not get */
    const uint8_t *end = p + n, *begin = p;
    while (p < end) {
        const size_t size = control_size(p, (size_t)(end - p));
        if (!size) {
            p++;
            continue;
        }
        fwrite(begin, 1, (size_t)(p - begin), stream);
        fputs(UTF8_REPLACEMENT, stream);
        begin = p += size;
    }
    fwrite(begin, 1, (size_t)(end - begin), stream);
}

/* Writes what standard output has buffered, and notes whether that, or writing before, has failed. */
static inline void output_flush(void) {
    if ((fflush(stdout) || ferror(stdout)) && !output_error) output_error = errno ? errno : EIO;
}

/* Writes a model's text to standard output, at once: as it is if that is no terminal. */
static inline void print_text(const uint8_t *text, size_t n) {
    if (is_terminal(stdout))
        print_safely(stdout, text, n);
    else if (n)
        fwrite(text, 1, n, stdout);
    output_flush();
}

/* --- input ------------------------------------------------------------------------------------------------------- */

typedef enum {
    INPUT_OK,
    INPUT_END,
    INPUT_FAILED, /* errno says why */
    INPUT_NO_MEMORY,
} InputStatus;

/* Adds standard input up to a line feed, if `is_line`, or to its end: without a byte order mark and with line feeds as
 * line ends; what is not UTF-8 becomes U+FFFD. The status is INPUT_END if nothing was left. */
static inline InputStatus read_stream(Buffer *text, int is_line) {
    static const uint8_t mark[] = {0xEF, 0xBB, 0xBF};
    static int is_begun;
    const size_t before = text->n;
    Utf8Decoder decoder = {.n = 0};
    InputStatus status = INPUT_END;
    int byte;
    is_reading = 1;
    if (is_interrupted) _exit(EXIT_INTERRUPTED); /* just before */
    while ((byte = getc(stdin)) != EOF) {
        const uint8_t one = (uint8_t)byte;
        status = buffer_reserve(text, UTF8_MOST(1) + UTF8_MOST(0)) ? INPUT_OK : INPUT_NO_MEMORY;
        if (status == INPUT_NO_MEMORY) break;
        text->n += utf8_feed(&decoder, &one, 1, text->at + text->n);
        if (byte != '\n') continue;
        if (text->n - before > 1 && text->at[text->n - 2] == '\r') text->at[--text->n - 1] = '\n';
        if (is_line) break;
    }
    is_reading = 0;
    if (byte == EOF && ferror(stdin)) status = INPUT_FAILED;
    if (status == INPUT_FAILED || status == INPUT_NO_MEMORY) return status;
    if (!buffer_reserve(text, UTF8_MOST(0))) return INPUT_NO_MEMORY;
    text->n += utf8_finish(&decoder, text->at + text->n);
    if (!is_begun && text->n - before >= 3 && !memcmp(text->at + before, mark, 3)) {
        text->n -= 3;
        memmove(text->at + before, text->at + before + 3, text->n - before);
    }
    is_begun = 1;
    return status;
}

/* Reads a line, without its end. */
static inline InputStatus read_line(Buffer *line) {
    const InputStatus status = read_stream(line, 1);
    if (status == INPUT_OK) line->n -= line->n && line->at[line->n - 1] == '\n';
    return status;
}

/* --- output ------------------------------------------------------------------------------------------------------ */

#if defined(__GNUC__) && !defined(_WIN32)
__attribute__((format(printf, 1, 2)))
#endif
/* Writes one sentence about what is wrong to standard error. */
static inline void complain(const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    output_flush();
    fputs("gpt2rt: ", stderr);
    print_safely(stderr, (const uint8_t *)text, strlen(text));
    fputs("\n", stderr);
}

/* Reports why standard input can't be read. Returns an exit status, 0 if it can. */
static inline int input_problem(InputStatus status) {
    if (status == INPUT_NO_MEMORY) complain("not enough memory");
    if (status == INPUT_FAILED) complain("standard input: %s", strerror(errno));
    return status == INPUT_NO_MEMORY || status == INPUT_FAILED ? EXIT_ERROR : 0;
}

/* Writes what is left, and reports if not all could be written, unless whoever read a pipe is gone. Returns the exit
 * status that the program then has. */
static inline int output_end(int status) {
    output_flush();
    if (!output_error) return status;
    if (output_error != EPIPE) complain("standard output: %s", strerror(output_error));
    return status ? status : EXIT_ERROR;
}

#endif

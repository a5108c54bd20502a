/* The terminal at which a program was started, key by key: POSIX, and the console of Windows since Windows 10, which
 * then sends the same escape sequences. Its mode is restored before a signal ends or stops the program. */
#ifndef GPT2RT_CONSOLE_H
#define GPT2RT_CONSOLE_H

#include "platform.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Keys; others are bytes of text and control characters. */
#define CTRL_KEY(letter) ((letter) - '@')
enum { KEY_UNKNOWN = 256, KEY_DELETE, KEY_WORD_LEFT, KEY_WORD_RIGHT, KEY_KILL_WORD, KEY_RUBOUT = 127 };
enum { KEY_LINE_BREAK = 512, KEY_PASTE_BEGIN, KEY_PASTE_END }; /* Alt-Enter; what is between the others is pasted */
enum { KEY_INPUT_END = -1, KEY_REDRAW = -2 }; /* no keys; REDRAW: others may have written to the terminal */

#if defined(_WIN32)
#include <windows.h>

static struct {
    HANDLE input, output;
    DWORD input_mode, output_mode; /* before */
    UINT code_page;
    char bytes[4]; /* [at, n) of a character that was read */
    int at, n;
} console;

/* Returns whether the terminal now sends keys, and understands escape sequences. */
static inline int console_open(void) {
    const DWORD cooked = ENABLE_LINE_INPUT | ENABLE_ECHO_INPUT | ENABLE_PROCESSED_INPUT;
    console.input = GetStdHandle(STD_INPUT_HANDLE), console.output = GetStdHandle(STD_OUTPUT_HANDLE);
    console.code_page = GetConsoleOutputCP();
    return GetConsoleMode(console.input, &console.input_mode) &&
           GetConsoleMode(console.output, &console.output_mode) && SetConsoleOutputCP(CP_UTF8) &&
           SetConsoleMode(console.output, console.output_mode | ENABLE_VIRTUAL_TERMINAL_PROCESSING) &&
           SetConsoleMode(console.input, (console.input_mode & ~cooked) | ENABLE_VIRTUAL_TERMINAL_INPUT);
}

static inline void console_close(void) {
    SetConsoleMode(console.input, console.input_mode);
    SetConsoleMode(console.output, console.output_mode);
    SetConsoleOutputCP(console.code_page);
}

static inline int console_byte(void) {
    wchar_t units[2];
    DWORD n;
    for (int i = 0; console.at == console.n; i = 1) { /* a second time for a surrogate pair */
        if (!ReadConsoleW(console.input, &units[i], 1, &n, NULL) || !n) return KEY_INPUT_END;
        if (!i && units[0] >> 10 == 0xD800 >> 10) continue;
        console.n = WideCharToMultiByte(CP_UTF8, 0, units, i + 1, console.bytes, sizeof(console.bytes), NULL, NULL);
        console.at = 0;
    }
    return (unsigned char)console.bytes[console.at++];
}

/* Returns whether more was typed. The release of a key looks the same, so nobody knows. */
static inline int console_waiting(void) { return 0; }

static inline void console_stop(int key) { (void)key; }

static inline void console_size(int *rows, int *columns) {
    CONSOLE_SCREEN_BUFFER_INFO info;
    const int known = GetConsoleScreenBufferInfo(console.output, &info);
    *rows = known ? info.srWindow.Bottom - info.srWindow.Top + 1 : 24;
    *columns = known ? info.srWindow.Right - info.srWindow.Left + 1 : 80;
}

#else
#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define CONSOLE_SIGNALS 8
static const int console_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGABRT, SIGSEGV, SIGTSTP, SIGCONT};
static struct sigaction console_actions[CONSOLE_SIGNALS]; /* before */
static struct termios console_modes[2];                   /* before; while open */
static volatile sig_atomic_t console_signal;              /* the last one, until a key is waited for */

static inline void console_set(int open) {
    const char pasting[2][9] = {"\033[?2004l", "\033[?2004h"}; /* whether the terminal marks what is pasted */
    tcsetattr(0, TCSANOW, &console_modes[open]);
    if (write(1, pasting[open], 8) < 0) return; /* without a terminal there is nothing to set */
}

/* Lets a signal do what it did before, with the mode of before. */
static inline void console_handle(int number) {
    const int error = errno;
    struct sigaction ours;
    int i = 0;
    while (console_signals[i] != number) i++;
    console_set(0);
    sigaction(number, &console_actions[i], &ours);
    raise(number); /* at once, because of SA_NODEFER */
    sigaction(number, &ours, NULL);
    console_set(1);
    console_signal = number;
    errno = error;
}

/* Returns whether the terminal now sends keys. */
static inline int console_open(void) {
    const char *kind = getenv("TERM");
    struct sigaction ours = {.sa_handler = console_handle, .sa_flags = SA_NODEFER};
    if (!isatty(1) || tcgetattr(0, &console_modes[0]) || !kind || !strcmp(kind, "dumb")) return 0;
    console_modes[1] = console_modes[0];
    console_modes[1].c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IGNCR | IXON);
    console_modes[1].c_lflag &= ~(tcflag_t)(ICANON | ECHO | IEXTEN | ISIG);
    console_modes[1].c_cc[VMIN] = 1, console_modes[1].c_cc[VTIME] = 0;
    for (int i = 0; i < CONSOLE_SIGNALS; i++) sigaction(console_signals[i], &ours, &console_actions[i]);
    console_set(1);
    return 1;
}

static inline void console_close(void) {
    console_set(0);
    for (int i = 0; i < CONSOLE_SIGNALS; i++) sigaction(console_signals[i], &console_actions[i], NULL);
}

static inline int console_byte(void) {
    unsigned char byte;
    ssize_t n = -1;
    while (!console_signal && (n = read(0, &byte, 1)) < 0 && errno == EINTR) continue;
    if (n >= 0 || !console_signal) return n == 1 ? byte : KEY_INPUT_END;
    const int key = console_signal == SIGINT ? CTRL_KEY('C') : KEY_REDRAW;
    console_signal = 0;
    return key;
}

/* Returns whether more was typed. */
static inline int console_waiting(void) {
    int n = 0;
    return ioctl(0, FIONREAD, &n) == 0 && n > 0;
}

/* Does what Ctrl-Z and Ctrl-\ do, also to a script that runs this program. */
static inline void console_stop(int key) { kill(0, key == CTRL_KEY('Z') ? SIGTSTP : SIGQUIT); }

static inline void console_size(int *rows, int *columns) {
    struct winsize size = {0};
    ioctl(1, TIOCGWINSZ, &size);
    *rows = size.ws_row ? size.ws_row : 24, *columns = size.ws_col ? size.ws_col : 80;
}
#endif

/* Returns whether standard input and output are a terminal that can do all this. */
static inline int console_possible(void) {
    const int possible = console_open();
    if (possible) console_close();
    return possible;
}

/* Waits for a key. The arrows, Home and End are the control characters that do the same. */
static inline int console_key(void) {
    enum { TILDE = 1000 }; /* a number before it is the key */
    int c = console_byte(), number[2] = {0, 0}, i = 0;
    if (c != '\033') return c;
    while (c == '\033') c = console_byte();
    if (c != '[' && c != 'O') { /* Alt and a key */
        if (c == '\r' || c == '\n') return KEY_LINE_BREAK;
        if (c == '\b' || c == KEY_RUBOUT) return KEY_KILL_WORD;
        return c == 'b' ? KEY_WORD_LEFT : c == 'f' ? KEY_WORD_RIGHT : c < ' ' || c > 127 ? c : KEY_UNKNOWN;
    }
    for (; (c = console_byte()) >= ' ' && c < '@'; i = c == ';' ? 1 : i)
        if (isdigit(c)) number[i] = (number[i] * 10 + c - '0') % 1000;
    const int by_word = number[1] > 2; /* with Alt or Ctrl */
    switch (c == '~' ? TILDE + number[0] : c) {
    case 'A': return CTRL_KEY('P');
    case 'B': return CTRL_KEY('N');
    case 'C': return by_word ? KEY_WORD_RIGHT : CTRL_KEY('F');
    case 'D': return by_word ? KEY_WORD_LEFT : CTRL_KEY('B');
    case 'H': case TILDE + 1: case TILDE + 7: return CTRL_KEY('A');
    case 'F': case TILDE + 4: case TILDE + 8: return CTRL_KEY('E');
    case TILDE + 3: return KEY_DELETE;
    case TILDE + 200: return KEY_PASTE_BEGIN;
    case TILDE + 201: return KEY_PASTE_END;
    case '[': console_byte(); return KEY_UNKNOWN; /* a function key of Linux' own terminal */
    default: return c < ' ' ? c : KEY_UNKNOWN;
    }
}

#endif

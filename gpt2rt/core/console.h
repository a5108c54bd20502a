/* The terminal that a program was started at: it gives single keys, as the bytes that a VT100 sends, and its mode is
 * restored whatever ends or stops the program. POSIX, and the console of Windows 10 and later. */
#ifndef GPT2RT_CONSOLE_H
#define GPT2RT_CONSOLE_H

#include "platform.h"

#include <stdlib.h>
#include <string.h>

#define CONSOLE_PASTE_ON "\033[?2004h" /* mark what is pasted */
#define CONSOLE_PASTE_OFF "\033[?2004l"
enum { CONSOLE_END = -1, CONSOLE_WOKEN = -2, CONSOLE_INTERRUPTED = 3 }; /* in place of a byte */

#if defined(_WIN32)
#include <windows.h>

static struct {
    HANDLE input, output;
    DWORD input_mode, output_mode; /* before */
    UINT code_page;
    char bytes[4]; /* [at, n) of a character that was read */
    int at, n;
} console_terminal;

/* Returns whether the terminal now gives each key and knows escape sequences, as since Windows 10. */
static inline int console_open(void) {
    const DWORD cooked = ENABLE_LINE_INPUT | ENABLE_ECHO_INPUT | ENABLE_PROCESSED_INPUT;
    console_terminal.input = GetStdHandle(STD_INPUT_HANDLE), console_terminal.output = GetStdHandle(STD_OUTPUT_HANDLE);
    console_terminal.code_page = GetConsoleOutputCP();
    return GetConsoleMode(console_terminal.input, &console_terminal.input_mode) &&
           GetConsoleMode(console_terminal.output, &console_terminal.output_mode) && SetConsoleOutputCP(CP_UTF8) &&
           SetConsoleMode(console_terminal.output, console_terminal.output_mode | ENABLE_VIRTUAL_TERMINAL_PROCESSING) &&
           SetConsoleMode(console_terminal.input, (console_terminal.input_mode & ~cooked) | ENABLE_VIRTUAL_TERMINAL_INPUT);
}

static inline void console_close(void) {
    SetConsoleMode(console_terminal.input, console_terminal.input_mode);
    SetConsoleMode(console_terminal.output, console_terminal.output_mode);
    SetConsoleOutputCP(console_terminal.code_page);
}

static inline int console_byte(void) {
    wchar_t units[2];
    DWORD n;
    for (int i = 0; console_terminal.at == console_terminal.n; i = units[0] >> 10 == 0x36) { /* 0x36: half a character */
        if (!ReadConsoleW(console_terminal.input, &units[i], 1, &n, NULL) || !n) return CONSOLE_END;
        if (!i && units[0] >> 10 == 0x36) continue;
        console_terminal.n = WideCharToMultiByte(CP_UTF8, 0, units, i + 1, console_terminal.bytes, 4, NULL, NULL);
        console_terminal.at = 0;
    }
    return (unsigned char)console_terminal.bytes[console_terminal.at++];
}

static inline int console_waiting(void) { return 0; } /* releases of keys can't be told from what is to come */

static inline void console_stop(int key) { (void)key; }

static inline void console_size(int *rows, int *columns) {
    CONSOLE_SCREEN_BUFFER_INFO info;
    const int known = GetConsoleScreenBufferInfo(console_terminal.output, &info);
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
static const int console_signals[CONSOLE_SIGNALS] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGABRT, SIGSEGV, SIGTSTP, SIGCONT};
static struct sigaction console_actions[CONSOLE_SIGNALS]; /* before */
static struct termios console_modes[2];                /* before; while reading */
static volatile sig_atomic_t console_signal;           /* the last one, 0 if that is done */

static inline void console_mode(int reading) {
    tcsetattr(0, TCSANOW, &console_modes[reading]);
    if (write(1, reading ? CONSOLE_PASTE_ON : CONSOLE_PASTE_OFF, sizeof(CONSOLE_PASTE_ON) - 1) < 0) return; /* it is gone */
}

/* Does with the terminal's mode restored what the signal did before. */
static inline void console_handle(int number) {
    const int error = errno;
    struct sigaction ours;
    int i = 0;
    while (console_signals[i] != number) i++;
    console_mode(0);
    sigaction(number, &console_actions[i], &ours);
    raise(number); /* at once: SA_NODEFER */
    sigaction(number, &ours, NULL);
    console_mode(1);
    console_signal = number;
    errno = error;
}

/* Returns whether the terminal now gives each key. */
static inline int console_open(void) {
    const char *kind = getenv("TERM");
    struct sigaction ours = {.sa_handler = console_handle, .sa_flags = SA_NODEFER};
    if (!isatty(1) || tcgetattr(0, &console_modes[0]) || !kind || !strcmp(kind, "dumb")) return 0;
    console_modes[1] = console_modes[0];
    console_modes[1].c_lflag &= ~(tcflag_t)(ICANON | ECHO | IEXTEN | ISIG);
    console_modes[1].c_cc[VMIN] = 1, console_modes[1].c_cc[VTIME] = 0;
    for (int i = 0; i < CONSOLE_SIGNALS; i++) sigaction(console_signals[i], &ours, &console_actions[i]);
    console_mode(1);
    return 1;
}

static inline void console_close(void) {
    console_mode(0);
    for (int i = 0; i < CONSOLE_SIGNALS; i++) sigaction(console_signals[i], &console_actions[i], NULL);
}

static inline int console_byte(void) {
    unsigned char byte;
    ssize_t n = -1;
    while (!console_signal && (n = read(0, &byte, 1)) < 0 && errno == EINTR) continue;
    if (n >= 0 || !console_signal) return n == 1 ? byte : CONSOLE_END;
    const int key = console_signal == SIGINT ? CONSOLE_INTERRUPTED : CONSOLE_WOKEN;
    console_signal = 0;
    return key;
}

static inline int console_waiting(void) {
    int n = 0;
    return ioctl(0, FIONREAD, &n) == 0 && n > 0;
}

/* Ctrl-Z and Ctrl-\, which also stop the shell script that runs this program. */
static inline void console_stop(int key) { kill(0, key == 26 ? SIGTSTP : SIGQUIT); }

static inline void console_size(int *rows, int *columns) {
    struct winsize size = {0};
    const int known = ioctl(1, TIOCGWINSZ, &size) == 0;
    *rows = known && size.ws_row ? size.ws_row : 24, *columns = known && size.ws_col ? size.ws_col : 80;
}
#endif


/* Returns whether standard input and output are a terminal that can do all this. */
static inline int console_possible(void) {
    const int possible = console_open();
    if (possible) console_close();
    return possible;
}

#endif

/* A program over the core's line editor, at the terminal that is its standard input.
 *
 * line_editor PROMPT         prints each message that it reads, with how it ended: "<0 a\nb>"
 * line_editor PROMPT hold    the same, but before each it prints "<hold>" and waits for a byte from file 3
 * line_editor PROMPT job     the same, under a parent that continues it when it stops, as a shell would do, and prints
 *                            "<stopped>" with the mode of the terminal
 * line_editor width          prints the columns of each character that it reads from a pipe */
#include "line_editor.h"

#include <fcntl.h>
#include <sys/wait.h>

static void print_message(LineStatus status, const char *text) {
    printf("<%d ", (int)status);
    for (; *text; text++)
        if (*text == '\n') fputs("\\n", stdout);
        else if (*text == '\t') fputs("\\t", stdout);
        else putchar(*text);
    puts(">");
    fflush(stdout);
}

static int read_messages(const char *prompt, int hold) {
    LineEditor editor = {0};
    LineStatus status = LINE_OK;
    char byte;
    if (!console_possible()) return puts("<no terminal>"), 1;
    while (status != LINE_END) {
        if (hold) puts("<hold>"), fflush(stdout);
        if (hold && read(3, &byte, 1) != 1) return 1;
        status = line_read(&editor, prompt);
        print_message(status, editor.text);
    }
    line_free(&editor);
    return 0;
}

/* A shell's part: the child has the terminal; when it stops, it is continued. */
static int as_job(const char *prompt) {
    struct termios mode;
    int status;
    const pid_t child = fork();
    if (!child) {
        setpgid(0, 0);
        while (tcgetpgrp(0) != getpid()) continue;
        exit(read_messages(prompt, 0));
    }
    signal(SIGTTOU, SIG_IGN);
    setpgid(child, child);
    tcsetpgrp(0, child);
    while (waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status)) {
        tcsetpgrp(0, getpid());
        tcgetattr(0, &mode);
        printf("<stopped %s>\n", mode.c_lflag & ICANON && mode.c_lflag & ECHO ? "cooked" : "raw");
        fflush(stdout);
        tcsetpgrp(0, child);
        kill(-child, SIGCONT);
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int print_widths(void) {
    char character[8] = {0};
    size_t size;
    while (fgets(character, sizeof(character), stdin)) printf("%d\n", character_width(character, &size));
    return 0;
}

static void nothing(int number) { (void)number; }

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "width")) return print_widths();
    ioctl(0, TIOCSCTTY, 0); /* its keys become signals */
    signal(SIGINT, nothing);
    if (argc > 2 && !strcmp(argv[2], "job")) return as_job(argv[1]);
    return read_messages(argv[1], argc > 2);
}

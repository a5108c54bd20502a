/* A mapped file that another program shortens. Reading what is gone ends the process with a signal, which a program can
 * let end it with a sentence instead. A library should not: the signal is its host's. */
#ifndef GPT2RT_CUT_FILE_H
#define GPT2RT_CUT_FILE_H

#include "platform.h"

#if defined(_WIN32)

/* Does nothing: on Windows, a file that is mapped can't be shortened. */
static inline void end_when_a_file_is_cut(void) {}

#else

#include <signal.h>
#include <unistd.h>

#define CUT_FILE_SENTENCE \
    "gpt2rt: a file was shortened while it was in use, so the program has ended (with --no-mmap, a model is read into" \
    " memory when it is opened)\n"

/* Handles SIGBUS, also for other reasons: then the default action follows when the instruction fails again. */
static inline void cut_file_end(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    if (info->si_code != BUS_ADRERR) return;
    const ssize_t n = write(STDERR_FILENO, CUT_FILE_SENTENCE, sizeof(CUT_FILE_SENTENCE) - 1);
    (void)n;
    _exit(1);
}

/* From now on, the process ends with a sentence and status 1 when it reads what was cut from a mapped file. */
static inline void end_when_a_file_is_cut(void) {
    struct sigaction action = {.sa_flags = (int)(SA_SIGINFO | SA_RESETHAND)};
    action.sa_sigaction = cut_file_end;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

#endif

#endif

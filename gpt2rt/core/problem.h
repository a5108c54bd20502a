/* What is wrong, as a sentence in memory of its own, so that reporting an error never allocates. */
#ifndef GPT2RT_PROBLEM_H
#define GPT2RT_PROBLEM_H

#include <stdarg.h>
#include <stdio.h>

typedef struct {
    char text[512]; /* ends with 0 */
} Problem;

#if (defined(__GNUC__) || defined(__clang__)) && !defined(_WIN32)
__attribute__((format(printf, 2, 3)))
#endif
/* Writes the sentence. Returns 0, so that a check can end with `return problem_set(...)`. */
static inline int problem_set(Problem *problem, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem->text, sizeof(problem->text), format, arguments);
    va_end(arguments);
    return 0;
}

#endif

/* Macros that must be defined before the first system header. */
#ifndef GPT2RT_PLATFORM_H
#define GPT2RT_PLATFORM_H

#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#ifndef _CRT_RAND_S /* hides rand_s() otherwise */
#define _CRT_RAND_S
#endif
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* -std=c11 alone hides POSIX; same value as in Python.h */
#endif

#endif

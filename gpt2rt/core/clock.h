/* A monotonic clock, which setting the time of day does not change. */
#ifndef GPT2RT_CLOCK_H
#define GPT2RT_CLOCK_H

#include "platform.h"

#if defined(_WIN32)
#include <windows.h>
#elif defined(__APPLE__)
#include <mach/mach_time.h>
#else
#include <time.h>
#ifndef CLOCK_MONOTONIC
#error "clock.h: POSIX is hidden (include platform.h before any system header, or define _GNU_SOURCE)"
#endif
#endif

/* Seconds since an arbitrary start. */
static inline double clock_seconds(void) {
#if defined(_WIN32)
    LARGE_INTEGER ticks, ticks_per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&ticks_per_second);
    return (double)ticks.QuadPart / (double)ticks_per_second.QuadPart;
#elif defined(__APPLE__)
    mach_timebase_info_data_t tick; /* numer / denom nanoseconds; clock_gettime needs macOS 10.12 */
    mach_timebase_info(&tick);
    return 1e-9 * (double)mach_absolute_time() * (double)tick.numer / (double)tick.denom;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#endif
}

#endif

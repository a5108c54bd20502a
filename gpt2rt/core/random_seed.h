/* A seed from the system's random numbers. */
#ifndef GPT2RT_RANDOM_SEED_H
#define GPT2RT_RANDOM_SEED_H

#include "platform.h"

#include <stdint.h>
#include <stdlib.h>

#if !defined(_WIN32)
#if defined(__APPLE__)
#include <sys/random.h>
#endif
#include <unistd.h>
#endif

#include "clock.h"

/* Returns 32 bits, which are short enough to be typed. */
static inline uint32_t system_seed(void) {
    unsigned seed;
#if defined(_WIN32)
    if (!rand_s(&seed)) return seed;
#else
    if (!getentropy(&seed, sizeof(seed))) return seed;
#endif
    return (uint32_t)(clock_seconds() * 1e9); /* a system without random numbers */
}

#endif

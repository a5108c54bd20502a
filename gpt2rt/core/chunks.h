/* Hands out the numbers [0, n) in chunks to several workers.
 *
 * Each worker has an even part and takes chunks of it from front to back, so that it reads memory in order. A worker
 * that has finished its part takes half of what is left at the back of another's, so a slow worker does not set the
 * pace. What has been taken of a part is one atomic number, so every number is handed out exactly once. */
#ifndef GPT2RT_CHUNKS_H
#define GPT2RT_CHUNKS_H

#include <stdint.h>

#include "atomics.h"

#define CHUNKS_MAX_TAKEN 0x7FFF /* maximum granules of a part: one counter holds two such numbers */
#define CHUNKS_APART 128        /* bytes between counters: x86 fetches cache lines in pairs, Apple's have 128 bytes */

/* A worker's part of the work. */
typedef struct {
    Atomic taken; /* granules taken: from the front in the low 16 bits, from the back in the high 16 bits */
    char apart[CHUNKS_APART];
} ChunkPart;

/* Returns the start of a worker's even part of n, which is the end of the previous worker's part. */
static inline int64_t partition(int64_t n, int index, int count) { return n * index / count; }

/* Returns the granule, or a multiple of it, so that a counter can count those of a part. */
static inline int64_t chunk_granule(int64_t n, int64_t granule, int count) {
    const int64_t most = CHUNKS_MAX_TAKEN * (int64_t)count;
    return n / granule < most ? granule : granule * (n / granule / most + 1);
}

/* Takes a chunk of `owner`'s part: a third of what is left from the front, or half of it from the back. Returns 0 if
 * nothing is left. */
static inline int part_take(ChunkPart *parts, int count, int owner, int is_back, int64_t n, int64_t granule,
                            int64_t *begin, int64_t *end) {
    const int64_t granules = n / granule + (n % granule > 0);
    const int64_t first = partition(granules, owner, count), last = partition(granules, owner + 1, count);
    for (;;) {
        const long taken = atomic_get(&parts[owner].taken);
        const int64_t front = taken & 0xFFFF, back = taken >> 16, left = last - first - front - back;
        if (left <= 0) return 0;
        const int64_t size = is_back ? (left + 1) / 2 : (left + 2) / 3;
        if (!atomic_replace(&parts[owner].taken, taken, (long)(taken + (is_back ? size << 16 : size)))) continue;
        const int64_t at = is_back ? last - back - size : first + front;
        *begin = at * granule;
        *end = at + size < granules ? (at + size) * granule : n;
        return 1;
    }
}

/* Sets [*begin, *end) to the next chunk for worker `index` of `count`, and returns 1; returns 0 once its own part and
 * those of a few others are used up. All workers pass the same n and granule; all bounds except n are multiples of the
 * granule. */
static inline int chunk_take(ChunkPart *parts, int count, int index, int64_t n, int64_t granule, int64_t *begin,
                             int64_t *end) {
    granule = chunk_granule(n, granule, count);
    if (part_take(parts, count, index, 0, n, granule, begin, end)) return 1;
    for (int step = 1; step < count; step *= 2) /* only some of them if there are many */
        if (part_take(parts, count, (index + step) % count, 1, n, granule, begin, end)) return 1;
    return 0;
}

/* Starts over; no worker may be taking chunks. */
static inline void chunks_reset(ChunkPart *parts, int count) {
    for (int i = 0; i < count; i++) atomic_set(&parts[i].taken, 0);
}

#endif

/* Merges of byte-level BPE over the tables of a model file (docs/format.md, "Vocabulary"): the pair with the lowest
 * rank first, the leftmost if several have it. Every value is checked when it is read from the tables. */
#ifndef GPT2RT_MERGES_H
#define GPT2RT_MERGES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MERGES_SHORT 32          /* the longest piece, in tokens, for which a scan of all pairs beats a heap */
#define MERGES_PATIENCE 0x4000   /* pairs between calls of `check`, a power of two */
#define MERGES_NONE 0xFFFFFFFFu  /* no merge, no token, no position */
#define MERGES_WRONG 0xFFFFFFFEu /* instead of a rank: the tables are damaged */

/* Returned instead of the number of tokens left. */
enum { MERGES_DAMAGED = -1, MERGES_STOPPED = -2, MERGES_NO_MEMORY = -3 };

typedef struct {
    uint32_t left, right; /* tokens; left is MERGES_NONE in an empty slot */
    uint32_t rank;
    uint32_t merged; /* token */
} Merge;

typedef struct {
    const uint8_t *token_offsets;  /* u32 (n_vocab + 1) */
    const uint8_t *byte_tokens;    /* u32 (256) */
    const uint8_t *special_tokens; /* u32 (n_special) */
    const uint8_t *controls;       /* u32 (n_controls) as CONTROL_* in tokenizer.h */
    const uint8_t *merge_slots;    /* Merge (n_slots), n_slots a power of two */
    const uint8_t *token_bytes;    /* (n_token_bytes) */
    uint32_t n_vocab, n_special, n_controls, n_slots, n_token_bytes;
} Tables;

/* Returns the rank of a pair; MERGES_NONE if it does not merge, MERGES_WRONG if the table is damaged.
 * OUT: merged, the token that the pair merges into. */
static inline uint32_t find_merge(const Tables *t, uint32_t left, uint32_t right, uint32_t *merged) {
    const uint64_t mixed = left * 0x9E3779B1u + right * 0x85EBCA77u; /* modulo 2^32 */
    uint32_t slot = (uint32_t)(mixed * t->n_slots >> 32);
    for (uint32_t probe = 0; probe < t->n_slots; probe++) {
        Merge merge;
        memcpy(&merge, t->merge_slots + slot * sizeof(Merge), sizeof(Merge));
        if (merge.left == left && merge.right == right) {
            *merged = merge.merged;
            return merge.merged >= t->n_vocab || merge.rank >= t->n_slots ? MERGES_WRONG : merge.rank;
        }
        if (merge.left == MERGES_NONE) return MERGES_NONE;
        slot = (slot + 1) & (t->n_slots - 1);
    }
    return MERGES_WRONG;
}

/* Merges a piece of 2 to MERGES_SHORT tokens in place; returns the number of tokens left, or MERGES_DAMAGED. */
static inline ptrdiff_t merge_short(const Tables *t, uint32_t *tokens, ptrdiff_t n) {
    uint32_t ranks[MERGES_SHORT], merged[MERGES_SHORT]; /* of each token and the next one */
    for (ptrdiff_t i = 0; i < n - 1; i++) {
        ranks[i] = find_merge(t, tokens[i], tokens[i + 1], &merged[i]);
        if (ranks[i] == MERGES_WRONG) return MERGES_DAMAGED;
    }
    for (;;) {
        uint32_t least = MERGES_NONE;
        ptrdiff_t best = 0;
        for (ptrdiff_t i = 0; i < n - 1; i++)
            if (ranks[i] < least) least = ranks[i], best = i;
        if (least == MERGES_NONE) return n;
        tokens[best] = merged[best];
        n--;
        memmove(&tokens[best + 1], &tokens[best + 2], (size_t)(n - best - 1) * sizeof(uint32_t));
        if (best < n - 1) {
            memmove(&ranks[best + 1], &ranks[best + 2], (size_t)(n - best - 2) * sizeof(uint32_t));
            memmove(&merged[best + 1], &merged[best + 2], (size_t)(n - best - 2) * sizeof(uint32_t));
            ranks[best] = find_merge(t, tokens[best], tokens[best + 1], &merged[best]);
            if (ranks[best] == MERGES_WRONG) return MERGES_DAMAGED;
        }
        if (best) {
            ranks[best - 1] = find_merge(t, tokens[best - 1], tokens[best], &merged[best - 1]);
            if (ranks[best - 1] == MERGES_WRONG) return MERGES_DAMAGED;
        }
    }
}

static inline void heap_sift_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t key = heap[i];
    for (size_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= key) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = key;
}

/* Adds a key to a heap of n keys, which has room for it. */
static inline void heap_push(uint64_t *heap, size_t n, uint64_t key) {
    size_t i = n;
    for (; i && heap[(i - 1) >> 1] > key; i = (i - 1) >> 1) heap[i] = heap[(i - 1) >> 1];
    heap[i] = key;
}

/* Does the work of merge_long(), in memory that the latter allocates: heap (2 n), pairs as rank << 32 | position of the
 * left token; links (4 n), a linked list of tokens. */
static inline ptrdiff_t merge_linked(const Tables *t, uint32_t *tokens, uint32_t n, uint64_t *heap, uint32_t *links,
                                     int (*check)(void)) {
    uint32_t *following = links, *preceding = links + n;
    uint32_t *ranks = links + 2 * (size_t)n, *merged = links + 3 * (size_t)n; /* as in merge_short */
    size_t size = 0, steps = 0;
    for (uint32_t left = 0; left < n; left++) {
        uint32_t rank = MERGES_NONE;
        following[left] = left + 1, preceding[left] = left - 1;
        if (left + 1 < n) rank = find_merge(t, tokens[left], tokens[left + 1], &merged[left]);
        if (rank == MERGES_WRONG) return MERGES_DAMAGED;
        ranks[left] = rank;
        if (rank != MERGES_NONE) heap[size++] = (uint64_t)rank << 32 | left;
        if (left % MERGES_PATIENCE == 0 && check && check()) return MERGES_STOPPED;
    }
    for (size_t i = size / 2; i; i--) heap_sift_down(heap, size, i - 1);
    while (size) {
        if (++steps % MERGES_PATIENCE == 0 && check && check()) return MERGES_STOPPED;
        const uint64_t key = heap[0];
        heap[0] = heap[--size];
        heap_sift_down(heap, size, 0);
        const uint32_t left = (uint32_t)key;
        if (ranks[left] != key >> 32) continue; /* one of the two tokens has been merged since */
        const uint32_t right = following[left], after = following[right], before = preceding[left];
        tokens[left] = merged[left];
        ranks[right] = ranks[left] = MERGES_NONE;
        following[left] = after;
        if (after < n) {
            preceding[after] = left;
            const uint32_t rank = ranks[left] = find_merge(t, tokens[left], tokens[after], &merged[left]);
            if (rank == MERGES_WRONG) return MERGES_DAMAGED;
            if (rank != MERGES_NONE) heap_push(heap, size++, (uint64_t)rank << 32 | left);
        }
        if (before != MERGES_NONE) {
            const uint32_t rank = ranks[before] = find_merge(t, tokens[before], tokens[left], &merged[before]);
            if (rank == MERGES_WRONG) return MERGES_DAMAGED;
            if (rank != MERGES_NONE) heap_push(heap, size++, (uint64_t)rank << 32 | before);
        }
    }
    for (uint32_t left = 0; left < n; left = following[left]) tokens[size++] = tokens[left];
    return (ptrdiff_t)size;
}

/* Merges a piece of 2 to MERGES_NONE - 1 tokens in place, in O(n log n). `check`, unless it is NULL, is called now and
 * then; the work ends when it returns nonzero. Returns the number of tokens left, or one of the MERGES_* codes. */
static inline ptrdiff_t merge_long(const Tables *t, uint32_t *tokens, ptrdiff_t n, int (*check)(void)) {
    const size_t each = 2 * sizeof(uint64_t) + 4 * sizeof(uint32_t);
    if ((size_t)n > PTRDIFF_MAX / each) return MERGES_NO_MEMORY;
    /* A merge removes one key from the heap and adds at most two. */
    uint64_t *heap = malloc((size_t)n * each);
    if (!heap) return MERGES_NO_MEMORY;
    n = merge_linked(t, tokens, (uint32_t)n, heap, (uint32_t *)(heap + 2 * n), check);
    free(heap);
    return n;
}

#endif

/* What the targets share: values taken from the fuzzer's bytes, and checks that end the program.
 *
 * A target defines LLVMFuzzerTestOneInput(), as libFuzzer wants it; replay.c calls it without libFuzzer. Whatever a target
 * gives to the core is in memory of exactly its size, so that the address sanitizer finds every access outside it. */
#ifndef GPT2RT_FUZZ_INPUT_H
#define GPT2RT_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(fact)                                                              \
    do {                                                                         \
        if (!(fact)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #fact); \
            abort();                                                             \
        }                                                                        \
    } while (0)

/* What is left of the fuzzer's bytes; after their end, there are zeros. */
typedef struct {
    const uint8_t *at, *end;
} Input;

static inline size_t input_left(const Input *input) { return (size_t)(input->end - input->at); }

static inline void input_copy(Input *input, void *to, size_t n) {
    const size_t n_left = input_left(input), n_taken = n < n_left ? n : n_left;
    if (n_taken) memcpy(to, input->at, n_taken);
    if (n > n_taken) memset((uint8_t *)to + n_taken, 0, n - n_taken);
    input->at += n_taken;
}

static inline uint32_t input_byte(Input *input) {
    uint8_t value;
    input_copy(input, &value, 1);
    return value;
}

static inline uint32_t input_u16(Input *input) {
    const uint32_t low = input_byte(input);
    return low | input_byte(input) << 8;
}

static inline uint32_t input_u32(Input *input) {
    const uint32_t low = input_u16(input);
    return low | input_u16(input) << 16;
}

static inline uint64_t input_u64(Input *input) {
    const uint64_t low = input_u32(input);
    return low | (uint64_t)input_u32(input) << 32;
}

/* Returns a number from least to most, at most 65535 apart. */
static inline uint32_t input_between(Input *input, uint32_t least, uint32_t most) {
    const uint32_t n = most - least + 1;
    return least + (n <= 256 ? input_byte(input) : input_u16(input)) % n;
}

static inline void *allocated(size_t n) {
    void *memory = malloc(n ? n : 1);
    CHECK(memory);
    return memory;
}

/* Returns a copy of n bytes, which the caller frees. */
static inline uint8_t *copied(const void *from, size_t n) {
    uint8_t *copy = allocated(n);
    if (n) memcpy(copy, from, n);
    return copy;
}

/* Returns bytes that the caller frees, as many as their first one or two say, at most `most` (below 65536). OUT: n. */
static inline uint8_t *input_bytes(Input *input, size_t most, size_t *n) {
    const size_t wanted = input_between(input, 0, (uint32_t)most), n_left = input_left(input);
    *n = wanted < n_left ? wanted : n_left;
    uint8_t *bytes = allocated(*n);
    input_copy(input, bytes, *n);
    return bytes;
}

#endif

/* The model that an executable carries (carried.h): the fuzzer's bytes are the end of the executable. */
#define _GNU_SOURCE 1

#include <stdio.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "input.h"

static char executable[40]; /* the path of the file that takes the place of this program's */

static inline unsigned long fuzz_getauxval(unsigned long type) {
    return type == AT_EXECFN ? (unsigned long)executable : 0;
}
#define getauxval fuzz_getauxval
#include "carried.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input = {data, data + size};
    static int file = -1;
    const uint32_t how = input_byte(&input);
    const size_t n_before = (size_t)input_u32(&input) % 400000; /* zeros before the fuzzer's bytes */
    Mapped mapped;
    Problem problem = {{0}};
    int is_carried = -1;
    if (file < 0) {
        file = memfd_create("executable", 0);
        CHECK(file >= 0);
        snprintf(executable, sizeof(executable), "/proc/self/fd/%d", file);
    }
    size_t n = input_left(&input);
    uint8_t *content = copied(input.at, n);
    if (n >= TRAILER_SIZE) {
        uint8_t *trailer = content + n - TRAILER_SIZE;
        const uint64_t end = n_before + n - TRAILER_SIZE;
        if (how & 1) memcpy(trailer, TRAILER_MAGIC, 8);
        if (how & 2) write_u64(trailer + AT_CARRIED_OFFSET, read_u64(trailer + AT_CARRIED_OFFSET) * CARRIED_ALIGNMENT);
        if (how & 4) write_u64(trailer + AT_CARRIED_SIZE, end - read_u64(trailer + AT_CARRIED_OFFSET));
        if (how & 8) write_u64(trailer + AT_TRAILER_RESERVED, 0);
    }
    CHECK(!ftruncate(file, 0) && !ftruncate(file, (off_t)(n_before + n)));
    CHECK(pwrite(file, content, n, (off_t)n_before) == (ssize_t)n);
    const MappedResult result = carried_open(&mapped, &is_carried, &problem);
    CHECK(result == MAPPED_OK || (result == MAPPED_REFUSED && strlen(problem.text) > 10 && !is_carried));
    if (is_carried) {
        const size_t end = n_before + n - TRAILER_SIZE;
        const uint64_t offset = read_u64(content + n - TRAILER_SIZE + AT_CARRIED_OFFSET);
        CHECK(n >= TRAILER_SIZE && !memcmp(content + n - TRAILER_SIZE, TRAILER_MAGIC, 8));
        CHECK(mapped.size > 0 && offset % CARRIED_ALIGNMENT == 0 && offset + mapped.size == end);
        for (size_t i = 0; i < mapped.size; i += i + 4096 < mapped.size ? 4096 : 1) {
            const size_t at = (size_t)offset + i;
            CHECK(mapped.data[i] == (at < n_before ? 0 : content[at - n_before]));
        }
    } else {
        CHECK(!mapped.data);
    }
    mapped_close(&mapped);
    free(content);
    return 0;
}

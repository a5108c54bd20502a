/* A program over the core's reader of model files, without Python.
 *
 * modelfile open PATH [OFFSET]   maps a file from an offset on, and prints what is wrong with it, or a summary
 * modelfile read PATH [OFFSET]   the same, but reads it into memory
 * modelfile damage PATH SEED N   opens N damaged copies, uses the valid ones, and prints how many those are
 * modelfile grow PATH            opens a file that grows at this moment; not on Windows */
#include "platform.h"

#include <stdio.h>
#include <stdlib.h>

#if !defined(_WIN32)
#include <sys/stat.h>

static const char *growing; /* a file that gets another byte before the second look at it; NULL for none */

/* Replaces fstat() in the core. */
static int watched_fstat(int file, struct stat *status) {
    static int n_calls;
    if (growing && ++n_calls == 2) {
        FILE *stream = fopen(growing, "ab");
        if (!stream || fputc('x', stream) == EOF || fclose(stream)) abort();
    }
    return fstat(file, status);
}
#define fstat watched_fstat
#endif

#include "mapped.h"
#include "modelfile.h"
#include "network.h"

static volatile uint32_t sink; /* so that no read is optimized away */

static void touch(const uint8_t *p, int64_t n) {
    uint32_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += p[i];
    sink = sum;
}

/* Reads everything that a valid file promises to have. */
static void use(const ModelFile *f) {
    const Vocabulary *v = &f->vocabulary;
    uint32_t checksum;
    Network network = {0};
    touch(v->token_offsets, 4 * (f->shape.n_vocab + 1));
    touch(v->byte_tokens, 4 * 256);
    touch(v->special_tokens, 4 * (int64_t)v->counts.n_special);
    touch(v->controls, 4 * (int64_t)v->counts.n_controls);
    touch(v->merge_slots, 16 * (int64_t)v->counts.n_slots);
    touch(v->token_bytes, v->counts.n_token_bytes);
    for (int i = 0; i < N_SECTIONS; i++)
        if (!section_checksum(&f->sections[i], NULL, &checksum)) abort();
    modelfile_nonzero_padding(f);
    if (!network_open(&network, &f->shape, f->sections[SECTION_WEIGHTS].data)) abort();
    touch(network.head.data, network.head.tiles * network.head.layout.stride);
    free(network.layers);
}

static int open_and_print(const char *path, uint64_t offset, int use_mmap) {
    Mapped mapped;
    ModelFile file;
    Problem problem;
    const MappedResult result = mapped_open(&mapped, path, offset, use_mmap, &problem);
    if (result == MAPPED_NO_MEMORY) {
        puts("not enough memory");
    } else if (result == MAPPED_REFUSED || !modelfile_open(&file, mapped.data, mapped.size, &problem)) {
        puts(problem.text);
    } else {
        mapped_prefetch(&mapped);
        use(&file);
        printf("valid: %lld bytes, %s, %lld tensors, padding %lld, damaged:", (long long)file.size,
               TYPE_NAMES[file.shape.type], (long long)shape_tensors(&file.shape),
               (long long)modelfile_nonzero_padding(&file));
        for (int i = 0; i < N_SECTIONS; i++) {
            uint32_t checksum;
            section_checksum(&file.sections[i], NULL, &checksum);
            if (checksum != file.sections[i].checksum) printf(" %s", SECTION_NAMES[i]);
        }
        puts("");
    }
    mapped_close(&mapped);
    return 0;
}

static uint64_t random_state;

/* Returns a number less than n (xorshift64*). */
static size_t random_below(size_t n) {
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (size_t)(random_state * 2685821657736338717u >> 32) % n;
}

static uint32_t random_word(uint32_t old) {
    static const uint32_t words[] = {0, 1, 2, 3, 5, 15, 16, 17, 64, 4096, 1u << 16, 1u << 20, 1u << 31, UINT32_MAX - 1,
                                     UINT32_MAX};
    const size_t kind = random_below(4);
    if (kind == 0) return words[random_below(sizeof(words) / sizeof(*words))];
    if (kind == 1) return old + 1 - 2 * (uint32_t)random_below(2);
    if (kind == 2) return old ^ 1u << random_below(32);
    return (uint32_t)random_below((size_t)1 << 31);
}

/* Opens a damaged copy, in memory of exactly its size so that a sanitizer sees any read beyond it. Returns whether it
 * is valid. */
static int open_damaged(const uint8_t *sound, size_t size, size_t vocabulary) {
    ModelFile file;
    Problem problem = {{0}};
    size_t n = size;
    if (random_below(8) == 0) n = random_below(2) ? random_below(size) : random_below(5000);
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy) abort();
    memcpy(copy, sound, n);
    for (size_t left = random_below(4); left; left--) {
        const size_t place = random_below(3);
        const size_t at = place == 0 ? 4 * random_below(34) : vocabulary + 4 * random_below(5);
        const size_t where = place == 1 ? AT_SHAPE + 4 * random_below(8) : at;
        if (where + 4 <= n) write_u32(copy + where, random_word(read_u32(copy + where)));
    }
    if (n >= MODEL_ALIGNMENT && random_below(16)) {
        if (random_below(2)) write_u64(copy + AT_FILE_SIZE, n);
        write_u32(copy + AT_CHECKSUM, crc32c(0, copy, AT_CHECKSUM));
    }
    const int is_valid = modelfile_open(&file, n ? copy : NULL, n, &problem);
    const size_t length = strlen(problem.text);
    if (is_valid) use(&file);
    else if (length < 10 || length >= sizeof(problem.text) - 1) abort(); /* not a sentence, or one that was cut */
    free(copy);
    return is_valid;
}

static int open_many_damaged(const char *path, uint64_t seed, long n) {
    Mapped mapped;
    ModelFile file;
    Problem problem;
    if (mapped_open(&mapped, path, 0, 0, &problem) != MAPPED_OK) return 1;
    if (!modelfile_open(&file, mapped.data, mapped.size, &problem)) return 1;
    const size_t vocabulary = (size_t)file.sections[SECTION_VOCABULARY].offset;
    long n_valid = 0;
    random_state = seed * 2 + 1;
    for (long i = 0; i < n; i++) n_valid += open_damaged(mapped.data, mapped.size, vocabulary);
    printf("%ld valid\n", n_valid);
    mapped_close(&mapped);
    return 0;
}

#if defined(_WIN32)
#include <shellapi.h>

/* Replaces the arguments, which main() gets in a code page, by UTF-8. */
static char **utf8_arguments(int *argc) {
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), argc);
    char **argv = wide ? calloc((size_t)*argc + 1, sizeof(char *)) : NULL;
    if (!argv) abort();
    for (int i = 0; i < *argc; i++) {
        const int n = WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, NULL, 0, NULL, NULL);
        argv[i] = malloc((size_t)n);
        if (!argv[i] || !WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, argv[i], n, NULL, NULL)) abort();
    }
    return argv;
}
#endif

int main(int argc, char **argv) {
#if defined(_WIN32)
    argv = utf8_arguments(&argc);
#endif
    crc32c_init();
    if (argc < 3) return 1;
    const uint64_t number = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    if (!strcmp(argv[1], "open")) return open_and_print(argv[2], number, 1);
    if (!strcmp(argv[1], "read")) return open_and_print(argv[2], number, 0);
    if (!strcmp(argv[1], "damage") && argc == 5) return open_many_damaged(argv[2], number, atol(argv[4]));
#if !defined(_WIN32)
    if (!strcmp(argv[1], "grow")) return growing = argv[2], open_and_print(argv[2], 0, 1);
#endif
    return 1;
}

/* The model that a program carries: linked into it, or appended to its executable. gpt2rt bundle makes both; it also
 * knows the trailer (gpt2rt/bundle.py). */
#ifndef GPT2RT_CARRIED_H
#define GPT2RT_CARRIED_H

#include "mapped.h"

#if defined(GPT2RT_LINKED_MODEL)

/* In a read-only section that begins at a page. */
extern const uint8_t gpt2rt_model[], gpt2rt_model_end[];

static inline MappedResult carried_open(Mapped *m, int *is_carried, Problem *problem) {
    (void)problem;
    *m = (Mapped){.data = gpt2rt_model, .size = (size_t)((uintptr_t)gpt2rt_model_end - (uintptr_t)gpt2rt_model)};
    *is_carried = 1;
    return MAPPED_OK;
}

#else

#include <string.h>

#include "layout.h"

#if defined(__APPLE__)
#include <mach-o/dyld.h>
#elif defined(__linux__)
#include <sys/auxv.h>
#endif

/* The last bytes of an executable with an appended model, and where its numbers are in them. The model ends where the
 * trailer begins. */
#define TRAILER_MAGIC "GPT2RTEX"      /* 8 bytes */
#define CARRIED_ALIGNMENT 65536       /* of the model in the file: pages of every system, and Windows' granularity */
enum { AT_CARRIED_OFFSET = 8, AT_CARRIED_SIZE = 16, AT_TRAILER_RESERVED = 24, TRAILER_SIZE = 32 };

/* --- this system's executables ----------------------------------------------------------------------------------- */

/* Returns the path of this program's executable, which the caller frees; NULL without memory. */
#if defined(_WIN32)
static inline char *own_path(void) {
    for (DWORD room = 512;; room *= 2) {
        wchar_t *wide = calloc(room, sizeof(wchar_t));
        if (!wide) return NULL;
        const DWORD n = GetModuleFileNameW(NULL, wide, room); /* `room` if it is too small */
        char *path = n < room ? calloc(n + 1, 3) : NULL;      /* a UTF-16 unit is at most 3 bytes of UTF-8 */
        if (path) WideCharToMultiByte(CP_UTF8, 0, wide, (int)n, path, (int)n * 3, NULL, NULL);
        free(wide);
        if (n < room) return path;
    }
}
#elif defined(__APPLE__)
static inline char *own_path(void) {
    uint32_t size = 0;
    _NSGetExecutablePath(NULL, &size);
    char *path = calloc(size + 1, 1);
    if (path) _NSGetExecutablePath(path, &size);
    return path;
}
#else
static inline char *own_path(void) {
    const char *path = "/proc/self/exe"; /* of an executable that has no name, too */
#if defined(__linux__)
    const char *name = (const char *)getauxval(AT_EXECFN); /* works without /proc */
    if (name && !access(name, R_OK)) path = name;
#endif
    return strdup(path);
}
#endif

/* --- an appended model ------------------------------------------------------------------------------------------- */

/* Reads the last bytes of a file. OUT: trailer, which stays zero if the file is shorter; size, that of the file. */
static inline MappedResult trailer_read(const char *path, uint8_t trailer[TRAILER_SIZE], uint64_t *size,
                                        Problem *problem) {
    FileHandle handle = 0;
    MappedResult result = handle_open(&handle, path, problem);
    if (result != MAPPED_OK) return result;
    result = handle_size(handle, size, problem);
    if (result == MAPPED_OK && *size >= TRAILER_SIZE) {
        const int64_t n = handle_read(handle, *size - TRAILER_SIZE, trailer, TRAILER_SIZE);
        if (n < 0) result = handle_error(problem);
        if (n >= 0 && n < TRAILER_SIZE) memset(trailer, 0, TRAILER_SIZE); /* something is writing the file */
    }
    handle_close(handle);
    return result;
}

/* Maps the model that this program carries. OUT: m, the model, which the caller frees with mapped_close(); is_carried,
 * whether there is one; problem, if the result is MAPPED_REFUSED. */
static inline MappedResult carried_open(Mapped *m, int *is_carried, Problem *problem) {
    uint8_t trailer[TRAILER_SIZE] = {0};
    uint64_t file_size = 0;
    *m = (Mapped){0}, *is_carried = 0;
    char *path = own_path();
    if (!path) return MAPPED_NO_MEMORY;
    MappedResult result = trailer_read(path, trailer, &file_size, problem);
    if (result == MAPPED_OK && !memcmp(trailer, TRAILER_MAGIC, 8)) {
        const uint64_t offset = read_u64(trailer + AT_CARRIED_OFFSET), size = read_u64(trailer + AT_CARRIED_SIZE);
        const uint64_t end = file_size - TRAILER_SIZE;
        if (offset % CARRIED_ALIGNMENT || !offset || offset > end || size != end - offset || !size ||
            read_u64(trailer + AT_TRAILER_RESERVED)) {
            problem_set(problem,
                        "damaged: its last bytes say that a model of %" PRIu64 " bytes begins at byte %" PRIu64
                        " of %" PRIu64 " (copy or bundle it again)", size, offset, file_size);
            result = MAPPED_REFUSED;
        } else {
            result = mapped_open(m, path, offset, 1, problem);
        }
        if (result == MAPPED_OK && m->size < size) result = mapped_refuse(problem, "was shortened while it was opened");
        if (result == MAPPED_OK) m->size = (size_t)size, *is_carried = 1;
        if (result != MAPPED_OK) mapped_close(m);
    }
    free(path);
    return result;
}

#endif

#endif

/* The bytes of a file: mapped, or read into memory. If a program carries its model, only those from an offset on.
 *
 * If another program shortens the file while it is mapped, reading what is gone ends this program; that can be checked
 * for only while the file is opened. */
#ifndef GPT2RT_MAPPED_H
#define GPT2RT_MAPPED_H

#include "platform.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "problem.h"

#if defined(_WIN32)
#include <windows.h>
typedef HANDLE FileHandle;
#else
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
typedef int FileHandle;
#endif

#define READ_STEP (64 << 20) /* bytes that are read at a time, as systems limit them */

typedef struct {
    const uint8_t *data; /* (size) */
    size_t size;
    void *base;       /* what was mapped or allocated */
    size_t base_size; /* bytes that were mapped; 0 if they were allocated */
} Mapped;

typedef enum {
    MAPPED_OK,
    MAPPED_REFUSED, /* the problem says why */
    MAPPED_NO_MEMORY,
} MappedResult;

static inline MappedResult mapped_refuse(Problem *problem, const char *sentence) {
    problem_set(problem, "%s", sentence);
    return MAPPED_REFUSED;
}

#define IS_PIPE "is a pipe, expected a model file"
#define IS_FOLDER "is a folder, expected a model file (gpt2rt convert makes one from a checkpoint)"
#define IS_MISSING "no such file (gpt2rt convert makes one from a checkpoint)"
#define IS_SPECIAL "can't be opened: it is not a regular file"

/* --- this system's files ----------------------------------------------------------------------------------------- */

#if defined(_WIN32)

/* Says why the last call has failed. */
static inline MappedResult handle_error(Problem *problem) {
    const DWORD error = GetLastError();
    if (error == ERROR_NOT_ENOUGH_MEMORY || error == ERROR_OUTOFMEMORY) return MAPPED_NO_MEMORY;
    if (error == ERROR_FILE_NOT_FOUND || error == ERROR_PATH_NOT_FOUND) return mapped_refuse(problem, IS_MISSING);
    if (error == ERROR_ACCESS_DENIED) return mapped_refuse(problem, "can't be opened: Permission denied");
    problem_set(problem, "can't be opened: error %lu of Windows", (unsigned long)error);
    return MAPPED_REFUSED;
}

/* Opens a file, whose path is UTF-8. OUT: handle, problem. */
static inline MappedResult handle_open(FileHandle *handle, const char *path, Problem *problem) {
    const int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    if (n <= 0) return handle_error(problem);
    wchar_t *wide = calloc((size_t)n, sizeof(wchar_t));
    if (!wide) return MAPPED_NO_MEMORY;
    MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, n);
    const DWORD attributes = GetFileAttributesW(wide);
    MappedResult result = MAPPED_OK;
    if (attributes != INVALID_FILE_ATTRIBUTES && attributes & FILE_ATTRIBUTE_DIRECTORY) {
        result = mapped_refuse(problem, IS_FOLDER);
    } else {
        *handle = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_EXISTING,
                              FILE_ATTRIBUTE_NORMAL, NULL);
        if (*handle == INVALID_HANDLE_VALUE) result = handle_error(problem);
    }
    free(wide);
    if (result != MAPPED_OK) return result;
    const DWORD type = GetFileType(*handle);
    if (type == FILE_TYPE_DISK) return MAPPED_OK;
    CloseHandle(*handle);
    return mapped_refuse(problem, type == FILE_TYPE_PIPE ? IS_PIPE : IS_SPECIAL);
}

static inline void handle_close(FileHandle handle) { CloseHandle(handle); }

static inline MappedResult handle_size(FileHandle handle, uint64_t *size, Problem *problem) {
    LARGE_INTEGER found;
    if (!GetFileSizeEx(handle, &found)) return handle_error(problem);
    *size = (uint64_t)found.QuadPart;
    return MAPPED_OK;
}

/* A mapping begins at a multiple of this. */
static inline size_t handle_granularity(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwAllocationGranularity;
}

static inline MappedResult handle_map(FileHandle handle, uint64_t offset, size_t size, void **base, Problem *problem) {
    HANDLE mapping = CreateFileMappingW(handle, NULL, PAGE_READONLY, 0, 0, NULL);
    if (!mapping) return handle_error(problem);
    *base = MapViewOfFile(mapping, FILE_MAP_READ, (DWORD)(offset >> 32), (DWORD)offset, size);
    const MappedResult result = *base ? MAPPED_OK : handle_error(problem);
    CloseHandle(mapping); /* the view keeps it */
    return result;
}

static inline void handle_unmap(void *base, size_t size) {
    (void)size;
    UnmapViewOfFile(base);
}

/* Reads up to n bytes at an offset. Returns their number, 0 at the end of the file; -1 after an error. */
static inline int64_t handle_read(FileHandle handle, uint64_t offset, void *to, size_t n) {
    OVERLAPPED where = {.Offset = (DWORD)offset, .OffsetHigh = (DWORD)(offset >> 32)};
    DWORD n_read = 0;
    if (ReadFile(handle, to, (DWORD)n, &n_read, &where)) return n_read;
    return GetLastError() == ERROR_HANDLE_EOF ? 0 : -1;
}

#else

/* Says why the last call has failed. */
static inline MappedResult handle_error(Problem *problem) {
    if (errno == ENOMEM) return MAPPED_NO_MEMORY;
    if (errno == ENOENT) return mapped_refuse(problem, IS_MISSING);
    problem_set(problem, "can't be opened: %s", strerror(errno));
    return MAPPED_REFUSED;
}

static inline void handle_close(FileHandle handle) { close(handle); }

static inline MappedResult handle_size(FileHandle handle, uint64_t *size, Problem *problem) {
    struct stat status;
    if (fstat(handle, &status)) return handle_error(problem);
    *size = (uint64_t)status.st_size;
    return MAPPED_OK;
}

/* Opens a file. OUT: handle, problem. */
static inline MappedResult handle_open(FileHandle *handle, const char *path, Problem *problem) {
    struct stat status;
    if (stat(path, &status)) return handle_error(problem);
    if (S_ISDIR(status.st_mode)) return mapped_refuse(problem, IS_FOLDER);
    if (S_ISFIFO(status.st_mode)) return mapped_refuse(problem, IS_PIPE); /* opening it could wait forever */
    if (!S_ISREG(status.st_mode)) return mapped_refuse(problem, IS_SPECIAL);
    do {
        *handle = open(path, O_RDONLY | O_CLOEXEC);
    } while (*handle < 0 && errno == EINTR);
    return *handle < 0 ? handle_error(problem) : MAPPED_OK;
}

/* A mapping begins at a multiple of this. */
static inline size_t handle_granularity(void) {
    const long page = sysconf(_SC_PAGESIZE);
    return page > 0 ? (size_t)page : 65536;
}

static inline MappedResult handle_map(FileHandle handle, uint64_t offset, size_t size, void **base, Problem *problem) {
    *base = mmap(NULL, size, PROT_READ, MAP_SHARED, handle, (off_t)offset);
    return *base != MAP_FAILED ? MAPPED_OK : handle_error(problem);
}

static inline void handle_unmap(void *base, size_t size) { munmap(base, size); }

/* Reads up to n bytes at an offset. Returns their number, 0 at the end of the file; -1 after an error. */
static inline int64_t handle_read(FileHandle handle, uint64_t offset, void *to, size_t n) {
    for (;;) {
        const ssize_t n_read = pread(handle, to, n, (off_t)offset);
        if (n_read >= 0 || errno != EINTR) return n_read;
    }
}

#endif

/* --- mapping and reading ----------------------------------------------------------------------------------------- */

/* Frees the bytes. */
static inline void mapped_close(Mapped *m) {
    if (m->base_size)
        handle_unmap(m->base, m->base_size);
    else
        free(m->base);
    *m = (Mapped){0};
}

/* Maps `size` bytes from an offset on. */
static inline MappedResult mapped_map(Mapped *m, FileHandle handle, uint64_t offset, size_t size, Problem *problem) {
    const size_t before = (size_t)(offset % handle_granularity()); /* bytes that are mapped, too */
    void *base = NULL;
    const MappedResult result = handle_map(handle, offset - before, before + size, &base, problem);
    if (result == MAPPED_OK)
        *m = (Mapped){.data = (const uint8_t *)base + before, .size = size, .base = base, .base_size = before + size};
    return result;
}

/* Reads `size` bytes from an offset on into memory, or as many as there are. */
static inline MappedResult mapped_read(Mapped *m, FileHandle handle, uint64_t offset, size_t size, Problem *problem) {
    uint8_t *bytes = malloc(size);
    if (!bytes) return MAPPED_NO_MEMORY;
    *m = (Mapped){.data = bytes, .base = bytes};
    while (m->size < size) {
        const size_t left = size - m->size;
        const int64_t n = handle_read(handle, offset + m->size, bytes + m->size, left < READ_STEP ? left : READ_STEP);
        if (n < 0) return handle_error(problem);
        if (n == 0) break;
        m->size += (size_t)n;
    }
    return MAPPED_OK;
}

/* Maps a file read-only from an offset to its end, or, without `use_mmap`, reads it into memory. The caller frees the
 * bytes with mapped_close(). OUT: m, which is empty if they are not there; problem, if the result is MAPPED_REFUSED. */
static inline MappedResult mapped_open(Mapped *m, const char *path, uint64_t offset, int use_mmap, Problem *problem) {
    FileHandle handle = 0;
    uint64_t size = 0, size_after = 0;
    *m = (Mapped){0};
    MappedResult result = handle_open(&handle, path, problem);
    if (result != MAPPED_OK) return result;
    result = handle_size(handle, &size, problem);
    if (result == MAPPED_OK && size > offset) {
        const uint64_t n = size - offset;
        if (n > SIZE_MAX / 2)
            result = MAPPED_NO_MEMORY;
        else
            result = (use_mmap ? mapped_map : mapped_read)(m, handle, offset, (size_t)n, problem);
    }
    if (result == MAPPED_OK) result = handle_size(handle, &size_after, problem);
    if (result == MAPPED_OK && size != size_after) {
        problem_set(problem, "%" PRIu64 " bytes, and %" PRIu64 " a moment later (is something writing it?)", size,
                    size_after);
        result = MAPPED_REFUSED;
    }
    handle_close(handle);
    if (result != MAPPED_OK) mapped_close(m);
    return result;
}

/* Starts reading mapped bytes that are not in memory yet, if the system can. */
static inline void mapped_prefetch(const Mapped *m) {
#if defined(_WIN32)
    (void)m;
#else
    if (m->base_size) posix_madvise(m->base, m->base_size, POSIX_MADV_WILLNEED);
#endif
}

#endif

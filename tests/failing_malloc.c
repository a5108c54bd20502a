/* Preloaded into a process: after failing_malloc_arm(), makes its n-th allocation of at least a given size fail. The
 * others are those of the next library: the C library, or a sanitizer.
 *
 * In a program that can't call this, the variable FAILING_MALLOC is n; a file that FAILING_MALLOC_LEFT names then gets
 * the number of allocations that were left. */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static volatile long left = -1; /* allocations before the failing one; negative for none */
static volatile size_t least;   /* minimum bytes of an allocation that counts */

void failing_malloc_arm(long n, size_t bytes) { least = bytes, left = n; }

/* Returns whether the allocation has failed. */
int failing_malloc_disarm(void) {
    const int has_failed = left < 0;
    left = -1;
    return has_failed;
}

static int fails(size_t size) {
    if (left < 0 || size < least) return 0;
    if (__atomic_fetch_sub(&left, 1, __ATOMIC_SEQ_CST) != 0) return 0;
    errno = ENOMEM;
    return 1;
}

static void *(*next_malloc)(size_t), *(*next_calloc)(size_t, size_t), *(*next_realloc)(void *, size_t);

#define NEXT(name) (next_##name ? next_##name : (*(void **)&next_##name = dlsym(RTLD_NEXT, #name), next_##name))

void *malloc(size_t size) { return fails(size) ? NULL : NEXT(malloc)(size); }
void *calloc(size_t n, size_t size) { return fails(n * size) ? NULL : NEXT(calloc)(n, size); }
void *realloc(void *old, size_t size) { return fails(size) ? NULL : NEXT(realloc)(old, size); }

__attribute__((constructor)) static void begin(void) {
    const char *n = getenv("FAILING_MALLOC");
    if (n) failing_malloc_arm(atol(n), 0);
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("FAILING_MALLOC_LEFT");
    const long n = left;
    failing_malloc_disarm();
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "%ld", n);
    fclose(file);
}

/* A counter or flag that several threads read and write. Atomic64 can only be read and set.
 *
 * atomic_get acquires: what another thread wrote before it set the value is visible afterwards. atomic_set releases.
 * The other operations, which read and write in one step, do both and are sequentially consistent: all threads see them
 * in the same order. A get may move before an earlier set of another variable; where that matters, read with
 * atomic_add(p, 0). */
#ifndef GPT2RT_ATOMICS_H
#define GPT2RT_ATOMICS_H

#include <stdint.h>

#if defined(_MSC_VER) && !defined(__clang__)

#include <intrin.h>

typedef volatile long Atomic;
typedef volatile int64_t Atomic64;

/* Microsoft's volatile orders accesses only under /volatile:ms, which is not the default on Arm. The __iso_volatile
 * intrinsics never do, so the barriers below order them. */
#if defined(_M_ARM64)
#define ATOMIC_BARRIER() (_ReadWriteBarrier(), __dmb(_ARM64_BARRIER_ISH), _ReadWriteBarrier())
#else /* x86 orders loads with loads and stores with stores; only the compiler may not move them */
#define ATOMIC_BARRIER() _ReadWriteBarrier()
#endif

static inline long atomic_get(const Atomic *p) {
    const long x = __iso_volatile_load32((const volatile int *)p);
    ATOMIC_BARRIER();
    return x;
}

static inline void atomic_set(Atomic *p, long x) {
    ATOMIC_BARRIER();
    __iso_volatile_store32((volatile int *)p, x);
}

static inline int64_t atomic_get64(const Atomic64 *p) {
    const int64_t x = __iso_volatile_load64(p);
    ATOMIC_BARRIER();
    return x;
}

static inline void atomic_set64(Atomic64 *p, int64_t x) {
    ATOMIC_BARRIER();
    __iso_volatile_store64(p, x);
}

/* Returns the old value. */
static inline long atomic_add(Atomic *p, long x) { return _InterlockedExchangeAdd(p, x); }

/* Returns the old value. */
static inline long atomic_swap(Atomic *p, long x) { return _InterlockedExchange(p, x); }

/* Stores x where the value is `expected`. Returns whether it was. */
static inline int atomic_replace(Atomic *p, long expected, long x) {
    return _InterlockedCompareExchange(p, x, expected) == expected;
}

#else

typedef long Atomic;
typedef int64_t Atomic64;

static inline long atomic_get(const Atomic *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

static inline void atomic_set(Atomic *p, long x) { __atomic_store_n(p, x, __ATOMIC_RELEASE); }

static inline int64_t atomic_get64(const Atomic64 *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

static inline void atomic_set64(Atomic64 *p, int64_t x) { __atomic_store_n(p, x, __ATOMIC_RELEASE); }

/* Returns the old value. */
static inline long atomic_add(Atomic *p, long x) { return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST); }

/* Returns the old value. */
static inline long atomic_swap(Atomic *p, long x) { return __atomic_exchange_n(p, x, __ATOMIC_SEQ_CST); }

/* Stores x where the value is `expected`. Returns whether it was. */
static inline int atomic_replace(Atomic *p, long expected, long x) {
    return __atomic_compare_exchange_n(p, &expected, x, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

#endif

#endif

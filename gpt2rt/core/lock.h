/* A lock that is never waited for, and that fork() cannot leave locked.
 *
 * It stores the id of the process whose thread holds it. In a child process that inherits it locked, that thread does
 * not exist: the lock is free there, unless what it guards was being changed at that moment. */
#ifndef GPT2RT_LOCK_H
#define GPT2RT_LOCK_H

#include "thread.h"

#include "atomics.h"

typedef struct {
    Atomic process;    /* 0 if free */
    Atomic committing; /* what it guards is being changed */
} Lock;

typedef enum { LOCK_TAKEN, LOCK_IN_USE, LOCK_TORN } LockResult;

static inline LockResult lock_take(Lock *lock) {
    const long process = current_process();
    for (;;) {
        const long holder = atomic_get(&lock->process);
        if (holder == process) return LOCK_IN_USE;
        if (holder && atomic_get(&lock->committing)) return LOCK_TORN;
        if (atomic_replace(&lock->process, holder, process)) return LOCK_TAKEN;
    }
}

static inline void lock_release(Lock *lock) { atomic_set(&lock->process, 0); }

#endif

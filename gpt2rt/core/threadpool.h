/* A thread pool: threads that run one function together.
 *
 * The caller is worker 0; the helpers are started once. After each job they spin briefly and then park, so an idle pool
 * uses no CPU. A child process inherits a pool through fork() without its threads: pool_is_alive() detects this, and
 * the owner makes a new pool. */
#ifndef GPT2RT_THREADPOOL_H
#define GPT2RT_THREADPOOL_H

#include "platform.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "atomics.h"
#include "chunks.h"
#include "clock.h"
#include "float_state.h"
#include "thread.h"

#define POOL_MAX_THREADS 1024
#define POOL_SPIN 10e-6   /* seconds before a waiting thread yields to others */
#define POOL_AWAKE 200e-6 /* seconds before a helper without a job parks */
#define POOL_APART CHUNKS_APART

typedef struct ThreadPool ThreadPool;

typedef struct {
    ThreadPool *pool; /* NULL if the caller runs alone */
    int index, count;
    int64_t next; /* if the caller runs alone: the start of what pool_chunk() has not handed out */
} Worker;

typedef void (*PoolJob)(void *argument, Worker *worker);

typedef struct {
    ThreadPool *pool;
    int index;
    Thread thread;
    Mutex mutex;
    Condition wake;
    Atomic parked; /* it is asleep, or about to be */
    char apart[POOL_APART];
} PoolHelper;

struct ThreadPool {
    int n_threads; /* including the caller */
    long process;
    Atomic busy; /* a job is running */
    char apart_1[POOL_APART];
    Atomic jobs;  /* number of jobs given to the helpers */
    PoolJob job;  /* the last job; NULL ends a helper */
    void *argument;
    char apart_2[POOL_APART];
    ChunkPart *parts; /* (n_threads) the parts from which pool_chunk() takes until the next barrier */
    char apart_3[POOL_APART];
    Atomic arrived; /* workers at the barrier */
    char apart_4[POOL_APART];
    Atomic barriers; /* number of barriers passed */
    char apart_5[POOL_APART];
    PoolHelper helper[]; /* (n_threads), of which [0], the caller's, is not used */
};

/* Sets [*begin, *end) to a chunk of [0, n) that no worker has taken since the last barrier, and returns 1; returns 0 if
 * none is left for this worker. All workers pass the same n and granule, and meet at a barrier before they divide other
 * work. */
static inline int pool_chunk(Worker *worker, int64_t n, int64_t granule, int64_t *begin, int64_t *end) {
    if (worker->count > 1) {
        return chunk_take(worker->pool->parts, worker->count, worker->index, n, granule, begin, end);
    }
    if (worker->next >= n) return 0;
    *begin = worker->next;
    *end = worker->next = n;
    return 1;
}

/* Waits until *p is no longer `old`, for at most about `seconds`: first spins, then yields, since the thread it waits
 * for may need this processor. Returns whether *p changed. */
static inline int pool_wait(const Atomic *p, long old, double seconds) {
    double begin = 0, waited = 0;
    do {
        const int looks = waited < POOL_SPIN ? 32 : 1;
        if (looks == 1) thread_yield();
        for (int i = 0; i < looks; i++) {
            if (atomic_get(p) != old) return 1;
            thread_pause();
        }
        const double now = clock_seconds();
        if (begin == 0) begin = now;
        waited = now - begin;
    } while (waited < seconds);
    return 0;
}

/* Waits until all workers have arrived. */
static inline void pool_barrier(Worker *worker) {
    worker->next = 0;
    if (worker->count == 1) return;
    ThreadPool *pool = worker->pool;
    const long passed = atomic_get(&pool->barriers); /* no worker can pass this barrier before this one arrives */
    if (atomic_add(&pool->arrived, 1) == worker->count - 1) {
        atomic_set(&pool->arrived, 0);
        chunks_reset(pool->parts, worker->count);
        atomic_add(&pool->barriers, 1); /* releases the others, who then see both as 0 */
    } else {
        pool_wait(&pool->barriers, passed, INFINITY);
    }
}

/* No wake-up is lost. A helper sets `parked` and then reads `jobs`; the caller increments `jobs` and then reads
 * `parked`; all four are sequentially consistent, so they have one total order. Either the helper's read comes after
 * the new job, and it does not sleep, or its `parked` comes before the caller's read, and the caller wakes it. The
 * caller then takes the mutex, which the helper holds from before `parked` until it sleeps, so the signal finds it
 * asleep. The caller never clears a later `parked`, since a helper must meet the caller at the job's last barrier
 * before it can park again. */
static inline void pool_park(PoolHelper *helper, long seen) {
    mutex_lock(&helper->mutex);
    atomic_swap(&helper->parked, 1);
    while (atomic_add(&helper->pool->jobs, 0) == seen) condition_wait(&helper->wake, &helper->mutex);
    atomic_set(&helper->parked, 0);
    mutex_unlock(&helper->mutex);
}

/* Gives the helpers a job, or NULL to end them. */
static inline void pool_give(ThreadPool *pool, PoolJob job, void *argument) {
    pool->job = job;
    pool->argument = argument;
    atomic_add(&pool->jobs, 1);
    for (int i = 1; i < pool->n_threads; i++) {
        PoolHelper *helper = &pool->helper[i];
        if (!atomic_swap(&helper->parked, 0)) continue;
        mutex_lock(&helper->mutex);
        mutex_unlock(&helper->mutex);
        condition_signal(&helper->wake);
    }
}

THREAD_FUNCTION(pool_help, argument) {
    PoolHelper *helper = argument;
    ThreadPool *pool = helper->pool;
    float_state_begin(); /* for the lifetime of the thread */
    for (long seen = 0;;) {
        if (!pool_wait(&pool->jobs, seen, POOL_AWAKE)) pool_park(helper, seen);
        seen = atomic_get(&pool->jobs); /* the next job waits for this worker */
        if (!pool->job) return 0;
        Worker worker = {pool, helper->index, pool->n_threads, 0};
        pool->job(pool->argument, &worker);
        pool_barrier(&worker);
    }
}

/* Makes a pool of n_threads threads, including the caller, or of as many as can be started (at most POOL_MAX_THREADS).
 * Returns NULL if memory runs out. */
static inline ThreadPool *pool_new(int n_threads) {
    if (n_threads > POOL_MAX_THREADS) n_threads = POOL_MAX_THREADS;
    if (n_threads < 1) n_threads = 1;
    const size_t size = sizeof(ThreadPool) + (size_t)n_threads * sizeof(PoolHelper);
    ThreadPool *pool = calloc(1, size + (size_t)n_threads * sizeof(ChunkPart));
    if (!pool) return NULL;
    pool->parts = (ChunkPart *)((char *)pool + size);
    pool->process = current_process();
    for (pool->n_threads = 1; pool->n_threads < n_threads; pool->n_threads++) {
        PoolHelper *helper = &pool->helper[pool->n_threads];
        helper->pool = pool;
        helper->index = pool->n_threads;
        if (!mutex_init(&helper->mutex)) break;
        if (condition_init(&helper->wake)) {
            if (thread_start(&helper->thread, pool_help, helper)) continue;
            condition_free(&helper->wake);
        }
        mutex_free(&helper->mutex);
        break;
    }
    return pool;
}

static inline int pool_threads(const ThreadPool *pool) { return pool->n_threads; }

/* Returns 0 in a child process that inherited the pool through fork(). */
static inline int pool_is_alive(const ThreadPool *pool) { return pool->process == current_process(); }

/* Ends the helpers, which must be idle (in a child process there are none), and frees the pool. */
static inline void pool_free(ThreadPool *pool) {
    if (!pool) return;
    if (pool_is_alive(pool)) {
        pool_give(pool, NULL, NULL);
        for (int i = 1; i < pool->n_threads; i++) {
            PoolHelper *helper = &pool->helper[i];
            thread_join(helper->thread);
            condition_free(&helper->wake);
            mutex_free(&helper->mutex);
        }
    }
    free(pool);
}

/* Runs job(argument, worker) on all threads of the pool and returns when all are done. The caller runs it alone if
 * there is no pool, if the pool is busy (with another thread's job, or the job that calls this), or if the pool was
 * inherited through fork(). */
static inline void pool_run(ThreadPool *pool, PoolJob job, void *argument) {
    const uint64_t old = float_state_begin();
    if (!pool || pool->n_threads == 1 || !pool_is_alive(pool) || atomic_swap(&pool->busy, 1)) {
        Worker alone = {NULL, 0, 1, 0};
        job(argument, &alone);
    } else {
        Worker worker = {pool, 0, pool->n_threads, 0};
        pool_give(pool, job, argument);
        job(argument, &worker);
        pool_barrier(&worker);
        atomic_set(&pool->busy, 0);
    }
    float_state_end(old);
}

#endif

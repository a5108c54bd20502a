/* A team of threads that run one function together and meet at barriers.
 *
 * The caller is member 0; the others are started once, spin for a short while after each job and then park on a lock
 * of Python's portable thread API, so idle costs no CPU. They never touch Python. A child process that inherits a team
 * by fork() inherits no threads: team_is_alive() says so, and the owner makes a new one. */
#ifndef GPT2RT_TEAM_H
#define GPT2RT_TEAM_H

#include <Python.h>
#include <stdint.h>
#include <stdlib.h>

#include "cpu.h"

#ifdef _WIN32
#include <process.h>
#include <windows.h>
#define current_process() ((long)_getpid())
#define yield_processor() SwitchToThread()
#else
#include <sched.h>
#include <unistd.h>
#define current_process() ((long)getpid())
#define yield_processor() sched_yield()
#endif

#if defined(_MSC_VER) && !defined(__clang__)
typedef volatile long Shared; /* /volatile:ms orders plain reads and writes */
#define shared_load(p) (MemoryBarrier(), *(p))
#define shared_store(p, x) InterlockedExchange((p), (x))
#define shared_add(p, x) (InterlockedExchangeAdd((p), (x)))
#define shared_exchange(p, x) InterlockedExchange((p), (x))
#else
typedef long Shared;
#define shared_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define shared_store(p, x) __atomic_store_n((p), (x), __ATOMIC_SEQ_CST)
#define shared_add(p, x) __atomic_fetch_add((p), (x), __ATOMIC_SEQ_CST)
#define shared_exchange(p, x) __atomic_exchange_n((p), (x), __ATOMIC_SEQ_CST)
#endif

#ifdef GPT2RT_X86_64
#define pause_processor() _mm_pause()
#elif defined(GPT2RT_ARM64) && !defined(_MSC_VER)
#define pause_processor() __asm__ volatile("yield")
#else
#define pause_processor() ((void)0)
#endif

#define THREAD_NOT_STARTED ((unsigned long)-1) /* PYTHREAD_INVALID_THREAD_ID, which the limited API leaves out */
#define TEAM_MOST 256          /* threads */
#define TEAM_SPINS_JOB 4000    /* pauses before a member that waits for a job parks: 0.05 to 0.2 ms */
#define TEAM_SPINS_BARRIER 500 /* pauses before a member that waits at a barrier lets others run */

typedef void (*TeamJob)(void *argument, int member, int members);

typedef struct Team Team;
typedef struct {
    Team *team;
    int number;
    PyThread_type_lock wake; /* held; released to wake the member */
    Shared parked;
    char apart[40]; /* no two members' flags on one cache line */
} TeamMember;

struct Team {
    int members; /* the caller included */
    long process;
    TeamJob job;
    void *argument;
    Shared quit, taken;
    char apart[64];
    Shared jobs; /* how many were given out */
    char apart_2[64];
    Shared arrived;
    char apart_3[64];
    Shared barriers; /* how many were passed */
    char apart_4[64];
    Shared left; /* helpers that have ended */
    TeamMember member[TEAM_MOST];
};

/* The state that rounding and subnormal numbers depend on; a host program may have changed it. Returns the old one. */
static uint64_t float_state_begin(void) {
#if defined(GPT2RT_X86_64)
    unsigned old = _mm_getcsr();
    _mm_setcsr(0x1f80); /* to the nearest, subnormals kept, no traps */
    return old;
#elif defined(GPT2RT_ARM64) && !defined(_MSC_VER)
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return old;
#else
    return 0;
#endif
}

static void float_state_end(uint64_t old) {
#if defined(GPT2RT_X86_64)
    _mm_setcsr((unsigned)old);
#elif defined(GPT2RT_ARM64) && !defined(_MSC_VER)
    __asm__ volatile("msr fpcr, %0" : : "r"(old));
#else
    (void)old;
#endif
}

/* Where a member's share of n begins; the next member's begins where it ends. */
static inline int64_t share(int64_t n, int member, int members) { return n * member / members; }

/* Waits until all members have come here. */
static void team_barrier(Team *team) {
    if (!team || team->members == 1) return;
    long passed = shared_load(&team->barriers);
    if (shared_add(&team->arrived, 1) == team->members - 1) {
        shared_store(&team->arrived, 0);
        shared_store(&team->barriers, passed + 1);
        return;
    }
    for (int spins = 0; shared_load(&team->barriers) == passed;) {
        if (spins < TEAM_SPINS_BARRIER) {
            pause_processor();
            spins++;
        } else {
            yield_processor();
        }
    }
}

static void team_helper(void *argument) {
    TeamMember *self = argument;
    Team *team = self->team;
    long seen = 0;
    float_state_begin();
    for (;;) {
        for (int spins = 0; shared_load(&team->jobs) == seen && spins < TEAM_SPINS_JOB; spins++) pause_processor();
        if (shared_load(&team->jobs) == seen) {
            shared_store(&self->parked, 1);
            /* Whoever takes the flag back first decides: the giver of a job then releases the lock. */
            if (shared_load(&team->jobs) == seen || !shared_exchange(&self->parked, 0))
                PyThread_acquire_lock(self->wake, WAIT_LOCK);
        }
        seen++;
        if (shared_load(&team->quit)) break;
        team->job(team->argument, self->number, team->members);
        team_barrier(team);
    }
    shared_add(&team->left, 1);
}

static void team_give(Team *team) {
    shared_add(&team->jobs, 1);
    for (int i = 1; i < team->members; i++)
        if (shared_exchange(&team->member[i].parked, 0)) PyThread_release_lock(team->member[i].wake);
}

/* Runs job(argument, member, members) on all members and returns when all are done. A team that is running already
 * (another thread's job), and no team, run it on the caller alone. */
static void team_run(Team *team, TeamJob job, void *argument) {
    uint64_t old = float_state_begin();
    if (!team || team->members == 1 || shared_exchange(&team->taken, 1)) {
        job(argument, 0, 1);
    } else {
        team->job = job;
        team->argument = argument;
        team_give(team);
        job(argument, 0, team->members);
        team_barrier(team);
        shared_store(&team->taken, 0);
    }
    float_state_end(old);
}

static int team_is_alive(const Team *team) { return team->process == current_process(); }

/* Ends the helpers; in a child process there are none left to end. */
static void team_free(Team *team) {
    if (!team) return;
    if (team_is_alive(team)) {
        shared_store(&team->quit, 1);
        team_give(team);
        while (shared_load(&team->left) < team->members - 1) yield_processor();
        for (int i = 1; i < team->members; i++) PyThread_free_lock(team->member[i].wake);
    }
    free(team);
}

/* A team of `members` threads, or of as many as can be started; NULL where there is no memory. */
static Team *team_new(int members) {
    Team *team = calloc(1, sizeof(Team));
    if (!team) return NULL;
    team->process = current_process();
    team->members = 1;
    for (int i = 1; i < members && i < TEAM_MOST; i++) {
        TeamMember *member = &team->member[i];
        member->team = team;
        member->number = i;
        member->wake = PyThread_allocate_lock();
        if (!member->wake) break;
        PyThread_acquire_lock(member->wake, WAIT_LOCK);
        if (PyThread_start_new_thread(team_helper, member) == THREAD_NOT_STARTED) {
            PyThread_free_lock(member->wake);
            break;
        }
        team->members++;
    }
    return team;
}

#endif

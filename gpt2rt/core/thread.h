/* Threads, mutexes and condition variables, of pthreads or Windows. */
#ifndef GPT2RT_THREAD_H
#define GPT2RT_THREAD_H

#include "platform.h"

#include <stddef.h>

#define THREAD_STACK (512 * 1024) /* bytes */

#if defined(_WIN32)

#include <process.h>
#include <windows.h>

typedef HANDLE Thread;
typedef SRWLOCK Mutex;
typedef CONDITION_VARIABLE Condition;

#define THREAD_FUNCTION(name, argument) static unsigned __stdcall name(void *argument)
typedef unsigned(__stdcall *ThreadFunction)(void *);

/* Starts function(argument). Returns whether it succeeded. */
static inline int thread_start(Thread *thread, ThreadFunction function, void *argument) {
    *thread = (HANDLE)_beginthreadex(NULL, THREAD_STACK, function, argument, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    return *thread != NULL;
}

static inline void thread_join(Thread thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

static inline void thread_yield(void) { SwitchToThread(); }

static inline long current_process(void) { return (long)GetCurrentProcessId(); }

static inline int mutex_init(Mutex *mutex) { return InitializeSRWLock(mutex), 1; }
static inline void mutex_free(Mutex *mutex) { (void)mutex; }
static inline void mutex_lock(Mutex *mutex) { AcquireSRWLockExclusive(mutex); }
static inline void mutex_unlock(Mutex *mutex) { ReleaseSRWLockExclusive(mutex); }

static inline int condition_init(Condition *condition) { return InitializeConditionVariable(condition), 1; }
static inline void condition_free(Condition *condition) { (void)condition; }
static inline void condition_signal(Condition *condition) { WakeConditionVariable(condition); }
static inline void condition_wait(Condition *condition, Mutex *mutex) {
    SleepConditionVariableSRW(condition, mutex, INFINITE, 0);
}

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

typedef pthread_t Thread;
typedef pthread_mutex_t Mutex;
typedef pthread_cond_t Condition;

#define THREAD_FUNCTION(name, argument) static void *name(void *argument)
typedef void *(*ThreadFunction)(void *);

/* Starts function(argument) in a thread that blocks signals, so that a handler that expects the host program's threads
 * never runs on it. Its own faults are the exception, so that a debugger or faulthandler sees them. Returns whether it
 * succeeded. */
static inline int thread_start(Thread *thread, ThreadFunction function, void *argument) {
    sigset_t blocked, old;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) return 0;
    int failed = pthread_sigmask(SIG_SETMASK, &blocked, &old);
    if (!failed) {
        /* Thread-local variables of the host program take stack too; if too little is left, use the default size. */
        failed = pthread_attr_setstacksize(&attributes, THREAD_STACK) ||
                 pthread_create(thread, &attributes, function, argument);
        if (failed) failed = pthread_create(thread, NULL, function, argument);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    pthread_attr_destroy(&attributes);
    return !failed;
}

static inline void thread_join(Thread thread) { pthread_join(thread, NULL); }

static inline void thread_yield(void) { sched_yield(); }

static inline long current_process(void) { return (long)getpid(); }

/* The initializers return whether they succeeded. */
static inline int mutex_init(Mutex *mutex) { return !pthread_mutex_init(mutex, NULL); }
static inline void mutex_free(Mutex *mutex) { pthread_mutex_destroy(mutex); }
static inline void mutex_lock(Mutex *mutex) { pthread_mutex_lock(mutex); }
static inline void mutex_unlock(Mutex *mutex) { pthread_mutex_unlock(mutex); }

static inline int condition_init(Condition *condition) { return !pthread_cond_init(condition, NULL); }
static inline void condition_free(Condition *condition) { pthread_cond_destroy(condition); }
static inline void condition_signal(Condition *condition) { pthread_cond_signal(condition); }
static inline void condition_wait(Condition *condition, Mutex *mutex) { pthread_cond_wait(condition, mutex); }

#endif

/* Tells the processor that this thread is spinning. */
static inline void thread_pause(void) {
#if defined(_WIN32)
    YieldProcessor();
#elif defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* `yield` does nothing on most cores */
#endif
}

#endif

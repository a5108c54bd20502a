/* Checks of the thread pool without Python. `threadpool NAME...` runs some of them and exits with 0, with 1 and a
 * message at the first failure, or with 77 and the reason if it can't run the last one here.
 *
 * Some 520 lines because every guarantee of the thread pool and of its chunks has its own check. */
#include "threadpool.h"

#include <float.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#if !defined(_WIN32)
#include <sys/resource.h>
#include <sys/wait.h>
#endif

#if defined(__SANITIZE_THREAD__)
#define TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN 1
#endif
#endif

#define SKIPPED 77
#define CHECK(name) static int name(void)
#define EXPECT(condition, ...)                                                             \
    do {                                                                                   \
        if (!(condition)) return fail(__LINE__, #condition), fprintf(stderr, __VA_ARGS__), 1; \
    } while (0)
#define LENGTH(array) ((int)(sizeof(array) / sizeof *(array)))

static void fail(int line, const char *condition) { fprintf(stderr, "line %d: not %s: ", line, condition); }

static void linger(double seconds) {
    for (const double until = clock_seconds() + seconds; clock_seconds() < until;) thread_pause();
}

static void doze(int milliseconds) {
#if defined(_WIN32)
    Sleep((DWORD)milliseconds);
#else
    nanosleep(&(struct timespec){.tv_nsec = 1000000L * milliseconds}, NULL);
#endif
}

/* Returns the CPU seconds of all threads. */
static double processor_seconds(void) {
#if defined(_WIN32)
    FILETIME begin, end, kernel, user;
    GetProcessTimes(GetCurrentProcess(), &begin, &end, &kernel, &user);
    return 1e-7 * ((double)kernel.dwLowDateTime + (double)user.dwLowDateTime); /* units of 100 ns, for 7 minutes */
#else
    return (double)clock() / CLOCKS_PER_SEC;
#endif
}

static void wait_until_parked(ThreadPool *pool) {
    for (int i = 1; i < pool->n_threads; i++) {
        while (!atomic_get(&pool->helper[i].parked)) thread_yield();
    }
}

/* Chunks. */

enum { CELLS = 300, PHASES = 3 };

static int cells[CELLS + 1];
static const int counts[] = {2, 3, 4, 7, 16, 64, 192};
static const int64_t granules[] = {1, 2, 16, 24, 1000};

static uint32_t random_state = 1;

static int random_below(int n) {
    random_state = random_state * 1664525u + 1013904223u;
    return (int)((random_state >> 8) % (uint32_t)n);
}

enum { MOST_WORKERS = 192 };

static ChunkPart parts[MOST_WORKERS];

/* Workers take chunks in any order: all numbers are handed out once, and bounds are multiples of the granule. */
static int covers_once(int64_t n, int64_t granule, int count) {
    int64_t begin, end, sum = 0;
    int done[MOST_WORKERS] = {0}, n_done = 0;
    chunks_reset(parts, count);
    while (n_done < count) {
        const int worker = random_below(count);
        if (done[worker]) continue;
        if (!chunk_take(parts, count, worker, n, granule, &begin, &end)) {
            done[worker] = 1, n_done++;
            continue;
        }
        EXPECT(begin >= 0 && end > begin && end <= n, "[%lld, %lld)\n", (long long)begin, (long long)end);
        EXPECT(begin % granule == 0 && (end % granule == 0 || end == n), "%lld\n", (long long)end);
        sum += end - begin;
        if (n <= CELLS)
            for (int64_t i = begin; i < end; i++) EXPECT(!cells[i]++, "%lld twice\n", (long long)i);
    }
    EXPECT(sum == n, "%lld of %lld, granule %lld, %d workers\n", (long long)sum, (long long)n, (long long)granule, count);
    memset(cells, 0, sizeof(cells));
    return 0;
}

CHECK(chunks_cover_everything_once) {
    const int64_t large[] = {50257, INT64_C(1) << 33, INT64_C(1) << 40};
    for (int c = 0; c < LENGTH(counts); c++) {
        for (int g = 0; g < LENGTH(granules); g++) {
            for (int64_t n = 0; n < CELLS; n += n < 40 ? 1 : 37) {
                if (covers_once(n, granules[g], counts[c])) return 1;
            }
            for (int i = 0; i < LENGTH(large); i++) {
                if (covers_once(large[i], granules[g], counts[c])) return 1;
            }
        }
    }
    return 0;
}

CHECK(a_worker_takes_its_own_part_in_order_and_few_chunks) {
    for (int count = 2; count <= 16; count++) {
        chunks_reset(parts, count);
        int64_t begin, end, at = partition(150, 1, count);
        int n_chunks = 0;
        for (; at < partition(150, 2, count); at = end, n_chunks++) {
            EXPECT(chunk_take(parts, count, 1, 150, 1, &begin, &end) && begin == at, "%lld\n", (long long)begin);
        }
        EXPECT(at == partition(150, 2, count) && n_chunks <= 11, "%d chunks of %d workers\n", n_chunks, count);
    }
    return 0;
}

/* Returns the time that workers of these speeds (units per second) need for n units. */
static double simulated_seconds(int64_t n, int count, const double *speed) {
    double busy_until[16] = {0}, last = 0;
    int64_t begin, end;
    int left = count, done[16] = {0};
    chunks_reset(parts, count);
    while (left) {
        int next = -1;
        for (int i = 0; i < count; i++) {
            if (!done[i] && (next < 0 || busy_until[i] < busy_until[next])) next = i;
        }
        if (chunk_take(parts, count, next, n, 1, &begin, &end)) {
            busy_until[next] += (double)(end - begin) / speed[next];
            if (busy_until[next] > last) last = busy_until[next];
        } else {
            done[next] = 1, left--;
        }
    }
    return last;
}

CHECK(a_worker_of_half_speed_costs_at_most_1_4) {
    for (int64_t n = 64; n < 4000; n++) {
        for (int slow = 0; slow < 2; slow++) { /* the best would be 1.33 */
            const double speed[] = {slow == 0 ? 0.5 : 1, slow == 1 ? 0.5 : 1};
            const double cost = simulated_seconds(n, 2, speed) / ((double)n / 2);
            EXPECT(cost <= 1.4, "%f for %lld units\n", cost, (long long)n);
        }
    }
    return 0;
}

CHECK(workers_of_equal_speed_end_together) {
    const double speed[] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (int count = 2; count <= 8; count++) {
        for (int64_t n = 8 * count; n < 2000; n++) {
            const double seconds = simulated_seconds(n, count, speed);
            EXPECT(seconds <= (double)(n / count + 1), "%f for %lld units\n", seconds, (long long)n);
        }
    }
    return 0;
}

CHECK(parts_cover_everything_once) {
    for (int count = 1; count < 70; count++) {
        for (int64_t n = 0; n < 300; n++) {
            EXPECT(partition(n, 0, count) == 0 && partition(n, count, count) == n, "%lld\n", (long long)n);
            for (int i = 0; i < count; i++) {
                const int64_t part = partition(n, i + 1, count) - partition(n, i, count);
                EXPECT(part == n / count || part == n / count + 1, "%lld of %lld\n", (long long)part, (long long)n);
            }
        }
    }
    return 0;
}

/* Jobs. Each worker fills cells in chunks, meets the others at a barrier, and checks cells that others have filled. */

typedef struct {
    int cell[CELLS]; /* written by the worker that takes the chunk; not atomic, so that sanitizers see a bad barrier */
    int64_t n, granule;
    double pause;  /* seconds that the last worker is late in each phase */
    Atomic wrong;  /* cells with a wrong number */
    Atomic n_ran;  /* workers that ran it */
} Fill;

static void fill(void *argument, Worker *worker) {
    Fill *f = argument;
    atomic_add(&f->n_ran, 1);
    for (int phase = 1; phase <= PHASES; phase++) {
        int64_t begin, end;
        if (f->pause > 0 && worker->index == worker->count - 1) linger(f->pause);
        while (pool_chunk(worker, f->n, f->granule, &begin, &end)) {
            for (int64_t i = begin; i < end; i++) f->cell[i]++;
        }
        pool_barrier(worker);
        const int other = worker->count - 1 - worker->index;
        for (int64_t i = partition(f->n, other, worker->count); i < partition(f->n, other + 1, worker->count); i++) {
            if (f->cell[i] != phase) atomic_add(&f->wrong, 1);
        }
        pool_barrier(worker);
    }
}

/* Returns the number of workers that ran the job, or 0 if a cell is wrong. */
static int run_fill(ThreadPool *pool, int64_t n, int64_t granule, double pause) {
    Fill f = {.n = n, .granule = granule, .pause = pause};
    pool_run(pool, fill, &f);
    for (int64_t i = 0; i < n; i++) {
        if (f.cell[i] != PHASES) return 0;
    }
    return atomic_get(&f.wrong) ? 0 : (int)atomic_get(&f.n_ran);
}

CHECK(every_worker_runs_every_job) {
#ifdef TSAN
    enum { JOBS = 2000 };
#else
    enum { JOBS = 20000 };
#endif
    ThreadPool *pool = pool_new(2);
    uint32_t random = 1;
    for (int job = 0; job < JOBS; job++) {
        random = random * 1664525u + 1013904223u;
        const double unit = 1e-6 * (random >> 24); /* 0 to 255 us: on both sides of POOL_AWAKE */
        if (random % 61 == 0) linger(2 * unit);
        const int workers = run_fill(pool, random >> 16 & 31, 1 + (random >> 21 & 3), random % 67 == 0 ? unit : 0);
        EXPECT(workers == 2, "%d workers in job %d\n", workers, job);
    }
    pool_free(pool);
    return 0;
}

CHECK(chunks_cover_everything_once_on_every_pool) {
    for (int n_threads = 1; n_threads <= 5; n_threads++) {
        ThreadPool *pool = pool_new(n_threads);
        EXPECT(pool_threads(pool) == n_threads, "%d, expected %d\n", pool_threads(pool), n_threads);
        for (int64_t n = 0; n <= CELLS; n += 23) {
            for (int64_t granule = 1; granule <= 16; granule *= 4) {
                const int workers = run_fill(pool, n, granule, 0);
                EXPECT(workers == n_threads, "%d of %d workers, n %lld\n", workers, n_threads, (long long)n);
            }
        }
        pool_free(pool);
    }
    return 0;
}

static void take_alone(void *argument, Worker *worker) {
    int64_t *taken = argument, begin, end; /* begin and end of the first chunk, number of chunks of both phases */
    taken[0] = -1;
    for (int phase = 0; phase < 2; phase++) {
        while (pool_chunk(worker, 1000, 16, &begin, &end)) {
            taken[0] = begin, taken[1] = end;
            taken[2]++;
        }
        pool_barrier(worker);
    }
    taken[3] = worker->count + (worker->pool != NULL);
}

CHECK(a_caller_alone_takes_everything_in_one_chunk) {
    for (int n_threads = -1; n_threads <= 1; n_threads++) {
        ThreadPool *pool = n_threads < 0 ? NULL : pool_new(n_threads);
        int64_t taken[4] = {0};
        pool_run(pool, take_alone, taken);
        EXPECT(taken[0] == 0 && taken[1] == 1000 && taken[2] == 2 && taken[3] == 1, "%d threads\n", n_threads);
        EXPECT(!pool || pool_threads(pool) == 1, "%d\n", pool_threads(pool));
        pool_free(pool);
    }
    return 0;
}

CHECK(parked_helpers_use_no_processor_and_wake) {
    ThreadPool *pool = pool_new(4);
    for (int i = 0; i < 20; i++) {
        wait_until_parked(pool);
        const int workers = run_fill(pool, 50, 1, 0);
        EXPECT(workers == 4, "%d workers in job %d\n", workers, i);
    }
    wait_until_parked(pool);
    const double begin = processor_seconds();
    doze(50);
    const double used = processor_seconds() - begin;
    EXPECT(used < 0.025, "%f s\n", used);
    EXPECT(run_fill(pool, 50, 1, 0) == 4, "after a pause\n");
    pool_free(pool);
    pool = pool_new(4);
    wait_until_parked(pool);
    pool_free(pool); /* wakes them to end */
    return 0;
}

CHECK(pools_come_and_go) {
    for (int i = 0; i < 200; i++) {
        ThreadPool *pool = pool_new(3);
        EXPECT(pool, "no memory\n");
        const int workers = i % 2 ? run_fill(pool, 10, 1, 0) : 3; /* or freed before they have started */
        EXPECT(workers == 3, "%d workers\n", workers);
        pool_free(pool);
    }
    return 0;
}

/* Jobs from two threads at a time, and from within a job. */

typedef struct {
    ThreadPool *inner;
    Atomic wrong, alone, together;
} Callers;

static void call_inner(void *argument, Worker *worker) {
    Callers *c = argument;
    (void)worker;
    for (int i = 0; i < 500; i++) {
        const int workers = run_fill(c->inner, 20, 1, 0);
        atomic_add(workers == 1 ? &c->alone : workers == 2 ? &c->together : &c->wrong, 1);
    }
}

CHECK(two_callers_of_one_pool_both_get_their_work_done) {
    Callers c = {.inner = pool_new(2)};
    ThreadPool *callers = pool_new(2);
    pool_run(callers, call_inner, &c);
    EXPECT(!atomic_get(&c.wrong), "%ld jobs\n", atomic_get(&c.wrong));
    EXPECT(atomic_get(&c.alone) + atomic_get(&c.together) == 1000, "%ld\n", atomic_get(&c.alone));
    EXPECT(run_fill(c.inner, 20, 1, 0) == 2, "free again\n");
    pool_free(callers);
    pool_free(c.inner);
    return 0;
}

CHECK(a_job_of_a_job_runs_alone) {
    Callers c = {.inner = pool_new(2)};
    pool_run(c.inner, call_inner, &c);
    EXPECT(atomic_get(&c.alone) == 1000, "%ld\n", atomic_get(&c.alone));
    pool_free(c.inner);
    return 0;
}

/* Inherited thread state. */

CHECK(a_child_process_has_no_pool) {
#if defined(_WIN32) || defined(TSAN)
    return puts("no fork() here"), SKIPPED;
#else
    for (int parked = 0; parked < 2; parked++) {
        ThreadPool *pool = pool_new(3);
        EXPECT(pool_is_alive(pool), "in its own process\n");
        EXPECT(run_fill(pool, 50, 1, 0) == 3, "before\n");
        if (parked) wait_until_parked(pool);
        const pid_t child = fork();
        if (child == 0) {
            if (pool_is_alive(pool)) _exit(2);
            if (run_fill(pool, 50, 1, 0) != 1) _exit(3); /* alone, instead of forever */
            pool_free(pool);
            pool = pool_new(3);
            if (!pool_is_alive(pool) || run_fill(pool, 50, 1, 0) != 3) _exit(4);
            pool_free(pool);
            _exit(0);
        }
        int status;
        EXPECT(waitpid(child, &status, 0) == child && status == 0, "the child ended with %#x\n", (unsigned)status);
        EXPECT(pool_is_alive(pool) && run_fill(pool, 50, 1, 0) == 3, "after\n");
        pool_free(pool);
    }
    return 0;
#endif
}

static int keeps_subnormals(void) {
    volatile float smallest = FLT_MIN, half = 0.5f;
    volatile float product = smallest * half;
    return product > 0;
}

static void flush_subnormals(int flush) {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_setcsr(flush ? 0x9fc0 : 0x1f80);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)(flush ? 1 << 24 : 0)));
#else
    (void)flush;
#endif
}

static void count_subnormals(void *argument, Worker *worker) {
    (void)worker;
    atomic_add(argument, keeps_subnormals());
}

CHECK(workers_keep_subnormals_whatever_the_caller_does) {
    for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
        flush_subnormals(1); /* helpers inherit it */
        if (keeps_subnormals()) return puts("this processor can't flush subnormals"), SKIPPED;
        ThreadPool *pool = pool_new(n_threads);
        Atomic keeping = 0;
        pool_run(pool, count_subnormals, &keeping);
        const int caller_flushes = !keeps_subnormals();
        flush_subnormals(0);
        EXPECT(atomic_get(&keeping) == n_threads, "%ld of %d workers\n", atomic_get(&keeping), n_threads);
        EXPECT(caller_flushes, "the caller's state is given back\n");
        pool_free(pool);
    }
    return 0;
}

#if !defined(_WIN32)
static void count_blocked(void *argument, Worker *worker) {
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    const int takes_none = sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGCHLD) && sigismember(&blocked, SIGTERM);
    if (worker->index == 0 ? !takes_none : takes_none && !sigismember(&blocked, SIGSEGV)) atomic_add(argument, 1);
}
#endif

CHECK(signals_are_for_the_callers_threads) {
#if defined(_WIN32)
    return puts("no signals here"), SKIPPED;
#else
    ThreadPool *pool = pool_new(3);
    Atomic right = 0;
    pool_run(pool, count_blocked, &right);
    EXPECT(atomic_get(&right) == 3, "%ld of 3 workers\n", atomic_get(&right));
    pool_free(pool);
    return 0;
#endif
}

CHECK(the_clock_counts_seconds) {
    const double begin = clock_seconds();
    doze(20);
    const double seconds = clock_seconds() - begin;
    EXPECT(seconds > 0.019 && seconds < 10, "%f\n", seconds);
    return 0;
}

CHECK(atomics_return_the_old_value) {
    Atomic x = 5;
    EXPECT(atomic_add(&x, 2) == 5 && atomic_get(&x) == 7, "%ld\n", atomic_get(&x));
    EXPECT(atomic_swap(&x, 9) == 7 && atomic_get(&x) == 9, "%ld\n", atomic_get(&x));
    EXPECT(!atomic_replace(&x, 7, 1) && atomic_get(&x) == 9, "%ld\n", atomic_get(&x));
    EXPECT(atomic_replace(&x, 9, 1) && atomic_get(&x) == 1, "%ld\n", atomic_get(&x));
    atomic_set(&x, -3);
    EXPECT(atomic_add(&x, -1) == -3 && atomic_get(&x) == -4, "%ld\n", atomic_get(&x));
    return 0;
}

CHECK(a_pool_has_as_many_threads_as_can_be_started) {
#if defined(__linux__) && !defined(TSAN)
    long pages = 0;
    FILE *sizes = fopen("/proc/self/statm", "r");
    if (!sizes || fscanf(sizes, "%ld", &pages) != 1) return puts("no /proc here"), SKIPPED;
    fclose(sizes);
    const rlim_t bytes = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + 5 * THREAD_STACK;
    struct rlimit limit = {bytes, bytes};
    if (setrlimit(RLIMIT_AS, &limit)) return puts("memory can't be limited"), SKIPPED;
    ThreadPool *pool = pool_new(64);
    EXPECT(pool, "no memory\n");
    if (pool_threads(pool) == 64) return puts("memory is not limited here"), SKIPPED;
    EXPECT(pool_threads(pool) > 1 && pool_threads(pool) <= 6, "%d\n", pool_threads(pool));
    const int workers = run_fill(pool, 50, 1, 0);
    EXPECT(workers == pool_threads(pool), "%d of %d\n", workers, pool_threads(pool));
    pool_free(pool);
    return 0;
#else
    return puts("memory can't be limited here"), SKIPPED;
#endif
}

#define NAMED(name) {#name, name}

int main(int n, char **arguments) {
    const struct {
        const char *name;
        int (*run)(void);
    } checks[] = {
        NAMED(chunks_cover_everything_once),
        NAMED(a_worker_takes_its_own_part_in_order_and_few_chunks),
        NAMED(a_worker_of_half_speed_costs_at_most_1_4),
        NAMED(workers_of_equal_speed_end_together),
        NAMED(parts_cover_everything_once),
        NAMED(every_worker_runs_every_job),
        NAMED(chunks_cover_everything_once_on_every_pool),
        NAMED(a_caller_alone_takes_everything_in_one_chunk),
        NAMED(parked_helpers_use_no_processor_and_wake),
        NAMED(pools_come_and_go),
        NAMED(two_callers_of_one_pool_both_get_their_work_done),
        NAMED(a_job_of_a_job_runs_alone),
        NAMED(a_child_process_has_no_pool),
        NAMED(workers_keep_subnormals_whatever_the_caller_does),
        NAMED(signals_are_for_the_callers_threads),
        NAMED(the_clock_counts_seconds),
        NAMED(atomics_return_the_old_value),
        NAMED(a_pool_has_as_many_threads_as_can_be_started), /* last, because it leaves this process little memory */
    };
    int status = 2;
    for (int a = 1; a < n; a++) {
        int i = 0;
        while (i < LENGTH(checks) && strcmp(arguments[a], checks[i].name)) i++;
        if (i == LENGTH(checks)) return fprintf(stderr, "%s: no such check\n", arguments[a]), 2;
        status = checks[i].run();
        if (status != 0 && status != SKIPPED) return fprintf(stderr, "%s: failed\n", arguments[a]), status;
    }
    return status;
}

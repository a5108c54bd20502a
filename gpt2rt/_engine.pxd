# cython: language_level=3
"""Declarations of the C headers in `core/` for `_engine.pyx`; the headers document the shape of every pointer."""

from libc.stdint cimport int32_t, int64_t, uint8_t

from gpt2rt._kernels cimport Network
from gpt2rt._sampler cimport LogitBias, Random, SamplingOptions


cdef extern from "threadpool.h" nogil:
    ctypedef long Atomic
    ctypedef int64_t Atomic64
    long atomic_get(const Atomic* p)
    void atomic_set(Atomic* p, long x)
    long atomic_add(Atomic* p, long x)
    int64_t atomic_get64(const Atomic64* p)
    ctypedef struct ThreadPool:
        pass
    ctypedef struct Worker:
        int index, count
    ctypedef void (*PoolJob)(void* argument, Worker* worker) noexcept nogil
    ThreadPool* pool_new(int n_threads)
    void pool_free(ThreadPool* pool)
    bint pool_is_alive(const ThreadPool* pool)
    void pool_run(ThreadPool* pool, PoolJob job, void* argument)
    int64_t partition(int64_t n, int index, int count)


cdef extern from "lock.h" nogil:
    ctypedef struct Lock:
        pass
    ctypedef enum LockResult:
        LOCK_TAKEN, LOCK_IN_USE, LOCK_TORN
    LockResult lock_take(Lock* lock)
    void lock_release(Lock* lock)


cdef extern from "forward.h" nogil:
    const int N_STEPS

    ctypedef struct CTrace "Trace":
        float* hidden
        float* middle
        float* heads
        float* attention
        const uint8_t* ablated
        int64_t n_rows, n_positions

    ctypedef struct ForwardPass:
        double* seconds


cdef extern from "logprobs.h" nogil:
    const int MAX_TOP_LOGPROBS

    ctypedef struct Score:
        double logprob
        int n_top
        int32_t* top_ids
        double* top_logprobs


cdef extern from "sequence.h" nogil:
    const int MAX_GUESSES, MAX_STOP_TOKENS

    ctypedef enum SequenceStatus:
        SEQUENCE_OK, SEQUENCE_STOPPED, SEQUENCE_NO_MEMORY, SEQUENCE_FULL, SEQUENCE_EMPTY
        SEQUENCE_NOT_FINITE, SEQUENCE_ALL_FORBIDDEN

    ctypedef struct SequenceSampler:
        SamplingOptions options
        LogitBias* bias
        int64_t n_bias
        Random random
        int32_t* history
        int64_t n_history, history_capacity
        int32_t* exempt
        int64_t n_exempt
        int32_t* stop
        int n_stop, n_logprobs, n_prompt_logprobs

    ctypedef struct Sampled:
        int n
        int32_t* ids
        Score* scores

    ctypedef struct Published:
        Atomic64 length, n_ids, n_logits, size

    ctypedef struct CSequence "Sequence":
        const Network* network
        int32_t* ids
        int64_t length, n_ids, n_logits
        float* logits
        Score* scores
        int64_t n_scores
        bint samples
        SequenceSampler sampler
        Sampled sampled
        int32_t* guesses
        int n_guesses, n_new
        SequenceStatus status
        Atomic cancelled
        Published published
        Lock lock

    int64_t cache_position_size(const Network* network)
    bint sequence_open(CSequence* s, const Network* network)
    void sequence_free(CSequence* s)
    bint sequence_copy(CSequence* to, const CSequence* source, int64_t length, int64_t n_ids)
    bint sequence_reserve_history(CSequence* s, int64_t more)
    void sequence_push(CSequence* s, const int32_t* ids, int64_t n)
    void sequence_truncate(CSequence* s, int64_t length)
    void sequence_retract(CSequence* s, int n)
    void sequence_configure(CSequence* s, const SequenceSampler* sampler, bint samples)


cdef extern from "engine.h" nogil:
    ctypedef struct CEngine "Engine":
        ThreadPool* pool
        ForwardPass pass_ "pass"
        int (*check)() noexcept nogil
        bint raised
        Atomic cancelled
        Lock lock

    bint engine_open(CEngine* e, const Network* network, int n_workers)
    void engine_free(CEngine* e)
    SequenceStatus engine_append(CEngine* e, CSequence* s, const int32_t* ids, int64_t n, int64_t n_logits,
                                 Score* scores, CTrace* trace)
    SequenceStatus engine_logits_again(CEngine* e, const CSequence* s, float* out)
    SequenceStatus engine_step(CEngine* e, CSequence** sequences, int64_t n)


cdef extern from "lens.h" nogil:
    ctypedef struct Lens:
        CEngine* engine
        const float* hidden
        const int32_t* targets
        int64_t n_rows
        int n_top
        Score* scores
        int64_t* ranks

    SequenceStatus lens_run(Lens all)

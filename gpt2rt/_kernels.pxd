# cython: language_level=3
"""What `_kernels.pyx` needs of the C headers in `core/`, where every pointer has its shape and letters are told."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "kernels/kernels.h" nogil:
    ctypedef struct Kernels:
        const char* name
        void evaluate(int function, float* x, const float* y, const float* z, int64_t n) noexcept nogil
        uint64_t read_bytes(const uint8_t* p, int64_t n) noexcept nogil

    ctypedef struct KVCache:
        uint8_t* k
        uint8_t* v
        int type
        int64_t n_head, head_dim, n_ctx

    int64_t kvcache_k_size(const KVCache* cache)
    int64_t kvcache_v_size(const KVCache* cache)
    void kvcache_copy(const KVCache* to, const KVCache* source, int64_t length)

    const int TYPE_F32, TYPE_F16
    const int FUNCTION_EXP, FUNCTION_GELU, FUNCTION_FMA
    int64_t align(int64_t n, int64_t to)
    int kernels_here(const Kernels** found)


cdef extern from "network.h" nogil:
    ctypedef struct Config:
        int64_t n_vocab, n_ctx, n_embd, n_head, n_layer
        int64_t head_dim
        int64_t E, F, Q, V

    ctypedef struct Layer:
        pass

    ctypedef struct Network:
        Config config
        const Kernels* kernels
        Layer* layers

    ctypedef struct Tensors:
        const uint8_t* section
        const int64_t* offsets
        int type
        int64_t group

    int64_t network_tensors(int64_t n_layer, bint has_head)
    bint network_open(Network* network, Tensors tensors, bint has_head)


cdef extern from "threadpool.h" nogil:
    ctypedef long Shared
    ctypedef struct Team:
        pass
    ctypedef void (*TeamJob)(void* argument, int member, int members) noexcept nogil
    long shared_exchange(Shared* p, long x)
    void shared_store(Shared* p, long x)
    long shared_add(Shared* p, long x)
    int64_t share(int64_t n, int member, int members)
    Team* team_new(int members)
    void team_free(Team* team)
    bint team_is_alive(const Team* team)
    void team_run(Team* team, TeamJob job, void* argument)


cdef extern from "forward.h" nogil:
    const double SIGNAL_INTERVAL
    const int N_PARTS

    ctypedef struct Activations:
        pass

    ctypedef struct Span:
        uint8_t* k
        uint8_t* v
        int64_t position, first, count

    ctypedef struct Pass:
        const Network* network
        Activations* state
        Team* team
        const int32_t* tokens
        int64_t n_tokens
        const Span* spans
        int64_t n_spans
        const int64_t* logit_rows
        int64_t n_logits
        float* logits
        KVCache cache
        int64_t k_layer, v_layer
        double check_at
        Shared stop
        double* parts

    void* activations_new(Activations* state, const Config* config, int64_t n_tokens, int members)
    void run_pass(void* argument, int member, int members) noexcept nogil


cdef extern from "clock.h" nogil:
    double clock_seconds()


cdef extern from "crc32c.h" nogil:
    void crc32c_init()
    uint32_t crc32c_update "crc32c"(uint32_t sum, const uint8_t* p, size_t n)

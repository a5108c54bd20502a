# cython: language_level=3
"""What the kernels' structs hold; every pointer with its shape.

Letters: T tokens of a pass, E = n_embd and F = 4 n_embd filled up to whole groups, Q = 3 n_embd and V = n_vocab filled
up to 16.
"""

from libc.stdint cimport int32_t, int64_t, int8_t, uint8_t, uint32_t, uint64_t


cdef extern from "kernels/kernels.h" nogil:
    ctypedef struct Matrix:
        const uint8_t* data
        const float* bias
        int type
        int64_t tiles
        int64_t n_in
        int64_t stride
        int64_t values
        int64_t group

    ctypedef struct Inputs:
        float* x
        int64_t x_stride
        int8_t* q
        float* scale
        int32_t* offset

    ctypedef struct Cache:
        uint8_t* k
        uint8_t* v
        int type
        int64_t n_head
        int64_t head_dim
        int64_t n_ctx

    ctypedef struct Kernels:
        const char* name
        void layernorm(float* out, const float* x, const float* g, const float* b, int64_t n) noexcept nogil
        void quantize(int8_t* q, float* scale, int32_t* offset, const float* x, int64_t groups,
                      int64_t group, int type) noexcept nogil
        void matmul(const Matrix* m, const Inputs* inputs, int64_t n_tokens, float* out, int64_t out_stride,
                    int64_t first, int64_t end, int mode) noexcept nogil
        void remember(const Cache* cache, const float* k, const float* v, int64_t head, int64_t position) noexcept nogil
        void attention(const Cache* cache, const float* q, int64_t q_stride, int64_t head, int64_t position,
                       int64_t n_tokens, float* out, int64_t out_stride, float* scratch) noexcept nogil
        void evaluate(int function, float* x, const float* y, const float* z, int64_t n) noexcept nogil

    const int TYPE_F32, TYPE_F16, TYPE_INT8, TYPE_INT4
    const int MATMUL_STORE, MATMUL_ADD, MATMUL_GELU
    const int ATTENTION_TOKENS
    const int FUNCTION_EXP, FUNCTION_GELU, FUNCTION_FMA
    int kernels_here(const Kernels** found)
    void embed(float* x, const Matrix* m, int64_t row, const float* y, int64_t n)
    int64_t attention_scratch(int64_t n_ctx, int64_t head_dim)


cdef extern from "kernels/team.h" nogil:
    ctypedef long Shared
    ctypedef struct Team:
        int members
    ctypedef void (*TeamJob)(void* argument, int member, int members) noexcept nogil
    long shared_load(Shared* p)
    long shared_exchange(Shared* p, long x)
    void shared_store(Shared* p, long x)
    long shared_add(Shared* p, long x)
    Team* team_new(int members)
    void team_free(Team* team)
    bint team_is_alive(const Team* team)
    void team_run(Team* team, TeamJob job, void* argument)
    void team_barrier(Team* team)


ctypedef struct Config:
    int64_t n_vocab, n_ctx, n_embd, n_head, n_layer
    int64_t head_dim
    int64_t E, F, Q, V


ctypedef struct Layer:
    const float* ln_1_g          # (n_embd)
    const float* ln_1_b          # (n_embd)
    Matrix attn_c_attn           # (3 n_embd, n_embd): q, k, v
    Matrix attn_c_proj           # (n_embd, n_embd)
    const float* ln_2_g          # (n_embd)
    const float* ln_2_b          # (n_embd)
    Matrix mlp_c_fc              # (4 n_embd, n_embd)
    Matrix mlp_c_proj            # (n_embd, 4 n_embd)


ctypedef struct Network:
    Config config
    const Kernels* kernels
    const float* wpe             # (n_ctx, n_embd)
    Layer* layers                # (n_layer)
    const float* ln_f_g          # (n_embd)
    const float* ln_f_b          # (n_embd)
    Matrix wte                   # (n_vocab, n_embd): the embedding
    Matrix head                  # (n_vocab, n_embd): the output head, `wte` again in a GPT-2


# What a member of the team writes alone.
ctypedef struct Private:
    float* norm                  # (E), of a pass of one token
    Inputs inputs                # (F), likewise
    float* scratch               # attention_scratch()


ctypedef struct Activations:
    float* x                     # (T, E) the residual stream
    float* norm                  # (T, E) normalized
    Inputs inputs                # (T, F) quantized
    float* qkv                   # (T, Q)
    float* att                   # (T, E)
    float* fc                    # (T, F)
    Private* private             # (members)


# Consecutive tokens of one sequence: rows [first, first + count) of a pass, from `position` on.
ctypedef struct Span:
    uint8_t* k                   # (n_layer, n_head, n_ctx / 16, head_dim, 16)
    uint8_t* v                   # (n_layer, n_head, head_dim / 16, n_ctx, 16)
    int64_t position, first, count


# What a pass spends its time on, with the wait for the other members that follows.
cdef enum Part:
    PART_EMBED, PART_C_ATTN, PART_ATTENTION, PART_ATTN_C_PROJ, PART_C_FC, PART_MLP_C_PROJ, PART_HEAD
    N_PARTS


# One run through the network.
ctypedef struct Pass:
    const Network* network
    Activations* state
    Team* team
    const int32_t* tokens        # (T)
    int64_t n_tokens
    const Span* spans            # (n_spans)
    int64_t n_spans
    const int64_t* logit_rows    # (n_logits) rows whose logits are wanted
    int64_t n_logits
    float* logits                # (n_logits, V)
    Cache cache                  # shape of a layer's cache
    int64_t k_layer, v_layer     # bytes of a layer in k and in v
    double check_at              # when to look for signals next, seconds
    Shared stop                  # set once a signal handler raised
    double* parts                # (N_PARTS) seconds, or NULL

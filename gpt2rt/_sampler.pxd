# cython: language_level=3
"""Declarations of `core/sampler.h` and `core/logprobs.h`, for the sampler and the engine."""

from libc.stdint cimport int32_t, int64_t, uint64_t


cdef extern from "sampler.h" nogil:
    ctypedef struct SamplingOptions:
        double temperature, top_p, min_p, presence_penalty, frequency_penalty
        int64_t top_k, repeat_last_n, no_repeat_ngram_size
        float repetition_penalty

    ctypedef struct Random:
        pass

    ctypedef struct LogitBias:
        int32_t token
        float bias

    void random_seed(Random* random, uint64_t seed)


cdef extern from "logprobs.h" nogil:
    double token_logprob(const float* logits, int64_t n_vocab, int32_t token)


cdef inline SamplingOptions options_of(params) except *:
    """Return the options of a `SamplingParams`."""
    return SamplingOptions(
        temperature=params.temperature, top_p=params.top_p, min_p=params.min_p, top_k=params.top_k,
        repeat_last_n=params.repeat_last_n, no_repeat_ngram_size=params.no_repeat_ngram_size,
        repetition_penalty=params.repetition_penalty, presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty)

# cython: language_level=3
"""A network's weights, for the engine; `core/network.h` documents the shape of every pointer."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from gpt2rt._modelfile cimport ModelShape


cdef extern from "network.h" nogil:
    ctypedef struct Kernels:
        const char* name
        void evaluate(int function, float* x, const float* y, const float* z, int64_t n) noexcept nogil
        uint64_t read_bytes(const uint8_t* p, int64_t n) noexcept nogil

    ctypedef struct Config:
        int64_t n_vocab, n_ctx, n_embd, n_head, n_layer
        int64_t head_dim
        int64_t E, F, Q, V

    ctypedef struct Layer:
        pass

    ctypedef struct Network:
        Config config
        const Kernels* kernels
        int kv_type
        Layer* layers

    bint network_open(Network* network, const ModelShape* s, const uint8_t* weights)


cdef class Weights:
    cdef Network network
    cdef Py_buffer view
